"""Found nodes with the score per channel."""

from collections.abc import Iterable, Mapping

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, NodeWithScore

from m3_core.retriever import Hits
from m3_core.types import Representation
from m3_integrations.llama_index.convert import to_node


class M3NodeWithScore(NodeWithScore):
    """A node with the score it was ranked by, and ``scores``, those of the channels: ``{"dense": 0.71, ...}``.

    They are no metadata of the node, because metadata goes into prompts and into the hash by which LlamaIndex
    knows equal nodes of several retrievers.
    """

    scores: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def class_name(cls) -> str:
        return "M3NodeWithScore"


def scored(node: BaseNode, score: float, scores: Mapping[Representation, float]) -> M3NodeWithScore:
    """The node with its scores."""
    by_channel = {kind.value: float(value) for kind, value in scores.items()}
    return M3NodeWithScore(node=node, score=float(score), scores=by_channel)


def from_hits(hits: Hits) -> "Iterable[NodeWithScore]":
    """The nodes of hits, in their order."""
    return (scored(to_node(hit.document), hit.score, hit.scores) for hit in hits)
