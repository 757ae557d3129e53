"""Documents and vectors as points, and back. Pure."""

import json
import math
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from m3_core.errors import InputError, StoreError
from m3_core.store import Fields, Schema
from m3_core.types import Document, Json, M3Vectors, Ragged, Record, Representation
from m3_integrations.qdrant.engine import Found, Point, PointId, Sparse, Vector
from m3_integrations.qdrant.filters import survives

NAMESPACE = uuid.UUID("4f3d1c52-0d2e-5b0c-9a54-6d3372657472")
"""Point ids are ``uuid5(NAMESPACE, document id)``. Never to change: it is how documents are found again."""

LAST_DIGITS = "m3_last_digits"
"""The payload field with those numbers of the metadata that the engine would give back rounded: path and text."""

_NUMBER_BYTES = 23
"""Of a float32 in JSON, with its comma: 22.2 on average in unit vectors of 1024 dimensions."""

_POINT_BYTES, _NAME_BYTES = 72, 32
"""What is around a point, with its id, and around each of its vectors: most of the bytes where vectors are short."""


def point_id(name: str, fields: Fields) -> PointId | None:
    """The id of a document's point; None if no point can have it."""
    if fields.id is None:
        return _native_id(name)
    try:
        return str(uuid.uuid5(NAMESPACE, name))
    except UnicodeEncodeError:  # a lone surrogate: no document can have that id either
        return None


def _native_id(name: str) -> PointId | None:
    if name.isascii() and name.isdigit() and len(name) <= 20:
        number = int(name)
        return number if str(number) == name and number < 2**64 else None
    try:
        return name if str(uuid.UUID(name)) == name else None
    except ValueError:
        return None


def writable_id(name: str, fields: Fields) -> PointId:
    """The id of a document's point.

    Raises:
        InputError: the collection's own ids are used (``Fields(id=None)``) and this cannot be one.
    """
    found = point_id(name, fields)
    if found is None:
        raise InputError(
            f"the id {name!r} cannot be a point id, which is an unsigned integer or a UUID in lower case; "
            "open the collection with Fields(id='...') to keep ids in the payload"
        )
    return found


def to_payload(document: Document, fields: Fields) -> dict[str, Json]:
    """What the point of a document keeps beside its vectors.

    Raises:
        InputError: metadata lie at the top level and one has the name of another field.
    """
    metadata = _plain(document.metadata)
    own: dict[str, Json] = {fields.text: document.text}
    if fields.id is not None:
        own[fields.id] = document.id
    if rounded := list(_rounded(metadata, [])):
        own[LAST_DIGITS] = rounded
    if fields.metadata:
        return {**own, fields.metadata: metadata}
    if clash := sorted(own.keys() & metadata.keys()):
        raise InputError(
            f"the metadata of document {document.id!r} lie beside the collection's own fields and cannot be "
            f"named {clash[0]!r}; rename it, or keep metadata in a field with Fields(metadata='metadata')"
        )
    return {**own, **metadata}


def to_document(point: Found, fields: Fields) -> Document:
    """The document a point holds.

    Raises:
        StoreError: there is no id where the fields say it is.
    """
    payload = point.payload
    name = point.id if fields.id is None else payload.get(fields.id)
    if not isinstance(name, str | int):
        raise StoreError(
            f"point {point.id} has no document id in its payload field {fields.id!r}; open the collection with "
            "Fields(id=...) naming the right one, or None where the point's id is the document's"
        )
    text = payload.get(fields.text)
    if fields.metadata:
        metadata = payload.get(fields.metadata)
        metadata = _plain(metadata) if isinstance(metadata, Mapping) else {}
    else:
        own = {fields.text, fields.id, LAST_DIGITS}
        metadata = {key: _plain(value) for key, value in payload.items() if key not in own}
    _restore(metadata, payload.get(LAST_DIGITS))
    return Document(str(name), text if isinstance(text, str) else "", metadata)


def _plain(value: Json) -> Json:
    """The value as JSON would give it back: dictionaries and lists of its own."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _rounded(value: Json, path: list[str | int]) -> Iterator[list[str | int]]:
    """The path and the text of every number that the engine would give back rounded."""
    if isinstance(value, float) and not survives(value):
        yield [*path, repr(value)]
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _rounded(item, [*path, key])


def _restore(metadata: dict[str, Json], rounded: Json) -> None:
    """Put the last digits back, where the number is still the one that was written."""
    for *path, text in rounded or ():
        holder: Any = metadata
        try:
            for key in path[:-1]:
                holder = holder[key]
            found, exact = holder[path[-1]], float(text)
        except (KeyError, IndexError, TypeError):
            continue  # another program has changed the metadata since
        if isinstance(found, float) and abs(found - exact) <= 4 * math.ulp(exact):
            holder[path[-1]] = exact


def to_vectors(vectors: M3Vectors, row: int, fields: Fields) -> dict[str, Vector]:
    """The named vectors of one text. A text without multi-vectors has none, one without lexical weights empty ones."""
    named: dict[str, Vector] = {}
    for kind in vectors.representations:
        name, vector = fields.name_of(kind), to_vector(vectors, row, kind)
        if name is not None and vector is not None:
            named[name] = vector
    return named


def to_vector(vectors: M3Vectors, row: int, kind: Representation) -> Vector | None:
    """One representation of one text; None for a text without multi-vectors."""
    match kind:
        case Representation.DENSE if vectors.dense is not None:
            dense: list[float] = vectors.dense[row].tolist()
            return dense
        case Representation.SPARSE if vectors.sparse is not None:
            tokens, weights = vectors.sparse_row(row)
            kept = np.flatnonzero(weights)
            return Sparse(tokens[kept].tolist(), weights[kept].tolist())
        case Representation.MULTI if vectors.multi is not None:
            multi: list[list[float]] = vectors.multi[row].tolist()
            return multi or None
    raise InputError(f"there are no {kind.value} vectors")


def fit_multi(vectors: M3Vectors, ids: Sequence[str], numbers: int, *, cut: bool) -> M3Vectors:
    """The vectors, with no multi-vector of more numbers (vectors times dimensions) than that.

    Raises:
        InputError: one has more, and they are not to be cut; with ``cut`` there is a warning.
    """
    if vectors.multi is None:
        return vectors
    dimension = vectors.multi.values.shape[1]
    limit = numbers // dimension
    longer = np.flatnonzero(np.diff(vectors.multi.offsets) > limit).tolist()
    if not longer:
        return vectors
    what = (
        f"{len(longer)} documents have more than the {limit} multi-vectors of {dimension} dimensions that Qdrant "
        f"keeps of one; {ids[longer[0]]!r} has {len(vectors.multi[longer[0]])}"
    )
    if not cut:
        raise InputError(
            f"{what}. Split the texts into chunks, or open the store with long_multi='cut' to keep the first {limit}"
        )
    warnings.warn(f"{what}; the first {limit} are kept", stacklevel=4)
    kept = Ragged.from_rows([rows[:limit] for rows in vectors.multi], dimension=dimension)
    return replace(vectors, multi=kept)


def to_record(point: Found, fields: Fields, kinds: Collection[Representation], schema: Schema) -> Record:
    """The document of a point, with those of the wanted vectors that it has."""
    document = to_document(point, fields)
    return Record(document, _from_vectors(point.vectors, fields, kinds, schema) if kinds else None)


def _from_vectors(
    vectors: Mapping[str, Vector], fields: Fields, kinds: Collection[Representation], schema: Schema
) -> M3Vectors:
    from scipy.sparse import csr_array

    found = {kind: vectors.get(str(fields.name_of(kind))) for kind in kinds}
    dense, sparse, multi = (found.get(kind) for kind in Representation)
    rows = None
    if isinstance(sparse, Sparse):
        order = np.argsort(np.array(sparse.indices, np.int64))
        tokens = np.array(sparse.indices, np.int64)[order]
        weights = np.array(sparse.values, np.float32)[order]
        rows = csr_array((weights, tokens, np.array([0, len(tokens)])), shape=(1, schema.sparse or 0))
    return M3Vectors(
        dense=None if dense is None else np.array([dense], np.float32),
        sparse=rows,
        multi=None
        if multi is None
        else Ragged.from_rows([np.array(multi, np.float32)], dimension=schema.multi or 0),
    )


def json_size(point: Point) -> int:
    """About how many bytes of JSON a point is."""
    payload = json.dumps(point.payload, ensure_ascii=False).encode() if point.payload else b""
    vectors = sum(_NAME_BYTES + len(name) + vector_size(vector) for name, vector in point.vectors.items())
    return _POINT_BYTES + len(payload) + vectors


def vector_size(vector: Vector | None) -> int:
    """About how many bytes of JSON a vector is."""
    if vector is None:
        return 0
    if isinstance(vector, Sparse):
        return len(vector.indices) * (_NUMBER_BYTES + 8)
    first = vector[0] if vector else None
    return _NUMBER_BYTES * len(vector) * (len(first) if isinstance(first, list) else 1)


def batches(sizes: Sequence[int], budget: int) -> Iterator[range]:
    """Runs of neighbours whose sizes add up to the budget at most, or single ones that are larger."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > budget:
            yield range(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))
