"""A store as a LlamaIndex vector store."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from m3_core.errors import InputError
from m3_core.filters import Filter, Where
from m3_core.fusion import Fusion
from m3_core.retriever import Rescore
from m3_core.store import Store
from m3_core.types import Document, FloatArray, Representation
from m3_integrations._options import refuse
from m3_integrations.llama_index.convert import REF_DOC_ID, encoded_text, to_document, to_node
from m3_integrations.llama_index.embedding import M3Embedding
from m3_integrations.llama_index.filters import to_filter
from m3_integrations.llama_index.search import QuerySearch

_BLOCK = 256
"""Nodes that are written at a time."""
_SAME = 0.99
"""Cosine of two embeddings that one model made of one text, in whatever precision."""


class M3VectorStore(BasePydanticVectorStore):
    """Any of our stores under a `VectorStoreIndex`; searches are hybrid.

    ::

        embed_model = M3Embedding(M3Encoder.load("BAAI/bge-m3"))
        store = open_store("qdrant://localhost:6333/pages", schema=embed_model.encoder.schema())
        vector_store = M3VectorStore(embed_model, store)
        index = VectorStoreIndex.from_documents(
            documents,
            storage_context=StorageContext.from_defaults(vector_store=vector_store),
            embed_model=embed_model,
        )

    The index embeds nodes and queries itself; because both have the same ``embed_model``, each passes through the
    model once. With multi-vectors the nodes of one ``insert_batch_size`` of the index (2048) take much memory on
    the way: what is beyond the ``max_bytes`` of the embedding is encoded twice, so make the batches smaller.

    The query mode ``default`` is the fusion given here, by default the paper's weights over the channels the store
    holds; the modes ``hybrid`` (with alpha), ``sparse`` and ``mmr`` are there too. A search that names node ids
    scores exactly these. ``rescore="encode"`` encodes a node's text without its metadata.
    candidates, rescore: see `m3_core.Retriever`. The methods whose names begin with "a" do the same in a worker thread.

    Raises:
        StoreError: the store does not fit the fusion, or holds another model's vectors.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """

    stores_text: bool = True
    _embed_model: M3Embedding = PrivateAttr()
    _store: Store = PrivateAttr()
    _search: QuerySearch = PrivateAttr()
    _encoded: frozenset[Representation] = PrivateAttr()

    def __init__(
        self,
        embed_model: M3Embedding,
        store: Store,
        *,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        rescore: Rescore = "store",
    ) -> None:
        if not isinstance(embed_model, M3Embedding):
            raise InputError(f"the embed_model is an M3Embedding(encoder), not {embed_model!r}")
        super().__init__(stores_text=True)
        self._embed_model, self._store = embed_model, store
        self._search = QuerySearch(embed_model, store, fusion=fusion, candidates=candidates, rescore=rescore)
        self._encoded = store.capabilities.representations | {Representation.DENSE}
        embed_model.keep(self._encoded)

    @classmethod
    def class_name(cls) -> str:
        return "M3VectorStore"

    @property
    def client(self) -> Store:
        """The store."""
        return self._store

    @property
    def embed_model(self) -> M3Embedding:
        """What the index must embed with."""
        return self._embed_model

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes; what an id held before is replaced. Returns the ids. Nodes need no embedding.

        Raises:
            InputError: a node that cannot be stored, or with an embedding of another model or text; named.
        """
        refuse(kwargs, "no options")
        nodes = list(nodes)
        documents = [to_document(node) for node in nodes]
        last = {document.id: row for row, document in enumerate(documents)}
        rows = list(last.values())
        # The last first: a cache that was too small for all of them still holds these.
        for start in reversed(range(0, len(rows), _BLOCK)):
            block = rows[start : start + _BLOCK]
            texts = [encoded_text(nodes[row]) for row in block]
            vectors = self._embed_model.vectors(texts, self._encoded)
            assert vectors.dense is not None  # it was asked for
            _check_embeddings([nodes[row] for row in block], vectors.dense)
            self._store.upsert([documents[row] for row in block], vectors)
            self._embed_model.release(texts)
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes that come from this document."""
        refuse(delete_kwargs, "no options")
        if not isinstance(ref_doc_id, str):
            raise InputError(f"ref_doc_id is the id of a document, a string, not {ref_doc_id!r}")
        self._store.delete(where={REF_DOC_ID: ref_doc_id})

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | Where = None
    ) -> list[BaseNode]:
        """The named nodes, in the order named, without those that are not there or do not match the filters.

        Without ids all that match; without either, all there are.
        """
        return [to_node(document) for document in self._documents(node_ids, to_filter(filters))]

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | Where = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete the named nodes, those that match the filters, or with both those of the named that match.

        Raises:
            InputError: there are neither ids nor conditions; that would be all nodes, for which there is `clear`.
        """
        refuse(delete_kwargs, "node_ids and filters")
        condition = to_filter(filters)
        if node_ids is not None and condition is not None:
            node_ids = [document.id for document in self._documents(node_ids, condition)]
        if node_ids is not None:
            self._store.delete(node_ids)
        elif condition is not None:
            self._store.delete(where=condition)
        else:
            raise InputError("delete_nodes takes node_ids or filters; to delete all nodes, call clear()")

    def clear(self) -> None:
        """Delete all nodes; the collection stays."""
        self._store.delete(where={})

    def query(
        self,
        query: VectorStoreQuery,
        *,
        where: Where = None,
        fusion: Fusion | None = None,
        mmr_threshold: float | None = None,
        mmr_prefetch_k: int | None = None,
        **kwargs: Any,
    ) -> VectorStoreQueryResult:
        """The best nodes with their scores; more is better.

        where: a filter of ours, beside those of the query. fusion: in the place of the constructor's.
        mmr_threshold: 1 looks at relevance alone, 0 at difference alone; mmr_prefetch_k: how many of the best by
        the fusion are looked at (by default 4 for each node wanted, at least 20). A retriever of the index hands
        these on from its ``vector_store_kwargs``.

        Raises:
            Unsupported: a query mode that is not known here. InputError: neither text nor embedding.
        """
        refuse(kwargs, "where, fusion, mmr_threshold and mmr_prefetch_k")
        hits = self._search.run(
            query, where=where, fusion=fusion, mmr_threshold=mmr_threshold, mmr_prefetch_k=mmr_prefetch_k
        )
        return VectorStoreQueryResult(
            nodes=[to_node(hit.document) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | Where = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | Where = None,
        **delete_kwargs: Any,
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _documents(self, node_ids: list[str] | None, condition: Filter | None) -> list[Document]:
        if node_ids is None:
            return self._scan(condition)
        found = [record.document for record in self._store.get(node_ids) if record is not None]
        return [each for each in found if condition is None or condition.matches(each.metadata)]

    def _scan(self, condition: Filter | None) -> list[Document]:
        page = self._store.scan(where=condition)
        found = [record.document for record in page.records]
        while page.cursor is not None:
            page = self._store.scan(where=condition, cursor=page.cursor)
            found += [record.document for record in page.records]
        return found


def _check_embeddings(nodes: Sequence[BaseNode], dense: FloatArray) -> None:
    for node, own in zip(nodes, dense, strict=True):
        given = None if node.embedding is None else np.asarray(node.embedding, dtype=np.float32)
        if given is not None and (
            given.shape != own.shape or float(given @ own) < _SAME * float(np.linalg.norm(given))
        ):
            raise InputError(
                f"the embedding of node {node.node_id!r} is not what the store's model makes of the node's text. "
                "Give the index or pipeline the embed_model of the vector store, or add the node without an embedding"
            )
