"""A store as a LangChain vector store."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from m3_core.checks import check_size
from m3_core.encoder import M3Encoder
from m3_core.errors import InputError
from m3_core.filters import Where
from m3_core.fusion import Fusion
from m3_core.memory import MemoryStore
from m3_core.retriever import Rescore, Retriever
from m3_core.store import Store
from m3_core.types import FloatArray, Hit, M3Vectors, Representation
from m3_integrations._options import refuse
from m3_integrations.langchain.convert import from_langchain, to_langchain, where_of
from m3_integrations.langchain.embeddings import M3Embeddings

_DENSE = Representation.DENSE


class M3VectorStore(VectorStore):
    """Any of our stores in the place of a LangChain vector store; searches are hybrid.

    ::

        store = open_store("qdrant://localhost:6333/pages", schema=encoder.schema())
        vector_store = M3VectorStore(encoder, store)
        vector_store.add_documents(documents)
        vector_store.as_retriever(search_kwargs={"k": 5, "where": {"lang": "en"}})

    Every search takes ``where`` (LangChain's own name for it, ``filter``, is understood too) and, if it is by text,
    ``fusion``. Documents come back as they were added; for scores in their metadata use `M3Retriever`.
    The methods whose names begin with "a" do the same in a worker thread.

    fusion: by default the paper's weights over the channels the store holds. candidates, rescore: see
    `m3_core.Retriever`.

    Raises:
        StoreError: the store does not fit the fusion, or holds another model's vectors.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """

    def __init__(
        self,
        encoder: M3Encoder,
        store: Store,
        *,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        rescore: Rescore = "store",
    ) -> None:
        self.encoder, self.store = encoder, store
        self._fusion, self._candidates, self._rescore = fusion, candidates, rescore
        self._retriever(None)
        self._embeddings = M3Embeddings(encoder)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        store: Store | None = None,
        **kwargs: Any,
    ) -> Self:
        """A vector store with these texts.

        embedding: an `M3Embeddings`, whose encoder is used. store: where they go, by default a new `MemoryStore`.
        kwargs: the other options of the constructor.

        Raises:
            InputError: the embedding is another one, or metadatas or ids differ in number from the texts.
        """
        if not isinstance(embedding, M3Embeddings):
            raise InputError(
                f"M3VectorStore takes M3Embeddings(encoder), which has all three representations, "
                f"not {type(embedding).__name__}"
            )
        encoder = embedding.encoder
        made = cls(encoder, MemoryStore(encoder.schema()) if store is None else store, **kwargs)
        made.add_texts(texts, metadatas, ids=ids)
        return made

    @property
    def embeddings(self) -> M3Embeddings:
        """The encoder as LangChain embeddings."""
        return self._embeddings

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts; see `add_documents`."""
        if isinstance(texts, str):
            raise InputError(f"texts are a list of strings; for one text write [{texts[:40]!r}]")
        texts, metadatas = list(texts), list(metadatas or ())
        if metadatas and len(metadatas) != len(texts):
            raise InputError(f"{len(texts)} texts came with {len(metadatas)} metadatas")
        each = zip(texts, metadatas or [{} for _ in texts], strict=True)
        documents = [LangChainDocument(page_content=text, metadata=metadata) for text, metadata in each]
        return self.add_documents(documents, ids=ids, **kwargs)

    def add_documents(
        self,
        documents: Iterable[LangChainDocument],
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = 256,
        **kwargs: Any,
    ) -> list[str]:
        """Encode documents and write them; what an id held before is replaced. Returns the ids.

        ids: by default the documents' own; a document without one gets a UUID. batch_size: documents that are
        encoded before they are written, at most.

        Raises:
            InputError: ids and documents differ in number, or a document cannot be stored; nothing is written.
        """
        refuse(kwargs, "ids and batch_size")
        ours = from_langchain(documents, ids)
        held = self.store.capabilities.representations
        texts = (document.text for document in ours)
        done = 0
        for vectors in self.encoder.iter_documents(texts, representations=held, look_ahead=batch_size):
            self.store.upsert(ours[done : done + len(vectors)], vectors)
            done += len(vectors)
        return [document.id for document in ours]

    def delete(self, ids: list[str] | None = None, *, where: Where = None, **kwargs: Any) -> bool:
        """Delete the named documents and those the filter matches; ``where={}`` matches all.

        Raises:
            InputError: neither is given; that it would mean everything is too easy to get wrong.
        """
        where = where_of(where, kwargs, "ids and where")
        if ids is None and where is None:
            raise InputError("delete takes ids or where; to delete all documents, write delete(where={})")
        self.store.delete(ids or (), where=where)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """The named documents in the order asked, without those that are not there."""
        return [to_langchain(record.document) for record in self.store.get(ids) if record is not None]

    def similarity_search(
        self, query: str, k: int = 4, *, where: Where = None, fusion: Fusion | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """The best k documents by the fusion."""
        return [to_langchain(hit.document) for hit in self._search(query, k, where, fusion, kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, where: Where = None, fusion: Fusion | None = None, **kwargs: Any
    ) -> list[tuple[LangChainDocument, float]]:
        """The best k documents with their fused scores; more is better."""
        hits = self._search(query, k, where, fusion, kwargs)
        return [(to_langchain(hit.document), hit.score) for hit in hits]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, where: Where = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        """The k documents whose dense vectors have the largest inner products with this one of d numbers.

        Raises:
            Unsupported: the store holds no dense vectors. DimensionMismatch: the vector has not d numbers.
        """
        return [to_langchain(hit.document) for hit in self._nearest(embedding, k, where, kwargs)]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        where: Where = None,
        fusion: Fusion | None = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """k documents that are relevant and differ: chosen from the best ``fetch_k`` by the fusion.

        Relevance and likeness are both cosines of dense vectors. lambda_mult: 1 looks at relevance alone,
        0 at difference alone.
        """
        where = where_of(where, kwargs, "k, fetch_k, lambda_mult, where and fusion")
        _check_choice(k, fetch_k, lambda_mult)
        retriever = self._retriever(fusion)
        kinds = retriever.fusion.representations | {_DENSE}
        vectors = self.encoder.encode_queries([query], representations=kinds)
        assert vectors.dense is not None  # it was asked for
        (hits,) = retriever.search(vectors, max(k, fetch_k), where=where)
        return self._diverse(vectors.dense[0], hits, k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        where: Where = None,
        **kwargs: Any,
    ) -> list[LangChainDocument]:
        """The same for a dense vector, chosen from the ``fetch_k`` nearest documents."""
        _check_choice(k, fetch_k, lambda_mult)
        hits = self._nearest(embedding, max(k, fetch_k), where, kwargs)
        return self._diverse(embedding, hits, k, lambda_mult)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[LangChainDocument, float]]:
        """Relevance in [0, 1] of a search by the dense channel alone: ``(1 + cosine) / 2``.

        Raises:
            InputError: the fusion weighs another channel.
        """
        fusion = self._retriever(kwargs.get("fusion")).fusion
        if fusion.representations != {_DENSE}:
            raise InputError(
                f"there are no relevance scores in [0, 1] for {fusion}: sums with lexical weights have no upper "
                "bound, and a place in a ranking says nothing about relevance. Search by the dense channel alone "
                "(fusion=WeightedSum(1, 0, 0)), or take similarity_search_with_score"
            )
        hits = self._search(query, k, kwargs.pop("where", None), kwargs.pop("fusion", None), kwargs)
        # Rounding may leave a cosine a little outside of [-1, 1].
        return [
            (to_langchain(hit.document), min(max((1.0 + hit.scores[_DENSE]) / 2.0, 0.0), 1.0)) for hit in hits
        ]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[LangChainDocument, float]]:
        return await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **kwargs)

    def _retriever(self, fusion: Fusion | None) -> Retriever:
        return Retriever(
            self.encoder,
            self.store,
            fusion=self._fusion if fusion is None else fusion,
            candidates=self._candidates,
            rescore=self._rescore,
        )

    def _search(
        self, query: str, k: int, where: Where, fusion: Fusion | None, options: dict[str, Any]
    ) -> Sequence[Hit]:
        where = where_of(where, options, "k, where and fusion")
        return self._retriever(fusion).search(query, k, where=where)

    def _nearest(
        self, embedding: Sequence[float], k: int, where: Where, options: dict[str, Any]
    ) -> Sequence[Hit]:
        where = where_of(where, options, "k and where")
        vectors = M3Vectors(dense=_row(embedding))
        return self.store.search(vectors, {_DENSE: k}, where=where)[_DENSE][0]

    def _diverse(
        self, query: Sequence[float] | FloatArray, hits: Sequence[Hit], k: int, lambda_mult: float
    ) -> list[LangChainDocument]:
        records = self.store.get([hit.id for hit in hits], vectors=[_DENSE])
        found: list[tuple[Hit, FloatArray]] = [
            (hit, record.vectors.dense[0])
            for hit, record in zip(hits, records, strict=True)
            if record is not None and record.vectors is not None and record.vectors.dense is not None
        ]
        rows = [vector.tolist() for _, vector in found]
        chosen = maximal_marginal_relevance(_row(query)[0], rows, lambda_mult, k)
        return [to_langchain(found[row][0].document) for row in chosen]


def _row(embedding: Sequence[float] | FloatArray) -> FloatArray:
    """One embedding of d numbers as (1, d)."""
    try:
        row = np.asarray(embedding, dtype=np.float32)
    except (TypeError, ValueError):
        row = np.empty(0, np.float32)
    if row.ndim != 1 or not len(row):
        raise InputError(f"an embedding is a list of numbers, not {embedding!r:.60}")
    return row.reshape(1, -1)


def _check_choice(k: int, fetch_k: int, lambda_mult: float) -> None:
    check_size(k, "k")
    check_size(fetch_k, "fetch_k")
    if not 0 <= lambda_mult <= 1:
        raise InputError(f"lambda_mult must be a number from 0 to 1, not {lambda_mult}")
