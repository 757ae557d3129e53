"""Between our values and Milvus rows. Pure functions."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np

from m3_core.scoring import channel_scores
from m3_core.types import FloatArray, IntArray, Json, M3Vectors, Representation

Row: TypeAlias = dict[str, Any]
"""A Milvus row: field name -> value."""

TEXT_BYTES = 65_535
"""The longest VARCHAR, in UTF-8 bytes."""
SPARSE_SPACE = 2**32 - 1
"""Milvus knows the token ids below this; the width of sparse rows whose vocabulary is not known."""
_SENTINEL = SPARSE_SPACE - 1
_EMPTY = {_SENTINEL: 1e-30}
"""Stands for an empty sparse row, which Milvus Lite refuses; no tokenizer has this token id."""


def hashed(name: str) -> str:
    """The primary key of a document: 64 hexadecimal digits, so that no id needs escaping or can be too long."""
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def split_text(text: str) -> list[str]:
    """The text in pieces of at most 65,535 UTF-8 bytes; a text that is short enough, also "", is one piece."""
    data = text.encode()
    pieces, start = [], 0
    while len(data) - start > TEXT_BYTES:
        end = start + TEXT_BYTES
        while data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        pieces.append(data[start:end].decode())
        start = end
    return [*pieces, data[start:].decode()]


def plain(value: Json) -> Json:
    """The same JSON value in dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def sparse_cell(tokens: IntArray, weights: FloatArray) -> dict[int, float]:
    """A sparse row as Milvus takes it: token id -> weight, without zeros and never empty."""
    cell: dict[int, float] = {}
    for token, weight in zip(tokens.tolist(), weights.tolist(), strict=True):
        if weight > 0:
            cell[token] = cell.get(token, 0.0) + weight  # a CSR row may hold a token twice
    return cell or dict(_EMPTY)


def vector_cells(vectors: M3Vectors, row: int, names: Mapping[Representation, str]) -> Row:
    """The vector fields of one row."""
    cells: Row = {}
    if vectors.dense is not None and Representation.DENSE in names:
        cells[names[Representation.DENSE]] = np.ascontiguousarray(vectors.dense[row], dtype=np.float32)
    if vectors.sparse is not None and Representation.SPARSE in names:
        cells[names[Representation.SPARSE]] = sparse_cell(*vectors.sparse_row(row))
    return cells


def vectors_of(
    rows: Sequence[Row],
    wanted: Collection[Representation],
    names: Mapping[Representation, str],
    *,
    width: int = SPARSE_SPACE,
) -> M3Vectors:
    """The vectors of rows that Milvus returned. width: of the sparse rows; token ids beyond it are left out."""
    dense = sparse = None
    if Representation.DENSE in wanted:
        cells = [row[names[Representation.DENSE]] for row in rows]
        dense = np.array(cells, dtype=np.float32).reshape(len(rows), len(cells[0]) if cells else 0)
    if Representation.SPARSE in wanted:
        sparse = _sparse([row[names[Representation.SPARSE]] for row in rows], width)
    return M3Vectors(dense=dense, sparse=sparse)


def _sparse(cells: Sequence[Mapping[int, float]], width: int) -> Any:
    from scipy.sparse import csr_array

    kept = [sorted((t, w) for t, w in cell.items() if t < width and t != _SENTINEL) for cell in cells]
    offsets = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in kept], out=offsets[1:])
    tokens = np.array([token for row in kept for token, _ in row], dtype=np.int64)
    weights = np.array([weight for row in kept for _, weight in row], dtype=np.float32)
    return csr_array((weights, tokens, offsets), shape=(len(kept), width))


def query_cells(queries: M3Vectors, by: Representation) -> list[tuple[int, Any]]:
    """The queries of a channel as Milvus takes them, with their places; those without lexical weights are left out."""
    if by is Representation.DENSE and queries.dense is not None:
        return [(row, np.ascontiguousarray(vector, np.float32)) for row, vector in enumerate(queries.dense)]
    cells = [sparse_cell(*queries.sparse_row(row)) for row in range(len(queries))]
    return [(row, cell) for row, cell in enumerate(cells) if cell != _EMPTY]


def exact_scores(
    queries: M3Vectors,
    by: Representation,
    ids: Sequence[Sequence[str]],
    rows: Mapping[str, Row],
    names: Mapping[Representation, str],
) -> list[FloatArray]:
    """Scores of the named documents, ``ids[i]`` for query i; NaN where ``rows``, by id, has no such vector."""
    there = {name: row for name, row in rows.items() if row.get(names[by]) is not None}
    width = SPARSE_SPACE if queries.sparse is None else int(queries.sparse.shape[1])
    passages = vectors_of(list(there.values()), [by], names, width=width)
    place = {name: row for row, name in enumerate(there)}
    scores = []
    for query, some in enumerate(ids):
        known = [n for n, name in enumerate(some) if name in place]
        exact = np.full(len(some), np.nan, dtype=np.float32)
        if known:
            exact[known] = channel_scores(queries, query, passages.take([place[some[n]] for n in known]), by)
        scores.append(exact)
    return scores


def batches(rows: Iterable[Row], limit: int) -> Iterator[list[Row]]:
    """The rows in order, at most ``limit`` bytes at a time; a larger row comes alone."""
    batch: list[Row] = []
    held = 0
    for row in rows:
        size = size_of(row)
        if batch and held + size > limit:
            yield batch
            batch, held = [], 0
        batch.append(row)
        held += size
    if batch:
        yield batch


def size_of(value: Any) -> int:
    """About how many bytes a value takes in a request."""
    if isinstance(value, str):
        return len(value.encode()) + 4
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(size_of(key) + size_of(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return 8
