"""What the parts of the contract suite share: the hooks that a store's test class fills in, and comparisons."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from m3_core.filters import Where
from m3_core.memory import MemoryStore
from m3_core.store import Schema, Store
from m3_core.testing import corpus
from m3_core.types import ALL_REPRESENTATIONS, Document, Hit, M3Vectors, Record, Representation

FULL_SCHEMA = Schema(dense=32, sparse=500, multi=16, fingerprint="m3-contract")
WIDER_SCHEMA = Schema(dense=33, sparse=500, multi=17, fingerprint="m3-contract")


@dataclass(frozen=True)
class Filled:
    """A store under test and a `MemoryStore` with the same content; tests only read from them."""

    store: Store
    reference: MemoryStore
    documents: Sequence[Document]
    vectors: M3Vectors


class ContractBase:
    """Hooks and fixtures. A subclass of `StoreContract` overrides `make_store` and what else differs."""

    representations: ClassVar[frozenset[Representation]] = ALL_REPRESENTATIONS
    """The channels that the store holds."""

    tolerance: ClassVar[float] = 1e-4
    """Largest absolute error of a score of unit vectors. Say why, if it is more."""

    tolerance_reason: ClassVar[str] = "float32 sums in another order"

    vector_tolerance: ClassVar[float] = 1e-6
    """Largest absolute error of a number in a vector that is read back; more where the engine halves them."""

    exact: ClassVar[bool] = True
    """False for an approximate index: 9 of 10 documents must be those that MemoryStore finds, not all."""

    can_reopen: ClassVar[bool] = False
    """Whether `reopen` opens what `make_store` made, after it was closed."""

    locks_folder: ClassVar[bool] = False
    """Whether a collection that is open cannot be opened a second time. Needs ``can_reopen``."""

    large: ClassVar[int] = 3000
    """Documents in one upsert in the test of large batches."""

    def make_store(self, schema: Schema, folder: Path) -> Store:
        """A new, empty store for the schema. ``folder`` does not exist yet and is another one each time.

        A store on a server can take a collection's name from it: ``f"contract-{folder.parent.name}"``.
        """
        raise NotImplementedError

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        """Open what `make_store` made in the folder; it may have made nothing there."""
        raise NotImplementedError

    @classmethod
    def schema(cls) -> Schema:
        """The schema of the stores under test; small, so that the suite is quick."""
        return FULL_SCHEMA.only(cls.representations)

    @classmethod
    def vectors(cls, n: int, *, seed: int = 0) -> M3Vectors:
        """Vectors of n texts for `schema`."""
        return corpus.vectors(cls.schema(), n, seed=seed)

    @classmethod
    def full_vectors(cls, n: int, *, seed: int = 0) -> M3Vectors:
        """Vectors of n texts with every channel, as an encoder with all heads makes them."""
        return corpus.vectors(FULL_SCHEMA, n, seed=seed)

    @classmethod
    def wider_schema(cls) -> Schema:
        """`schema` with more dimensions."""
        return WIDER_SCHEMA.only(cls.representations)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @pytest.fixture
    def store(self, folder: Path) -> Iterator[Store]:
        """A new, empty store."""
        with self.make_store(self.schema(), folder) as store:
            yield store

    @pytest.fixture(scope="class")
    @classmethod
    def filled(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
        """60 documents in the store under test and in a `MemoryStore`, for tests that only read."""
        documents, vectors = corpus.documents(60), cls.vectors(60)
        reference = MemoryStore(cls.schema())
        store = cls().make_store(cls.schema(), tmp_path_factory.mktemp("filled") / "store")
        for target in (store, reference):
            target.upsert(documents, vectors)
        yield Filled(store, reference, documents, vectors)
        store.close()

    def needs(self, *kinds: Representation) -> None:
        """Skip a test about channels that the store does not hold."""
        if missing := set(kinds) - self.representations:
            pytest.skip(f"the store does not hold {', '.join(sorted(missing))}")

    def any_channel(self) -> Representation:
        """A channel in which every document is a hit of every query, if there is one."""
        return next(
            kind
            for kind in (Representation.DENSE, Representation.MULTI, Representation.SPARSE)
            if kind in self.representations
        )

    def assert_hits(self, found: Sequence[Hit], ranking: Sequence[Hit], k: int, kind: Representation) -> None:
        """The found hits are the first k of the whole ranking; documents tied at the cut are interchangeable."""
        expected = {hit.id: hit for hit in ranking}
        names = [hit.id for hit in found]
        assert len(set(names)) == len(names), f"a document was found twice: {names}"
        assert len(found) == min(k, len(ranking))
        for hit in found:
            assert hit.id in expected, f"{hit.id!r} is no hit, its score was {hit.score}"
            assert hit.score == pytest.approx(expected[hit.id].score, abs=self.tolerance), hit.id
            assert dict(hit.scores) == {kind: hit.score}
            assert_same_document(hit.document, expected[hit.id].document)
        assert names == [hit.id for hit in sorted(found, key=lambda hit: (-hit.score, hit.id))]
        if not self.exact:
            assert len({hit.id for hit in ranking[:k]} & set(names)) >= 0.9 * len(found)
        elif found:
            cut = ranking[len(found) - 1].score
            better = {hit.id for hit in ranking if hit.score > cut + 2 * self.tolerance}
            assert better <= set(names), f"better documents were not found: {better - set(names)}"
            assert all(expected[name].score >= cut - 2 * self.tolerance for name in names)

    def assert_vectors(self, record: Record | None, expected: M3Vectors, row: int) -> None:
        """The record holds the representations of one row, and no others."""
        assert record is not None
        assert record.vectors is not None
        assert len(record.vectors) == 1
        assert record.vectors.representations == expected.representations
        if expected.dense is not None and record.vectors.dense is not None:
            assert_close(record.vectors.dense[0], expected.dense[row], self.vector_tolerance)
        if expected.sparse is not None:
            tokens, weights = expected.sparse_row(row)
            found_tokens, found_weights = record.vectors.sparse_row(0)
            assert found_tokens.tolist() == tokens.tolist()
            assert_close(found_weights, weights, self.vector_tolerance)
        if expected.multi is not None and record.vectors.multi is not None:
            assert_close(record.vectors.multi[0], expected.multi[row], self.vector_tolerance)


def assert_close(found: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float) -> None:
    """Equal shapes, and numbers that differ by no more than the tolerance; NaN equals NaN."""
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=0, atol=tolerance)


def assert_same_document(found: Document, expected: Document) -> None:
    """Equal, where 1, 1.0 and true are three things and lists stay lists."""
    assert found.id == expected.id
    assert found.text == expected.text
    assert _as_json(found.metadata) == _as_json(expected.metadata)


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def scan_ids(store: Store, *, where: Where = None, size: int = 256) -> list[str]:
    """Every id that a scan brings."""
    return [record.id for record in scan(store, where=where, size=size)]


def scan(
    store: Store, *, where: Where = None, size: int = 256, vectors: Sequence[Representation] = ()
) -> list[Record]:
    """Every record that a scan brings."""
    records: list[Record] = []
    cursor = None
    while True:
        page = store.scan(where=where, vectors=vectors, cursor=cursor, size=size)
        assert len(page.records) <= size
        records.extend(page.records)
        if page.cursor is None:
            return records
        assert page.cursor != cursor, "the scan does not come forward"
        cursor = page.cursor
