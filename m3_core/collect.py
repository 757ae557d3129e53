"""The outputs of batches, put where their texts were in the input."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m3_core.backbone import TokenBatch
from m3_core.model import M3Model, ModelOutput
from m3_core.types import BoolArray, FloatArray, IntArray, M3Vectors, Ragged, Representation

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Collector:
    """Takes the batches of n texts in any order; gives their vectors in the order of the texts.

    vectors: the number of multi-vectors of each text. special: token ids without a lexical weight.
    """

    def __init__(
        self,
        model: M3Model,
        wanted: Collection[Representation],
        vectors: Sequence[int],
        special: Collection[int],
    ) -> None:
        size = len(vectors)
        self.size, self.vocab = size, model.config.vocab_size
        self.special = np.asarray(sorted(special), dtype=np.int64)
        self.dense: FloatArray | None = None
        self.sparse: list[tuple[IntArray, FloatArray]] | None = None
        self.multi: Ragged | None = None
        if Representation.DENSE in wanted:
            self.dense = np.zeros((size, model.config.hidden_size), dtype=np.float32)
        if Representation.SPARSE in wanted:
            self.sparse = []
        if Representation.MULTI in wanted and model.colbert_linear is not None:
            offsets = np.zeros(size + 1, dtype=np.int64)
            np.cumsum(vectors, out=offsets[1:])
            values = np.empty((offsets[-1], model.colbert_linear.out_features), dtype=np.float32)
            self.multi = Ragged(values, offsets)

    def add(self, rows: Sequence[int], batch: TokenBatch, output: ModelOutput) -> None:
        """The output for the texts ``rows``, which are the batch's, in its order."""
        if self.dense is not None and output.dense is not None:
            self.dense[rows] = output.dense.float().cpu().numpy()
        if self.sparse is not None and output.weights is not None:
            owners = np.repeat(np.asarray(rows, dtype=np.int64), batch.lengths)
            weights = output.weights.float().cpu().numpy()
            self.sparse.append(
                _lexical_weights(owners, batch.ids.cpu().numpy(), weights, self.special, self.vocab)
            )
        if self.multi is not None and output.multi is not None:
            values, start = output.multi.float().cpu().numpy(), 0
            for row in rows:
                place = self.multi[row]
                place[:] = values[start : start + len(place)]
                start += len(place)

    def finish(self, truncated: BoolArray) -> M3Vectors:
        """All texts, once every batch was added."""
        sparse = None if self.sparse is None else _csr(self.sparse, self.size, self.vocab)
        return M3Vectors(dense=self.dense, sparse=sparse, multi=self.multi, truncated=truncated)


def _lexical_weights(
    owners: IntArray, ids: IntArray, weights: FloatArray, special: IntArray, vocab: int
) -> tuple[IntArray, FloatArray]:
    """Keys ``text * vocab + token id``, ascending, and the maximum weight over the token's positions in the text."""
    kept = (weights > 0) & ~np.isin(ids, special)
    keys, weights = owners[kept] * vocab + ids[kept], weights[kept]
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.maximum.reduceat(weights, starts) if len(starts) else weights


def _csr(parts: Sequence[tuple[IntArray, FloatArray]], size: int, vocab: int) -> "csr_array[Any, Any]":
    from scipy.sparse import csr_array

    keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in parts)])
    values = np.concatenate([np.empty(0, np.float32), *(values for _, values in parts)])
    order = np.argsort(keys, kind="stable")
    rows, columns = np.divmod(keys[order], vocab)
    indptr = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=size), out=indptr[1:])
    return csr_array((values[order], columns, indptr), shape=(size, vocab))
