"""Vectors for the text that a collection holds already: scan, encode, write back; resumable like an ingest."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m3_core.checks import check_encoder, check_fingerprint, check_size, check_store
from m3_core.errors import InputError, RepresentationMissing, Unsupported
from m3_core.extending import Extensible
from m3_core.filters import Where
from m3_core.ingestion.journal import Journal
from m3_core.ingestion.pipeline import Run, Settings, logger
from m3_core.ingestion.rejects import RejectLog
from m3_core.ingestion.scan import Scan, once
from m3_core.ingestion.summary import IngestSummary
from m3_core.ingestion.templates import Encode, text_of
from m3_core.ingestion.writer import Write
from m3_core.store import Schema, Store
from m3_core.types import Document, M3Vectors, Representation

if TYPE_CHECKING:
    from m3_core.encoder import M3Encoder


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What a backfill would do. adds: the fields that it would make, by channel; fills: all that it would write."""

    documents: int
    without_text: int
    adds: Mapping[Representation, str]
    fills: Mapping[Representation, str]


def check_backfill(
    store: Store,
    encoder: "M3Encoder",
    *,
    where: Where = None,
    encode: Encode = None,
    page_size: int = 256,
) -> tuple[Schema, Scan]:
    """What is to be filled and read; before anything is made, a copy included.

    Raises:
        InputError, FingerprintMismatch, RepresentationMissing: as `backfill`.
    """
    check_encoder(encoder)
    check_store(store)
    schema = _schema(store, encoder)
    scan = Scan(store, where, _template(encode, store), page_size)
    scan.check()
    return schema, scan


def plan_backfill(
    store: Store,
    encoder: "M3Encoder",
    *,
    where: Where = None,
    encode: Encode = None,
    page_size: int = 256,
) -> BackfillPlan:
    """What `backfill` would do with these arguments; all documents are read, and nothing is written.

    Raises:
        InputError, SchemaMismatch: as `backfill`, as far as that can be known before.
    """
    schema, scan = check_backfill(store, encoder, where=where, encode=encode, page_size=page_size)
    documents = without_text = 0
    for records in scan.pages(once):
        documents += len(records)
        without_text += sum(not scan.text(record.document) for record in records)
    fills = {kind: str(_named(store).get(kind, kind.value)) for kind in schema.representations}
    adds = store.lacking(schema) if isinstance(store, Extensible) else {}
    return BackfillPlan(documents, without_text, adds, fills)


def backfill(
    store: Store,
    encoder: "M3Encoder",
    *,
    to: Extensible | None = None,
    switch_alias: str | None = None,
    where: Where = None,
    encode: Encode = None,
    journal: str | Path | None = None,
    rejects: str | Path | None = None,
    fresh: bool = False,
    rate: float | None = None,
    batch_size: int = 128,
    page_size: int = 256,
    patience: float = 120.0,
    progress: bool = False,
) -> IngestSummary:
    """Encode the text of a collection's documents, and write the vectors back; payload and ids stay untouched.

    The store is opened for it by ``open_store(url, partial=True, text="body", dense="m3_dense", sparse="m3_sparse")``:
    the channels that are named are filled, and their fields added where they are missing. Memory does not depend on
    the number of documents: they are read in pages, and encoded while the ones before are written.

    With a ``journal`` (the path of a file) a second run passes over documents whose text is unchanged, and a run that
    was killed goes on where it was; it belongs to one collection, one model and these fields. A document that
    has lost its vectors since, because another program wrote it whole, is encoded again. Documents without text
    (none, no string, only space) are counted and left alone.

    Args:
        to: a `twin` of the store. Documents are copied into it as they are, with the vectors; what the store has no
            longer is deleted there, if it is no more than a tenth. The store itself is only read.
        switch_alias: an alias of the store that leads to the twin once all documents are in it.
        where: only the documents that match.
        encode: the text to encode, as a template like ``"{title}\\n{text}"`` (or ``{body}``, if that is what the
            collection calls it) or a function; by default the text.
        rejects: a file of JSON lines for documents that the store refuses, with the reasons. It is of the last run.
        fresh: write everything, whatever the journal says.
        rate: documents written per second at most.
        batch_size: documents encoded and written together at most. page_size: documents read at once.
        patience: for how many seconds a store that is unavailable is tried again.
        progress: show a bar on standard error.

    Returns:
        What was done, in documents; ``without_text`` of them have no text.

    Raises:
        InputError: none of the first documents has a text, no channel is named or one that the engine cannot hold,
            the alias is not there or leads elsewhere, an option cannot be used.
        Unsupported: the engine cannot add fields; copy into a twin.
        SchemaMismatch: a field is there and does not fit the model. FingerprintMismatch: it is another model's.
        IngestStopped: the store refused. IngestInterrupted: Ctrl-C.
    """
    check_size(batch_size, "batch_size")
    if rate is not None and not rate > 0:
        raise InputError(f"the rate is a number of documents per second above 0, not {rate!r}")
    if switch_alias is not None and to is None:
        raise InputError("an alias is switched to a copy; say where that is with to=... (--to)")
    if switch_alias is not None and where is not None:
        raise InputError("an alias is switched to a copy of everything; leave the filter out (--where)")
    schema, scan = check_backfill(store, encoder, where=where, encode=encode, page_size=page_size)
    if to is not None and switch_alias is not None:
        to.check_alias(switch_alias, _extensible(store))
    target: Store = store if to is None else to
    if isinstance(target, Extensible):
        fresh = bool(target.lacking(schema)) or fresh
        target.extend(schema)
    settings = Settings(
        source=store.identity,
        encode=lambda document: document.text,
        chunker=None,
        delete_missing=to is not None and where is None and journal is not None,
        confirm=None,
        # At a low rate, small steps instead of large ones with long pauses between them.
        batch_size=batch_size if rate is None else max(1, min(batch_size, int(rate))),
        patience=patience,
        progress=progress,
        write=_in_place(store) if to is None else _copying(_extensible(store), to),
        representations=schema.representations,
        rate=rate,
        label="backfilling",
        total=store.count(where=where) if progress else None,
    )
    path = None if journal is None else Path(journal)
    with (
        Journal(
            path, store=binding(target), fingerprint=encoder.fingerprint, source=store.identity
        ) as opened,
        closing(RejectLog(None if rejects is None else Path(rejects), strict=False)) as rejected,
    ):
        if fresh:
            opened.forget()
        run = Run(encoder, target, opened, rejected, settings)
        summary = run.run(scan.documents(run, schema.representations, to=to))
    scan.remark()
    if to is not None and switch_alias is not None:
        held, there = to.count(), store.count()
        if summary.rejected or held < there:
            logger.warning("the copy has %d of %d documents, so %s stays as it is", held, there, switch_alias)
        else:
            to.switch_alias(switch_alias, _extensible(store))
    return summary


def binding(store: Store) -> str:
    """What the journal of a backfill is bound to: the collection and the fields that are filled."""
    return f"{store.identity} " + ",".join(f"{kind}={name}" for kind, name in _named(store).items())


def _schema(store: Store, encoder: "M3Encoder") -> Schema:
    """The model's schema for the channels that are to be filled."""
    check_fingerprint(store.fingerprint, encoder.fingerprint, store.identity)
    wanted = _named(store).keys()
    if not wanted:
        raise InputError(
            f"no vector field of {store.identity} is named to be filled; name them with "
            "open_store(..., dense='m3_dense', sparse='m3_sparse') (--into dense=m3_dense,sparse=m3_sparse)"
        )
    if missing := wanted - encoder.representations:
        raise RepresentationMissing(f"the model makes no {', '.join(sorted(missing))} vectors")
    if isinstance(store, Extensible) and (beyond := wanted - store.holds):
        raise InputError(f"{store.identity} cannot hold {', '.join(sorted(beyond))} vectors (--into)")
    return encoder.schema().only(wanted)


def _named(store: Store) -> Mapping[Representation, str]:
    """The vector fields to fill, by channel."""
    if isinstance(store, Extensible):
        names = {kind: store.named.name_of(kind) for kind in Representation}
        return {kind: name for kind, name in names.items() if name is not None}
    return {kind: kind.value for kind in Representation if kind in store.capabilities.representations}


def _template(encode: Encode, store: Store) -> Callable[[Document], str]:
    # In a template the text has the collection's own name for it, too.
    return text_of(encode, {store.named.text: "text"} if isinstance(store, Extensible) else None)


def _extensible(store: Store) -> Extensible:
    if not isinstance(store, Extensible):
        raise Unsupported(f"{store.identity} cannot be copied as it is; m3 copy writes its documents anew")
    return store


def _in_place(store: Store) -> Write:
    return lambda documents, vectors: store.update_vectors([document.id for document in documents], vectors)


def _copying(source: Extensible, target: Extensible) -> Write:
    def write(documents: Sequence[Document], vectors: M3Vectors) -> None:
        full = [row for row, document in enumerate(documents) if document.text]
        bare = [document.id for document in documents if not document.text]
        if full:
            target.carry(source, [documents[row].id for row in full], vectors.take(full))
        if bare:
            target.carry(source, bare, None)

    return write
