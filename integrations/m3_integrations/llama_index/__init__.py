"""LlamaIndex over any store. Needs ``pip install 'm3-retrieval[llama-index]'``.

- `M3Retriever`: hybrid search as a LlamaIndex retriever; its nodes (`M3NodeWithScore`) carry the score per channel.
- `M3VectorStore` and `M3Embedding`: a store under a `VectorStoreIndex`; each node passes through the model once.
- `M3Rerank`: a node postprocessor that reranks what any retriever found by the M3 score.

`M3Embedding.sparse_encoder` is also what `QdrantVectorStore` takes as its sparse functions.
"""

from m3_core.extras import require

require("llama_index.core", extra="llama-index")

from m3_integrations.llama_index.embedding import M3Embedding  # noqa: E402  # after the check for the extra
from m3_integrations.llama_index.rerank import M3Rerank  # noqa: E402
from m3_integrations.llama_index.retriever import M3Retriever  # noqa: E402
from m3_integrations.llama_index.scored import M3NodeWithScore  # noqa: E402
from m3_integrations.llama_index.vector_store import M3VectorStore  # noqa: E402

__all__ = ["M3Embedding", "M3NodeWithScore", "M3Rerank", "M3Retriever", "M3VectorStore"]
