"""LangChain over any store. Needs ``pip install 'm3-retrieval[langchain]'``.

- `M3Retriever`: hybrid search as a LangChain retriever; its documents carry their scores.
- `M3VectorStore`: a store as a LangChain vector store, to be written to as well as searched.
- `M3Embeddings`: for those who keep the vector store of another package; dense and sparse from one forward.
- `M3Compressor`: reranks what any retriever found by the M3 score.
"""

from m3_core.extras import require

require("langchain_core", extra="langchain")

from m3_integrations.langchain.compressor import M3Compressor  # noqa: E402  # after the check for the extra
from m3_integrations.langchain.embeddings import M3Embeddings  # noqa: E402
from m3_integrations.langchain.retriever import M3Retriever  # noqa: E402
from m3_integrations.langchain.vector_store import M3VectorStore  # noqa: E402

__all__ = ["M3Compressor", "M3Embeddings", "M3Retriever", "M3VectorStore"]
