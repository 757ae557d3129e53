"""Reranking by the M3 score."""

from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from m3_core.encoder import M3Encoder
from m3_core.errors import InputError
from m3_core.fusion import WeightedSum
from m3_integrations._rerank import check_reranking, rerank
from m3_integrations.llama_index.convert import encoded_text
from m3_integrations.llama_index.scored import scored


class M3Rerank(BaseNodePostprocessor):
    """Orders nodes, wherever they come from, by their M3 score against the query, best first.

    Their texts (under their metadata, as LlamaIndex embeds them) are encoded when they are compared. What comes
    back are `M3NodeWithScore`; those that went in keep their scores. Equal scores keep the order they came in.

    fusion: the weights of the channels, by default the paper's for passages. top_n: how many are returned,
    None for all.

    Raises:
        InputError: another fusion than a weighted sum.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """

    top_n: int | None = Field(default=None, ge=1)
    _encoder: M3Encoder = PrivateAttr()
    _fusion: WeightedSum = PrivateAttr()

    def __init__(
        self,
        encoder: M3Encoder,
        *,
        fusion: WeightedSum | None = None,
        top_n: int | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        fusion = WeightedSum.passages() if fusion is None else fusion
        check_reranking(encoder, fusion)
        super().__init__(top_n=top_n, callback_manager=callback_manager or CallbackManager([]))  # type: ignore[call-arg]
        self._encoder, self._fusion = encoder, fusion

    @classmethod
    def class_name(cls) -> str:
        return "M3Rerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("M3Rerank compares nodes with a query; give query_bundle or query_str")
        if not nodes:
            return []
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: f"m3-{self._encoder.fingerprint}",
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            texts = [encoded_text(item.node) for item in nodes]
            ranked = rerank(self._encoder, self._fusion, query_bundle.query_str, texts, self.top_n)
            found: list[NodeWithScore] = [
                scored(nodes[row].node, score, scores) for row, score, scores in ranked
            ]
            event.on_end(payload={EventPayload.NODES: found})
        return found
