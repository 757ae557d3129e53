"""Hostile strings in collections that others made, where values and ids stand in the engine's own fields."""

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from elasticsearch import Elasticsearch
from qdrant_client import QdrantClient, models
from servers.elasticsearch import url_of

from m3_core.errors import InputError, Unsupported
from m3_core.store import Fields, Schema, Store
from m3_core.testing import corpus, hostile
from m3_core.testing.base import scan_ids
from m3_core.testing.injecting import IdInjection, ValueInjection
from m3_core.types import Document, Json, Representation
from m3_integrations.elasticsearch import ElasticsearchStore
from m3_integrations.elasticsearch.mapped import KEYWORD_LIMIT
from m3_integrations.milvus import MilvusStore
from m3_integrations.milvus.address import parse_url, pymilvus
from m3_integrations.milvus.connection import Connection
from m3_integrations.qdrant import QdrantStore

DENSE, SPARSE = Representation.DENSE, Representation.SPARSE
KINDS = pymilvus.DataType
SCHEMA = Schema(dense=32)


def milvus(
    folder: Path, *fields: tuple[str, Any, dict[str, Any]], metadata: str, dynamic: bool
) -> MilvusStore:
    """A collection made with pymilvus alone, whose primary keys are the documents' ids."""
    url = f"milvus+file://{folder}.db/theirs"
    schema = pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=dynamic)
    schema.add_field("pk", KINDS.VARCHAR, is_primary=True, max_length=512)
    schema.add_field("body", KINDS.VARCHAR, max_length=65_535)
    schema.add_field("vector", KINDS.FLOAT_VECTOR, dim=32)
    for name, kind, options in fields:
        schema.add_field(name, kind, **options)
    connection = Connection(parse_url(url, {})[0], create=True)
    index = pymilvus.MilvusClient.prepare_index_params()
    index.add_index(field_name="vector", index_type="FLAT", metric_type="IP")
    connection.client.create_collection("theirs", schema=schema)
    connection.client.create_index("theirs", index, sync=False)
    connection.client.load_collection("theirs")
    connection.close()
    names = Fields(dense="vector", sparse=None, multi=None, text="body", id=None, metadata=metadata)
    return MilvusStore.open(url, fields=names)


class TestMilvusColumns(IdInjection, ValueInjection):
    """Ids and values go into Milvus expressions as they are, but for the escapes."""

    representations = frozenset({DENSE})
    lists = False
    others: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "one": {"v": "one", "all": 2},
        "two": {"v": "two"},
        "three": {"all": 2},
        "four": {},
    }

    def make_store(self, schema: Schema, folder: Path) -> Store:
        value = ("v", KINDS.VARCHAR, {"max_length": 65_535, "nullable": True})
        number = ("all", KINDS.INT64, {"nullable": True})
        return milvus(folder, value, number, metadata="", dynamic=False)


@pytest.mark.parametrize("metadata", ["", "meta"])
def test_milvus_strings_inside_json(tmp_path: Path, metadata: str) -> None:
    fields = [(metadata, KINDS.JSON, {})] if metadata else []
    documents = [Document(f"doc {row}", "", {"v": value}) for row, value in enumerate(hostile.STRINGS)]
    with milvus(tmp_path / "json", *fields, metadata=metadata, dynamic=not metadata) as store:
        store.upsert(documents, corpus.vectors(SCHEMA, len(documents)))
        for document in documents:
            assert scan_ids(store, where={"v": document.metadata["v"]}) == [document.id], document.metadata
        half = [str(document.metadata["v"]) for document in documents[::2]]
        store.delete(where={"v": {"$in": half}})
        assert sorted(scan_ids(store)) == sorted(document.id for document in documents[1::2])


class TestQdrantTopLevel(ValueInjection):
    """Metadata beside the text in the payload, as LangChain and others do not, but people do."""

    representations = frozenset({DENSE})
    others: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "one": {"v": "one", "n": 1, "meta": {"author": "two"}},
        "two": {"v": 2},
        "three": {"v": None},
    }

    def make_store(self, schema: Schema, folder: Path) -> Store:
        client = QdrantClient(":memory:")
        params = {"vector": models.VectorParams(size=32, distance=models.Distance.DOT)}
        client.create_collection("theirs", vectors_config=params)
        names = Fields(dense="vector", sparse=None, multi=None, text="body", id="name", metadata="")
        return QdrantStore.open(client, "theirs", fields=names)


def test_qdrant_ids_of_others_are_reached_by_their_own_spelling_alone() -> None:
    client = QdrantClient(":memory:")
    client.create_collection(
        "theirs", vectors_config={"vector": models.VectorParams(size=32, distance=models.Distance.DOT)}
    )
    uid = str(uuid.UUID(int=7))
    points = [
        models.PointStruct(id=name, vector={"vector": [1.0] * 32}, payload={}) for name in (0, 1, 7, uid)
    ]
    client.upsert("theirs", points)
    names = Fields(dense="vector", sparse=None, multi=None, text="body", id=None, metadata="")
    with QdrantStore.open(client, "theirs", fields=names) as store:
        spellings = [
            uid.upper(),
            uid.replace("-", ""),
            f"{{{uid}}}",
            f"urn:uuid:{uid}",
            "07",
            "+7",
            "7.0",
            " 7",
            "７",
        ]
        valid = ("0", "1", "7", uid, str(uuid.UUID(int=0)))
        strange = [name for name in (*hostile.IDS, *spellings) if name not in valid]
        assert store.get(strange) == [None] * len(strange)
        store.delete(strange)
        assert sorted(scan_ids(store)) == sorted(["0", "1", "7", uid])
        for name in strange:
            with pytest.raises(InputError):
                store.upsert([Document(name)], corpus.vectors(SCHEMA, 1))
        store.delete(["7"])
        assert sorted(scan_ids(store)) == sorted(["0", "1", uid])


@pytest.mark.slow  # a node
class TestElasticsearchMapped(IdInjection, ValueInjection):
    """Metadata that is mapped field by field."""

    representations = frozenset({SPARSE})
    tolerance = 0.01
    strings: ClassVar[Sequence[str]] = [value for value in hostile.STRINGS if len(value) <= KEYWORD_LIMIT]
    longer = ()
    others: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "one": {"v": "one", "n": 1, "list": ["one", "two"]},
        "two": {"v": "two", "meta": {"author": "two"}},
        "three": {"v": None, "list": []},
        "four": {},
    }
    numbers: ClassVar[Iterator[int]] = itertools.count()
    client: ClassVar[Elasticsearch]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_client(cls) -> Iterator[None]:
        cls.client = Elasticsearch(url_of("lexical"), request_timeout=120)
        yield
        for name in cls.client.indices.get(index="m3-hostile-*"):
            cls.client.indices.delete(index=name)
        cls.client.close()

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return ElasticsearchStore.create(
            self.client,
            f"m3-hostile-{next(self.numbers)}",
            schema=schema,
            metadata_mapping="mapped",
            shards=1,
            replicas=0,
        )

    def test_a_filter_that_is_refused_deletes_nothing_by_id_either(self, bystanders: Store) -> None:
        with pytest.raises(Unsupported):
            bystanders.delete(["one"], where={"v": "y" * (KEYWORD_LIMIT + 1)})
        self.assert_bystanders(bystanders)
