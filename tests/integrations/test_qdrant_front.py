"""The Qdrant store over HTTP: everything crosses a socket to a front of the tests', which stands in for a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from qdrant_client import QdrantClient
from servers.qdrant_front import MAX_BYTES, QdrantFront
from servers.workload import VectorsOfTexts

from m3_core import ingest
from m3_core.errors import InputError
from m3_core.store import Schema, Store
from m3_core.testing import corpus
from m3_core.testing.base import scan_ids
from m3_core.testing.store_contract import StoreContract
from m3_core.types import Document, M3Vectors, Ragged, Representation
from m3_integrations.qdrant import QdrantStore


@pytest.mark.slow
class TestContract(StoreContract):
    """The contract suite; searches are told to be exact, as the engine behind the front is."""

    can_reopen = True
    front: ClassVar[QdrantFront]
    client: ClassVar[QdrantClient]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_front(cls) -> Iterator[None]:
        with QdrantFront() as cls.front:
            cls.client = QdrantClient(url=cls.front.url, check_compatibility=False, timeout=60)
            yield
            cls.client.close()

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return QdrantStore.create(self.client, _name(folder), schema=schema, exact=True)

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        return QdrantStore.open(self.client, _name(folder), schema=schema, exact=True)


def _name(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


class TestSizes:
    """A server takes no request above 32 MiB, and a proxy before it may take less."""

    @pytest.mark.slow
    def test_documents_above_the_limit_are_split(self) -> None:
        """Multi-vectors of some 48 MB of JSON, written, updated and searched with."""
        schema = Schema(multi=256)
        rows = [np.full((400, 256), value, np.float32) for value in np.linspace(0.1, 0.2, 20)]
        vectors = M3Vectors(multi=Ragged.from_rows(rows, dimension=256))
        names = [str(number) for number in range(len(rows))]
        with QdrantFront() as front, _store(front, schema) as store:
            for write in (
                lambda: store.upsert([Document(name) for name in names], vectors),
                lambda: store.update_vectors(names, vectors),
                lambda: store.search(vectors, {Representation.MULTI: 1}),
            ):
                front.log.clear()
                write()
                large = [received.size for received in front.log if received.size > 1 << 20]
                assert sum(large) > MAX_BYTES > max(large)
                assert len(large) == 2, "requests are as large as they may be"
                assert {received.status for received in front.log} == {200}
            for record, row in zip(store.get(names, vectors=[Representation.MULTI]), rows, strict=True):
                assert record is not None
                assert record.vectors is not None
                assert record.vectors.multi is not None
                np.testing.assert_array_equal(record.vectors.multi[0], row)

    def test_many_ids_are_deleted_in_several_requests(self) -> None:
        schema = Schema(dense=8)
        names = [str(number) for number in range(25_000)]
        with QdrantFront(limit=1 << 19) as front, _store(front, schema) as store:
            some = [names[0], "other", names[-1]]
            store.upsert([Document(name) for name in some], corpus.vectors(schema, 3))
            store.delete(names)
            assert scan_ids(store) == ["other"]
            assert {received.status for received in front.log} == {200}

    @pytest.mark.parametrize("status", [400, 413])
    def test_what_is_too_large_for_a_smaller_limit_is_halved(self, status: int) -> None:
        schema = Schema(dense=8)
        documents = [Document(f"{number}", "word " * 100) for number in range(100)]
        with QdrantFront(limit=10_000, too_large=status) as front, _store(front, schema) as store:
            store.upsert(documents, corpus.vectors(schema, 100))
            assert sorted(scan_ids(store)) == sorted(document.id for document in documents)
            assert {received.status for received in front.log} == {200, status}

    def test_a_document_that_is_too_large_is_rejected_and_the_others_are_written(self) -> None:
        schema = Schema(dense=8, sparse=200, multi=4, fingerprint=VectorsOfTexts.fingerprint)
        documents = [Document(f"{number}", f"text {number}") for number in range(30)]
        documents[13] = Document("13", "text 13 " + "word " * 10_000)
        with QdrantFront(limit=40_000) as front, _store(front, schema) as store:
            with pytest.raises(
                InputError, match=r"'13' is too large .*larger than allowed \(limit: 40000 bytes\)"
            ):
                store.upsert(documents, corpus.vectors(schema, 30))
            summary = ingest(documents, VectorsOfTexts(schema), store, batch_size=30)
            assert (summary.written, summary.rejected) == (29, 1)
            assert set(scan_ids(store)) == {document.id for document in documents} - {"13"}


def test_payload_indexes_are_asked_for() -> None:
    with (
        QdrantFront() as front,
        _store(front, Schema(dense=8), payload_indexes={"lang": "keyword", "year": "float"}),
    ):
        asked = [received for received in front.log if received.path.endswith("/index")]
        assert [(received.method, received.status) for received in asked] == [("PUT", 200)] * 2


def _store(front: QdrantFront, schema: Schema, **options: Any) -> QdrantStore:
    return QdrantStore.create(front.url, "pages", schema=schema, exact=True, **options)
