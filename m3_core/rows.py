"""Vectors of many documents in arrays that only grow: what `MemoryStore` keeps them in."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3_core.store import Schema
from m3_core.types import M3Vectors, Ragged, Representation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_BLOCK = 1 << 18
"""Passage vectors compared with one query at a time; bounds the memory of MaxSim to some 10 MB per query vector."""


class _Growing:
    """An array that grows at its end, in amortised constant time per row."""

    def __init__(self, start: npt.NDArray[Any]) -> None:
        self._buffer, self._size = start, len(start)

    @property
    def view(self) -> npt.NDArray[Any]:
        return self._buffer[: self._size]

    def append(self, rows: npt.NDArray[Any]) -> None:
        size = self._size + len(rows)
        if size > len(self._buffer):
            buffer = np.empty((max(size, 2 * len(self._buffer)), *self._buffer.shape[1:]), self._buffer.dtype)
            buffer[: self._size] = self.view
            self._buffer = buffer
        self._buffer[self._size : size] = rows
        self._size = size


class Rows:
    """The vectors of all rows, in arrays that only grow."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._size = 0
        self._all: M3Vectors | None = None
        self._dense = _Growing(np.zeros((0, schema.dense or 0), np.float32))
        self._weights = _Growing(np.zeros(0, np.float32))
        self._tokens = _Growing(np.zeros(0, np.int64))
        self._sparse_offsets = _Growing(np.zeros(1, np.int64))
        self._multi = _Growing(np.zeros((0, schema.multi or 0), np.float32))
        self._multi_offsets = _Growing(np.zeros(1, np.int64))

    def __len__(self) -> int:
        return self._size

    def append(self, vectors: M3Vectors) -> None:
        if vectors.dense is not None:
            self._dense.append(vectors.dense)
        if vectors.sparse is not None:
            rows = _canonical(vectors.sparse)
            self._weights.append(rows.data)
            self._tokens.append(rows.indices)
            self._sparse_offsets.append(rows.indptr[1:] + self._sparse_offsets.view[-1])
        if vectors.multi is not None:
            values, offsets = vectors.multi.values, vectors.multi.offsets
            self._multi.append(values[offsets[0] : offsets[-1]])
            self._multi_offsets.append(offsets[1:] - offsets[0] + self._multi_offsets.view[-1])
        self._size += len(vectors)
        self._all = None

    def all(self) -> M3Vectors:
        """Every row, dead ones too; the arrays are not to be written to."""
        if self._all is None:
            kinds = self._schema.representations
            self._all = M3Vectors(
                dense=self._dense.view if Representation.DENSE in kinds else None,
                sparse=self._lexical() if Representation.SPARSE in kinds else None,
                multi=Ragged(self._multi.view, self._multi_offsets.view)
                if Representation.MULTI in kinds
                else None,
            )
        return self._all

    def _lexical(self) -> "csr_array[Any, Any]":
        from scipy.sparse import csr_array

        parts = (self._weights.view, self._tokens.view, self._sparse_offsets.view)
        return csr_array(parts, shape=(self._size, self._schema.sparse or 0))


def _canonical(sparse: "csr_array[Any, Any]") -> "csr_array[Any, Any]":
    """A copy with ascending token ids, each once, and without zeros."""
    rows = sparse.copy()
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def blocks(passages: M3Vectors) -> Iterator[M3Vectors]:
    """The same passages in pieces of about `_BLOCK` vectors."""
    multi = passages.multi
    if multi is None:
        return
    start = 0
    while start < len(multi):
        end = int(np.searchsorted(multi.offsets, multi.offsets[start] + _BLOCK, "right")) - 1
        end = max(end, start + 1)  # one document alone may have more
        first, last = multi.offsets[start], multi.offsets[end]
        yield M3Vectors(multi=Ragged(multi.values[first:last], multi.offsets[start : end + 1] - first))
        start = end
