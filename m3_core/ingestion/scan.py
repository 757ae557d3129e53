"""The documents of a collection, page by page, as `m3_core.ingestion.backfill` wants them."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from m3_core.checks import check_size
from m3_core.errors import InputError
from m3_core.extending import Extensible
from m3_core.filters import Where
from m3_core.ingestion.pipeline import Run, logger
from m3_core.ingestion.templates import Template
from m3_core.store import Store
from m3_core.types import Document, Record, Representation

_LOOKED_AT = 10_000
"""Documents among which one must have a text, before anything is written."""
_NAMED = 12
"""Fields that a message names."""


class Scan:
    """The documents of a store, page by page, and the text of each that is to be encoded; "" for none."""

    def __init__(
        self, store: Store, where: Where, template: Callable[[Document], str], page_size: int
    ) -> None:
        check_size(page_size, "page_size")
        self._store, self._where, self._template, self._size = store, where, template, page_size

    def text(self, document: Document) -> str:
        """What is to be encoded; "" where that is no text, or only space."""
        text = self._template(document)
        return text if text.strip() else ""

    def pages(self, retry: Callable[..., Any]) -> Iterator[Sequence[Record]]:
        """The documents that match. retry: calls the store."""
        return self._pages(retry, self._where)

    def _pages(self, retry: Callable[..., Any], where: Where) -> Iterator[Sequence[Record]]:
        cursor = None
        while True:
            page = retry(self._store.scan, where=where, cursor=cursor, size=self._size)
            yield page.records
            cursor = page.cursor
            if cursor is None:
                return

    def check(self) -> None:
        """Raise InputError if the first documents of the store have no text at all: another field is meant."""
        seen: dict[str, None] = {}
        looked = 0
        for records in self._pages(once, None):
            if any(self.text(record.document) for record in records):
                return
            looked += len(records)
            seen |= dict.fromkeys(name for record in records for name in record.document.metadata)
            if looked >= _LOOKED_AT:
                break
        if looked:
            named = ", ".join(map(repr, list(seen)[:_NAMED])) or "none"
            what = repr(self._store.named.text) if isinstance(self._store, Extensible) else "their text"
            raise InputError(
                f"none of {looked} documents in {self._store.identity} has a text in {what}; their other fields are "
                f"{named}: name the one with the text (--text-field)"
            )

    def documents(
        self, run: Run, kinds: Collection[Representation], *, to: Extensible | None
    ) -> Iterator[Document]:
        """What a run is to write: documents with the text that is encoded, and only that."""
        known = run.journal.expected() > 0
        for records in self.pages(run.writer.retry):
            if known:
                self._forget_lost([record.id for record in records], run, kinds, to)
            for record in records:
                text = self.text(record.document)
                run.without_text += not text
                if to is not None:  # the whole document counts as content, and is written without vectors too
                    yield Document(record.id, text, {"content": _digest(record.document)})
                elif text:
                    yield Document(record.id, text)
                else:
                    run.pass_over()

    def _forget_lost(
        self, ids: Sequence[str], run: Run, kinds: Collection[Representation], to: Extensible | None
    ) -> None:
        """Let the journal forget what others have undone: vectors that went when a program wrote a document whole,
        and documents that are no longer in the copy."""
        lost: Sequence[str] = ()
        if to is not None:
            held = run.writer.retry(to.get, ids)
            lost = [name for name, record in zip(ids, held, strict=True) if record is None]
        elif isinstance(self._store, Extensible):
            lost = run.writer.retry(self._store.bare, ids, kinds)
        if lost:
            run.journal.forget_deleted(lost)

    def remark(self) -> None:
        """Say which fields of the template no document had."""
        if isinstance(self._template, Template) and self._template.unfilled:
            names = ", ".join(self._template.unfilled)
            logger.warning("no document had the fields %s of the template", names)


def once(call: Callable[..., Any], **arguments: Any) -> Any:
    """Call without trying again."""
    return call(**arguments)


def _digest(document: Document) -> str:
    content = json.dumps([document.text, document.metadata], sort_keys=True, default=str)
    return blake2b(content.encode(errors="surrogatepass"), digest_size=16).hexdigest()
