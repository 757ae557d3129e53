"""Dense, token weights, multi-vectors and scores against FlagEmbedding, the reference implementation."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3_core.encoder import M3Encoder
from m3_core.folder import BUNDLED
from m3_core.scoring import Weights
from m3_core.types import M3Vectors, Representation

MODELS = ("bert", "xlmr", "bundled")
MORE = (
    "தமிழ் உலகின் பழமையான மொழிகளில் ஒன்று.",
    "თბილისი საქართველოს დედაქალაქია.",
    "Երևանը Հայաստանի մայրաքաղաքն է։",
    "ঢাকা বাংলাদেশের রাজধানী ও বৃহত্তম শহর।",
    "  UPPER lower Ünïcödé naïve café № ﬁ ½ — “quotes” … 12,345.67 € 🙂👩‍👩‍👧 \t\n",
    "def f(x): return {'a': x[0] ** 2}  # <b>&amp;</b> https://example.org/?q=1&r=%20",
)
"""Four more scripts, and what is no sentence."""
TOLERANCE = 1e-5


@cache
def pair(folder: Path) -> tuple[M3Encoder, Any]:
    """Our encoder and FlagEmbedding's on the same folder."""
    from FlagEmbedding import BGEM3FlagModel

    encoder = M3Encoder.load(folder, device="cpu")
    head = encoder.model.colbert_linear
    assert head is not None
    reference = BGEM3FlagModel(str(folder), use_fp16=False, devices=["cpu"], colbert_dim=head.out_features)
    return encoder, reference


@pytest.fixture(params=MODELS)
def models(request: pytest.FixtureRequest, bert_folder: Path, xlmr_folder: Path) -> tuple[M3Encoder, Any]:
    folder = {"bert": bert_folder, "xlmr": xlmr_folder, "bundled": BUNDLED / "m3-tiny"}[request.param]
    if not (folder / "config.json").is_file():
        pytest.skip("the bundled model is not in this checkout")
    return pair(folder)


def mixed(
    texts: tuple[str, ...], count: int, longest: int, size: Callable[[str], int], seed: int
) -> list[str]:
    """Texts of 1 to ``longest`` tokens, their lengths evenly spread on a logarithmic scale, of mixed sentences."""
    rng = np.random.default_rng(seed)
    sources = [*texts, *MORE]
    made = []
    for target in np.geomspace(1, longest, count):
        words: list[str] = []
        total = 0
        while total < target:
            sentence = sources[rng.integers(len(sources))].split()
            start = rng.integers(len(sentence))
            piece = sentence[start : start + 1 + rng.integers(8)]
            words += piece
            total += size(" ".join(piece))
        made.append(" ".join(words) if target > 2 else words[0])
    order = rng.permutation(count)
    return [made[row] for row in order]


def reference_encode(reference: Any, texts: list[str]) -> dict[str, Any]:
    output: dict[str, Any] = reference.encode(
        texts,
        batch_size=1,
        max_length=8192,
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )
    return output


def largest_differences(reference: dict[str, Any], found: M3Vectors) -> dict[str, float]:
    assert found.dense is not None
    assert found.multi is not None
    sparse = multi = 0.0
    for row in range(len(found)):
        ids, weights = found.sparse_row(row)
        ours = dict(zip(ids.tolist(), weights.tolist(), strict=True))
        theirs = {int(token): float(weight) for token, weight in reference["lexical_weights"][row].items()}
        for token in ours.keys() | theirs.keys():
            sparse = max(sparse, abs(ours.get(token, 0.0) - theirs.get(token, 0.0)))
        assert found.multi[row].shape == reference["colbert_vecs"][row].shape
        multi = max(multi, float(np.abs(found.multi[row] - reference["colbert_vecs"][row]).max()))
    return {
        "dense": float(np.abs(found.dense - reference["dense_vecs"]).max()),
        "sparse": sparse,
        "multi": multi,
    }


def check(models: tuple[M3Encoder, Any], texts: list[str]) -> None:
    encoder, reference = models
    differences = largest_differences(reference_encode(reference, texts), encoder.encode_documents(texts))
    assert max(differences.values()) <= TOLERANCE, differences


def token_count(encoder: M3Encoder) -> Callable[[str], int]:
    return lambda text: len(encoder.tokenizer.encode([text], 8192)[0][0]) - 2


def test_short_texts_equal_flagembedding(models: tuple[M3Encoder, Any], texts: tuple[str, ...]) -> None:
    check(models, [*mixed(texts, 40, 200, token_count(models[0]), seed=3), *texts, *MORE])


@pytest.mark.slow
def test_200_texts_up_to_3000_tokens_equal_flagembedding(
    models: tuple[M3Encoder, Any], texts: tuple[str, ...]
) -> None:
    count = token_count(models[0])
    some = mixed(texts, 200, 3000, count, seed=4)
    sizes = [count(text) for text in some]
    assert min(sizes) <= 3
    assert max(sizes) >= 2900
    check(models, some)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00",
        "a\x00b",
        "[CLS] in the middle [SEP]",
        "</s> <s> here <unk>",
        "x" * 5000,
        "\u2028\ufeff",
    ],
)
def test_odd_texts_equal_flagembedding(models: tuple[M3Encoder, Any], text: str) -> None:
    check(models, [text])


def test_truncation_equals_flagembedding(models: tuple[M3Encoder, Any], texts: tuple[str, ...]) -> None:
    encoder, reference = models
    long = " ".join(texts)
    expected = reference.encode(
        [long], max_length=20, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    with pytest.warns(UserWarning, match="1 of 1 texts were longer than 20 tokens"):
        found = encoder.encode_documents([long], max_length=20)
    assert max(largest_differences(expected, found).values()) <= TOLERANCE


def test_scores_equal_flagembedding(models: tuple[M3Encoder, Any], texts: tuple[str, ...]) -> None:
    encoder, reference = models
    pairs = [(query, passage) for query in texts[:3] for passage in texts[:6]] + [("", texts[0])]
    weights = (0.4, 0.2, 0.7)
    theirs = reference.compute_score(
        pairs, batch_size=1, max_passage_length=8192, weights_for_different_modes=list(weights)
    )
    ours = encoder.compute_scores(pairs, Weights(*weights))
    expected = {
        "dense": np.array(theirs["dense"]),
        "sparse": np.array(theirs["sparse"]),
        "multi": np.array(theirs["colbert"]),
        "dense+sparse": np.array(theirs["sparse+dense"]) * (weights[0] + weights[1]),
        "all": np.array(theirs["colbert+sparse+dense"]) * sum(weights),
    }
    assert ours.keys() == expected.keys()
    for mode, values in expected.items():
        np.testing.assert_allclose(ours[mode], values, rtol=0, atol=TOLERANCE, err_msg=mode)


def test_the_batch_a_text_is_in_changes_nothing(
    models: tuple[M3Encoder, Any], texts: tuple[str, ...]
) -> None:
    encoder, _ = models
    some = mixed(texts, 30, 150, token_count(encoder), seed=5)
    together = encoder.encode_documents(some)
    rng = np.random.default_rng(6)
    for budget in (1, 64, 100_000):
        order = rng.permutation(len(some)).tolist()
        other = M3Encoder(encoder.model, encoder.tokenizer, batch_tokens=budget)
        found = other.encode_documents([some[row] for row in order])
        assert same(found, together.take(order)) <= TOLERANCE


def same(left: M3Vectors, right: M3Vectors) -> float:
    """The largest difference between two sets of vectors."""
    assert left.dense is not None
    assert right.dense is not None
    assert left.sparse is not None
    assert right.sparse is not None
    assert left.multi is not None
    assert right.multi is not None
    np.testing.assert_array_equal(left.multi.offsets, right.multi.offsets)
    assert left.representations == right.representations == frozenset(Representation)
    return max(
        float(np.abs(left.dense - right.dense).max()),
        float(abs(left.sparse - right.sparse).max()),
        float(np.abs(left.multi.values - right.multi.values).max()),
    )
