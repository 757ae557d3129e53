"""Between documents and Milvus rows, in collections of ours and in other people's. Pure functions."""

import json
from collections.abc import Mapping
from typing import Any

from m3_core.errors import InputError
from m3_core.types import Document, Json
from m3_integrations.milvus.convert import TEXT_BYTES, Row, hashed, plain, size_of, split_text
from m3_integrations.milvus.filters import TERM_LENGTH, filter_index
from m3_integrations.milvus.layout import BOUNDS, REST, TERMS, Layout

METADATA_BYTES = 65_536
"""The largest JSON value that a server takes."""
ARRAY_CAPACITY = 4096
"""The most elements of an array."""
ROW_BYTES = 48 * 2**20
"""The largest document: a request to a server is 64 MB at most."""
_REMEDY = "keep long values in the text, or in a store of their own"


def primary_key(layout: Layout, name: str) -> str | int | None:
    """The primary key of a document, None if no document of the collection can have this id."""
    if layout.own:
        return hashed(name)
    if layout.key.type == "VARCHAR":
        return name if name.encode(errors="replace").decode() == name else None
    number = int(name) if name.isascii() and name.lstrip("-").isdigit() else None
    return number if number is not None and str(number) == name and abs(number) < 2**63 else None


def to_row(layout: Layout, document: Document) -> Row:
    """The fields of a document besides its vectors.

    Raises:
        InputError: a field cannot hold what the document has; names both.
    """
    row = _own_row(layout, document) if layout.own else _other_row(layout, document)
    _check_bytes(size_of(row), ROW_BYTES, "all", document, "split it into chunks")
    return row


def to_document(layout: Layout, row: Mapping[str, Any]) -> Document:
    """The document of a row that was read with the ``payload`` fields of the layout."""
    text = row.get(layout.fields.text)
    text = text if isinstance(text, str) else ""
    if layout.own:
        metadata = row[layout.fields.metadata] or {}
        return Document(row[str(layout.fields.id)], text + "".join(row[REST]), metadata)
    name = str(row[layout.key.name])
    if layout.fields.metadata:
        return Document(name, text, row.get(layout.fields.metadata) or {})
    others = {layout.key.name, layout.fields.text}
    rest = {key: plain(value) for key, value in row.items() if key not in others and value is not None}
    return Document(name, text, rest)


def _own_row(layout: Layout, document: Document) -> Row:
    first, *rest = split_text(document.text)
    metadata = plain(document.metadata)
    terms, bounds = filter_index(metadata)
    as_text = layout.columns[TERMS].type != "ARRAY"
    most = (TEXT_BYTES + 1) // (TERM_LENGTH + 1) if as_text else ARRAY_CAPACITY
    _check_bytes(_json_bytes(metadata), METADATA_BYTES, "the metadata", document, _REMEDY)
    _check_bytes(_json_bytes(bounds), METADATA_BYTES, "the index of the numbers", document, _REMEDY)
    if len(terms) > most:
        raise InputError(
            f"the metadata of document {document.id[:80]!r} has {len(terms):,} values to filter by, "
            f"Milvus holds {most:,}; {_REMEDY}"
        )
    return {
        layout.key.name: hashed(document.id),
        str(layout.fields.id): document.id,
        layout.fields.text: first,
        REST: rest,
        layout.fields.metadata: metadata,
        TERMS: " ".join(terms) if as_text else terms,
        BOUNDS: bounds,
    }


def _other_row(layout: Layout, document: Document) -> Row:
    key = primary_key(layout, document.id)
    if key is None:
        raise InputError(
            f"the primary key {layout.key.name!r} of {layout.name} is {layout.key.type}, "
            f"which {document.id!r} is not"
        )
    row: Row = {layout.key.name: key, layout.fields.text: document.text}
    if layout.fields.metadata:
        row[layout.fields.metadata] = plain(document.metadata)
    else:
        row |= _columns(layout, document)
    for name, value in row.items():
        column = layout.columns.get(name)
        if column is not None and column.max_length is not None and isinstance(value, str):
            size = len(value.encode())
            _check_bytes(size, column.max_length, f"the field {name!r}", document, "shorten it")
    return row


def _columns(layout: Layout, document: Document) -> Row:
    """The metadata as fields of their own; nullable ones that the document does not have are named, as null."""
    columns = layout.metadata_columns
    for name in document.metadata:
        if name in layout.columns and name not in columns:
            raise InputError(
                f"{name!r} in the metadata of document {document.id[:80]!r} is the name of another field of {layout.name}"
            )
        if name not in columns and not layout.dynamic:
            raise InputError(
                f"{layout.name} has no field {name!r}, which document {document.id[:80]!r} has in its metadata"
            )
    empty = dict.fromkeys(name for name in columns if layout.columns[name].nullable)
    return {**empty, **plain(document.metadata)}


def _json_bytes(value: Json) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _check_bytes(size: int, limit: int, what: str, document: Document, remedy: str) -> None:
    if size > limit:
        raise InputError(
            f"{what} of document {document.id[:80]!r} has {size:,} bytes, Milvus holds {limit:,}; {remedy}"
        )
