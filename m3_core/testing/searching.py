"""Contract: search and score give what `MemoryStore` gives."""

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest

from m3_core.errors import DimensionMismatch, InputError, Unsupported
from m3_core.memory import MemoryStore
from m3_core.store import Store
from m3_core.testing import corpus
from m3_core.testing.base import ContractBase, Filled, assert_close
from m3_core.threaded import ThreadedStore
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Ragged, Representation

DENSE, SPARSE, MULTI = Representation


class SearchContract(ContractBase):
    """Ranking by each channel, alone and together."""

    @pytest.mark.parametrize("k", [1, 7, 60, 500])
    @pytest.mark.parametrize("kind", list(Representation))
    def test_search_equals_memory_store(self, filled: Filled, kind: Representation, k: int) -> None:
        self.needs(kind)
        queries = self.vectors(5, seed=100)
        found = filled.store.search(queries, {kind: k})
        assert set(found) == {kind}
        self.assert_search(found, filled.reference, queries, {kind: k})

    def test_all_channels_in_one_call(self, filled: Filled) -> None:
        queries = self.vectors(3, seed=101)
        k = {kind: 4 + place for place, kind in enumerate(sorted(self.representations))}
        found = filled.store.search(queries, k)
        assert set(found) == set(k)
        self.assert_search(found, filled.reference, queries, k)

    def test_search_by_a_documents_own_vectors_finds_it(self, filled: Filled) -> None:
        for kind in self.representations - {SPARSE}:
            hit = filled.store.search(filled.vectors.take([17]), {kind: 1})[kind][0][0]
            assert hit.id == "doc-17"
            assert hit.score == pytest.approx(1.0, abs=self.tolerance)
            assert isinstance(hit.score, float)

    def test_no_queries_no_channels(self, filled: Filled) -> None:
        k = dict.fromkeys(self.representations, 3)
        assert {kind: list(hits) for kind, hits in filled.store.search(self.vectors(0), k).items()} == {
            kind: [] for kind in k
        }
        assert dict(filled.store.search(self.vectors(2), {})) == {}

    def test_queries_may_have_more_channels_than_are_searched(self, filled: Filled) -> None:
        kind = self.any_channel()
        found = filled.store.search(self.vectors(1, seed=102), {kind: 3})
        alone = filled.store.search(self.vectors(1, seed=102).only([kind]), {kind: 3})
        assert [hit.id for hit in found[kind][0]] == [hit.id for hit in alone[kind][0]]

    @pytest.mark.parametrize("kind", list(Representation))
    def test_equal_scores_order_by_id(self, store: Store, kind: Representation) -> None:
        self.needs(kind)
        names = ["b", "10", "a", "9", "B", "é", "z", "ab", "Z", "-", " ", "~"]
        # One number per vector, so that no engine can round one of the equal sums differently.
        axes = np.eye(32, dtype=np.float32)[[3] * len(names)]
        one = M3Vectors(
            dense=axes,
            sparse=corpus.sparse_rows([{7: 0.5}] * len(names), 500),
            multi=Ragged.from_rows([axes[:1, :16]] * len(names), dimension=16),
        )
        store.upsert([Document(name) for name in names], one)
        hits = store.search(one.take([0]), {kind: 20})[kind][0]
        assert {hit.score for hit in hits} == {0.25 if kind is SPARSE else 1.0}
        assert [hit.id for hit in hits] == sorted(names)

    @pytest.mark.parametrize("kind", list(Representation))
    def test_score_equals_memory_store(self, filled: Filled, kind: Representation) -> None:
        self.needs(kind)
        queries = self.vectors(3, seed=104)
        ids = [["doc-5", "doc-1", "doc-5"], [], [document.id for document in filled.documents]]
        found = filled.store.score(queries, kind, ids)
        assert [len(scores) for scores in found] == [3, 0, 60]
        for scores, expected in zip(found, filled.reference.score(queries, kind, ids), strict=True):
            assert_close(scores, expected, self.tolerance)

    @pytest.mark.parametrize("kind", list(Representation))
    def test_score_of_unknown_documents(self, filled: Filled, kind: Representation) -> None:
        """NaN; for lexical weights 0 will do.

        An engine that looks tokens up cannot tell a document without a shared token from none at all.
        """
        self.needs(kind)
        (scores,) = filled.store.score(self.vectors(1, seed=105), kind, [["x'] or 1 == 1", "doc-2", "ghost"]])
        assert np.isfinite(scores[1])
        allowed = (0.0,) if kind is SPARSE else ()
        assert all(np.isnan(score) or score in allowed for score in scores[[0, 2]]), scores

    def test_documents_without_lexical_weights(self, store: Store) -> None:
        self.needs(SPARSE)
        rows: list[dict[int, float]] = [{3: 0.5, 7: 0.25}, {}, {7: 1.0}, {499: 1e-3, 0: 2.0}]
        vectors = self.with_sparse(rows)
        store.upsert([Document(name) for name in "abcd"], vectors)
        queries = self.with_sparse([{7: 0.5}, {}, {0: 1.0, 3: 1.0, 499: 10.0}])
        found = store.search(queries, {SPARSE: 10})[SPARSE]
        assert [[hit.id for hit in hits] for hits in found] == [["c", "a"], [], ["d", "a"]]
        assert_close([hit.score for hits in found for hit in hits], [0.5, 0.125, 2.01, 0.5], self.tolerance)
        scores = store.score(queries, SPARSE, [list("abcd")] * 3)
        expected: list[list[float]] = [[0.125, 0, 0.5, 0], [0, 0, 0, 0], [0.5, 0, 0, 2.01]]
        assert_close(scores, expected, self.tolerance)
        for row, record in enumerate(store.get(list("abcd"), vectors=[SPARSE])):
            self.assert_vectors(record, vectors.only([SPARSE]), row)
        assert store.count() == 4

    def test_lexical_weights_come_and_go(self, store: Store) -> None:
        self.needs(SPARSE)
        store.upsert([Document("a"), Document("b")], self.with_sparse([{}, {5: 1.0}]))
        store.update_vectors(["a", "b"], self.with_sparse([{5: 0.5}, {}]).only([SPARSE]))
        hits = store.search(self.with_sparse([{5: 1.0}]), {SPARSE: 5})[SPARSE][0]
        assert [hit.id for hit in hits] == ["a"]
        assert hits[0].score == pytest.approx(0.5, abs=self.tolerance)

    def test_documents_with_one_multi_vector_and_with_none(self, store: Store) -> None:
        self.needs(MULTI)
        unit = np.eye(16, dtype=np.float32)
        passages = [unit[:1], unit[:3], unit[5:5], (unit[:1] + unit[1:2]) / np.sqrt(2, dtype=np.float32)]
        store.upsert([Document(name) for name in "abcd"], self.with_multi(passages))
        queries = self.with_multi([unit[:2], unit[2:3], unit[9:10]])
        expected: list[list[float]] = [[0.5, 1.0, np.nan, 0.5**0.5], [0, 1, np.nan, 0], [0, 0, np.nan, 0]]
        scores = store.score(queries, MULTI, [list("abcd")] * 3)
        assert_close(scores, expected, self.tolerance)
        found = store.search(queries, {MULTI: 10})[MULTI]
        assert [[hit.id for hit in hits] for hits in found] == [list("bda"), list("bad"), list("abd")]

    def test_search_of_a_channel_that_is_not_held_is_unsupported(self, filled: Filled) -> None:
        lacking = sorted(set(Representation) - self.representations)
        if not lacking:
            pytest.skip("the store holds every channel")
        with pytest.raises(Unsupported, match=lacking[0].value):
            filled.store.search(self.full_vectors(1), {lacking[0]: 1})
        with pytest.raises(Unsupported, match=lacking[0].value):
            filled.store.score(self.full_vectors(1), lacking[0], [["doc-1"]])
        with pytest.raises(Unsupported, match=lacking[0].value):
            filled.store.get(["doc-1"], vectors=[lacking[0]])

    @pytest.mark.parametrize("k", [0, -1, True, 2.0])
    def test_k_is_an_integer_of_at_least_one(self, filled: Filled, k: int) -> None:
        with pytest.raises(InputError, match=str(k)):
            filled.store.search(self.vectors(1), {self.any_channel(): k})

    def test_queries_without_the_channel_are_refused(self, filled: Filled) -> None:
        for kind in self.representations:
            queries = self.vectors(1).only(set(Representation) - {kind})
            with pytest.raises(InputError, match=kind.value):
                filled.store.search(queries, {kind: 1})

    @pytest.mark.parametrize("kind", [DENSE, MULTI])
    def test_queries_of_another_dimension_are_refused(self, filled: Filled, kind: Representation) -> None:
        self.needs(kind)
        queries = corpus.vectors(self.wider_schema(), 1)
        with pytest.raises(DimensionMismatch):
            filled.store.search(queries, {kind: 1})
        with pytest.raises(DimensionMismatch):
            filled.store.score(queries, kind, [["doc-1"]])

    def test_score_needs_ids_for_every_query(self, filled: Filled) -> None:
        with pytest.raises(InputError):
            filled.store.score(self.vectors(2), self.any_channel(), [["doc-1"]])

    def test_awaited_calls_give_the_same(self, filled: Filled) -> None:
        kind = self.any_channel()
        queries = self.vectors(2, seed=106)

        async def ask() -> tuple[Mapping[Representation, list[list[Hit]]], list[FloatArray], int]:
            store = ThreadedStore(filled.store)
            return await asyncio.gather(
                store.search(queries, {kind: 5}),
                store.score(queries, kind, [["doc-1"], ["doc-2"]]),
                store.count(),
            )

        found, scores, count = asyncio.run(ask())
        self.assert_search(found, filled.reference, queries, {kind: 5})
        expected = filled.reference.score(queries, kind, [["doc-1"], ["doc-2"]])
        assert_close(scores, expected, self.tolerance)
        assert count == 60

    def assert_search(
        self,
        found: Mapping[Representation, list[list[Hit]]],
        reference: MemoryStore,
        queries: M3Vectors,
        k: Mapping[Representation, int],
    ) -> None:
        """The hits of every query are the first of the reference's whole ranking."""
        whole = reference.search(queries, dict.fromkeys(k, reference.count()))
        for kind, size in k.items():
            assert len(found[kind]) == len(queries)
            for hits, ranking in zip(found[kind], whole[kind], strict=True):
                self.assert_hits(hits, ranking, size, kind)

    def with_sparse(self, rows: list[dict[int, float]]) -> M3Vectors:
        """Vectors with the given lexical weights."""
        other = self.vectors(len(rows))
        return M3Vectors(dense=other.dense, sparse=corpus.sparse_rows(rows, 500), multi=other.multi)

    def with_multi(self, rows: list[FloatArray]) -> M3Vectors:
        """Vectors with the given multi-vectors."""
        other = self.vectors(len(rows))
        multi = Ragged.from_rows(rows, dimension=16)
        return M3Vectors(dense=other.dense, sparse=other.sparse, multi=multi)
