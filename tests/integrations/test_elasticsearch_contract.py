"""The contract suite over real nodes: lexical weights on 7.17, dense vectors on 8.19 and 9.5, and the two joined.

Both channels in one index need a complete server; there, set M3_TEST_ELASTICSEARCH_URL.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from elasticsearch import Elasticsearch
from servers.elasticsearch import VARIABLE, Kind, is_complete, url_of

from m3_core import SplitStore
from m3_core.store import Schema, Store
from m3_core.testing.store_contract import StoreContract
from m3_core.types import Representation
from m3_integrations.elasticsearch import ElasticsearchStore

pytestmark = pytest.mark.slow  # a node starts in 5 to 10 s, and the suite makes a hundred indices

DENSE, SPARSE = Representation.DENSE, Representation.SPARSE
PREFIX = "m3-contract-"


class ElasticsearchContract(StoreContract):
    """On one node, in indices of their own that are deleted in the end."""

    can_reopen = True
    kind: ClassVar[Kind] = "dense"
    options: ClassVar[dict[str, Any]] = {}
    client: ClassVar[Elasticsearch]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_client(cls) -> Iterator[None]:
        cls.client = Elasticsearch(url_of(cls.kind), request_timeout=120)
        yield
        drop(cls.client)
        cls.client.close()

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return ElasticsearchStore.create(
            self.client, index_of(folder), schema=schema, shards=1, replicas=0, **self.options
        )

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        return ElasticsearchStore.open(self.client, index_of(folder), schema=schema)


class TestLexical(ElasticsearchContract):
    """7.17 with `rank_features`."""

    kind = "lexical"
    representations = frozenset({SPARSE})
    tolerance = 0.01
    tolerance_reason = (
        "the index keeps 9 binary digits of a weight, 0.4 %; the largest score of the suite is 2.01"
    )


class TestDense(ElasticsearchContract):
    """8.19 with every vector looked at."""

    representations = frozenset({DENSE})
    options: ClassVar[dict[str, Any]] = {"dense_index": "flat"}


class TestDenseGraph(TestDense):
    """8.19 with an HNSW graph."""

    exact = False
    options: ClassVar[dict[str, Any]] = {"dense_index": "hnsw"}


class TestDenseNewest(TestDense):
    """9.5, where vectors are no part of the documents unless they are asked for."""

    kind = "dense-newest"


class TestSplit(TestLexical):
    """Dense vectors on 8.19 and lexical weights on 7.17."""

    representations = frozenset({DENSE, SPARSE})
    other: ClassVar[Elasticsearch]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_clients(cls) -> Iterator[None]:
        cls.other = Elasticsearch(url_of("dense"), request_timeout=120)
        yield
        drop(cls.other)
        cls.other.close()

    def make_store(self, schema: Schema, folder: Path) -> Store:
        name = index_of(folder) + "-split"
        dense = ElasticsearchStore.create(
            self.other, name, schema=schema.only({DENSE}), shards=1, replicas=0, dense_index="flat"
        )
        sparse = ElasticsearchStore.create(
            self.client, name, schema=schema.only({SPARSE}), shards=1, replicas=0
        )
        return SplitStore(dense=dense, sparse=sparse)

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        name = index_of(folder) + "-split"
        parts = [None if schema is None else schema.only({kind}) for kind in (DENSE, SPARSE)]
        return SplitStore(
            dense=ElasticsearchStore.open(self.other, name, schema=parts[0]),
            sparse=ElasticsearchStore.open(self.client, name, schema=parts[1]),
        )


@pytest.mark.skipif(not is_complete(), reason=f"no node of the tests holds both; set {VARIABLE}")
class TestBothChannels(TestLexical):
    """Both in one index, on a complete server."""

    representations = frozenset({DENSE, SPARSE})
    options: ClassVar[dict[str, Any]] = {"dense_index": "flat"}


def index_of(folder: Path) -> str:
    """An index for each folder of this run."""
    return f"{PREFIX}{zlib.crc32(str(folder).encode()):08x}"


def drop(client: Elasticsearch) -> None:
    """Delete the indices of these tests, by name: clusters refuse to delete by a pattern."""
    for name in client.indices.get(index=f"{PREFIX}*"):
        client.indices.delete(index=name)
