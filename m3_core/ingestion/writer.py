"""The writing side of `m3_core.ingestion`: one thread that writes while the next texts are encoded."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import ParamSpec, TypeAlias, TypeVar

from m3_core.errors import InputError
from m3_core.ingestion.journal import Journal
from m3_core.retrying import patiently
from m3_core.store import Store
from m3_core.types import Document, M3Vectors

P = ParamSpec("P")
T = TypeVar("T")
Write: TypeAlias = Callable[[Sequence[Document], M3Vectors], None]
"""Writes documents and their vectors, like `Store.upsert`, and raises what that raises."""


@dataclass(slots=True, eq=False)
class Entry:
    """A document on its way. first: it is this run's first version of the id.

    chunks: 0 for a document written whole. intent: the journal's number for this write.
    failed: a part was refused, so the rest is left out and the document is not acknowledged.
    """

    document: Document
    digest: bytes
    first: bool
    known: bool
    chunks: int = 0
    intent: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What is written under one id: a whole document, or a chunk; ``last`` of its entry."""

    document: Document
    entry: Entry
    last: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Parts with their vectors: what is written in one call."""

    parts: Sequence[Part]
    vectors: M3Vectors


class Writer:
    """Writes pieces in order, tells the journal what the store has confirmed, and counts.

    write: how; by default `Store.upsert`. Transient errors are tried again with growing pauses, or those that the
    server asks for, as far as ``patience`` seconds allow; a document that the store refuses is handed to
    ``reject``; any other error ends the writing and is raised by the next call of `put` or by `finish`.
    """

    def __init__(
        self,
        store: Store,
        journal: Journal,
        *,
        patience: float,
        reject: Callable[[Entry, str], None],
        write: Write | None = None,
    ) -> None:
        self.written = self.changed = self.truncated = 0
        self._store, self._journal, self._reject = store, journal, reject
        self._write_parts = write or store.upsert
        self._failure: BaseException | None = None
        self._closed = False
        self._hurry = threading.Event()
        self._retrying = patiently(patience, self._hurry)
        # One piece is written, one waits, one is being encoded: that is all that is in memory.
        self._queue: Queue[Piece | None] = Queue(maxsize=1)
        self._thread = threading.Thread(target=self._work, name="m3-ingest-writer", daemon=True)
        self._thread.start()

    def put(self, piece: Piece) -> None:
        """Hand over a piece; waits while two are on their way."""
        self._raise()
        self._queue.put(piece)

    def finish(self) -> None:
        """Wait until everything is written, and raise what went wrong."""
        self.close()
        self._raise()

    def close(self, *, hurry: bool = False) -> None:
        """Wait until everything is written. With ``hurry`` a transient error is not tried again.

        A second call does not wait: it comes from a second Ctrl-C, or when all is done.
        """
        if hurry:
            self._hurry.set()
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def retry(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the store, again if it is unavailable."""
        return self._retrying(call, *args, **kwargs)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (piece := self._queue.get()) is not None:
            if (
                self._failure is None
            ):  # after a failure pieces are taken off the queue so that `put` never hangs
                try:
                    self._write(piece)
                except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                    self._failure = error

    def _write(self, piece: Piece) -> None:
        rows = [row for row, part in enumerate(piece.parts) if not part.entry.failed]
        self._upsert(piece, rows)
        done = [part.entry for part in piece.parts if part.last and not part.entry.failed]
        old = [name for entry in done for name in self._journal.leftovers(entry.document.id, entry.chunks)]
        if old:
            self.retry(self._store.delete, old)
        self._journal.acknowledge(
            [(entry.document.id, entry.chunks, entry.digest, entry.intent) for entry in done]
        )
        self.written += sum(entry.first for entry in done)
        self.changed += sum(entry.first and entry.known for entry in done)
        self.truncated += sum(
            bool(cut) and not part.entry.failed
            for part, cut in zip(piece.parts, piece.vectors.truncated, strict=True)
        )

    def _upsert(self, piece: Piece, rows: Sequence[int]) -> None:
        """Write the rows; where the store refuses, halve until the document is found that it is about."""
        if not rows:
            return
        parts = [piece.parts[row] for row in rows]
        vectors = piece.vectors if len(rows) == len(piece.parts) else piece.vectors.take(rows)
        try:
            self.retry(self._write_parts, [part.document for part in parts], vectors)
        except InputError as error:
            middle = parts[len(parts) // 2].entry
            if parts[0].entry is parts[-1].entry:
                middle.failed = True
                self._reject(middle, str(error))
                return
            cut = next(i for i, part in enumerate(parts) if part.entry is middle)
            cut = cut or next(i for i, part in enumerate(parts) if part.entry is not middle)
            self._upsert(piece, rows[:cut])
            self._upsert(piece, rows[cut:])
