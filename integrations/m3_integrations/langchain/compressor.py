"""Reranking by the M3 score."""

from collections.abc import Sequence
from typing import Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.documents import Document as LangChainDocument
from pydantic import ConfigDict, Field, SkipValidation, model_validator

from m3_core.encoder import M3Encoder
from m3_core.fusion import WeightedSum
from m3_integrations._rerank import check_reranking, rerank
from m3_integrations.langchain.convert import with_scores


class M3Compressor(BaseDocumentCompressor):
    """Orders documents, wherever they come from, by their M3 score against the query, best first.

    The texts are encoded when they are compared. Documents are copied, and carry ``m3_score`` and ``m3_scores``
    (by channel) in their metadata. Equal scores keep the order they came in.

    fusion: the weights of the channels, by default the paper's for passages. top_n: how many are returned,
    None for all.

    Raises:
        pydantic.ValidationError: an option that cannot be used, another fusion than a weighted sum among them.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """

    encoder: SkipValidation[M3Encoder]
    fusion: SkipValidation[WeightedSum] = WeightedSum()
    top_n: int | None = Field(default=None, ge=1)

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_reranking(self.encoder, self.fusion)
        return self

    def compress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> list[LangChainDocument]:
        """The documents in the order of their scores, at most ``top_n``.

        Raises:
            InputError: the query is not a string.
        """
        documents = list(documents)
        texts = [document.page_content for document in documents]
        ranked = rerank(self.encoder, self.fusion, query, texts, self.top_n)
        return [with_scores(documents[row], score, scores) for row, score, scores in ranked]
