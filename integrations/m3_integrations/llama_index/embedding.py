"""The representations in the forms that LlamaIndex and its Qdrant store take, from one forward pass."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from scipy.sparse import csr_array

from m3_core.checks import check_encoder
from m3_core.encoder import M3Encoder
from m3_core.types import M3Vectors, Ragged, Representation
from m3_integrations._cache import MAX_BYTES, VectorCache
from m3_integrations._options import refuse


class M3Embedding(BaseEmbedding):
    """Dense vectors for any index, and lexical weights and multi-vectors beside them for those who ask.

    ::

        embed_model = M3Embedding(M3Encoder.load("BAAI/bge-m3"))
        QdrantVectorStore("pages", client, enable_hybrid=True,
                          sparse_doc_fn=embed_model.sparse_encoder, sparse_query_fn=embed_model.sparse_encoder)

    All come from one cache, so that each text passes through the model once. Queries and texts are encoded
    alike. Safe to use from several threads; the methods whose names begin with "a" run in worker threads.

    max_texts: how many texts the cache holds, beside as many as the largest call had; max_bytes: of vectors, at most.
    options: fields of `BaseEmbedding`, like ``embed_batch_size`` and ``callback_manager``.
    """

    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    _encoder: M3Encoder = PrivateAttr()
    _cache: VectorCache = PrivateAttr()

    def __init__(
        self, encoder: M3Encoder, *, max_texts: int = 4096, max_bytes: int = MAX_BYTES, **options: Any
    ) -> None:
        check_encoder(encoder)
        unknown = {name: value for name, value in options.items() if name not in type(self).model_fields}
        refuse(unknown, "max_texts, max_bytes, " + " and ".join(sorted(type(self).model_fields)))
        # The name is part of the key under which an ingestion pipeline keeps what it has embedded.
        super().__init__(**{"model_name": f"m3-{encoder.fingerprint}", **options})
        self._encoder = encoder
        self._cache = VectorCache(encoder, max_texts, max_bytes)

    @classmethod
    def class_name(cls) -> str:
        return "M3Embedding"

    @property
    def encoder(self) -> M3Encoder:
        """The model."""
        return self._encoder

    def keep(self, representations: Collection[Representation]) -> None:
        """Encode and keep these too from now on, because somebody will ask for them.

        Raises:
            RepresentationMissing: the model does not have one of them.
        """
        self._encoder.model.check(representations)
        self._cache.keep(representations)

    @property
    def kept(self) -> frozenset[Representation]:
        """The representations that are encoded and kept of each text."""
        return self._cache.kinds

    def vectors(self, texts: Sequence[str], representations: Collection[Representation]) -> M3Vectors:
        """These representations of n texts, in order, from the cache where they are there."""
        self.keep(representations)
        rows = self._cache.vectors(texts)
        config = self._encoder.model.config
        dense = sparse = multi = None
        if Representation.DENSE in representations:
            dense = np.array([row.dense for row in rows], np.float32).reshape(len(rows), config.hidden_size)
        if Representation.SPARSE in representations:
            ends = np.cumsum([0, *(len(row.tokens) for row in rows)])
            tokens = np.concatenate([np.zeros(0, np.int64), *(row.tokens for row in rows)])
            weights = np.concatenate([np.zeros(0, np.float32), *(row.weights for row in rows)])
            sparse = csr_array((weights, tokens, ends), shape=(len(rows), config.vocab_size))
        if Representation.MULTI in representations:
            width = self._encoder.schema([Representation.MULTI]).multi
            assert width is not None  # `keep` has asked the model
            multi = Ragged.from_rows([row.multi for row in rows if row.multi is not None], dimension=width)
        return M3Vectors(dense, sparse, multi)

    def release(self, texts: Sequence[str]) -> None:
        """Forget the vectors of these texts; who has stored them needs them no more."""
        self._cache.release(texts)

    def sparse_encoder(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Token ids and their weights of each text: ``sparse_doc_fn`` and ``sparse_query_fn`` of QdrantVectorStore.

        Raises:
            RepresentationMissing: the model has no lexical weights.
        """
        self._encoder.model.check([Representation.SPARSE])
        rows = self._cache.vectors(texts)
        return [row.tokens.tolist() for row in rows], [row.weights.tolist() for row in rows]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [row.dense.tolist() for row in self._cache.vectors(texts)]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embeddings([query])[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aget_text_embeddings([query]))[0]
