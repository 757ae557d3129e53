"""The memory of `m3_core.ingestion`: an SQLite file that knows what the store holds and what was seen in this run.

A row of ``documents`` says what the store holds under an id, whichever source it came from: the digest of
its content, or NULL while a write or a deletion is under way and unconfirmed. A row of ``sightings`` says in which run a
source last had the id. The order of events makes a kill harmless at any point: before a write its row is
set to NULL (`Journal.intend`), after the store's answer the digest is filled in (`Journal.acknowledge`);
what was not acknowledged is written again by the next run. A deletion does the same (`Journal.doubt`,
`Journal.forget_deleted`).

The same id twice in a stream: the last wins, and a second run over the same stream writes nothing. For
that, ``superseded`` keeps the digests of versions that a later one replaced. When one of them comes by
again, it is put aside (``deferred``); it is written at the end only if this time nothing replaces it.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import Self

from m3_core.errors import JournalError
from m3_core.ingestion.chunking import chunk_of, part_ids
from m3_core.types import Document

_FORMAT = "1"
_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (source INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, run INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY,
    digest BLOB,                -- NULL: a write or a deletion is under way, the store may hold anything of it
    whole INTEGER NOT NULL,     -- 1: the store may hold it under its own id
    chunks INTEGER NOT NULL,    -- the store may hold this many chunks of it
    intent INTEGER NOT NULL     -- of the last write that was begun; only its acknowledgement counts
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sightings (
    source INTEGER NOT NULL,
    id TEXT NOT NULL,
    run INTEGER NOT NULL,       -- of the source, in which it was last seen
    fate INTEGER NOT NULL,      -- what that run did with it
    wanted BLOB,                -- the digest that the store holds once that run's writes are done
    PRIMARY KEY (source, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sightings_by_id ON sightings (id);
CREATE TABLE IF NOT EXISTS superseded (
    source INTEGER NOT NULL,
    id TEXT NOT NULL,
    digest BLOB NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (source, id, digest)
) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS deferred (id TEXT PRIMARY KEY, digest BLOB NOT NULL, document TEXT NOT NULL);
"""
_ELSEWHERE = "EXISTS (SELECT 1 FROM sightings o WHERE o.id = s.id AND o.source <> s.source)"
_MISSING = (
    "FROM sightings s JOIN documents d ON d.id = s.id"
    f" WHERE s.source = ? AND s.run < ? AND s.id > ? AND NOT {_ELSEWHERE}"
)


def default_path(store: str, fingerprint: str) -> Path:
    """Where the command line keeps the journal of a store and a model: in ``.m3`` in the current folder."""
    digest = blake2b(f"{store}\n{fingerprint}".encode(), digest_size=6).hexdigest()
    return Path(".m3") / f"journal-{digest}.sqlite"


class Fate(IntEnum):
    """What a run does with a document."""

    UNCHANGED = 0
    """The store holds this content already."""
    WRITE = 1
    """It is to be encoded and written."""
    DEFERRED = 2
    """An earlier run saw it replaced later in the stream; kept aside until the end."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The answer to `Journal.sight`. before: what the run did with an earlier document of this id, if any.

    write: this content must be written now. known: the store holds the id with a confirmed content, so that writing it now changes a document.
    """

    fate: Fate
    before: Fate | None
    write: bool
    known: bool


@dataclass(frozen=True, slots=True)
class Deferred:
    """A document that was put aside and that nothing replaced."""

    document: Document
    digest: bytes


class Journal:
    """One open journal, used by one process at a time and safe to call from several threads.

    Raises:
        JournalError: the file is no journal, is in use, or belongs to another store or model.
    """

    def __init__(self, path: Path | None, *, store: str, fingerprint: str, source: str) -> None:
        self.path = path
        self._intent = 0
        self._lock = threading.RLock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            # An empty name is SQLite's temporary database: on disk, and gone when it is closed.
            self._db = sqlite3.connect(path or "", timeout=0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"cannot open the journal {path}: {error}") from error
        try:
            with self._translated():
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("BEGIN EXCLUSIVE")
                for statement in _TABLES.split(";\n"):
                    self._db.execute(statement)
                self._bind({"format": _FORMAT, "store": store, "model": fingerprint})
                self._source, self.run = self._begin(source)
                self._db.execute("COMMIT")
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise JournalError(
                    f"the journal {self.path} is in use by another ingest run; wait for it, or name another journal"
                ) from error
            if "not a database" in str(error) or "no such column" in str(error):
                raise JournalError(f"{self.path} is not an ingest journal; name another file") from error
            raise JournalError(f"the journal {self.path} cannot be used: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _bind(self, wanted: dict[str, str]) -> None:
        held = dict(self._db.execute("SELECT key, value FROM about"))
        for key, value in wanted.items():
            if held.setdefault(key, value) != value:
                raise JournalError(
                    f"the journal {self.path} belongs to the {key} {held[key]}, not to {value}; "
                    "name another journal, or delete this one to write everything anew"
                )
        self._db.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", wanted.items())

    def _begin(self, name: str) -> tuple[int, int]:
        self._db.execute("INSERT OR IGNORE INTO sources (name, run) VALUES (?, 0)", (name,))
        self._db.execute("UPDATE sources SET run = run + 1 WHERE name = ?", (name,))
        source, run = self._db.execute("SELECT source, run FROM sources WHERE name = ?", (name,)).fetchone()
        return source, run

    def expected(self) -> int:
        """How many entries the store must hold, going by what was acknowledged."""
        with self._lock, self._translated():
            query = "SELECT coalesce(sum(whole + chunks), 0) FROM documents WHERE digest IS NOT NULL"
            return int(self._db.execute(query).fetchone()[0])

    def forget(self) -> None:
        """Take nothing for written any more, so that everything is written again."""
        with self._transaction() as db:
            db.execute("UPDATE documents SET digest = NULL")

    def sight(self, documents: Sequence[tuple[Document, bytes]]) -> list[Sighting]:
        """Note documents of the stream, in order, and say what is to be done with each."""
        with self._transaction() as db:
            return [self._sight(db, document, digest) for document, digest in documents]

    def _sight(self, db: sqlite3.Connection, document: Document, digest: bytes) -> Sighting:
        row = db.execute("SELECT digest FROM documents WHERE id = ?", (document.id,)).fetchone()
        held = row[0] if row else None
        seen = db.execute(
            "SELECT fate, wanted FROM sightings WHERE source = ? AND id = ? AND run = ?",
            (self._source, document.id, self.run),
        ).fetchone()
        before = Fate(seen[0]) if seen else None
        current = seen[1] if seen else held
        fate: Fate
        if digest == current:
            fate = Fate.UNCHANGED if before is Fate.DEFERRED or before is None else before
        elif held is not None and before is not Fate.WRITE and self._was_superseded(db, document.id, digest):
            fate = Fate.DEFERRED
        else:
            fate = Fate.WRITE
        if before is not None and digest != current and current is not None:
            self._supersede(db, document.id, current)
        if before is Fate.DEFERRED:
            db.execute("DELETE FROM deferred WHERE id = ?", (document.id,))
        if fate is Fate.DEFERRED:
            self._supersede(db, document.id, digest)  # keeps the note fresh
            kept = json.dumps([document.id, document.text, document.metadata], default=dict)
            db.execute("INSERT OR REPLACE INTO deferred VALUES (?, ?, ?)", (document.id, digest, kept))
        self._mark(db, document.id, fate, held if fate is Fate.DEFERRED else digest)
        write = fate is Fate.WRITE and digest != current
        return Sighting(fate, before, write, known=held is not None)

    def _was_superseded(self, db: sqlite3.Connection, name: str, digest: bytes) -> bool:
        query = "SELECT 1 FROM superseded WHERE source = ? AND id = ? AND digest = ?"
        return db.execute(query, (self._source, name, digest)).fetchone() is not None

    def _supersede(self, db: sqlite3.Connection, name: str, digest: bytes) -> None:
        row = (self._source, name, digest, self.run)
        db.execute("INSERT OR REPLACE INTO superseded VALUES (?, ?, ?, ?)", row)

    def _mark(self, db: sqlite3.Connection, name: str, fate: Fate, wanted: bytes | None) -> None:
        row = (self._source, name, self.run, int(fate), wanted)
        db.execute("INSERT OR REPLACE INTO sightings VALUES (?, ?, ?, ?, ?)", row)

    def take_deferred(self, size: int) -> list[Deferred]:
        """Up to ``size`` of the documents that were put aside; they are now to be written."""
        with self._transaction() as db:
            rows = db.execute("SELECT id, digest, document FROM deferred LIMIT ?", (size,)).fetchall()
            for name, digest, _ in rows:
                db.execute("DELETE FROM deferred WHERE id = ?", (name,))
                self._mark(db, name, Fate.WRITE, digest)
        return [Deferred(Document(*json.loads(kept)), digest) for _, digest, kept in rows]

    def intend(self, writes: Sequence[tuple[str, int]]) -> int:
        """Note what is about to be written: ids, each with its number of chunks (0: as a whole).

        Returns the number under which `acknowledge` confirms it. While two versions of a document are on
        their way, confirming the first says nothing of what the store will hold.
        """
        with self._transaction() as db:
            self._intent += 1
            db.executemany(
                "INSERT INTO documents VALUES (?, NULL, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET digest = NULL,"
                " whole = max(whole, excluded.whole), chunks = max(chunks, excluded.chunks), intent = excluded.intent",
                [(name, int(chunks == 0), chunks, self._intent) for name, chunks in writes],
            )
            return self._intent

    def taken(self, name: str, chunks: int) -> tuple[str, str] | None:
        """An id that the document would be stored under, and the other document that may be stored there; or None.

        A chunk of ``a`` has the id ``a#0``, which may be a document's own in another source.
        """
        with self._lock, self._translated():
            if not chunks:
                parent, number = chunk_of(name) or (None, 0)
                query = "SELECT 1 FROM documents WHERE id = ? AND chunks > ?"
                held = parent and self._db.execute(query, (parent, number)).fetchone()
                return (name, parent) if parent and held else None
            query = "SELECT 1 FROM documents WHERE id = ? AND whole"
            ids = part_ids(name, False, range(chunks))
            return next(((part, part) for part in ids if self._db.execute(query, (part,)).fetchone()), None)

    def leftovers(self, name: str, chunks: int) -> list[str]:
        """The ids under which the store may hold parts of other versions, once this one is written."""
        with self._lock, self._translated():
            query = "SELECT whole, chunks FROM documents WHERE id = ?"
            held_whole, held_chunks = self._db.execute(query, (name,)).fetchone()
        return part_ids(name, bool(held_whole and chunks), range(chunks, held_chunks))

    def acknowledge(self, written: Sequence[tuple[str, int, bytes, int]]) -> None:
        """Note what the store has confirmed: ids, each with its number of chunks, its digest and its intent."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE documents SET digest = ?, whole = ?, chunks = ? WHERE id = ? AND intent = ?",
                [
                    (digest, int(chunks == 0), chunks, name, intent)
                    for name, chunks, digest, intent in written
                ],
            )

    def finish(self) -> None:
        """The source was read to its end: forget superseded versions that did not come by."""
        with self._transaction() as db:
            db.execute("DELETE FROM superseded WHERE source = ? AND run < ?", (self._source, self.run))

    def known(self) -> int:
        """How many ids this source has brought so far."""
        with self._lock, self._translated():
            query = "SELECT count(*) FROM sightings WHERE source = ?"
            return int(self._db.execute(query, (self._source,)).fetchone()[0])

    def missing(self) -> int:
        """How many ids this source had in an earlier run and not in this one; what another source has is not counted."""
        with self._lock, self._translated():
            query = f"SELECT count(*) {_MISSING}"
            return int(self._db.execute(query, (self._source, self.run, "")).fetchone()[0])

    def missing_parts(self, size: int) -> Iterator[dict[str, list[str]]]:
        """The ids that `missing` counts, ``size`` at a time, each with all ids the store may hold it under."""
        last = ""
        while True:
            with self._lock, self._translated():
                query = f"SELECT s.id, d.whole, d.chunks {_MISSING} ORDER BY s.id LIMIT ?"
                rows = self._db.execute(query, (self._source, self.run, last, size)).fetchall()
            if not rows:
                return
            yield {name: part_ids(name, bool(whole), range(chunks)) for name, whole, chunks in rows}
            last = rows[-1][0]

    def doubt(self, ids: Sequence[str]) -> None:
        """Note that these are about to be deleted: until that is confirmed, the store may hold them or not."""
        with self._transaction() as db:
            db.executemany("UPDATE documents SET digest = NULL WHERE id = ?", [(name,) for name in ids])

    def forget_deleted(self, ids: Sequence[str]) -> None:
        """The store has confirmed that these are gone."""
        with self._transaction() as db:
            db.executemany("DELETE FROM documents WHERE id = ?", [(name,) for name in ids])

    def forget_missing(self) -> None:
        """This source has no other ids than those of this run."""
        with self._transaction() as db:
            db.execute("DELETE FROM sightings WHERE source = ? AND run < ?", (self._source, self.run))

    def shared(self) -> int:
        """How many ids of this source another source has too."""
        with self._lock, self._translated():
            query = f"SELECT count(*) FROM sightings s WHERE source = ? AND {_ELSEWHERE}"
            return int(self._db.execute(query, (self._source,)).fetchone()[0])
