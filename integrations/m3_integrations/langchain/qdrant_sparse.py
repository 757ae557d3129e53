"""Lexical weights as `langchain_qdrant` takes them."""

from langchain_qdrant import SparseEmbeddings, SparseVector

from m3_integrations._cache import VectorCache


class QdrantSparse(SparseEmbeddings):
    """Token ids and their weights. A text without words has none."""

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """One sparse vector for each text, token ids ascending."""
        return [
            SparseVector(indices=vectors.tokens.tolist(), values=vectors.weights.tolist())
            for vectors in self._cache.vectors(texts)
        ]

    def embed_query(self, text: str) -> SparseVector:
        """The sparse vector of one text."""
        return self.embed_documents([text])[0]
