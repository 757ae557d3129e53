"""The scores of the paper, by hand and against loops in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from m3_core.errors import InputError
from m3_core.scoring import Weights, channel_scores, dense_scores, lexical_scores, m3_score, maxsim_scores
from m3_core.types import FloatArray, M3Vectors, Ragged, Representation

DENSE, SPARSE, MULTI = Representation


def chance(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows(seed: int, lengths: list[int], dimension: int = 5) -> list[FloatArray]:
    generator = chance(seed)
    return [generator.standard_normal((length, dimension)).astype(np.float32) for length in lengths]


def maxsim(query: FloatArray, passage: FloatArray) -> float:
    """The formula word for word, in Python's floats."""
    if not len(passage) or not len(query):
        return math.nan
    best = [max(sum(float(a) * float(b) for a, b in zip(q, p, strict=True)) for p in passage) for q in query]
    return sum(best) / len(best)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 4), max_size=6), st.integers(0, 4))
def test_maxsim_is_the_mean_of_best_matches(seed: int, lengths: list[int], length: int) -> None:
    passages = rows(seed, lengths)
    query = rows(seed + 1, [length])[0]
    found = maxsim_scores(query, Ragged.from_rows(passages, dimension=5))
    np.testing.assert_allclose(found, [maxsim(query, passage) for passage in passages], rtol=0, atol=1e-5)


def test_maxsim_by_hand() -> None:
    query = np.array([[1, 0], [0, 1], [0.6, 0.8]])
    passages = [np.array([[0.6, 0.8], [0, -1]]), np.zeros((0, 2)), np.array([[-1.0, 0]])]
    found = maxsim_scores(query, Ragged(np.concatenate(passages), np.array([0, 2, 2, 3])))
    # (0.6 + 0.8 + 1.0) / 3; no vectors; (-1 + 0 - 0.6) / 3
    np.testing.assert_allclose(found, [0.8, math.nan, -1.6 / 3])


@pytest.mark.parametrize("empty", ["first", "last", "all"])
def test_maxsim_with_passages_without_vectors_at_the_edges(empty: str) -> None:
    one = np.ones((1, 2), np.float32)
    none = np.zeros((0, 2), np.float32)
    passages = {"first": [none, one], "last": [one, none, none], "all": [none, none]}[empty]
    found = maxsim_scores(one, Ragged.from_rows(passages, dimension=2))
    assert [None if math.isnan(score) else score for score in found.tolist()] == [
        2.0 if len(passage) else None for passage in passages
    ]


@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
def test_lexical_score_is_the_sum_over_shared_tokens(seed: int, n: int) -> None:
    generator = chance(seed)
    weights = np.where(generator.random((n + 1, 9)) < 0.4, generator.random((n + 1, 9)), 0)
    found = lexical_scores(csr_array(weights[:1]), csr_array(weights[1:].reshape(n, 9)))
    expected = [sum(weights[0, token] * passage[token] for token in range(9)) for passage in weights[1:]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_dense_score_by_hand() -> None:
    passages = np.array([[0.6, 0.8], [0.8, -0.6], [-0.6, -0.8]])
    np.testing.assert_allclose(dense_scores(np.array([0.6, 0.8]), passages), [1, 0, -1], atol=1e-15)


def test_m3_score_by_hand() -> None:
    scores = {DENSE: 0.5, SPARSE: 0.25, MULTI: 0.75}
    assert m3_score(scores, Weights()) == pytest.approx(0.5 + 0.3 * 0.25 + 0.75)
    assert m3_score(scores, Weights(0.15, 0.5, 0.35)) == pytest.approx(0.075 + 0.125 + 0.2625)
    assert m3_score({SPARSE: 0.25}, Weights()) == pytest.approx(0.075)
    assert m3_score({DENSE: 0.5, MULTI: math.nan}, Weights()) == 0.5
    assert m3_score({DENSE: 0.5, MULTI: 9.0}, Weights(multi=0)) == 0.5
    assert m3_score({}, Weights()) == 0


def test_channel_scores_of_each_channel() -> None:
    generator = chance(1)
    dense = generator.standard_normal((3, 4)).astype(np.float32)
    sparse = csr_array(generator.random((3, 6)).astype(np.float32))
    multi = Ragged.from_rows(rows(2, [1, 3, 0]), dimension=5)
    held = M3Vectors(dense, sparse, multi)
    found = {kind: channel_scores(held, 1, held, kind) for kind in Representation}
    np.testing.assert_allclose(found[DENSE], dense @ dense[1], rtol=1e-6)
    np.testing.assert_allclose(found[SPARSE], sparse.toarray() @ sparse.toarray()[1], rtol=1e-6)
    np.testing.assert_allclose(found[MULTI], [maxsim(multi[1], row) for row in multi], rtol=1e-5)
    assert {scores.dtype for scores in found.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("kind", list(Representation))
def test_channel_scores_need_the_channel_on_both_sides(kind: Representation) -> None:
    held = M3Vectors(
        np.ones((1, 2), np.float32),
        csr_array(np.ones((1, 2), np.float32)),
        Ragged.from_rows([np.ones((1, 2), np.float32)], dimension=2),
    )
    without = held.only(set(Representation) - {kind})
    for queries, passages in ((held, without), (without, held)):
        with pytest.raises(InputError, match=kind.value):
            channel_scores(queries, 0, passages, kind)
