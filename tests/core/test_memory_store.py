"""MemoryStore against the contract, and what only it promises."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3_core import rows
from m3_core.errors import DimensionMismatch
from m3_core.memory import MemoryStore
from m3_core.store import Schema, Store
from m3_core.testing import corpus
from m3_core.testing.store_contract import StoreContract
from m3_core.types import ALL_REPRESENTATIONS, Document, M3Vectors, Representation

SCHEMA = Schema(dense=33, sparse=500, multi=16)


def vectors(n: int, seed: int = 0) -> M3Vectors:
    return corpus.vectors(SCHEMA, n, seed=seed)


def scores(store: MemoryStore, queries: M3Vectors, names: list[str]) -> list[list[float]]:
    return [store.score(queries, kind, [names])[0].tolist() for kind in Representation]


class TestMemoryStore(StoreContract):
    def make_store(self, schema: Schema, folder: Path) -> Store:
        return MemoryStore(schema)


class TestDenseAndSparse(TestMemoryStore):
    representations = frozenset({Representation.DENSE, Representation.SPARSE})


class TestSparseAlone(TestMemoryStore):
    representations = frozenset({Representation.SPARSE})


@pytest.mark.parametrize("n", [5, 7, 61, 200])
def test_equal_documents_have_equal_scores(n: int) -> None:
    store = MemoryStore(SCHEMA)
    names = [str(row) for row in range(n)]
    store.upsert([Document(name) for name in names], vectors(1).take([0] * n))
    found = store.search(vectors(2, seed=1), dict.fromkeys(Representation, n))
    for kind in Representation:
        for hits in found[kind]:
            assert len({hit.score for hit in hits}) == 1
            assert [hit.id for hit in hits] == sorted(names)


def test_rows_of_replaced_documents_are_given_back() -> None:
    store = MemoryStore(SCHEMA)
    names = [f"doc-{row}" for row in range(40)]
    for turn in range(100):
        store.upsert([Document(name, str(turn)) for name in names], vectors(40, seed=turn))
        store.update_vectors(names[:5], vectors(5, seed=1000 + turn).only([Representation.DENSE]))
    assert len(store._rows) < 1200
    fresh = MemoryStore(SCHEMA)
    fresh.upsert([Document(name, "99") for name in names], vectors(40, seed=99))
    fresh.update_vectors(names[:5], vectors(5, seed=1099).only([Representation.DENSE]))
    assert scores(store, vectors(1, seed=7), names) == scores(fresh, vectors(1, seed=7), names)
    assert [record.document.text for record in store.scan().records] == ["99"] * 40


def test_maxsim_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(SCHEMA)
    store.upsert([Document(str(row)) for row in range(50)], vectors(50))
    queries, k = vectors(2, seed=1), {Representation.MULTI: 50}
    whole = store.search(queries, k)
    monkeypatch.setattr(rows, "_BLOCK", 8)  # fewer vectors than the longest document has
    blocks = store.search(queries, k)
    for one, other in zip(whole[Representation.MULTI], blocks[Representation.MULTI], strict=True):
        assert [hit.id for hit in one] == [hit.id for hit in other]
        np.testing.assert_allclose([hit.score for hit in one], [hit.score for hit in other], atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_filtered_scores_are_those_of_all(share: float) -> None:
    store = MemoryStore(SCHEMA)
    documents = [Document(f"{row:03}", "", {"in": row < share * 100}) for row in range(100)]
    store.upsert(documents, vectors(100))
    queries, k = vectors(1, seed=1), dict.fromkeys(Representation, 100)
    every, some = store.search(queries, k), store.search(queries, k, where={"in": True})
    for kind in Representation:
        expected = {hit.id: hit.score for hit in every[kind][0] if hit.document.metadata["in"]}
        found = {hit.id: hit.score for hit in some[kind][0]}
        assert found == pytest.approx(expected, abs=1e-6)


def test_scan_goes_on_while_documents_come_and_go() -> None:
    store = MemoryStore(SCHEMA)
    store.upsert([Document(name) for name in "abcdef"], vectors(6))
    page = store.scan(size=3)
    store.delete(["a", "c", "e"])
    store.upsert([Document("aa"), Document("g")], vectors(2))
    assert [record.id for record in store.scan(size=10, cursor=page.cursor).records] == ["d", "f", "g"]


def test_vectors_that_were_read_are_copies() -> None:
    store = MemoryStore(SCHEMA)
    store.upsert([Document("a")], vectors(1))
    before = scores(store, vectors(1), ["a"])
    for record in (store.get(["a"], vectors=ALL_REPRESENTATIONS)[0],):
        assert record is not None
        assert record.vectors is not None
        assert record.vectors.dense is not None
        assert record.vectors.sparse is not None
        assert record.vectors.multi is not None
        for array in (record.vectors.dense, record.vectors.sparse.data, record.vectors.multi.values):
            array[:] = 0
    assert scores(store, vectors(1), ["a"]) == before


def test_vectors_that_were_written_are_copies() -> None:
    store, given = MemoryStore(SCHEMA), vectors(1)
    store.upsert([Document("a")], given)
    before = scores(store, vectors(1), ["a"])
    assert given.dense is not None
    assert given.sparse is not None
    assert given.multi is not None
    for array in (given.dense, given.sparse.data, given.multi.values):
        array[:] = 0
    assert scores(store, vectors(1), ["a"]) == before


def test_lexical_weights_are_kept_ascending_once_and_without_zeros() -> None:
    store = MemoryStore(Schema(sparse=10))
    given = corpus.sparse_rows([{1: 0.5, 3: 0.0, 7: 1.0}], 10)
    given.indices[:] = [7, 3, 1]
    store.upsert([Document("a")], M3Vectors(sparse=given))
    record = store.get(["a"], vectors=[Representation.SPARSE])[0]
    assert record is not None
    assert record.vectors is not None
    tokens, weights = record.vectors.sparse_row(0)
    assert (tokens.tolist(), weights.tolist()) == ([1, 7], [1.0, 0.5])


def test_lexical_weights_over_another_vocabulary_are_refused() -> None:
    store = MemoryStore(SCHEMA)
    other = replace(vectors(1), sparse=corpus.sparse_rows([{600: 1.0}], 601))
    with pytest.raises(DimensionMismatch, match=r"601 tokens.*500"):
        store.upsert([Document("a")], other)
    with pytest.raises(DimensionMismatch):
        store.search(other, {Representation.SPARSE: 1})
    assert store.count() == 0


def test_writes_and_searches_from_several_threads() -> None:
    store = MemoryStore(SCHEMA)

    def work(worker: int) -> int:
        for turn in range(20):
            store.upsert([Document(f"{worker}-{turn}", "", {"worker": worker})], vectors(1, seed=turn))
            hits = store.search(vectors(1, seed=turn), {Representation.DENSE: 1000})[Representation.DENSE][0]
            assert f"{worker}-{turn}" in {hit.id for hit in hits}
            if turn % 2:
                store.delete([f"{worker}-{turn}"])
        return store.count(where={"worker": worker})

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [10, 10, 10, 10]
    assert store.count() == 40
