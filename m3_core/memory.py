"""The exact store in memory: the reference that every other store is held to."""

import uuid
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import RLock
from typing import Any, Self

import numpy as np

from m3_core.checks import (
    check_held,
    check_ids,
    check_score,
    check_search,
    check_size,
    check_update,
    check_upsert,
)
from m3_core.errors import DimensionMismatch, InputError, StoreError, StoreNotFound
from m3_core.filters import Filter, Where
from m3_core.rows import Rows, blocks
from m3_core.scoring import channel_scores
from m3_core.store import Capabilities, ClosingMixin, Page, Schema
from m3_core.text import without_secrets
from m3_core.types import Document, FloatArray, Hit, IntArray, Json, M3Vectors, Record, Representation

SCHEME = "memory://"
_SLACK = 1024
"""Rows of replaced documents that are kept before the arrays are rewritten without them."""


class MemoryStore(ClosingMixin):
    """Documents and vectors in memory, searched exhaustively. Safe to use from several threads.

    Nothing is kept after `close`; documents are copied on the way in and out.
    """

    def __init__(self, schema: Schema) -> None:
        if not schema.representations:
            raise InputError("the schema has no channel; give at least one of dense, sparse and multi")
        self.schema = schema
        self._identity = f"memory:{uuid.uuid4()}"
        self._lock = RLock()
        self._closed = False
        self._clear()

    @classmethod
    def from_url(cls, url: str, *, schema: Schema | None = None, **options: Any) -> Self:
        """A new, empty store; the URL is ``memory://`` and no more, because nothing in memory has a name.

        Raises:
            StoreNotFound: there is no schema, so an existing collection is wanted.
            InputError: the URL or an option says something a store in memory does not know.
        """
        if url != SCHEME:
            raise InputError(
                f"{without_secrets(url)!r}: a store in memory has no name and no options; its URL is {SCHEME!r} alone"
            )
        if options:
            raise InputError(f"a store in memory has no option {', '.join(map(repr, sorted(options)))}")
        if schema is None:
            raise StoreNotFound(
                f"{SCHEME} is always new and empty, and needs a schema; to search again, use a store on disk"
            )
        return cls(schema)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self.schema.representations)

    @property
    def fingerprint(self) -> str | None:
        return self.schema.fingerprint

    @property
    def identity(self) -> str:
        return self._identity

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write documents whole; see `Store.upsert`."""
        with self._opened():
            batch = check_upsert(documents, vectors, self.schema)
            self._check_vocabulary(batch.vectors)
            if not batch.documents:
                return
            for document in batch.documents:
                self._documents[document.id] = _copy(document)
            self._write([document.id for document in batch.documents], batch.vectors)

    def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Replace channels of existing documents; see `Store.update_vectors`."""
        with self._opened():
            check_update(ids, vectors, self.schema)
            self._check_vocabulary(vectors)
            absent = [name for name in ids if name not in self._row]
            if absent:
                raise InputError(f"there is no document with the id {absent[0]!r}; nothing was updated")
            if not ids:
                return
            held = self._rows.all().take([self._row[name] for name in ids])
            self._write(
                ids,
                replace(
                    held,
                    dense=held.dense if vectors.dense is None else vectors.dense,
                    sparse=held.sparse if vectors.sparse is None else vectors.sparse,
                    multi=held.multi if vectors.multi is None else vectors.multi,
                ),
            )

    def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        """Delete the named documents and those that match; see `Store.delete`."""
        check_ids(ids)
        condition = Filter.parse(where)
        with self._opened():
            doomed = {name for name in ids if name in self._row}
            if condition is not None:
                doomed.update(self._matching(condition))
            for name in doomed:
                del self._documents[name], self._row[name]
            self._changed()

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        """The named documents, None for those that are not there; see `Store.get`."""
        check_ids(ids)
        with self._opened():
            check_held(vectors, self.schema.representations)
            return [self._record(name, vectors) if name in self._row else None for name in ids]

    def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        """A page of the documents in the order of their ids; the cursor is the last id of the page before."""
        check_size(size, "the page size")
        condition = Filter.parse(where)
        with self._opened():
            check_held(vectors, self.schema.representations)
            names = self._matching(condition)
            start = 0 if cursor is None else bisect_right(names, cursor)
            page = names[start : start + size]
            more = start + size < len(names)
            return Page([self._record(name, vectors) for name in page], page[-1] if more else None)

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        """The best documents of every query by each channel; see `Store.search`."""
        condition = Filter.parse(where)
        with self._opened():
            check_search(queries, k, self.schema)
            self._check_vocabulary(queries.only(k.keys()))
            names = self._matching(condition)
            rows = np.fromiter((self._row[name] for name in names), np.int64, len(names))
            return {
                kind: [self._best(queries, row, names, rows, kind, size) for row in range(len(queries))]
                for kind, size in k.items()
            }

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Exact scores of the named documents, NaN for what is not there; see `Store.score`."""
        with self._opened():
            check_score(queries, by, ids, self.schema)
            self._check_vocabulary(queries.only([by]))
            return [self._score(queries, row, by, names) for row, names in enumerate(ids)]

    def count(self, *, where: Where = None) -> int:
        """How many documents there are, or match."""
        condition = Filter.parse(where)
        with self._opened():
            return len(self._documents) if condition is None else len(self._matching(condition))

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._closed = True
            self._clear()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise StoreError(f"the store {self.identity} is closed")
            yield

    def _clear(self) -> None:
        self._rows = Rows(self.schema)
        self._documents: dict[str, Document] = {}
        self._row: dict[str, int] = {}
        self._changed()

    def _changed(self) -> None:
        self._sorted: list[str] | None = None

    def _write(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Put vectors at the end, as those of the ids; the rows they had before are dead."""
        start = len(self._rows)
        self._rows.append(vectors)
        self._row.update({name: start + offset for offset, name in enumerate(ids)})
        self._changed()
        if len(self._rows) > 2 * len(self._row) + _SLACK:
            live = self._rows.all().take(list(self._row.values()))
            self._rows = Rows(self.schema)
            self._rows.append(live)
            self._row = {name: row for row, name in enumerate(self._row)}

    def _matching(self, condition: Filter | None) -> list[str]:
        """The ids of the documents that match, sorted."""
        if self._sorted is None:
            self._sorted = sorted(self._documents)
        if condition is None:
            return self._sorted
        return [name for name in self._sorted if condition.matches(self._documents[name].metadata)]

    def _record(self, name: str, vectors: Collection[Representation]) -> Record:
        held = self._rows.all().only(vectors).take([self._row[name]]) if vectors else None
        return Record(_copy(self._documents[name]), held)

    def _best(
        self, queries: M3Vectors, row: int, names: list[str], rows: IntArray, by: Representation, k: int
    ) -> list[Hit]:
        """The k best of the rows, which are in the order of their ids, so that a stable sort settles ties."""
        scores = self._scores(queries, row, by, rows)
        found = np.flatnonzero(scores > 0 if by is Representation.SPARSE else ~np.isnan(scores))
        if len(found) > k:
            cut = np.partition(scores[found], -k)[-k]
            found = found[scores[found] >= cut]
        best = found[np.argsort(-scores[found], kind="stable")[:k]]
        return [
            Hit(_copy(self._documents[names[place]]), score, {by: score})
            for place, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        ]

    def _score(self, queries: M3Vectors, row: int, by: Representation, names: Sequence[str]) -> FloatArray:
        scores = np.full(len(names), np.nan, dtype=np.float32)
        there = [place for place, name in enumerate(names) if name in self._row]
        rows = np.array([self._row[names[place]] for place in there], dtype=np.int64)
        scores[there] = self._scores(queries, row, by, rows)
        return scores

    def _scores(self, queries: M3Vectors, query: int, by: Representation, rows: IntArray) -> FloatArray:
        """Scores of the given rows; where they are most of all rows, a copy of them costs more than the rest."""
        every = self._rows.all().only([by])
        most = 2 * len(rows) > len(self._rows)
        passages = every if most else every.take(rows.tolist())
        if by is Representation.MULTI:
            parts = [channel_scores(queries, query, part, by) for part in blocks(passages)]
            scores = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        else:
            scores = channel_scores(queries, query, passages, by)
        return scores[rows] if most else scores

    def _check_vocabulary(self, vectors: M3Vectors) -> None:
        if vectors.sparse is not None and vectors.sparse.shape[1] != self.schema.sparse:
            raise DimensionMismatch(
                f"the lexical weights are over {vectors.sparse.shape[1]} tokens, the store was made for "
                f"{self.schema.sparse}; use the model the store was made with"
            )


def _copy(document: Document) -> Document:
    return Document(document.id, document.text, _copy_json(document.metadata))


def _copy_json(value: Json) -> Json:
    """The value as JSON would give it back: dictionaries and lists of its own."""
    if isinstance(value, Mapping):
        return {key: _copy_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy_json(item) for item in value]
    return value
