"""Fusion by hand, against numpy in float64, and whatever order the documents come in."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_core.errors import InputError
from m3_core.fusion import ReciprocalRank, WeightedSum, rank_order, top
from m3_core.types import Representation

DENSE, SPARSE, MULTI = Representation

SCORES = st.floats(-1, 2, allow_nan=False, width=32)
CHANNELS = st.dictionaries(
    st.sampled_from(list(Representation)), st.dictionaries(st.sampled_from("abcdefgh"), SCORES, max_size=8)
)
WEIGHTS = st.tuples(*[st.floats(0, 3, allow_nan=False)] * 3).filter(any)


def test_reciprocal_rank_by_hand() -> None:
    scores = {DENSE: {"a": 0.9, "b": 0.8, "c": 0.1}, SPARSE: {"c": 5.0, "b": 4.0}, MULTI: {"d": 0.2}}
    assert ReciprocalRank().fuse(scores) == pytest.approx(
        {"a": 1 / 61, "b": 1 / 62 + 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 61}
    )
    weighted = ReciprocalRank(k=0, dense=2, sparse=0.5, multi=0).fuse(scores)
    assert weighted == pytest.approx({"a": 2.0, "b": 1.0 + 0.25, "c": 2 / 3 + 0.5, "d": 0.0})


def test_reciprocal_rank_of_equal_scores_goes_by_id() -> None:
    assert ReciprocalRank(k=0).fuse({DENSE: {"b": 1.0, "a": 1.0}}) == {"a": 1.0, "b": 0.5}


def test_weighted_sum_by_hand() -> None:
    scores = {DENSE: {"a": 0.5, "b": 0.4}, SPARSE: {"b": 1.0, "c": 2.0}, MULTI: {"a": math.nan}}
    fused = WeightedSum(1.0, 0.3, 1.0).fuse(scores)
    assert fused == pytest.approx({"a": 0.5, "b": 0.4 + 0.3, "c": 0.6})
    assert top(fused, 2) == ["b", "c"]


@given(CHANNELS, WEIGHTS)
def test_weighted_sum_equals_numpy(
    scores: dict[Representation, dict[str, float]], weights: tuple[float, float, float]
) -> None:
    names = sorted({name for channel in scores.values() for name in channel})
    table = np.array(
        [[scores.get(kind, {}).get(name, 0.0) for name in names] for kind in Representation], dtype=np.float64
    )
    fused = WeightedSum(*weights).fuse(scores)
    assert sorted(fused) == names
    np.testing.assert_allclose([fused[name] for name in names], np.array(weights) @ table, rtol=0, atol=1e-12)


@given(CHANNELS, WEIGHTS, st.randoms(use_true_random=False))
def test_fusion_does_not_depend_on_the_order_of_documents(
    scores: dict[Representation, dict[str, float]], weights: tuple[float, float, float], random: object
) -> None:
    shuffle = random.shuffle  # type: ignore[attr-defined]

    def mixed(items: dict[object, object]) -> dict[object, object]:
        order = list(items.items())
        shuffle(order)
        return dict(order)

    other = mixed({kind: mixed(dict(channel)) for kind, channel in scores.items()})  # type: ignore[arg-type]
    for fusion in (WeightedSum(*weights), ReciprocalRank(60, *weights)):
        fused = fusion.fuse(scores)
        assert fusion.fuse(other) == fused  # type: ignore[arg-type]
        assert rank_order(fused) == rank_order(fusion.fuse(other))  # type: ignore[arg-type]


@given(st.dictionaries(st.text(max_size=3), SCORES), st.integers(1, 10))
def test_ranking_is_by_score_then_id(scores: dict[str, float], k: int) -> None:
    order = rank_order(scores)
    assert sorted(order) == sorted(scores)
    for better, worse in pairwise(order):
        assert scores[better] > scores[worse] or (scores[better] == scores[worse] and better < worse)
    assert top(scores, k) == order[:k]


@given(CHANNELS)
def test_reciprocal_rank_looks_at_ranks_alone(scores: dict[Representation, dict[str, float]]) -> None:
    # Halving is exact in binary, so equal scores stay equal and others keep their order.
    halved = {kind: {name: score / 2 for name, score in channel.items()} for kind, channel in scores.items()}
    assert ReciprocalRank().fuse(halved) == ReciprocalRank().fuse(scores)


def test_one_channel_alone() -> None:
    assert WeightedSum.only("sparse") == WeightedSum(0, 1, 0)
    assert WeightedSum.only(MULTI).fuse({DENSE: {"a": 9.0}, MULTI: {"a": 0.25}}) == {"a": 0.25}
    with pytest.raises(InputError, match="dense, sparse or multi, not 'lexical'"):
        WeightedSum.only("lexical")


def test_presets_are_the_papers() -> None:
    def of(fusion: WeightedSum) -> tuple[float, float, float]:
        return fusion.dense, fusion.sparse, fusion.multi

    assert of(WeightedSum()) == of(WeightedSum.passages()) == (1, 0.3, 1)
    assert of(WeightedSum.passages(multi=False)) == (1, 0.3, 0)
    assert of(WeightedSum.long_documents()) == (0.15, 0.5, 0.35)
    assert of(WeightedSum.long_documents(multi=False)) == (0.2, 0.8, 0)


@pytest.mark.parametrize("fusion", [WeightedSum(1, 0, 0.5), ReciprocalRank(60, 1, 0, 0.5)])
def test_channels_without_weight_are_not_needed(fusion: WeightedSum | ReciprocalRank) -> None:
    assert fusion.representations == {DENSE, MULTI}


@pytest.mark.parametrize("fusion", [WeightedSum, ReciprocalRank])
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"dense": -1.0}, "dense weight.*-1"),
        ({"sparse": math.nan}, "sparse weight.*nan"),
        ({"multi": math.inf}, "multi weight.*inf"),
        ({"dense": 0.0, "sparse": 0.0, "multi": 0.0}, "all fusion weights are 0"),
    ],
)
def test_bad_weights_are_refused(
    fusion: type[WeightedSum] | type[ReciprocalRank], weights: dict[str, float], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        fusion(**weights)


@pytest.mark.parametrize("k", [-1, math.nan, math.inf])
def test_bad_k_is_refused(k: float) -> None:
    with pytest.raises(InputError, match=str(k)):
        ReciprocalRank(k=k)
