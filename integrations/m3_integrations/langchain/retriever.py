"""Hybrid search as a LangChain retriever."""

from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangChainDocument
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, SkipValidation, model_validator

from m3_core.encoder import M3Encoder
from m3_core.errors import InputError
from m3_core.filters import Filter, Where
from m3_core.fusion import Fusion
from m3_core.ingestion.templates import Encode
from m3_core.retriever import AsyncRetriever, Hits, Rescore, Retriever
from m3_core.store import Store
from m3_integrations.langchain.convert import to_langchain, where_of, with_scores

_OPTIONS = "k, fusion and where"
"""What `invoke` takes beside the query and the config."""


class M3Retriever(BaseRetriever):
    """The best documents of a store for a query, by any of the model's channels or several of them fused.

    ::

        retriever = M3Retriever(encoder=M3Encoder.load("BAAI/bge-m3"), store=open_store("qdrant://localhost:6333/pages"))
        retriever.invoke("how to insert a table", k=3, where={"lang": "en"})

    Documents carry their id, and in the metadata ``m3_score`` and ``m3_scores`` (by channel).

    k: documents to return. fusion: by default the paper's weights over the channels the store holds. where: a filter.
    These three may also be given to `invoke` and its like, where they take the place of these here
    (``where={}`` there means no filter; ``filter`` is understood too), and be made configurable with `configurable_fields`.
    candidates, rescore, group_by, encode: see `m3_core.Retriever`.

    Raises:
        pydantic.ValidationError: an option that cannot be used; the message says which.
        StoreError: the store does not fit the fusion, or holds another model's vectors.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """

    encoder: SkipValidation[M3Encoder]
    store: SkipValidation[Store]
    k: int = Field(default=4, ge=1)
    fusion: SkipValidation[Fusion | None] = None
    where: SkipValidation[Where] = None
    candidates: int | None = Field(default=None, ge=1)
    rescore: Rescore = "store"
    group_by: str | None = None
    encode: SkipValidation[Encode] = None

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Make a search that is not used, so that what does not fit is said now and not at the first query."""
        Filter.parse(self.where)
        Retriever(self.encoder, self.store, **self._settings(None))
        return self

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        fusion: Fusion | None = None,
        where: Where = None,
        **options: Any,
    ) -> list[LangChainDocument]:
        where = where_of(where, options, _OPTIONS)
        search = Retriever(self.encoder, self.store, **self._settings(fusion))
        return _documents(search.search(_text(query), self._k(k), where=self._where(where)))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        fusion: Fusion | None = None,
        where: Where = None,
        **options: Any,
    ) -> list[LangChainDocument]:
        where = where_of(where, options, _OPTIONS)
        search = AsyncRetriever(self.encoder, self.store, **self._settings(fusion))
        return _documents(await search.search(_text(query), self._k(k), where=self._where(where)))

    def _settings(self, fusion: Fusion | None) -> dict[str, Any]:
        return {
            "fusion": self.fusion if fusion is None else fusion,
            "candidates": self.candidates,
            "rescore": self.rescore,
            "group_by": self.group_by,
            "encode": self.encode,
        }

    def _k(self, k: int | None) -> int:
        return self.k if k is None else k

    def _where(self, where: Where) -> Where:
        return self.where if where is None else where


def _text(query: object) -> str:
    if not isinstance(query, str):
        raise InputError(
            f"a query is a string, not {type(query).__name__}: {query!r:.60}; of several fields of a chain's input "
            "hand over one: itemgetter('question') | retriever"
        )
    return query


def _documents(hits: Hits) -> list[LangChainDocument]:
    return [with_scores(to_langchain(hit.document), hit.score, hit.scores) for hit in hits]
