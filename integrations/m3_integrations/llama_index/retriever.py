"""Hybrid search as a LlamaIndex retriever."""

import asyncio
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters

from m3_core.checks import check_size
from m3_core.encoder import M3Encoder
from m3_core.filters import Where
from m3_core.fusion import Fusion
from m3_core.ingestion.templates import Encode
from m3_core.retriever import AsyncRetriever, Rescore, Retriever
from m3_core.store import Store
from m3_core.types import M3Vectors, Representation
from m3_integrations.llama_index.filters import to_filter
from m3_integrations.llama_index.queries import with_dense
from m3_integrations.llama_index.scored import from_hits


class M3Retriever(BaseRetriever):
    """The best nodes of a store for a query, by any of the model's channels or several of them fused.

    ::

        store = open_store("qdrant://localhost:6333/pages")
        retriever = M3Retriever(M3Encoder.load("BAAI/bge-m3"), store, similarity_top_k=5)
        RetrieverQueryEngine.from_args(retriever).query("how to insert a table")

    Takes collections that `M3VectorStore` or anything else of this library has written. The nodes are
    `M3NodeWithScore`, with the score per channel.

    filters: LlamaIndex's or ours. fusion: by default the paper's weights over the channels the store holds.
    candidates, rescore, group_by, encode: see `m3_core.Retriever`. options: those of `BaseRetriever`.
    A query that comes with other texts to embed, or with an embedding, has its dense vector from these.

    Raises:
        InputError: an option that cannot be used.
        StoreError: the store does not fit the fusion, or holds another model's vectors.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """

    def __init__(
        self,
        encoder: M3Encoder,
        store: Store,
        *,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: MetadataFilters | Where = None,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        rescore: Rescore = "store",
        group_by: str | None = None,
        encode: Encode = None,
        **options: Any,
    ) -> None:
        check_size(similarity_top_k, "similarity_top_k")
        self._k, self._where = similarity_top_k, to_filter(filters)
        settings: dict[str, Any] = {
            "fusion": fusion,
            "candidates": candidates,
            "rescore": rescore,
            "group_by": group_by,
            "encode": encode,
        }
        self._search = Retriever(encoder, store, **settings)
        self._asearch = AsyncRetriever(encoder, store, **settings)
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        (hits,) = self._search.search(self._vectors(query_bundle), self._k, where=self._where)
        return list(from_hits(hits))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vectors = await asyncio.to_thread(self._vectors, query_bundle)
        (hits,) = await self._asearch.search(vectors, self._k, where=self._where)
        return list(from_hits(hits))

    def _vectors(self, query: QueryBundle) -> M3Vectors:
        encoder, kinds = self._search.encoder, self._search.fusion.representations
        vectors = encoder.encode_queries([query.query_str], representations=kinds)
        if Representation.DENSE not in kinds:
            return vectors
        embedding = query.embedding
        if embedding is None and query.custom_embedding_strs:
            others = encoder.encode_queries(
                query.custom_embedding_strs, representations=[Representation.DENSE]
            )
            assert others.dense is not None  # it was asked for
            embedding = others.dense.mean(axis=0).tolist()
        return with_dense(vectors, embedding)
