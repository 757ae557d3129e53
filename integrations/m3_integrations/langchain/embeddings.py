"""The representations in the forms that other LangChain packages take, from one forward pass."""

from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings

from m3_core.encoder import M3Encoder
from m3_core.errors import MissingExtra
from m3_core.types import Representation
from m3_integrations._cache import MAX_BYTES, VectorCache

if TYPE_CHECKING:
    from m3_integrations.langchain.milvus_sparse import MilvusSparse
    from m3_integrations.langchain.qdrant_sparse import QdrantSparse


class M3Embeddings(Embeddings):
    """Dense and sparse vectors for the vector stores of `langchain_qdrant`, `langchain_milvus` and others.

    ::

        embeddings = M3Embeddings(M3Encoder.load("BAAI/bge-m3"))
        QdrantVectorStore(client, "pages", embeddings.dense, RetrievalMode.HYBRID,
                          sparse_embedding=embeddings.qdrant_sparse)
        Milvus([embeddings.dense, embeddings.milvus_sparse], vector_field=["dense", "sparse"],
               index_params=[{"index_type": "FLAT", "metric_type": "IP"},
                             {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}],
               search_params=[{"metric_type": "IP"}, {"metric_type": "IP"}])

    Say the parameters of Milvus: by default its package leaves out the lightest fifth of the lexical weights in every
    search, which makes scores inexact, and which Milvus Lite refuses. FLAT looks at every vector; for many documents on a
    server take HNSW.

    All views share one cache, so that each text passes through the model once, however many of them are asked
    for it. The object itself is the dense view. Safe to use from several threads.

    max_texts: how many texts the cache holds, beside as many as the largest call had; one takes about 5 KB
    with BGE-M3. max_bytes: of all vectors together, which it never exceeds; a call with more than that is
    encoded anew for each view. `clear` empties the cache.
    """

    def __init__(self, encoder: M3Encoder, *, max_texts: int = 4096, max_bytes: int = MAX_BYTES) -> None:
        self.encoder = encoder
        self._cache = VectorCache(encoder, max_texts, max_bytes)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The dense vectors, each of d floats and unit length."""
        return [vectors.dense.tolist() for vectors in self._cache.vectors(texts)]

    def embed_query(self, text: str) -> list[float]:
        """The dense vector: d floats, unit length."""
        return self.embed_documents([text])[0]

    @property
    def dense(self) -> Embeddings:
        """Dense vectors, as every vector store takes them."""
        return self

    @property
    def qdrant_sparse(self) -> "QdrantSparse":
        """Lexical weights, as ``sparse_embedding`` of `langchain_qdrant.QdrantVectorStore` takes them.

        Raises:
            MissingExtra: langchain-qdrant is not installed. RepresentationMissing: the model has no lexical weights.
        """
        self.encoder.model.check([Representation.SPARSE])
        try:
            from m3_integrations.langchain.qdrant_sparse import QdrantSparse
        except ModuleNotFoundError as error:
            raise _missing(error, "langchain_qdrant") from error
        return QdrantSparse(self._cache)

    @property
    def milvus_sparse(self) -> "MilvusSparse":
        """Lexical weights, as one of the embedding functions of `langchain_milvus.Milvus`.

        Raises:
            MissingExtra: langchain-milvus is not installed. RepresentationMissing: the model has no lexical weights.
        """
        self.encoder.model.check([Representation.SPARSE])
        try:
            from m3_integrations.langchain.milvus_sparse import MilvusSparse
        except ModuleNotFoundError as error:
            raise _missing(error, "langchain_milvus") from error
        return MilvusSparse(self._cache)

    def clear(self) -> None:
        """Forget the vectors of every text."""
        self._cache.clear()


def _missing(error: ModuleNotFoundError, module: str) -> Exception:
    """What to raise: the pip line if it is the package itself that is missing, else the error as it is."""
    if error.name is None or error.name.split(".")[0] != module:
        return error
    package = module.replace("_", "-")
    return MissingExtra(
        f"{module}, whose vector store this view is for, is not installed: pip install {package}"
    )
