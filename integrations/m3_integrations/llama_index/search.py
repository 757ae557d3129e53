"""A LlamaIndex query, searched in a store."""

from collections.abc import Sequence

import numpy as np
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from m3_core.checks import check_size
from m3_core.errors import InputError
from m3_core.filters import Filter, Where
from m3_core.fusion import Fusion, rank_order
from m3_core.retriever import CANDIDATES, Rescore, Retriever
from m3_core.store import Store
from m3_core.types import Hit, M3Vectors, Representation
from m3_integrations.llama_index.convert import REF_DOC_ID
from m3_integrations.llama_index.embedding import M3Embedding
from m3_integrations.llama_index.filters import both, to_filter
from m3_integrations.llama_index.queries import check_query, fusion_of, size_of, with_dense

_DENSE = Representation.DENSE


class QuerySearch:
    """The search behind `M3VectorStore.query`."""

    def __init__(
        self,
        embed_model: M3Embedding,
        store: Store,
        *,
        fusion: Fusion | None,
        candidates: int | None,
        rescore: Rescore,
    ) -> None:
        self.embed_model, self.store = embed_model, store
        self.candidates, self.rescore = candidates, rescore
        self.fusion = self._retriever(fusion, candidates).fusion

    def run(
        self,
        query: VectorStoreQuery,
        *,
        where: Where,
        fusion: Fusion | None,
        mmr_threshold: float | None,
        mmr_prefetch_k: int | None,
    ) -> Sequence[Hit]:
        """The hits, best first."""
        check_query(query)
        k = size_of(query)
        check_size(k, "the number of nodes wanted")
        documents = Filter.parse({REF_DOC_ID: {"$in": query.doc_ids}}) if query.doc_ids else None
        condition = both(Filter.parse(where), to_filter(query.filters), documents)
        # Every candidate is scored by all channels, so that more of them never make the hits worse.
        candidates = max(self.candidates or CANDIDATES, query.sparse_top_k or 0)
        search = self._retriever(fusion_of(query, fusion or self.fusion), candidates)
        if query.mode is not VectorStoreQueryMode.MMR:
            return self._found(search, query, self._vectors(query, search.fusion), k, condition)
        vectors = self._vectors(query, search.fusion, _DENSE)
        prefetch = max(k, mmr_prefetch_k or max(4 * k, 20))
        hits = self._found(search, query, vectors, prefetch, condition)
        return self._diverse(
            vectors, hits, k, query.mmr_threshold if mmr_threshold is None else mmr_threshold
        )

    def _retriever(self, fusion: Fusion | None, candidates: int | None) -> Retriever:
        encoder = self.embed_model.encoder
        return Retriever(encoder, self.store, fusion=fusion, candidates=candidates, rescore=self.rescore)

    def _vectors(self, query: VectorStoreQuery, fusion: Fusion, *others: Representation) -> M3Vectors:
        kinds = fusion.representations | set(others)
        if not query.query_str:
            return with_dense(M3Vectors(), query.query_embedding)
        if kinds <= self.embed_model.kept:
            vectors = self.embed_model.vectors([query.query_str], kinds)
        else:
            vectors = self.embed_model.encoder.encode_queries([query.query_str], representations=kinds)
        return with_dense(vectors, query.query_embedding) if _DENSE in kinds else vectors

    def _found(
        self, search: Retriever, query: VectorStoreQuery, vectors: M3Vectors, k: int, where: Filter | None
    ) -> Sequence[Hit]:
        if query.node_ids:
            return self._among(query.node_ids, search.fusion, vectors, k, where)
        return search.search(vectors, k, where=where)[0]

    def _among(
        self, ids: Sequence[str], fusion: Fusion, vectors: M3Vectors, k: int, where: Filter | None
    ) -> list[Hit]:
        """The best of the named documents, by exact scores of all of them."""
        documents = {
            record.id: record.document
            for record in self.store.get(list(dict.fromkeys(ids)))
            if record is not None and (where is None or where.matches(record.document.metadata))
        }
        names = list(documents)
        scores: dict[Representation, dict[str, float]] = {}
        for kind in fusion.representations:
            (values,) = self.store.score(vectors, kind, [names])
            found = values > 0 if kind is Representation.SPARSE else ~np.isnan(values)
            scores[kind] = {names[row]: float(values[row]) for row in np.flatnonzero(found)}
        fused = fusion.fuse(scores)
        return [Hit(documents[name], fused[name]) for name in rank_order(fused)[:k]]

    def _diverse(self, vectors: M3Vectors, hits: Sequence[Hit], k: int, threshold: float | None) -> list[Hit]:
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"mmr_threshold must be from 0 to 1, not {threshold}")
        records = self.store.get([hit.id for hit in hits], vectors=[_DENSE])
        rows = {
            record.id: record.vectors.dense[0].tolist()
            for record in records
            if record is not None and record.vectors is not None and record.vectors.dense is not None
        }
        assert vectors.dense is not None  # it was asked for
        scores, chosen = get_top_k_mmr_embeddings(
            vectors.dense[0].tolist(),
            list(rows.values()),
            similarity_top_k=k,
            embedding_ids=list(rows),
            mmr_threshold=threshold,
        )
        documents = {hit.id: hit.document for hit in hits}
        return [Hit(documents[name], score) for name, score in zip(chosen, scores, strict=True)]
