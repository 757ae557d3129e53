"""Contract: get, scan and count."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from m3_core.errors import InputError
from m3_core.store import Store
from m3_core.testing import corpus
from m3_core.testing.base import ContractBase, Filled, assert_same_document, scan, scan_ids
from m3_core.types import Document, Representation


class ReadContract(ContractBase):
    """Reading documents back."""

    def test_get_keeps_the_order_and_says_none(self, filled: Filled) -> None:
        names = ["doc-7", "nowhere", "doc-3", "doc-7", "doc-59", ""]
        records = filled.store.get(names)
        assert [record and record.id for record in records] == [
            "doc-7",
            None,
            "doc-3",
            "doc-7",
            "doc-59",
            None,
        ]
        for record in records:
            if record is not None:
                assert record.vectors is None
                assert_same_document(record.document, filled.documents[int(record.id[4:])])
        assert filled.store.get([]) == []

    @pytest.mark.parametrize("kind", [*Representation, None], ids=lambda kind: kind or "all")
    def test_get_brings_the_vectors_asked_for(self, filled: Filled, kind: Representation | None) -> None:
        kinds = self.representations if kind is None else frozenset([kind])
        self.needs(*kinds)
        rows = [59, 0, 31]
        records = filled.store.get([f"doc-{row}" for row in rows], vectors=kinds)
        for row, record in zip(rows, records, strict=True):
            self.assert_vectors(record, filled.vectors.only(kinds), row)

    @pytest.mark.parametrize("size", [1, 7, 20, 60, 256])
    def test_scan_brings_everything_once(self, filled: Filled, size: int) -> None:
        records = scan(filled.store, size=size)
        assert sorted(record.id for record in records) == sorted(doc.id for doc in filled.documents)
        for record in records:
            assert record.vectors is None
            assert_same_document(record.document, filled.documents[int(record.id[4:])])

    def test_scan_has_a_stable_order(self, filled: Filled) -> None:
        assert scan_ids(filled.store, size=9) == scan_ids(filled.store, size=256)

    def test_scan_can_go_on_from_a_cursor_later(self, filled: Filled) -> None:
        first = filled.store.scan(size=25)
        assert first.records
        assert first.cursor is not None
        whole = scan_ids(filled.store, size=40)
        again = filled.store.scan(size=25, cursor=first.cursor)
        names = [record.id for record in (*first.records, *again.records)]
        assert names == whole[: len(names)]

    def test_scan_with_filter_and_vectors(self, filled: Filled) -> None:
        where = {"year": {"$exists": True}}
        kinds = sorted(self.representations)
        records = scan(filled.store, where=where, vectors=kinds, size=8)
        expected = {document.id for document in filled.documents if document.metadata.get("year") is not None}
        assert {record.id for record in records} == expected
        assert len(records) == len(expected)
        for record in records:
            self.assert_vectors(record, filled.vectors, int(record.id[4:]))

    @pytest.mark.parametrize("size", [0, -1])
    def test_scan_by_no_documents_is_refused(self, filled: Filled, size: int) -> None:
        with pytest.raises(InputError, match=str(size)):
            filled.store.scan(size=size)

    def test_empty_store(self, store: Store) -> None:
        assert store.count() == 0
        assert scan(store) == []
        assert store.get(["a"]) == [None]
        found = store.search(self.vectors(2), dict.fromkeys(self.representations, 5))
        assert {kind: list(hits) for kind, hits in found.items()} == {
            kind: [[], []] for kind in self.representations
        }

    def test_count(self, filled: Filled) -> None:
        assert filled.store.count() == 60
        assert filled.store.count(where={}) == 60
        assert filled.store.count(where={"nowhere": 1}) == 0

    @pytest.mark.parametrize("ids", ["doc-1", [b"doc-1"], [None], [1]], ids=repr)
    def test_ids_are_lists_of_strings(self, filled: Filled, ids: list[str]) -> None:
        with pytest.raises(InputError):
            filled.store.get(ids)
        with pytest.raises(InputError):
            filled.store.delete(ids)

    def test_many_documents_at_once(self, store: Store) -> None:
        documents, vectors = corpus.documents(self.large, prefix="large-"), self.vectors(self.large, seed=30)
        store.upsert(documents, vectors)
        assert store.count() == self.large
        assert sorted(scan_ids(store, size=500)) == sorted(document.id for document in documents)
        names = [document.id for document in documents]
        records = store.get(names)
        assert [record and record.id for record in records] == names
        row = self.large // 2
        kind = self.any_channel()
        query = vectors.take([row])
        assert store.search(query, {kind: 3})[kind][0][0].id == names[row]
        (scores,) = store.score(query, kind, [names])
        assert int(scores.argmax()) == row
        store.delete(names[:-1])
        assert scan_ids(store) == names[-1:]

    def test_several_threads(self, filled: Filled) -> None:
        kind = self.any_channel()
        queries = [self.vectors(1, seed=seed) for seed in range(12)]
        alone = [filled.store.search(query, {kind: 5})[kind][0] for query in queries]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda query: filled.store.search(query, {kind: 5})[kind][0], queries))
            counts = set(pool.map(lambda _: filled.store.count(where={"nowhere": None}), range(8)))
        assert [[hit.id for hit in hits] for hits in together] == [[hit.id for hit in hits] for hits in alone]
        assert counts == {60}

    def test_store_made_in_another_thread(self, store: Store) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(store.upsert, [Document("a")], self.vectors(1)).result()
        assert scan_ids(store) == ["a"]
