"""Documents from one store into another, with the vectors they have: nothing is encoded."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3_core.checks import check_size, check_store
from m3_core.errors import IngestInterrupted, IngestStopped, InputError, M3Error, StoreError
from m3_core.filters import Where
from m3_core.ingestion.copy_checks import check_copy, names
from m3_core.ingestion.rejects import RejectLog, refusal
from m3_core.ingestion.summary import IngestSummary
from m3_core.progress import bar
from m3_core.retrying import patiently
from m3_core.store import Schema, Store
from m3_core.types import Document, M3Vectors, Ragged, Record, Representation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

logger = logging.getLogger("m3_core.copy")

PAGE_BYTES = 8 << 20
"""Of vectors that are read at once; as JSON, which several engines speak, they are five times as many."""
_FIRST = 16
"""Documents read at once until their size is known."""


def copy_store(
    source: Store,
    target: Store,
    *,
    drop: Collection[Representation] = (),
    where: Where = None,
    model: Schema | None = None,
    resume: bool = False,
    rejects: str | Path | None = None,
    batch_size: int = 256,
    patience: float = 120.0,
    progress: bool = False,
) -> IngestSummary:
    """Write the documents of one store into another, with the vectors that the target holds.

    Documents of the same id are replaced, others in the target stay. A second run repeats the first; with
    ``resume`` it passes over what the target has. `m3_core.ingestion.copy_checks.schema_of` says what to
    make a new target for.

    A document that lacks dense vectors or lexical weights which the target holds is not copied but rejected, as is one
    that the target refuses; without multi-vectors it has none in the target either, since an empty one is the same.

    Args:
        drop: the channels that may be lost, where the target does not hold them.
        where: copies the documents that match.
        model: the schema of the model that made the source's vectors (`M3Encoder.schema`), where the source does not
            say so: collections that this library did not make know neither fingerprint nor vocabulary.
        resume: pass over documents that the target has with the same text and metadata.
        rejects: a file of JSON lines for rejected documents, with the reasons. It is of the last run only.
        batch_size: documents read and written together at most; large vectors make it fewer.
        patience: for how many seconds a store that is unavailable is tried again.
        progress: show a bar on standard error.

    Returns:
        The documents read, written, skipped (with ``resume``) and rejected.

    Raises:
        InputError: source and target are the same, or an option cannot be used.
        Unsupported: the target does not hold a channel of the source, and it is not among ``drop``.
        SchemaMismatch: the source lacks a channel that the target holds, or the dimensions differ.
        FingerprintMismatch: the target holds another model's vectors, or only one of the two says which.
        IngestStopped: a store failed on the way; what was written stays. IngestInterrupted: Ctrl-C.
    """
    check_store(source)
    check_store(target)
    check_size(batch_size, "batch_size")
    sizes = patiently(patience)(check_copy, source, target, drop, model)
    with closing(RejectLog(None if rejects is None else Path(rejects), strict=False)) as log:
        return _Copy(source, target, sizes, log, where, resume, batch_size, patience).run(progress)


@dataclass(slots=True)
class _Copy:
    """One run."""

    source: Store
    target: Store
    sizes: Schema
    rejects: RejectLog
    where: Where
    resume: bool
    batch_size: int
    patience: float
    size: int = _FIRST
    read: int = 0
    written: int = 0
    skipped: int = 0

    def run(self, progress: bool) -> IngestSummary:
        began = time.monotonic()
        self.size = min(_FIRST, self.batch_size)

        def summary() -> IngestSummary:
            return IngestSummary(
                read=self.read,
                written=self.written,
                skipped=self.skipped,
                rejected=self.rejects.count,
                seconds=time.monotonic() - began,
            )

        try:
            counted = self._retry(self.source.count, where=self.where)
            with _progress(progress, counted) as advance:
                for records in self._records(advance):
                    self._copy(records)
            self._compare(counted)
        except KeyboardInterrupt:
            raise IngestInterrupted(summary()) from None
        except M3Error as error:
            raise IngestStopped(str(error), summary()) from error
        return summary()

    def _retry(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return patiently(self.patience)(call, *args, **kwargs)

    def _records(self, advance: Callable[[int], None]) -> Iterator[Sequence[Record]]:
        """What is to be copied, with its vectors, as much at once as `PAGE_BYTES` allow."""
        cursor = None
        while True:
            page = self._retry(
                self.source.scan,
                where=self.where,
                vectors=() if self.resume else self.sizes.representations,
                cursor=cursor,
                size=self.batch_size if self.resume else self.size,
            )
            yield from self._lacking(page.records) if self.resume else [page.records]
            self.read += len(page.records)
            advance(len(page.records))
            cursor = page.cursor
            if cursor is None:
                return

    def _lacking(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """Those that the target has not, or otherwise, with their vectors."""
        held = self._retry(self.target.get, [record.id for record in records])
        wanted = [
            record.id
            for record, other in zip(records, held, strict=True)
            if other is None or other.document != record.document
        ]
        self.skipped += len(records) - len(wanted)
        while wanted:
            some, wanted = wanted[: self.size], wanted[self.size :]
            yield [
                record
                for record in self._retry(self.source.get, some, vectors=self.sizes.representations)
                if record
            ]

    def _copy(self, records: Sequence[Record]) -> None:
        whole = [
            (record.document, vectors) for record in records if (vectors := self._vectors(record)) is not None
        ]
        if whole:
            vectors = M3Vectors.concat([vectors for _, vectors in whole])
            self._write([document for document, _ in whole], vectors)
            fitting = PAGE_BYTES * len(whole) // max(_bytes(vectors), 1)
            self.size = max(1, min(fitting, 2 * self.size, self.batch_size))

    def _vectors(self, record: Record) -> M3Vectors | None:
        """All that the target wants of a document; None for one that is rejected."""
        held = (record.vectors or M3Vectors()).only(self.sizes.representations)
        missing = self.sizes.representations - held.representations
        if missing - {Representation.MULTI}:
            self._reject(record.document, f"it has no {names(missing)} vectors")
            return None
        if missing:
            empty = np.zeros((0, self.sizes.multi or 0), np.float32)
            held = replace(held, multi=Ragged.from_rows([empty], dimension=empty.shape[1]))
        if held.sparse is not None and self.sizes.sparse not in (None, held.sparse.shape[1]):
            if held.sparse.nnz and held.sparse.indices.max() >= self.sizes.sparse:
                token = held.sparse.indices.max()
                self._reject(
                    record.document, f"it has the token id {token}, the model has {self.sizes.sparse}"
                )
                return None
            held = replace(held, sparse=_as_wide_as(held.sparse, self.sizes.sparse))
        return held

    def _write(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write; where the target refuses, in halves, until the document is found that it is about."""
        try:
            self._retry(self.target.upsert, documents, vectors)
            self.written += len(documents)
        except InputError as error:
            if len(documents) == 1:
                self._reject(documents[0], str(error))
                return
            middle = len(documents) // 2
            for rows in (range(middle), range(middle, len(documents))):
                self._write([documents[row] for row in rows], vectors.take(rows))

    def _reject(self, document: Document, reason: str) -> None:
        self.rejects.add(refusal(self.source.identity, document, reason))

    def _compare(self, counted: int) -> None:
        """Whether all that was there has come, and is there now."""
        if self.read != counted:
            logger.warning(
                "%d documents were counted in %s and %d read; it was changed meanwhile",
                counted,
                self.source.identity,
                self.read,
            )
        held, expected = self._retry(self.target.count), self.written + self.skipped
        if held < expected:
            raise StoreError(
                f"{self.target.identity} holds {held} documents after {expected} were copied into it; is an id in "
                f"{self.source.identity} twice, or did somebody delete meanwhile?"
            )


def _as_wide_as(rows: "csr_array[Any, Any]", width: int) -> "csr_array[Any, Any]":
    from scipy.sparse import csr_array

    return csr_array((rows.data, rows.indices, rows.indptr), shape=(rows.shape[0], width))


def _bytes(vectors: M3Vectors) -> int:
    dense = 0 if vectors.dense is None else vectors.dense.nbytes
    sparse = 0 if vectors.sparse is None else vectors.sparse.data.nbytes + vectors.sparse.indices.nbytes
    return int(dense + sparse + (0 if vectors.multi is None else vectors.multi.values.nbytes))


def _progress(shown: bool, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return bar("copying", total) if shown else nullcontext(lambda _: None)
