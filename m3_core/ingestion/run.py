"""A stream of documents -> encoder -> store: in bounded memory, resumable, encoding while it writes."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from m3_core.checks import check_fingerprint, check_store
from m3_core.errors import InputError
from m3_core.ingestion.chunking import Chunker
from m3_core.ingestion.journal import Journal
from m3_core.ingestion.pipeline import (
    Confirm,
    Encoder,
    Run,
    Settings,
    logger,
)
from m3_core.ingestion.rejects import RejectLog
from m3_core.ingestion.sources import Rejected
from m3_core.ingestion.summary import IngestSummary
from m3_core.ingestion.templates import Encode, text_of
from m3_core.store import Store
from m3_core.types import Document


def ingest(
    documents: Iterable[Document | Rejected],
    encoder: Encoder,
    store: Store,
    *,
    journal: str | Path | None = None,
    source: str = "default",
    encode: Encode = None,
    chunk_tokens: int | None = None,
    delete_missing: bool = False,
    confirm: Confirm | None = None,
    strict: bool = False,
    rejects: str | Path | None = None,
    fresh: bool = False,
    batch_size: int = 128,
    patience: float = 120.0,
    progress: bool = False,
) -> IngestSummary:
    """Encode a stream of documents and write it into a store. Memory does not depend on the stream's length.

    With a ``journal`` (the path of a file) a second run skips what is unchanged, and a run that was killed goes
    on where it was; it belongs to one store and one model. Without one, everything is written every time. Of
    an id that comes twice the last content wins.

    Args:
        documents: what to write; `m3_core.ingestion.sources.read_source` reads files. A `Rejected` in it is counted.
        source: the name of this stream in the journal; ids are missing or not per source.
        encode: the text to encode, as a template like ``"{title}\\n{text}"`` or a function; by default the text.
        chunk_tokens: split texts into chunks of at most so many tokens, stored as ``id#0``, ``id#1``, ... with
            ``parent_id`` and ``chunk`` in their metadata; ``Retriever(group_by="parent_id")`` joins them again.
        delete_missing: afterwards delete what an earlier run got from this source and this one did not, but
            only if the stream was read to its end and nothing was rejected.
        confirm: asked before more than a tenth of the source's documents are deleted; None is a no.
        strict: stop at the first document that is rejected.
        rejects: a file of JSON lines for rejected documents, with the reasons. It is of the last run only.
        fresh: write everything, whatever the journal says.
        batch_size: documents encoded and written together at most.
        patience: for how many seconds a store that is unavailable is tried again.
        progress: show a bar on standard error.

    Raises:
        InputError: an option that cannot be used. FingerprintMismatch: the store holds another model's vectors.
        JournalError: the journal cannot be used, or belongs to another store or model.
        IngestStopped: the store refused, the source could not be read, or ``strict`` found something.
        IngestInterrupted: Ctrl-C.
    """
    check_store(store)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    if delete_missing and journal is None:
        raise InputError("delete_missing needs a journal, which knows what the source had before")
    check_fingerprint(store.fingerprint, encoder.fingerprint, store.identity)
    settings = Settings(
        source=source,
        encode=text_of(encode),
        chunker=None if chunk_tokens is None else _chunker(encoder, chunk_tokens),
        delete_missing=delete_missing,
        confirm=confirm,
        batch_size=batch_size,
        patience=patience,
        progress=progress,
    )
    path = None if journal is None else Path(journal)
    with Journal(path, store=store.identity, fingerprint=encoder.fingerprint, source=source) as opened:
        _compare(opened, store, fresh=fresh)
        with closing(RejectLog(None if rejects is None else Path(rejects), strict=strict)) as rejected:
            return Run(encoder, store, opened, rejected, settings).run(documents)


def _chunker(encoder: Encoder, tokens: int) -> Chunker:
    tokenizer = getattr(encoder, "tokenizer", None)
    if tokenizer is None:
        raise InputError("chunk_tokens needs an encoder with a tokenizer")
    return Chunker(tokenizer.backend, tokens)


def _compare(journal: Journal, store: Store, *, fresh: bool) -> None:
    """Believe the journal only as far as the store agrees: someone may have emptied it."""
    expected = journal.expected()
    held = store.count() if expected else 0
    if fresh or not held:
        journal.forget()
    if held < expected and not fresh:
        logger.warning(
            "the journal knows of %d entries in the store, which holds %d; %s",
            expected,
            held,
            "to write everything again, ask for a fresh run" if held else "everything is written again",
        )
