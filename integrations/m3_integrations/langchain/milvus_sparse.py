"""Lexical weights as `langchain_milvus` takes them."""

from langchain_milvus.utils.sparse import BaseSparseEmbedding

from m3_integrations._cache import VectorCache
from m3_integrations.milvus.convert import sparse_cell


class MilvusSparse(BaseSparseEmbedding):
    """Token id -> weight. A text without words has one token that no tokenizer knows: Milvus refuses empty rows."""

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """One dictionary for each text, token ids ascending."""
        return [sparse_cell(vectors.tokens, vectors.weights) for vectors in self._cache.vectors(texts)]

    def embed_query(self, query: str) -> dict[int, float]:
        """The dictionary of one text."""
        return self.embed_documents([query])[0]
