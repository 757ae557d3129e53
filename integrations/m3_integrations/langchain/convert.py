"""Between our documents and options and LangChain's. Pure functions, but for the ids they draw."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.documents import Document as LangChainDocument

from m3_core.errors import InputError
from m3_core.filters import Where
from m3_core.types import Document, Representation, check_document
from m3_integrations._options import refuse

SCORE = "m3_score"
"""The metadata field with the score that a document was ranked by."""
SCORES = "m3_scores"
"""The metadata field with the score by each channel: ``{"dense": 0.71, "sparse": 0.18, "multi": 0.64}``."""


def to_langchain(document: Document) -> LangChainDocument:
    """The document with its id, text and metadata, and nothing else."""
    return LangChainDocument(id=document.id, page_content=document.text, metadata=dict(document.metadata))


def with_scores(
    document: LangChainDocument, score: float, scores: Mapping[Representation, float]
) -> LangChainDocument:
    """A copy that carries its scores in the metadata fields `SCORE` and `SCORES`."""
    by_channel = {kind.value: float(value) for kind, value in scores.items()}
    metadata = {**document.metadata, SCORE: float(score), SCORES: by_channel}
    return LangChainDocument(id=document.id, page_content=document.page_content, metadata=metadata)


def from_langchain(
    documents: Iterable[LangChainDocument], ids: Iterable[str | None] | None
) -> list[Document]:
    """Our documents: the id of ``ids`` if there is one, else the document's own, else a new UUID.

    Raises:
        InputError: ids and documents differ in number, or a document cannot be stored; named.
    """
    if isinstance(ids, str):
        raise InputError(f"ids are a list of strings; for one document write [{ids!r}]")
    documents = list(documents)
    names = [None] * len(documents) if ids is None else list(ids)
    if len(names) != len(documents):
        raise InputError(f"{len(documents)} documents came with {len(names)} ids")
    named = zip(documents, names, strict=True)
    ours = [
        Document(_id(name, document), document.page_content, document.metadata) for document, name in named
    ]
    for document in ours:
        check_document(document)
    return ours


def where_of(where: Where, options: dict[str, Any], known: str) -> Where:
    """The filter, under our name or LangChain's; anything else among the options is refused.

    Raises:
        InputError: an option besides those ``known``, or both names at once.
    """
    filter_: Where = options.pop("filter", None)
    refuse(options, f"{known} (or filter)")
    if filter_ is None:
        return where
    if where is not None:
        raise InputError("where and filter are two names for the same thing; give one of them")
    return filter_


def _id(name: str | None, document: LangChainDocument) -> str:
    if name is not None:
        return name
    return str(uuid.uuid4()) if document.id is None else document.id
