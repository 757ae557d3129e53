"""Contract: what is written is what is there, whole, at once, and under its own id."""

from dataclasses import replace

import pytest

from m3_core.errors import InputError, Unsupported
from m3_core.store import Store
from m3_core.testing import corpus
from m3_core.testing.base import ContractBase, assert_close, assert_same_document, scan_ids
from m3_core.types import Document, M3Vectors, Representation


class WriteContract(ContractBase):
    """Upsert, update of vectors, delete."""

    def test_upsert_replaces_whole_documents(self, store: Store) -> None:
        old, new = self.vectors(2, seed=1), self.vectors(2, seed=2)
        store.upsert([Document("a", "old", {"kept": 1, "nested": {"x": 1}}), Document("b", "b")], old)
        store.upsert([Document("a", "new", {"nested": {"y": 2}})], new.take([0]))
        a, b = store.get(["a", "b"], vectors=self.representations)
        assert a is not None
        assert b is not None
        assert_same_document(a.document, Document("a", "new", {"nested": {"y": 2}}))
        self.assert_vectors(a, new, 0)
        self.assert_vectors(b, old, 1)
        assert store.count() == 2
        assert store.count(where={"kept": {"$exists": True}}) == 0
        assert store.count(where={"nested.x": {"$exists": True}}) == 0

    def test_replaced_vectors_are_not_found_any_more(self, store: Store) -> None:
        both = self.vectors(2, seed=3)
        store.upsert([Document("a")], both.take([0]))
        store.upsert([Document("a")], both.take([1]))
        for kind in self.representations:
            (before, after) = store.score(both, kind, [["a"], ["a"]])
            expected = self.reference_scores(both, both.take([1]), kind)
            assert_close([before[0], after[0]], expected, self.tolerance)

    def test_last_of_equal_ids_wins(self, store: Store) -> None:
        vectors = self.vectors(4, seed=4)
        names = ["a", "b", "a", "a"]
        store.upsert([Document(name, str(row)) for row, name in enumerate(names)], vectors)
        a, b = store.get(["a", "b"], vectors=self.representations)
        assert a is not None
        assert b is not None
        assert (a.document.text, b.document.text) == ("3", "1")
        self.assert_vectors(a, vectors, 3)
        self.assert_vectors(b, vectors, 1)
        assert store.count() == 2

    def test_empty_batch_writes_nothing(self, store: Store) -> None:
        store.upsert([], self.vectors(0))
        store.update_vectors([], self.vectors(0))
        store.delete([])
        assert store.count() == 0

    def test_channels_that_the_store_lacks_are_left_out(self, store: Store) -> None:
        more = self.full_vectors(2, seed=5)
        store.upsert([Document("a"), Document("b")], more)
        record = store.get(["b"], vectors=self.representations)[0]
        self.assert_vectors(record, more.only(self.representations), 1)

    @pytest.mark.parametrize("metadata", corpus.ODD_METADATA, ids=lambda value: repr(value)[:40])
    def test_metadata_comes_back_as_it_went_in(self, store: Store, metadata: dict[str, object]) -> None:
        document = Document("a", "text", metadata)
        store.upsert([document, Document("b", "", {"other": 1})], self.vectors(2))
        (record, _) = store.get(["a", "b"])
        assert record is not None
        assert_same_document(record.document, document)
        scanned = store.scan(size=2).records
        assert_same_document(next(found.document for found in scanned if found.id == "a"), document)

    def test_changing_a_document_that_was_read_changes_nothing_in_the_store(self, store: Store) -> None:
        metadata = {"list": [1], "nested": {"a": 1}}
        store.upsert([Document("a", "", metadata)], self.vectors(1))
        for document in (Document("a", "", metadata), store.scan().records[0].document):
            document.metadata["list"].append(2)
            document.metadata["nested"]["b"] = 2
        record = store.get(["a"])[0]
        assert record is not None
        assert record.document.metadata == {"list": [1], "nested": {"a": 1}}

    def test_long_text(self, store: Store) -> None:
        document = Document("a", "長い文書。" * 4000, {"note": "n" * 20_000})
        store.upsert([document], self.vectors(1))
        record = store.get(["a"])[0]
        assert record is not None
        assert_same_document(record.document, document)

    @pytest.mark.parametrize("kind", list(Representation))
    def test_update_vectors_leaves_the_rest_untouched(self, store: Store, kind: Representation) -> None:
        self.needs(kind)
        old, new = self.vectors(3, seed=8), self.vectors(2, seed=9)
        documents = [Document(name, f"text {name}", {"n": 1.0, "list": [None]}) for name in "abc"]
        store.upsert(documents, old)
        store.update_vectors(["c", "a"], new.only([kind]))
        records = store.get(["a", "b", "c"], vectors=self.representations)
        for row, (record, fresh) in enumerate(zip(records, (1, None, 0), strict=True)):
            assert record is not None
            assert_same_document(record.document, documents[row])
            expected = old.take([row])
            if fresh is not None:
                expected = replace(expected, **{kind.value: getattr(new.take([fresh]), kind.value)})
            self.assert_vectors(record, expected, 0)
        queries = self.vectors(1, seed=10)
        found = store.score(queries, kind, [["a", "c"]])[0]
        expected_scores = self.reference_scores(queries.take([0, 0]), new.take([1, 0]), kind)
        assert_close(found, expected_scores, self.tolerance)

    def test_update_of_unknown_ids_names_one_and_changes_nothing(self, store: Store) -> None:
        old, new = self.vectors(1, seed=11), self.vectors(2, seed=12)
        store.upsert([Document("a")], old)
        with pytest.raises(InputError, match="ghost"):
            store.update_vectors(["a", "ghost"], new)
        self.assert_vectors(store.get(["a"], vectors=self.representations)[0], old, 0)
        assert store.get(["ghost"]) == [None]
        with pytest.raises(InputError):
            store.update_vectors(["a"], new)

    def test_update_of_a_channel_that_is_not_held_is_unsupported(self, store: Store) -> None:
        lacking = set(Representation) - self.representations
        if not lacking:
            pytest.skip("the store holds every channel")
        store.upsert([Document("a")], self.vectors(1))
        more = self.full_vectors(1)
        with pytest.raises(Unsupported):
            store.update_vectors(["a"], more.only(lacking))

    def test_delete_by_id(self, store: Store) -> None:
        store.upsert([Document(name) for name in "abcd"], self.vectors(4))
        store.delete(["b", "nowhere", "d", "b"])
        assert sorted(scan_ids(store)) == ["a", "c"]
        assert store.get(["a", "b", "c", "d"])[1::2] == [None, None]
        for kind, found in store.search(self.vectors(1), dict.fromkeys(self.representations, 4)).items():
            assert {hit.id for hit in found[0]} <= {"a", "c"}, kind

    def test_delete_takes_ids_and_filter_together(self, store: Store) -> None:
        store.upsert([Document(name, "", {"n": row}) for row, name in enumerate("abcd")], self.vectors(4))
        store.delete(["a"], where={"n": 3})
        assert sorted(scan_ids(store)) == ["b", "c"]

    def test_delete_of_nothing_deletes_nothing_and_the_empty_filter_everything(self, store: Store) -> None:
        store.upsert([Document(name) for name in "ab"], self.vectors(2))
        store.delete()
        assert store.count() == 2
        store.delete(where={"n": 1})
        assert store.count() == 2
        store.delete(where={})
        assert store.count() == 0
        store.upsert([Document("a", "again")], self.vectors(1))
        assert scan_ids(store) == ["a"]

    def test_writes_are_seen_by_the_next_call(self, store: Store) -> None:
        kind = self.any_channel()
        for turn in range(5):
            vectors = self.vectors(1, seed=20 + turn)
            name = f"turn {turn}"
            store.upsert([Document(name, "", {"turn": turn})], vectors)
            assert store.count(where={"turn": turn}) == 1
            assert name in scan_ids(store)
            assert name in [hit.id for hit in store.search(vectors, {kind: 10})[kind][0]]
            changed = self.vectors(1, seed=40 + turn)
            store.update_vectors([name], changed.only([kind]))
            (scores,) = store.score(changed, kind, [[name]])
            expected = self.reference_scores(changed, changed, kind)
            assert_close(scores, expected, self.tolerance)
            store.delete([f"turn {turn - 1}"])
            assert scan_ids(store) == [name]

    def reference_scores(self, queries: M3Vectors, passages: M3Vectors, kind: Representation) -> list[float]:
        """Scores of query i and passage i (or the only passage), in float64 by the formulas of the paper."""
        rows = range(len(queries))
        pairs = [(row, row if len(passages) > 1 else 0) for row in rows]
        if kind is Representation.DENSE:
            assert queries.dense is not None
            assert passages.dense is not None
            return [float(queries.dense[q].astype(float) @ passages.dense[p].astype(float)) for q, p in pairs]
        if kind is Representation.SPARSE:
            weights = [
                (dict(zip(*_lists(queries, q), strict=True)), dict(zip(*_lists(passages, p), strict=True)))
                for q, p in pairs
            ]
            return [sum(a[token] * b[token] for token in a.keys() & b.keys()) for a, b in weights]
        assert queries.multi is not None
        assert passages.multi is not None
        return [
            float((queries.multi[q].astype(float) @ passages.multi[p].astype(float).T).max(axis=1).mean())
            for q, p in pairs
        ]


def _lists(vectors: M3Vectors, row: int) -> tuple[list[int], list[float]]:
    tokens, weights = vectors.sparse_row(row)
    return tokens.tolist(), weights.tolist()
