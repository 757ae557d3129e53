"""Between our values and the JSON of Elasticsearch. Pure functions."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from m3_core.types import Document, FloatArray, IntArray, Json, M3Vectors, Representation
from m3_integrations.elasticsearch.filters import Query, filter_terms
from m3_integrations.elasticsearch.layout import Layout

Source: TypeAlias = dict[str, Any]
"""The ``_source`` of a document."""

_SMALLEST = float(np.finfo(np.float32).tiny)
"""What `rank_features` takes at least."""


def plain(value: Json) -> Json:
    """The same JSON value in dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def shortest(values: npt.NDArray[np.float32]) -> list[float]:
    """The numbers whose decimal form is the shortest that is read back as these float32: half the bytes in JSON."""
    numbers: list[float] = values.astype(np.float32).astype("U").astype(np.float64).tolist()
    return numbers


def sparse_cell(tokens: IntArray, weights: FloatArray) -> dict[str, float]:
    """Lexical weights as `rank_features` take them: token id -> weight, without what is too small."""
    cell: dict[int, float] = {}
    for token, weight in zip(tokens.tolist(), shortest(weights), strict=True):
        cell[token] = cell.get(token, 0.0) + weight  # a CSR row may hold a token twice
    return {str(token): weight for token, weight in cell.items() if weight >= _SMALLEST}


def vector_cells(vectors: M3Vectors, row: int, layout: Layout) -> Source:
    """The vector fields of one document, of the channels that it has."""
    cells: Source = {}
    for kind, name in layout.channels.items():
        if kind is Representation.DENSE and vectors.dense is not None:
            cells[name] = shortest(vectors.dense[row])
        elif kind is Representation.SPARSE and vectors.sparse is not None:
            # In a list, because an update would add the features of an object to those that are there.
            cells[name] = [sparse_cell(*vectors.sparse_row(row))]
    return cells


def to_source(document: Document, layout: Layout) -> Source:
    """A document as it is stored, without its vectors."""
    fields = layout.fields
    metadata = plain(document.metadata)
    source: Source = {fields.metadata: metadata} if fields.metadata else metadata
    source[fields.text] = document.text
    if fields.id is not None:
        source[fields.id] = document.id
    if layout.terms is not None:
        source[layout.terms] = filter_terms(document.metadata)
    return source


def to_document(hit: Mapping[str, Any], layout: Layout) -> Document:
    """The document of a hit; a text that is missing or no string is ""."""
    source, fields = hit.get("_source") or {}, layout.fields
    text = _at(source, fields.text)
    if fields.metadata:
        metadata = _at(source, fields.metadata)
    else:
        taken = {fields.text, fields.id, layout.terms, *layout.channels.values()}
        metadata = {key: value for key, value in source.items() if key not in taken}
    return Document(
        str(hit["_id"]),
        text if isinstance(text, str) else "",
        metadata if isinstance(metadata, Mapping) else {},
    )


def _at(source: Mapping[str, Any], path: str) -> Any:
    """The value at a path, whose names may stand one in another or joined by dots."""
    if path in source:
        return source[path]
    first, _, rest = path.partition(".")
    inner = source.get(first)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else None


def source_filter(layout: Layout, vectors: Collection[Representation]) -> Source:
    """Which parts of ``_source`` to ask for, to make a document and the vectors of it.

    Servers of 9.2 and later leave vectors out unless they are told not to; those before 8.19 do not know the
    option, `m3_integrations.elasticsearch.connection.Connection.search` sees to that.
    """
    unwanted = [name for kind, name in layout.channels.items() if kind not in vectors]
    hidden = layout.hidden - {*layout.channels.values()}
    excluded = [*unwanted, *sorted(hidden), *([] if layout.terms is None else [layout.terms])]
    asked: Source = {"excludes": excluded} if excluded else {}
    return {**asked, "exclude_vectors": False} if vectors else asked


def has(hit: Mapping[str, Any], kind: Representation, layout: Layout) -> bool:
    """Whether a hit has a vector of the channel."""
    return _at(hit.get("_source") or {}, layout.channels[kind]) is not None


def vectors_of(
    hits: Sequence[Mapping[str, Any]], wanted: Collection[Representation], layout: Layout, *, width: int
) -> M3Vectors:
    """The vectors of hits, all of which have them. width: of the sparse rows; token ids beyond it are left out."""
    sources = [hit.get("_source") or {} for hit in hits]
    dense = sparse = None
    if Representation.DENSE in wanted:
        name = layout.channels[Representation.DENSE]
        rows = [_at(source, name) for source in sources]
        dense = np.array(rows, dtype=np.float32).reshape(len(rows), layout.schema.dense or 0)
    if Representation.SPARSE in wanted:
        name = layout.channels[Representation.SPARSE]
        sparse = _csr([_weights(_at(source, name)) for source in sources], width)
    return M3Vectors(dense=dense, sparse=sparse)


def _weights(cell: Any) -> dict[int, float]:
    """Token id -> weight, of an object of features or of a list of them; other people's feature names are no tokens."""
    parts = cell if isinstance(cell, list) else [cell]
    return {
        int(name): float(weight)
        for part in parts
        if isinstance(part, Mapping)
        for name, weight in part.items()
        if name.isascii() and name.isdecimal()
    }


def _csr(cells: Sequence[Mapping[int, float]], width: int) -> Any:
    from scipy.sparse import csr_array

    kept = [sorted((token, weight) for token, weight in cell.items() if token < width) for cell in cells]
    offsets = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in kept], out=offsets[1:])
    tokens = np.array([token for row in kept for token, _ in row], dtype=np.int64)
    weights = np.array([weight for row in kept for _, weight in row], dtype=np.float32)
    return csr_array((weights, tokens, offsets), shape=(len(kept), width))


# Queries.


def dense_body(
    vector: FloatArray, field: str, k: int, candidates: int, condition: Query | None
) -> Mapping[str, Any]:
    """The search for the k nearest vectors. candidates: how many each shard looks for."""
    knn: dict[str, Any] = {
        "field": field,
        "query_vector": shortest(vector),
        "k": k,
        "num_candidates": min(max(k, candidates), 10_000),
    }
    if condition is not None:
        knn["filter"] = condition
    return {"knn": knn, "size": k}


def sparse_body(
    weights: Sequence[tuple[int, float]], field: str, k: int, condition: Query | None
) -> Mapping[str, Any]:
    """The search for the k best by the sum over tokens of query weight times document weight."""
    features = [
        {"rank_feature": {"field": f"{field}.{token}", "linear": {}, "boost": weight}}
        for token, weight in weights
    ]
    among: dict[str, Any] = {"should": features, "minimum_should_match": 1}
    if condition is not None:
        among["filter"] = [condition]
    return {"query": {"bool": among}, "size": k}


def inner_product(score: float, similarity: str) -> float:
    """The inner product of unit vectors that ``_score`` was made from."""
    if similarity == "max_inner_product":
        return score - 1 if score >= 1 else 1 - 1 / score
    return 2 * score - 1
