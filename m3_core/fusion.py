"""Fusion of the channels' results into one ranking: reciprocal rank, and the weighted sum of raw scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from m3_core.errors import InputError
from m3_core.scoring import Weights, m3_score
from m3_core.types import Representation

ChannelScores: TypeAlias = Mapping[Representation, Mapping[str, float]]
"""Per channel, document id -> score."""


def rank_order(scores: Mapping[str, float]) -> list[str]:
    """Ids by descending score; equal scores order by id.

    >>> rank_order({"b": 1.0, "a": 1.0, "c": 2.0})
    ['c', 'a', 'b']
    """
    return sorted(scores, key=lambda name: (-scores[name], name))


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise InputError(f"the {name} weight must be a number of at least 0, not {weight}")
    if not any(weights.values()):
        raise InputError("all fusion weights are 0; give at least one channel a weight above 0")


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """``dense·s_dense + sparse·s_sparse + multi·s_multi`` of the raw scores (arXiv 2402.03216, equation 5).

    Exact over the candidates: a document found by any channel is scored by all of them. Defaults are the
    paper's weights for passages (appendix C.1); 0 leaves a channel out.
    """

    dense: float = 1.0
    sparse: float = 0.3
    multi: float = 1.0
    needs_all_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_weights({"dense": self.dense, "sparse": self.sparse, "multi": self.multi})

    @staticmethod
    def passages(*, multi: bool = True) -> "WeightedSum":
        """The paper's weights for passages: 1, 0.3, 1; without multi-vectors 1, 0.3."""
        return WeightedSum(1.0, 0.3, 1.0 if multi else 0.0)

    @staticmethod
    def only(representation: Representation | str) -> "WeightedSum":
        """One channel alone, with its raw scores: ``WeightedSum.only("sparse")``.

        Raises:
            InputError: there is no such channel.
        """
        try:
            kind = Representation(representation)
        except ValueError:
            raise InputError(f"a channel is dense, sparse or multi, not {representation!r}") from None
        return WeightedSum(**{other.value: float(other is kind) for other in Representation})

    @staticmethod
    def long_documents(*, multi: bool = True) -> "WeightedSum":
        """The paper's weights for long documents: 0.15, 0.5, 0.35; without multi-vectors 0.2, 0.8."""
        return WeightedSum(0.15, 0.5, 0.35) if multi else WeightedSum(0.2, 0.8, 0.0)

    @property
    def weights(self) -> Weights:
        """The weights, as scoring takes them."""
        return Weights(self.dense, self.sparse, self.multi)

    @property
    def representations(self) -> frozenset[Representation]:
        """The channels with a weight."""
        return frozenset(kind for kind in Representation if self.weights.of(kind))

    def fuse(self, scores: ChannelScores) -> dict[str, float]:
        """Document id -> fused score. A document that a channel does not score counts 0 there.

        >>> WeightedSum(1.0, 0.5, 0.0).fuse({Representation.DENSE: {"a": 0.5}, Representation.SPARSE: {"a": 0.25}})
        {'a': 0.625}
        """
        weights = self.weights
        ids = {name for channel in scores.values() for name in channel}
        return {
            name: m3_score({kind: channel.get(name, 0.0) for kind, channel in scores.items()}, weights)
            for name in ids
        }


@dataclass(frozen=True, slots=True)
class ReciprocalRank:
    """``Σ_channels weight / (k + rank)``, rank from 1 (Cormack, Clarke, Büttcher 2009; they use k = 60)."""

    k: float = 60.0
    dense: float = 1.0
    sparse: float = 1.0
    multi: float = 1.0
    needs_all_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.k) or self.k < 0:
            raise InputError(f"k must be a number of at least 0, not {self.k}")
        _check_weights({"dense": self.dense, "sparse": self.sparse, "multi": self.multi})

    @property
    def weights(self) -> Weights:
        """The weights, by channel."""
        return Weights(self.dense, self.sparse, self.multi)

    @property
    def representations(self) -> frozenset[Representation]:
        """The channels with a weight."""
        return frozenset(kind for kind in Representation if self.weights.of(kind))

    def fuse(self, scores: ChannelScores) -> dict[str, float]:
        """Document id -> fused score, from each channel's own ranking.

        >>> ReciprocalRank(k=1).fuse({Representation.DENSE: {"a": 9.0, "b": 1.0}, Representation.SPARSE: {"b": 2.0}})
        {'a': 0.5, 'b': 0.8333333333333333}
        """
        fused: dict[str, float] = {}
        for kind in Representation:
            weight = self.weights.of(kind)
            for rank, name in enumerate(rank_order(scores.get(kind, {})), start=1):
                fused[name] = fused.get(name, 0.0) + weight / (self.k + rank)
        return fused


Fusion: TypeAlias = WeightedSum | ReciprocalRank


def top(scores: Mapping[str, float], k: int) -> Sequence[str]:
    """The k best ids, best first, ties by id."""
    return rank_order(scores)[:k]
