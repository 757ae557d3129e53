"""A seeded run of reads and writes on a store and on the exact one in memory, and what must be the same in the end."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy.typing as npt

from m3_core.memory import MemoryStore
from m3_core.store import Schema, Store
from m3_core.testing import corpus
from m3_core.testing.base import assert_close, assert_same_document, scan, scan_ids
from m3_core.types import Document, M3Vectors, Record, Representation

TEXTS = 512
"""Different texts, each with its own vectors; `VectorsOfTexts` knows a text by its number."""
_NAMES = 1_200
_GROUPS = 60


@dataclass(frozen=True)
class Tolerance:
    """Largest errors of a number that is read back, and of a score."""

    vectors: float = 1e-6
    scores: float = 1e-4


class VectorsOfTexts:
    """An encoder as `m3_core.ingest` wants one: the vectors of ``text 7 ...`` are row 7 of seeded ones."""

    fingerprint = "of-texts"
    max_length = 100

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.rows = corpus.vectors(schema, TEXTS, seed=11)

    def encode_documents(
        self, texts: Sequence[str], *, representations: Collection[Representation] | None = None
    ) -> M3Vectors:
        found = self.rows.take([int(text.split()[1]) for text in texts])
        return found if representations is None else found.only(representations)


class Workload:
    """Writes and reads that the store and the reference are both given, in the same order."""

    def __init__(
        self, store: Store, schema: Schema, *, tolerance: Tolerance = Tolerance(), seed: int = 0
    ) -> None:
        self.store, self.reference, self.tolerance = store, MemoryStore(schema), tolerance
        self.encoder = VectorsOfTexts(schema)
        self.kinds = sorted(schema.representations)
        self.chance = random.Random(seed)

    def run(self, batches: int) -> None:
        """So many upserts, with updates, deletions and reads between them."""
        for turn in range(1, batches + 1):
            self.upsert()
            if turn % 5 == 0:
                self.update_vectors()
            if turn % 8 == 0:
                self.delete()
            if turn % 25 == 0:
                self.delete_matching()
            if turn % 20 == 0:
                self.read()

    def upsert(self) -> None:
        """Some documents, of which many were there before."""
        names = self.chance.sample(range(_NAMES), self.chance.randint(2, 5))
        documents = [Document(f"doc-{name}", f"text {self._any()}", self._metadata()) for name in names]
        vectors = self.encoder.encode_documents([document.text for document in documents])
        for target in (self.store, self.reference):
            target.upsert(documents, vectors)

    def update_vectors(self) -> None:
        """Of some documents, by one channel."""
        names = self._there(3)
        vectors = self.encoder.rows.take([self._any() for _ in names]).only([self.chance.choice(self.kinds)])
        for target in (self.store, self.reference):
            target.update_vectors(names, vectors)

    def delete(self) -> None:
        """Some documents, and one that is not there."""
        names = [*self._there(2), "nobody"]
        for target in (self.store, self.reference):
            target.delete(names)

    def delete_matching(self) -> None:
        """What has one of the groups."""
        where = {"group": self.chance.randrange(_GROUPS)}
        for target in (self.store, self.reference):
            target.delete(where=where)

    def read(self) -> None:
        """Search, score, get, count and scan, which have to be those of the reference."""
        queries = self.encoder.rows.take([self._any(), self._any()])
        where = {"group": {"$lt": _GROUPS // 3}}
        for condition in (None, where):
            assert self.store.count(where=condition) == self.reference.count(where=condition)
        found_ids, ids = (scan_ids(target, where=where, size=40) for target in (self.store, self.reference))
        assert sorted(found_ids) == sorted(ids)
        names = [*self._there(4), "nobody"]
        for found, expected in zip(self.store.get(names), self.reference.get(names), strict=True):
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                assert_same_document(found.document, expected.document)
        for kind in self.kinds:
            scores, exact = (
                target.score(queries, kind, [names, names]) for target in (self.store, self.reference)
            )
            for row, expected_row in zip(scores, exact, strict=True):
                assert_close(row, expected_row, self.tolerance.scores)
        found_hits, best = (
            target.search(queries, dict.fromkeys(self.kinds, 5), where=where)
            for target in (self.store, self.reference)
        )
        for kind in self.kinds:
            for hits, expected_hits in zip(found_hits[kind], best[kind], strict=True):
                # Documents tied at the cut may be others, and so may those that a tolerance makes tied.
                assert_close(
                    [hit.score for hit in hits], [hit.score for hit in expected_hits], self.tolerance.scores
                )

    def compare(self) -> None:
        """Both hold the same documents, each once, with the same vectors."""
        compare(self.store, self.reference, self.tolerance)

    def _any(self) -> int:
        return self.chance.randrange(TEXTS)

    def _there(self, n: int) -> list[str]:
        return [record.id for record in self.chance.sample(self._records(), n)]

    def _records(self) -> list[Record]:
        return list(self.reference.scan(size=_NAMES).records)

    def _metadata(self) -> dict[str, int]:
        return {"group": self.chance.randrange(_GROUPS), "version": self.chance.randrange(10**6)}


def documents(n: int, *, version: int = 0) -> Iterator[Document]:
    """A stream for `m3_core.ingest`; every seventh is another in each version."""
    for number in range(n):
        shift = version if number % 7 == 0 else 0
        yield Document(f"doc-{number}", f"text {(number + shift) % TEXTS}", {"version": shift})


def compare(store: Store, reference: Store, tolerance: Tolerance = Tolerance()) -> None:
    """Two stores hold the same documents, each once, with the same vectors."""
    kinds = sorted(reference.capabilities.representations)
    found = scan(store, vectors=kinds, size=500)
    expected = {record.id: record for record in scan(reference, vectors=kinds, size=500)}
    names = [record.id for record in found]
    assert len(set(names)) == len(names), "a document is there twice"
    assert set(names) == expected.keys()
    assert store.count() == len(expected)
    for record in found:
        assert_same_document(record.document, expected[record.id].document)
        same = expected[record.id].vectors
        assert record.vectors is not None
        assert same is not None
        assert record.vectors.representations == same.representations == set(kinds)
        for here, there in zip(_numbers(record.vectors), _numbers(same), strict=True):
            assert_close(here, there, tolerance.vectors)


def _numbers(vectors: M3Vectors) -> list[npt.ArrayLike]:
    """The arrays of the channels that are there."""
    sparse = None if vectors.sparse is None else vectors.sparse.toarray()
    multi = None if vectors.multi is None else vectors.multi.values
    return [array for array in (vectors.dense, sparse, multi) if array is not None]
