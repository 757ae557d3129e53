"""The scores of the M3 paper (arXiv 2402.03216, section 3.2), as pure functions on numpy arrays.

Each scores one query against one or many passages; nothing here is normalised, clipped or rescaled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m3_core.types import FloatArray, M3Vectors, Ragged, Representation

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def dense_scores(query: FloatArray, passages: FloatArray) -> FloatArray:
    """Inner products ``e_q · e_p``.

    query: (d,); passages: (n, d). Returns (n,).

    >>> dense_scores(np.array([0.6, 0.8]), np.array([[1.0, 0.0], [0.6, 0.8]]))
    array([0.6, 1. ])
    """
    # Not `passages @ query`: BLAS sums the last rows in another order, so that equal passages would differ by a bit.
    product: FloatArray = np.einsum("nd,d->n", passages, query)
    return product


def lexical_scores(query: "csr_array[Any, Any]", passages: "csr_array[Any, Any]") -> FloatArray:
    """Sum over the shared token ids of ``w_q(t) · w_p(t)``.

    query: (1, vocab) CSR; passages: (n, vocab) CSR. Returns (n,).

    >>> from scipy.sparse import csr_array
    >>> lexical_scores(csr_array([[0, 2.0, 1.5]]), csr_array([[3.0, 0.5, 0.25], [1.0, 0, 0]]))
    array([1.375, 0.   ])
    """
    product: FloatArray = (passages @ query.T).toarray()[:, 0]
    return product


def maxsim_scores(query: FloatArray, passages: Ragged) -> FloatArray:
    """Late interaction: ``1/t_q Σ_i max_j q_i · p_j``, the mean over the query's vectors of their best match.

    query: (t_q, d_m); passages: n rows of (t_i, d_m). Returns (n,). A passage without vectors scores NaN.

    >>> query = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> passage = Ragged.from_rows([np.array([[0.5, 0.75], [1.0, 0.0]])], dimension=2)
    >>> maxsim_scores(query, passage)
    array([0.875])
    """
    lengths = np.diff(passages.offsets)
    scores = np.full(len(passages), np.nan, dtype=np.result_type(query, passages.values))
    full = np.flatnonzero(lengths)
    if len(full) and len(query):
        # In float64, because a float32 product rounds a column by its place in the matrix: equal passages would differ.
        products = query.astype(np.float64) @ passages.values.T.astype(np.float64)
        # reduceat takes the maximum of each passage's block of columns; empty passages have no block.
        scores[full] = np.maximum.reduceat(products, passages.offsets[full], axis=1).mean(axis=0)
    return scores


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the M3 score ``w_dense·s_dense + w_sparse·s_sparse + w_multi·s_multi``; 0 leaves a channel out."""

    dense: float = 1.0
    sparse: float = 0.3
    multi: float = 1.0

    def of(self, representation: Representation) -> float:
        """The weight of one channel."""
        weight: float = getattr(self, representation)
        return weight


def m3_score(scores: Mapping[Representation, float], weights: Weights) -> float:
    """The weighted sum of the channel scores; a channel that is missing or NaN counts 0.

    >>> m3_score({Representation.DENSE: 0.5, Representation.SPARSE: 0.1}, Weights(1.0, 0.3, 1.0))
    0.53
    """
    return sum(
        weights.of(kind) * value
        for kind in Representation  # a fixed order, so that equal inputs give equal sums
        if weights.of(kind) and (value := scores.get(kind, 0.0)) == value
    )


def channel_scores(queries: M3Vectors, row: int, passages: M3Vectors, by: Representation) -> FloatArray:
    """Scores of all passages for query ``row`` by one channel. Returns (n,) float32.

    Raises:
        InputError: queries or passages lack the representation.
    """
    from m3_core.errors import InputError

    match by:
        case Representation.DENSE if queries.dense is not None and passages.dense is not None:
            scores = dense_scores(queries.dense[row], passages.dense)
        case Representation.SPARSE if queries.sparse is not None and passages.sparse is not None:
            scores = lexical_scores(queries.sparse[[row]], passages.sparse)
        case Representation.MULTI if queries.multi is not None and passages.multi is not None:
            scores = maxsim_scores(queries.multi[row], passages.multi)
        case _:
            raise InputError(f"queries and passages do not both have {by.value} vectors")
    return scores.astype(np.float32, copy=False)
