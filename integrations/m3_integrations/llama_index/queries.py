"""What a LlamaIndex query asks for, in our terms. Pure."""

from collections.abc import Sequence

import numpy as np
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from m3_core.errors import InputError, Unsupported
from m3_core.fusion import Fusion, WeightedSum
from m3_core.types import M3Vectors

DENSE_ONLY = WeightedSum(1.0, 0.0, 0.0)
SPARSE_ONLY = WeightedSum(0.0, 1.0, 0.0)
_MODES = {
    VectorStoreQueryMode.DEFAULT,
    VectorStoreQueryMode.HYBRID,
    VectorStoreQueryMode.SPARSE,
    VectorStoreQueryMode.MMR,
}


def check_query(query: VectorStoreQuery) -> None:
    """Refuse, by name, what no store of ours can do.

    Raises:
        Unsupported: a mode, or an option, that is not known here. InputError: neither text nor embedding.
    """
    if query.mode not in _MODES:
        known = ", ".join(sorted(mode.value for mode in _MODES))
        raise Unsupported(f"the query mode {query.mode!r} is not supported; there are {known}")
    for name in ("output_fields", "embedding_field"):
        if getattr(query, name) is not None:
            raise Unsupported(f"a query with {name} is not supported; leave it out")
    if not query.query_str and query.query_embedding is None:
        raise InputError("the query is empty: it has neither a query_str nor a query_embedding")


def fusion_of(query: VectorStoreQuery, default: Fusion) -> Fusion:
    """``sparse``: lexical weights alone. ``hybrid`` with alpha: dense by alpha, sparse by 1 - alpha. Else the default.

    An embedding without its text can be searched by the dense channel alone.

    Raises:
        InputError: alpha is not from 0 to 1; or the mode needs the text and there is none.
    """
    if query.mode is VectorStoreQueryMode.HYBRID and query.alpha is not None:
        if not 0 <= query.alpha <= 1:
            raise InputError(f"alpha must be from 0 (sparse alone) to 1 (dense alone), not {query.alpha}")
        fusion: Fusion = WeightedSum(query.alpha, 1 - query.alpha, 0.0)
    else:
        fusion = SPARSE_ONLY if query.mode is VectorStoreQueryMode.SPARSE else default
    if query.query_str or fusion.representations == DENSE_ONLY.representations:
        return fusion
    if query.mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.HYBRID):
        raise InputError(f"a query in mode {query.mode.value!r} needs query_str, not only query_embedding")
    return DENSE_ONLY


def size_of(query: VectorStoreQuery) -> int:
    """How many nodes are wanted."""
    hybrid = query.mode is VectorStoreQueryMode.HYBRID and query.hybrid_top_k is not None
    size = query.hybrid_top_k if hybrid else query.similarity_top_k
    assert size is not None
    return size


def with_dense(vectors: M3Vectors, embedding: Sequence[float] | None) -> M3Vectors:
    """The vectors of one query with this dense vector, at unit length, in the place of its own, if it has one.

    What stands for the query may be the mean of several embeddings (of hypothetical answers, say).
    """
    if embedding is None:
        return vectors
    dense = np.asarray(embedding, dtype=np.float32).reshape(1, -1)
    length = float(np.linalg.norm(dense))
    if length and abs(length - 1) > 1e-4:
        dense = dense / length
    return M3Vectors(dense, vectors.sparse, vectors.multi)
