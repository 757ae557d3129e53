"""One run of `m3_core.ingestion`: read, look up, split, encode, hand over to the writer, delete what went away."""

import json
import logging
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Protocol, TypeAlias

from m3_core.errors import IngestInterrupted, IngestStopped, InputError, M3Error
from m3_core.ingestion.chunking import CHUNK_FIELD, PARENT_FIELD, Chunker
from m3_core.ingestion.journal import Fate, Journal
from m3_core.ingestion.rejects import RejectLog, refusal
from m3_core.ingestion.sources import Rejected
from m3_core.ingestion.summary import IngestSummary
from m3_core.ingestion.templates import Template
from m3_core.ingestion.writer import Entry, Part, Piece, Write, Writer
from m3_core.progress import bar
from m3_core.store import Store
from m3_core.types import Document, M3Vectors, Representation, check_document

logger = logging.getLogger("m3_core.ingest")

BATCH_CHARACTERS = 65_536
"""Texts are encoded and written in pieces of about this size, because vectors are larger than texts by far."""
ASK_ABOVE = 0.1
"""The part of a source's documents that may go away without a question."""

Confirm: TypeAlias = Callable[[int, int], bool]
"""Asked with the number of documents to delete and the number the source had; true deletes them."""


class Encoder(Protocol):
    """What ingest needs of an encoder; `M3Encoder` is one. Chunking needs its ``tokenizer`` too."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def max_length(self) -> int: ...
    def encode_documents(
        self, texts: Sequence[str], *, representations: Collection[Representation] | None = None
    ) -> M3Vectors: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of `m3_core.ingest` and `m3_core.backfill` that hold for the whole run.

    write, representations: how documents are written, and their channels; by default `Store.upsert` and all that the
    store holds. rate: documents a second at most, of those that are written. label, total: of the progress bar.
    """

    source: str
    encode: Callable[[Document], str]
    chunker: Chunker | None
    delete_missing: bool
    confirm: Confirm | None
    batch_size: int
    patience: float
    progress: bool
    write: Write | None = None
    representations: Collection[Representation] | None = None
    rate: float | None = None
    label: str = "ingesting"
    total: int | None = None


class Run:
    """The state of a run; `run` does it."""

    def __init__(
        self, encoder: Encoder, store: Store, journal: Journal, rejects: RejectLog, settings: Settings
    ) -> None:
        self.encoder, self.store, self.journal = encoder, store, journal
        self.rejects, self.settings = rejects, settings
        self.read = self.skipped = self.duplicates = self.missing = self.deleted = self.without_text = 0
        self.advance: Callable[[int], None] = lambda _: None
        self.started = time.monotonic()
        # Settings that change what is stored for the same document are part of its digest.
        self.recipe = [settings.chunker and settings.chunker.tokens, encoder.max_length]
        self.paced = self.started  # until when no more is written, to keep to the rate
        self.writer = Writer(
            store, journal, patience=settings.patience, reject=self._refuse, write=settings.write
        )

    def run(self, documents: Iterable[Document | Rejected]) -> IngestSummary:
        settings = self.settings
        try:
            known = self.journal.known() if settings.delete_missing else 0
            with _progress(settings) as self.advance:
                for batch in _batches(self._accepted(documents), settings.batch_size):
                    self._write(self._changed(batch))
                while kept := self.journal.take_deferred(settings.batch_size):
                    self._write([Entry(item.document, item.digest, True, True) for item in kept])
                self.writer.finish()
            self.journal.finish()
            if settings.delete_missing:
                self._delete_missing(known)
        except KeyboardInterrupt:
            self.writer.close(hurry=True)
            raise IngestInterrupted(self.summary()) from None
        except M3Error as error:
            self.writer.close()
            raise IngestStopped(str(error), self.summary()) from error
        finally:
            self.writer.close()
        self._remark()
        return self.summary()

    def summary(self) -> IngestSummary:
        writer = self.writer
        return IngestSummary(
            read=self.read,
            written=writer.written,
            skipped=self.skipped,
            changed=writer.changed,
            duplicates=self.duplicates,
            rejected=self.rejects.count,
            missing=self.missing,
            deleted=self.deleted,
            truncated=writer.truncated,
            without_text=self.without_text,
            seconds=time.monotonic() - self.started,
        )

    def pass_over(self) -> None:
        """Count a document that was read and has no text to encode."""
        self.read += 1
        self.advance(1)

    def _accepted(self, documents: Iterable[Document | Rejected]) -> Iterator[Document]:
        for number, item in enumerate(documents, start=1):
            self.read += 1
            self.advance(1)
            if isinstance(item, Rejected):
                self.rejects.add(item)
                continue
            try:
                if not isinstance(item, Document):
                    raise InputError(f"a Document is wanted, not {type(item).__name__}: {item!r:.60}")
                check_document(item)
            except InputError as error:
                self.rejects.add(Rejected(self.settings.source, number, str(error), f"{item!r:.1000}"))
                continue
            yield item

    def _changed(self, documents: Sequence[Document]) -> list[Entry]:
        """Those that must be written, the last of each id, counted."""
        entries: dict[str, Entry] = {}
        digests = [self._digest(document) for document in documents]
        sightings = self.journal.sight(list(zip(documents, digests, strict=True)))
        for document, digest, sighting in zip(documents, digests, sightings, strict=True):
            self.duplicates += sighting.before is not None
            self.skipped += (sighting.fate is Fate.UNCHANGED) - (sighting.before is Fate.UNCHANGED)
            if sighting.write:
                waiting = entries.pop(document.id, None)
                first = sighting.before is not Fate.WRITE if waiting is None else waiting.first
                entries[document.id] = Entry(document, digest, first, sighting.known)
        return list(entries.values())

    def _digest(self, document: Document) -> bytes:
        encoded = document
        if self.settings.chunker is not None:  # a template may use what only chunks have
            encoded = replace(
                document, metadata={**document.metadata, PARENT_FIELD: document.id, CHUNK_FIELD: 0}
            )
        content = [self.recipe, self.settings.encode(encoded), document.text, document.metadata]
        return blake2b(json.dumps(content, sort_keys=True, default=dict).encode(), digest_size=16).digest()

    def _pace(self, count: int) -> None:
        if self.settings.rate is not None:
            now = time.monotonic()
            time.sleep(max(0.0, self.paced - now))
            self.paced = max(self.paced, now) + count / self.settings.rate

    def _write(self, entries: Sequence[Entry]) -> None:
        self._pace(len(entries))
        parts = [part for entry in entries for part in self._split(entry)]
        accepted = [entry for entry in entries if not entry.failed]
        intent = self.journal.intend([(entry.document.id, entry.chunks) for entry in accepted])
        for entry in accepted:
            entry.intent = intent
        start = size = 0
        for end, part in enumerate(parts):
            length = len(part.document.text)
            if end > start and (size + length > BATCH_CHARACTERS or end - start == self.settings.batch_size):
                self._encode(parts[start:end])
                start, size = end, 0
            size += length
        if parts[start:]:
            self._encode(parts[start:])

    def _split(self, entry: Entry) -> list[Part]:
        chunker = self.settings.chunker
        try:
            chunks = [] if chunker is None else chunker.split(entry.document)
            if taken := self.journal.taken(entry.document.id, len(chunks)):
                raise InputError(
                    "it would be stored as {!r}, where {!r} is; rename one, or put a prefix before the ids of one "
                    "source".format(*taken)
                )
        except InputError as error:
            self._refuse(entry, str(error))
            return []
        entry.chunks = len(chunks)
        if chunker is None:
            return [Part(entry.document, entry, last=True)]
        return [Part(chunk, entry, last=chunk is chunks[-1]) for chunk in chunks]

    def _encode(self, parts: Sequence[Part]) -> None:
        from m3_core.encoder import TruncationWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # the summary counts them
            vectors = self.encoder.encode_documents(
                [self.settings.encode(part.document) for part in parts],
                representations=self.settings.representations or self.store.capabilities.representations,
            )
        self.writer.put(Piece(parts, vectors))

    def _refuse(self, entry: Entry, reason: str) -> None:
        entry.failed = True
        self.rejects.add(refusal(self.settings.source, entry.document, reason))

    def _delete_missing(self, known: int) -> None:
        self.missing = self.journal.missing()
        if not self._may_delete(known):
            return
        for parts in self.journal.missing_parts(size=500):
            self.journal.doubt(list(parts))
            self.writer.retry(self.store.delete, [name for names in parts.values() for name in names])
            self.journal.forget_deleted(list(parts))
            self.deleted += len(parts)
        # Also if nothing was deleted: what another source has too stays, until that one no longer has it either.
        self.journal.forget_missing()

    def _may_delete(self, known: int) -> bool:
        if self.rejects.count:
            if self.missing:
                logger.warning(
                    "%d documents are no longer in the source, but %d were rejected and may be among them; "
                    "nothing is deleted",
                    self.missing,
                    self.rejects.count,
                )
            return False
        confirm = self.settings.confirm
        if self.missing > ASK_ABOVE * known and not (confirm and confirm(self.missing, known)):
            logger.warning(
                "%d of %d documents are no longer in the source; that is more than a tenth and was not confirmed, "
                "nothing is deleted",
                self.missing,
                known,
            )
            return False
        return True

    def _remark(self) -> None:
        if not self.read:
            logger.warning("the source is empty")
        if truncated := self.writer.truncated:
            logger.warning(
                "%d texts were longer than %d tokens and were cut; chunk_tokens splits them instead",
                truncated,
                self.encoder.max_length,
            )
        template = self.settings.encode
        if isinstance(template, Template) and self.read and template.unfilled:
            names = ", ".join(template.unfilled)
            logger.warning("no document had the fields %s of the template", names)
        if shared := self.journal.shared():
            logger.warning(
                "%d ids are also in other sources of this store; of equal ids the last written stays", shared
            )


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == size or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _progress(settings: Settings) -> AbstractContextManager[Callable[[int], None]]:
    return bar(settings.label, settings.total) if settings.progress else nullcontext(lambda _: None)
