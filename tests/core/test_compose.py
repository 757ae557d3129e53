"""SplitStore and UnionStore: the contract on MemoryStores, and members that fail or hang."""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from m3_core.compose import MissingMemberWarning, SplitStore, UnionStore
from m3_core.errors import (
    FilterError,
    FingerprintMismatch,
    InputError,
    StoreError,
    StoreUnavailable,
    Unsupported,
)
from m3_core.filters import Where
from m3_core.memory import MemoryStore
from m3_core.store import Schema, Store
from m3_core.testing import corpus
from m3_core.testing.store_contract import StoreContract
from m3_core.threaded import ThreadedStore
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Record, Representation

DENSE, SPARSE, MULTI = Representation
SCHEMA = Schema(dense=32, sparse=500, multi=16, fingerprint="m3-contract")
EVERYTHING = {DENSE: 10, SPARSE: 10, MULTI: 10}


def memory(*kinds: Representation, fingerprint: str | None = "m3-contract") -> MemoryStore:
    schema = SCHEMA.only(kinds or list(Representation))
    return MemoryStore(Schema(schema.dense, schema.sparse, schema.multi, fingerprint))


def vectors(n: int, seed: int = 0) -> M3Vectors:
    return corpus.vectors(SCHEMA, n, seed=seed)


class TestSplitInThree(StoreContract):
    large = 300

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return SplitStore(
            dense=MemoryStore(schema.only([DENSE])),
            sparse=MemoryStore(schema.only([SPARSE])),
            multi=MemoryStore(schema.only([MULTI])),
        )


class TestSplitInTwo(StoreContract):
    """Dense and multi in one store, lexical in another, which is the one that documents are read from."""

    large = 300

    def make_store(self, schema: Schema, folder: Path) -> Store:
        vectors = MemoryStore(schema.only([DENSE, MULTI]))
        return SplitStore(
            dense=vectors,
            multi=vectors,
            sparse=MemoryStore(schema.only([SPARSE])),
            primary=SPARSE,
            timeout=60,
        )


class TestUnionOfThree(StoreContract):
    def make_store(self, schema: Schema, folder: Path) -> Store:
        return UnionStore([MemoryStore(schema) for _ in range(3)], timeout=60)


class TestUnionOfSplits(StoreContract):
    large = 300
    representations = frozenset({DENSE, SPARSE})

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return UnionStore(
            [
                SplitStore(dense=MemoryStore(schema.only([DENSE])), sparse=MemoryStore(schema.only([SPARSE])))
                for _ in range(2)
            ],
            route=lambda name: len(name) % 2,
            on_failure="skip",
        )


class Hanging(MemoryStore):
    """A store that answers no search until it is let go."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.hangs = threading.Event()
        self.released = threading.Event()
        self.calls = 0

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        self._wait()
        return super().search(queries, k, where=where)

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        self._wait()
        return super().score(queries, by, ids)

    def _wait(self) -> None:
        self.calls += 1
        if self.hangs.is_set():
            assert self.released.wait(60)


class Unreachable(MemoryStore):
    """A store whose server went away."""

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        raise ConnectionRefusedError("connection refused")

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        raise ConnectionRefusedError("connection refused")


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    store = Hanging(SCHEMA)
    yield store
    store.released.set()


def test_union_without_a_closed_member_marks_the_result() -> None:
    up, down = memory(), memory()
    union = UnionStore([up, down], route=lambda name: int(name == "b"), on_failure="skip")
    union.upsert([Document("a"), Document("b")], vectors(2))
    down.close()
    with pytest.warns(MissingMemberWarning, match=down.identity):
        found = union.search(vectors(1), EVERYTHING)
    assert found.missing == (down.identity,)
    assert [hit.id for hit in found[DENSE][0]] == ["a"]
    with pytest.warns(MissingMemberWarning):
        (scores,) = union.score(vectors(1), DENSE, [["a", "b"]])
    assert np.isfinite(scores[0])
    assert np.isnan(scores[1])


def test_union_with_every_member_up_misses_nothing() -> None:
    union = UnionStore([memory(), memory()], on_failure="skip")
    assert union.search(vectors(1), EVERYTHING).missing == ()


def test_union_that_raises_names_the_member_that_is_down() -> None:
    up, down = memory(), memory()
    union = UnionStore([up, down])
    down.close()
    with pytest.raises(StoreUnavailable, match=down.identity) as caught:
        union.search(vectors(1), EVERYTHING)
    assert isinstance(caught.value.__cause__, StoreError)
    with pytest.raises(StoreUnavailable, match=down.identity):
        union.score(vectors(1), DENSE, [["a"]])


def test_only_searches_do_without_a_member() -> None:
    down = memory()
    union = UnionStore([memory(), down], on_failure="skip")
    union.upsert([Document(name) for name in "abcdef"], vectors(6))
    down.close()
    with pytest.raises(StoreError, match=down.identity):
        union.count()
    with pytest.raises(StoreError, match=down.identity):
        union.get(["a"])
    with pytest.raises(StoreError, match=down.identity):
        union.upsert([Document("a")], vectors(1))
    with pytest.raises(StoreError, match=down.identity):
        union.scan(cursor="1:")


def test_upsert_to_a_union_with_a_member_down_writes_nothing() -> None:
    up = memory()
    union = UnionStore([up, Unreachable(SCHEMA)], route=lambda name: 0)
    with pytest.raises(StoreUnavailable, match="connection refused"):
        union.upsert([Document("a")], vectors(1))
    assert up.count() == 0


def test_error_of_a_connection_counts_as_down() -> None:
    unreachable = Unreachable(SCHEMA)
    with pytest.raises(StoreUnavailable, match="connection refused"):
        UnionStore([memory(), unreachable]).search(vectors(1), EVERYTHING)
    with pytest.warns(MissingMemberWarning, match="connection refused"):
        found = UnionStore([memory(), unreachable], on_failure="skip").search(vectors(1), EVERYTHING)
    assert found.missing == (unreachable.identity,)


def test_no_member_left_is_an_error_also_when_skipping() -> None:
    union = UnionStore([Unreachable(SCHEMA), Unreachable(SCHEMA)], on_failure="skip")
    with pytest.raises(StoreUnavailable):
        union.search(vectors(1), EVERYTHING)


def test_late_member_is_left_out(hanging: Hanging) -> None:
    union = UnionStore([memory(), hanging], timeout=0.05, on_failure="skip")
    union.upsert([Document(name) for name in "abcdef"], vectors(6))
    everything = UnionStore(union._stores, timeout=60).search(vectors(1), EVERYTHING)
    assert len(everything[DENSE][0]) == 6
    hanging.hangs.set()
    with pytest.warns(MissingMemberWarning, match=r"0\.05 seconds"):
        found = union.search(vectors(1), EVERYTHING)
    assert found.missing == (hanging.identity,)
    assert 0 < len(found[DENSE][0]) < 6
    with pytest.raises(StoreUnavailable, match=r"0\.05 seconds"):
        UnionStore([memory(), hanging], timeout=0.05).search(vectors(1), EVERYTHING)


def test_hanging_member_is_not_asked_for_ever(hanging: Hanging) -> None:
    hanging.hangs.set()
    union = UnionStore([memory(), hanging], timeout=0.01, on_failure="skip")
    for _ in range(20):
        with pytest.warns(MissingMemberWarning):
            union.search(vectors(1), EVERYTHING)
    assert hanging.calls == 16
    hanging.hangs.clear()
    hanging.released.set()
    patient = UnionStore([hanging], timeout=60)
    assert patient.search(vectors(1), EVERYTHING).missing == ()


def test_members_are_searched_at_the_same_time() -> None:
    barrier = threading.Barrier(3)

    class Meeting(MemoryStore):
        def search(
            self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
        ) -> Mapping[Representation, list[list[Hit]]]:
            barrier.wait(30)  # breaks unless all three are in here together
            return super().search(queries, k, where=where)

    union = UnionStore([Meeting(SCHEMA) for _ in range(3)])
    assert union.search(vectors(1), EVERYTHING).missing == ()
    split = SplitStore(dense=Meeting(SCHEMA), sparse=Meeting(SCHEMA), multi=Meeting(SCHEMA))
    assert split.search(vectors(1), EVERYTHING).missing == ()


@pytest.mark.parametrize("on_failure", ["raise", "skip"])
def test_mistakes_of_the_caller_are_not_failures_of_a_member(on_failure: str) -> None:
    union = UnionStore([memory(), memory()], on_failure=on_failure)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        union.search(vectors(1), {DENSE: 0})
    with pytest.raises(FilterError):
        union.search(vectors(1), {DENSE: 1}, where={"$no": 1})
    with pytest.raises(Unsupported):
        UnionStore([memory(DENSE)]).search(vectors(1), {MULTI: 1})


class Picky(MemoryStore):
    """A store whose engine refuses some documents, which no check knew before."""

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        if any(document.text == "too long" for document in documents):
            raise InputError("too long for this engine")
        super().upsert(documents, vectors)


def test_what_a_member_of_a_split_refuses_is_not_found_in_the_others() -> None:
    for primary in (DENSE, SPARSE):  # the primary writes last
        picky = Picky(memory(DENSE).schema)
        split = SplitStore(dense=picky, sparse=memory(SPARSE), multi=memory(MULTI), primary=primary)
        split.upsert([Document("a", "before")], vectors(1))
        with pytest.raises(InputError, match="too long"):
            split.upsert([Document("b"), Document("c", "too long")], vectors(2))
        found = split.search(vectors(3), EVERYTHING)
        assert {hit.id for rows in found.values() for hits in rows for hit in hits} == {"a"}


def test_split_without_a_member_finds_nothing_in_its_channel() -> None:
    up, down = memory(DENSE, MULTI), memory(SPARSE)
    split = SplitStore(dense=up, multi=up, sparse=down, on_failure="skip")
    split.upsert([Document("a"), Document("b")], vectors(2))
    down.close()
    with pytest.warns(MissingMemberWarning, match=down.identity):
        found = split.search(vectors(3), EVERYTHING)
    assert found.missing == (down.identity,)
    assert [len(hits) for hits in found[DENSE]] == [2, 2, 2]
    assert found[SPARSE] == [[], [], []]
    with pytest.warns(MissingMemberWarning):
        (scores,) = split.score(vectors(1), SPARSE, [["a", "b"]])
    assert np.isnan(scores).all()
    with pytest.raises(StoreUnavailable, match=down.identity):
        split.search(vectors(1), {SPARSE: 1})
    with pytest.raises(StoreUnavailable, match=down.identity):
        SplitStore(dense=up, sparse=down).search(vectors(1), {DENSE: 1, SPARSE: 1})


def test_mark_comes_through_unions_of_unions() -> None:
    down = memory()
    union = UnionStore([UnionStore([memory(), down], on_failure="skip"), memory()])
    down.close()
    with pytest.warns(MissingMemberWarning):
        assert union.search(vectors(1), EVERYTHING).missing == (down.identity,)


async def test_mark_comes_through_threads() -> None:
    down = memory()
    store = ThreadedStore(UnionStore([memory(), down], on_failure="skip"))
    down.close()
    with pytest.warns(MissingMemberWarning):
        found = await store.search(vectors(1), EVERYTHING)
    assert getattr(found, "missing", None) == (down.identity,)


def test_union_moves_a_document_whose_route_changed() -> None:
    old, new = memory(), memory()
    old.upsert([Document("a", "old"), Document("b")], vectors(2))
    union = UnionStore([old, new], route=lambda name: 1)
    union.upsert([Document("a", "new")], vectors(1))
    assert [record.id for record in old.scan().records] == ["b"]
    assert [record.document.text for record in new.scan().records] == ["new"]
    union.update_vectors(["b"], vectors(1, seed=5).only([DENSE]))
    (score,) = union.score(vectors(1, seed=5), DENSE, [["b"]])
    assert score[0] == pytest.approx(1.0)


def test_union_spreads_documents_and_always_to_the_same_member() -> None:
    stores = [memory() for _ in range(3)]
    names = [f"doc-{row}" for row in range(90)]
    UnionStore(stores).upsert([Document(name) for name in names], vectors(90))
    counts = [store.count() for store in stores]
    assert sum(counts) == 90
    assert min(counts) > 15
    # CRC-32, so the same in every process and release; its published check value, of these nine digits, is 0xCBF43926.
    UnionStore(stores).upsert([Document("123456789")], vectors(1))
    assert stores[0xCBF43926 % 3].get(["123456789"]) != [None]


def test_union_route_out_of_range() -> None:
    with pytest.raises(InputError, match="'a' to the store 2"):
        UnionStore([memory(), memory()], route=lambda name: 2).upsert([Document("a")], vectors(1))


def test_same_document_in_two_members_is_found_once() -> None:
    stores = [memory(), memory()]
    for seed, store in enumerate(stores):
        store.upsert([Document("a", str(seed))], vectors(1, seed=seed))
    (hit,) = UnionStore(stores).search(vectors(1, seed=1), {DENSE: 5})[DENSE][0]
    assert hit.document.text == "1"
    assert hit.score == pytest.approx(1.0)


@pytest.mark.parametrize("cursor", ["2:", "x:", "-1:", "1", "²:"])
def test_union_refuses_a_foreign_cursor(cursor: str) -> None:
    union = UnionStore([memory(), memory()])
    if cursor == "1":
        assert union.scan(cursor=cursor).cursor is None
    else:
        with pytest.raises(InputError, match="cursor"):
            union.scan(cursor=cursor)


def test_models_of_members_must_agree() -> None:
    one, other = memory(fingerprint="bge"), memory(fingerprint="tiny")
    with pytest.raises(FingerprintMismatch, match=r"bge.*tiny"):
        UnionStore([one, other])
    with pytest.raises(FingerprintMismatch, match=r"bge.*tiny"):
        SplitStore(dense=one, sparse=other)
    assert UnionStore([memory(fingerprint=None), one]).fingerprint == "bge"
    assert UnionStore([memory(fingerprint=None)]).fingerprint is None


def test_capabilities_of_several() -> None:
    union = UnionStore([memory(DENSE, SPARSE), memory(DENSE, MULTI)])
    assert union.capabilities.representations == {DENSE}
    split = SplitStore(dense=memory(), sparse=memory(SPARSE))
    assert split.capabilities.representations == {DENSE, SPARSE}


def test_what_cannot_be_composed() -> None:
    store = memory()
    with pytest.raises(InputError):
        UnionStore([])
    with pytest.raises(InputError, match="twice"):
        UnionStore([store, store])
    with pytest.raises(InputError, match="no channel"):
        UnionStore([memory(DENSE), memory(SPARSE)])
    with pytest.raises(InputError):
        SplitStore()
    with pytest.raises(Unsupported, match="sparse"):
        SplitStore(sparse=memory(DENSE))
    with pytest.raises(InputError, match="primary"):
        SplitStore(dense=store, primary=SPARSE)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(InputError, match="timeout"):
            UnionStore([store], timeout=timeout)
    with pytest.raises(InputError, match="on_failure"):
        UnionStore([store], on_failure="ignore")  # type: ignore[arg-type]


def test_split_members_that_differ_are_noticed_when_vectors_are_read() -> None:
    dense, sparse = memory(DENSE), memory(SPARSE)
    split = SplitStore(dense=dense, sparse=sparse)
    split.upsert([Document("a")], vectors(1))
    sparse.delete(["a"])
    assert split.get(["a"], vectors=[DENSE])[0] is not None
    with pytest.raises(StoreError, match=r"'a'.*write it again"):
        split.get(["a"], vectors=[SPARSE])
    with pytest.raises(StoreError, match=r"'a'.*write it again"):
        split.scan(vectors=[SPARSE])


def test_split_keeps_members_that_hold_more_up_to_date() -> None:
    more, sparse = memory(DENSE, SPARSE), memory(SPARSE)
    split = SplitStore(dense=more, sparse=sparse)
    split.upsert([Document("a")], vectors(1))
    split.update_vectors(["a"], vectors(1, seed=1).only([SPARSE]))
    for store in (more, sparse):
        (record,) = store.get(["a"], vectors=[SPARSE])
        assert record is not None
        assert record.vectors is not None
        expected = vectors(1, seed=1).sparse_row(0)
        np.testing.assert_array_equal(record.vectors.sparse_row(0)[0], expected[0])


def test_closing_goes_on_after_a_member_that_fails() -> None:
    class Broken(MemoryStore):
        def close(self) -> None:
            raise StoreError("cannot close")

    first, last = memory(), memory()
    with pytest.raises(StoreError, match="cannot close"):
        UnionStore([first, Broken(SCHEMA), last]).close()
    for store in (first, last):
        with pytest.raises(StoreError, match="closed"):
            store.count()
