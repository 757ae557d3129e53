"""Texts to vectors: odd and bad input, truncation, MCLS, streams, threads, number types and devices."""

import pickle
import threading
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3_core.encoder import M3Encoder, TruncationWarning, plan_batches
from m3_core.errors import InputError, ModelError
from m3_core.folder import BUNDLED
from m3_core.model import M3Model
from m3_core.tokenizer import MCLS_EVERY
from m3_core.types import ALL_REPRESENTATIONS, M3Vectors, Representation

TINY = BUNDLED / "m3-tiny"


@pytest.fixture(scope="session")
def encoder(bert_folder: Path) -> M3Encoder:
    return M3Encoder.load(bert_folder, device="cpu")


@pytest.fixture(scope="session")
def unigram(xlmr_folder: Path) -> M3Encoder:
    return M3Encoder.load(xlmr_folder, device="cpu")


def check(vectors: M3Vectors, size: int) -> None:
    """Finite, of unit length, weights above 0."""
    assert len(vectors) == size
    assert vectors.representations == ALL_REPRESENTATIONS
    assert vectors.dense is not None
    assert vectors.sparse is not None
    assert vectors.multi is not None
    np.testing.assert_allclose(np.linalg.norm(vectors.dense, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors.multi.values, axis=1), 1, atol=1e-5)
    assert np.isfinite(vectors.sparse.data).all()
    assert (vectors.sparse.data > 0).all()
    assert vectors.sparse.has_canonical_format
    assert len(vectors.truncated) == size
    assert (np.diff(vectors.multi.offsets) >= 1).all()


def assert_equal(left: M3Vectors, right: M3Vectors, tolerance: float = 1e-5) -> None:
    assert left.representations == right.representations
    assert left.truncated.tolist() == right.truncated.tolist()
    if left.dense is not None and right.dense is not None:
        np.testing.assert_allclose(left.dense, right.dense, rtol=0, atol=tolerance)
    if left.sparse is not None and right.sparse is not None:
        assert left.sparse.shape == right.sparse.shape
        difference = abs(left.sparse - right.sparse)
        assert difference.nnz == 0 or difference.max() <= tolerance
    if left.multi is not None and right.multi is not None:
        assert left.multi.offsets.tolist() == right.multi.offsets.tolist()
        np.testing.assert_allclose(left.multi.values, right.multi.values, rtol=0, atol=tolerance)


# What comes out


def test_shapes_and_types(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    vectors = encoder.encode_documents(texts)
    check(vectors, len(texts))
    assert vectors.dense is not None
    assert vectors.sparse is not None
    assert vectors.multi is not None
    assert vectors.dense.shape == (len(texts), 32)
    assert vectors.dense.dtype == vectors.sparse.dtype == vectors.multi.values.dtype == np.float32
    assert vectors.sparse.shape == (len(texts), encoder.model.config.vocab_size)
    assert vectors.multi.values.shape[1] == 24
    sizes = [len(row) - 1 for row in encoder.tokenizer.encode(texts, 8192)[0]]
    assert np.diff(vectors.multi.offsets).tolist() == sizes
    assert not vectors.truncated.any()


def test_a_token_weighs_its_largest_weight(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    from m3_core.backbone import TokenBatch

    text = f"{texts[0]} {texts[0]}"
    (ids,), _ = encoder.tokenizer.encode([text], 8192)
    with torch.no_grad():
        weights = encoder.model(TokenBatch.of([ids])).weights
    assert weights is not None
    expected: dict[int, float] = {}
    for token, weight in zip(ids, weights.tolist(), strict=True):
        if token not in encoder.tokenizer.special_ids and weight > 0:
            expected[token] = max(weight, expected.get(token, 0.0))
    found_ids, found = encoder.encode_documents([text]).sparse_row(0)
    assert len(expected) > 5
    assert found_ids.tolist() == sorted(expected)
    np.testing.assert_allclose(found, [expected[token] for token in sorted(expected)], rtol=1e-6)


@pytest.mark.parametrize("kind", list(Representation))
def test_one_representation_alone_is_the_same(
    encoder: M3Encoder, texts: tuple[str, ...], kind: Representation
) -> None:
    alone = encoder.encode_queries(texts, representations=[kind])
    assert alone.representations == {kind}
    assert_equal(alone, encoder.encode_documents(texts).only([kind]), tolerance=0)


def test_a_generator_a_tuple_and_a_list_are_the_same(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    expected = encoder.encode_documents(list(texts))
    assert_equal(encoder.encode_documents(text for text in texts), expected, 0)  # type: ignore[arg-type]
    assert_equal(encoder.encode_documents(texts), expected, 0)


def test_equal_texts_have_equal_vectors_to_the_bit(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    vectors = encoder.encode_documents([*texts, *reversed(texts)])
    assert_equal(vectors, vectors.take(range(2 * len(texts) - 1, -1, -1)), tolerance=0)
    assert_equal(vectors.take(range(len(texts))), encoder.encode_documents(texts))


def test_progress_changes_nothing(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    assert_equal(encoder.encode_documents(texts, progress=True), encoder.encode_documents(texts), 0)


def test_plan_batches_is_sorted_full_and_complete() -> None:
    lengths = np.random.default_rng(0).integers(2, 300, 500).tolist()
    batches = plan_batches([*lengths, 5000], 1024)
    assert batches[0] == [500]
    assert sorted(row for rows in batches for row in rows) == list(range(501))
    sizes = [[lengths[row] for row in rows] for rows in batches[1:]]
    assert all(sum(some) <= 1024 for some in sizes)
    # No batch could have taken the first text of the next one.
    assert all(sum(some) + following[0] > 1024 for some, following in pairwise(sizes))
    assert [length for some in sizes for length in some] == sorted(lengths, reverse=True)


# Odd and bad input


def test_a_copy_for_another_process_gives_the_same(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    copied = pickle.loads(pickle.dumps(encoder))
    assert copied.fingerprint == encoder.fingerprint
    assert_equal(copied.encode_documents(texts), encoder.encode_documents(texts), tolerance=0)


def test_nothing_gives_nothing(encoder: M3Encoder) -> None:
    vectors = encoder.encode_documents([])
    assert len(vectors) == 0
    assert vectors.dense is not None
    assert vectors.sparse is not None
    assert vectors.multi is not None
    assert vectors.dense.shape == (0, 32)
    assert vectors.sparse.shape == (0, encoder.model.config.vocab_size)
    assert len(vectors.multi) == 0
    assert list(encoder.iter_documents([])) == []
    assert [len(scores) for scores in encoder.compute_scores([]).values()] == [0] * 5


@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0", "\u200b"])
def test_a_text_without_words_has_no_lexical_weights(encoder: M3Encoder, text: str) -> None:
    vectors = encoder.encode_documents([text, "Berlin"])
    check(vectors, 2)
    assert len(vectors.sparse_row(0)[0]) == 0
    assert vectors.multi is not None
    assert len(vectors.multi[0]) == 1
    assert_equal(vectors.take([0]), encoder.encode_documents([""]))


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "a\x00b\x00",
        "\ud800",
        "x \udfff y",
        "[CLS]",
        "[SEP] [SEP] [PAD] [UNK] [MASK]",
        "</s><s><pad><unk>",
        "﷽" * 40,
        "e" + "\u0301" * 500,
        "🙂" * 100,
        "\u202e\u2066abc",
        "a" * 3000,
    ],
)
@pytest.mark.parametrize("which", ["encoder", "unigram"])
def test_odd_texts_have_defined_vectors(which: str, text: str, request: pytest.FixtureRequest) -> None:
    encoder: M3Encoder = request.getfixturevalue(which)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        vectors = encoder.encode_documents([text, "Berlin", f"before {text} after"])
    check(vectors, 3)
    assert_equal(vectors.take([1]), encoder.encode_documents(["Berlin"]))
    special = encoder.tokenizer.special_ids
    assert not any(set(vectors.sparse_row(row)[0].tolist()) & special for row in range(3))


@pytest.mark.parametrize("which", ["encoder", "unigram"])
def test_a_megabyte_without_a_space(which: str, request: pytest.FixtureRequest) -> None:
    encoder: M3Encoder = request.getfixturevalue(which)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        vectors = encoder.encode_documents(["abcdefghij" * 100_000], max_length=64)
    check(vectors, 1)


@pytest.mark.parametrize("mcls", [False, True])
@pytest.mark.parametrize("which", ["encoder", "unigram"])
def test_each_multi_vector_has_its_token(
    which: str, mcls: bool, request: pytest.FixtureRequest, texts: tuple[str, ...]
) -> None:
    loaded: M3Encoder = request.getfixturevalue(which)
    short = M3Encoder(loaded.model, loaded.tokenizer, max_length=300, mcls=mcls)
    long = " ".join(texts * 10)
    with pytest.warns(TruncationWarning):
        vectors = short.encode_documents([*texts, "", long])
    assert vectors.multi is not None
    end = loaded.tokenizer.special["eos"]
    for text, rows in zip([*texts, "", long], vectors.multi, strict=True):
        tokens = short.tokens(text)
        assert len(tokens) == len(rows)
        assert tokens[-1] == end
    ids, _ = loaded.tokenizer.encode([texts[1]], 300)
    assert short.tokens(texts[1]) == [loaded.tokenizer.token(token) for token in ids[0][1:]]


@pytest.mark.parametrize("bad", [None, b"bytes", 7, 1.5, ["nested"], Path("x")])
def test_what_is_no_string_is_named_by_its_index(encoder: M3Encoder, bad: object) -> None:
    message = rf"the text at index 3 is {type(bad).__name__}, not a string"
    some = ["a", "b", "c", bad]
    with pytest.raises(InputError, match=message):
        encoder.encode_documents(some)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        list(encoder.iter_documents(some, look_ahead=2))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["one text", b"bytes", None, 7])
def test_what_is_no_list_is_refused_at_once(encoder: M3Encoder, bad: object) -> None:
    for method in (encoder.encode_queries, encoder.encode_documents, encoder.iter_documents):
        with pytest.raises(InputError, match="give a list of texts, not"):
            method(bad)  # type: ignore[operator]


@pytest.mark.parametrize("bad", [0, 2, -1, 8193, 10.0, "20", True])
def test_a_length_out_of_range_is_refused(encoder: M3Encoder, bad: object) -> None:
    message = "max_length must be 3 to 8192 tokens for this model"
    with pytest.raises(InputError, match=message):
        encoder.encode_documents(["a"], max_length=bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        encoder.iter_documents(["a"], max_length=bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        M3Encoder(encoder.model, encoder.tokenizer, max_length=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [(), ["colour"], "dense", [None]])
def test_representations_that_do_not_exist_are_refused(encoder: M3Encoder, bad: object) -> None:
    with pytest.raises(InputError, match="representation"):
        encoder.encode_documents(["a"], representations=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["ab", ("a",), ("a", "b", "c"), ("a", None), None, 7])
def test_pairs_that_are_none_are_named_by_their_index(encoder: M3Encoder, bad: object) -> None:
    with pytest.raises(InputError, match="the pair at index 1 is not"):
        encoder.compute_scores([("a", "b"), bad])  # type: ignore[list-item]


@pytest.mark.parametrize("bad", [0, -5])
def test_an_impossible_budget_is_refused(encoder: M3Encoder, bad: int) -> None:
    with pytest.raises(InputError, match="batch_tokens must be at least 1"):
        M3Encoder(encoder.model, encoder.tokenizer, batch_tokens=bad)
    with pytest.raises(InputError, match="look_ahead must be at least 1"):
        encoder.iter_documents(["a"], look_ahead=bad)


def hypothesis_texts(encoder: M3Encoder, calls: int) -> None:
    any_text = st.text(st.characters(exclude_categories=()), max_size=60)

    @settings(max_examples=calls, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(any_text, min_size=20, max_size=20))
    def run(some: list[str]) -> None:
        check(encoder.encode_documents(some), len(some))

    run()


def test_hypothesis_texts_are_finite_and_normalised(encoder: M3Encoder) -> None:
    hypothesis_texts(encoder, calls=5)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["encoder", "unigram"])
def test_2000_hypothesis_texts_are_finite_and_normalised(which: str, request: pytest.FixtureRequest) -> None:
    hypothesis_texts(request.getfixturevalue(which), calls=100)


@pytest.mark.slow
def test_2000_hypothesis_texts_through_the_bundled_model() -> None:
    if not TINY.is_dir():
        pytest.skip("the bundled model is not in this checkout")
    hypothesis_texts(M3Encoder.load("m3-tiny", device="cpu"), calls=100)


# Truncation


def test_truncation_is_marked_and_warned_about_once(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    some = ["Berlin", texts[0], "Tokyo", texts[1]]
    with pytest.warns(TruncationWarning) as caught:
        vectors = encoder.encode_documents(some, max_length=8)
    assert [str(warning.message)[:50] for warning in caught] == [
        "2 of 4 texts were longer than 8 tokens and were cu"
    ]
    assert caught[0].filename == __file__
    assert vectors.truncated.tolist() == [False, True, False, True]
    assert vectors.multi is not None
    assert len(vectors.multi[1]) == 7
    with pytest.warns(TruncationWarning, match="1 of 2 texts") as caught:
        encoder.encode_queries(some[:2], max_length=8)
    assert caught[0].filename == __file__
    with pytest.warns(TruncationWarning, match="3 of 4 texts") as caught:
        encoder.compute_scores([(texts[0], texts[1]), (texts[2], "Berlin")], max_length=8)
    assert len(caught) == 1
    with pytest.warns(TruncationWarning, match="2 of 4 texts") as caught:
        list(encoder.iter_documents(some, max_length=8, look_ahead=1))
    assert len(caught) == 1


def test_the_length_of_the_call_wins_over_the_encoders(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    short = M3Encoder(encoder.model, encoder.tokenizer, max_length=8)
    with pytest.warns(TruncationWarning, match="longer than 8 tokens"):
        cut = short.encode_documents(texts[:3])
    assert cut.truncated.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(short.encode_documents(texts, max_length=8192), encoder.encode_documents(texts))


# MCLS


def test_mcls_averages_the_hidden_states_of_its_cls(xlmr_folder: Path, texts: tuple[str, ...]) -> None:
    from transformers import AutoModel

    encoder = M3Encoder.load(xlmr_folder, device="cpu", mcls=True)
    long = " ".join(texts * 3)
    (content,), _ = encoder.tokenizer.encode([long], 8192)
    content = content[1:-1]
    assert len(content) > 3 * MCLS_EVERY
    ids: list[int] = []
    for start in range(0, len(content), MCLS_EVERY):
        ids += [encoder.tokenizer.cls_id, *content[start : start + MCLS_EVERY]]
    ids.append(encoder.tokenizer.eos_id)
    places = list(range(0, len(ids) - 1, MCLS_EVERY + 1))
    assert all(ids[place] == encoder.tokenizer.cls_id for place in places)
    reference = AutoModel.from_pretrained(xlmr_folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        states = reference(torch.tensor([ids])).last_hidden_state[0]
    mean = states[places].mean(dim=0)
    expected = (mean / mean.norm()).numpy()

    vectors = encoder.encode_documents(["Berlin", long, texts[0]])
    assert vectors.dense is not None
    assert vectors.multi is not None
    np.testing.assert_allclose(vectors.dense[1], expected, rtol=0, atol=1e-5)
    # The inserted tokens have neither vectors nor weights.
    assert len(vectors.multi[1]) == len(content) + 1
    head = encoder.model.colbert_linear
    assert head is not None
    others = [place for place in range(len(ids)) if place not in places]
    with torch.no_grad():
        projected = torch.nn.functional.normalize(head(states[others]), dim=-1).numpy()
    np.testing.assert_allclose(vectors.multi[1], projected, rtol=0, atol=1e-5)
    assert encoder.tokenizer.cls_id not in vectors.sparse_row(1)[0]


def test_mcls_changes_nothing_for_a_text_below_256_tokens(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    many = M3Encoder(encoder.model, encoder.tokenizer, mcls=True)
    assert_equal(many.encode_documents(texts), encoder.encode_documents(texts))
    assert_equal(many.encode_documents(["", "a"]), encoder.encode_documents(["", "a"]))
    long = " ".join(texts * 2)
    left, right = many.encode_documents([long]).dense, encoder.encode_documents([long]).dense
    assert left is not None
    assert right is not None
    assert np.abs(left - right).max() > 1e-4


def test_mcls_keeps_every_token_of_a_text_that_spells_cls_out(encoder: M3Encoder) -> None:
    many = M3Encoder(encoder.model, encoder.tokenizer, mcls=True)
    text = "[CLS] " * 300
    (content,), _ = encoder.tokenizer.encode([text], 8192)
    vectors = many.encode_documents([text])
    check(vectors, 1)
    assert vectors.multi is not None
    assert len(vectors.multi[0]) == len(content) - 1


# Streams and threads


def test_a_stream_equals_a_list_in_order(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    some = list(texts) * 3
    blocks = list(encoder.iter_documents(iter(some), look_ahead=5))
    assert [len(block) for block in blocks] == [5] * 7 + [1]
    assert_equal(M3Vectors.concat(blocks), encoder.encode_documents(some))


def test_a_stream_is_read_no_further_than_the_look_ahead(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    read = 0

    def stream() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield texts[read % len(texts)]

    blocks = encoder.iter_documents(stream(), look_ahead=7)
    assert read == 0
    for count in range(1, 5):
        assert len(next(blocks)) == 7
        assert read == 7 * count


def test_a_stream_of_long_texts_is_read_by_characters(encoder: M3Encoder) -> None:
    long = "x" * 2_100_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        blocks = list(encoder.iter_documents([long] * 3, max_length=8))
    assert [len(block) for block in blocks] == [2, 1]


def test_eight_threads_get_what_one_gets(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    parts = [[text[shift:] for text in texts] for shift in range(8)]
    expected = [encoder.encode_documents(part) for part in parts]
    found: dict[int, M3Vectors] = {}
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for _ in range(3):
            found[number] = encoder.encode_documents(parts[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert_equal(found[number], expected[number], tolerance=1e-6)


# Number types and devices


def with_outliers(path: Path, xlmr_folder: Path) -> Path:
    """A model of a realistic shape, in which a few channels are far larger than the others, as in XLM-R."""
    small, tokenizer = M3Model.load(xlmr_folder)
    shape = {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "max_position_embeddings": 514,
    }
    torch.manual_seed(3)
    model = M3Model({**small.raw_config, **shape}, multi_dim=384)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.normal_(0, 0.02)
        for layer in model.backbone.encoder.layer:
            layer.output.LayerNorm.weight[:3] *= 20
    model.save(path, tokenizer)
    return path


@pytest.mark.parametrize("kind", ["bert", "xlmr", "outliers", "bundled"])
def test_bfloat16_keeps_every_direction(
    kind: str, bert_folder: Path, xlmr_folder: Path, tmp_path: Path, texts: tuple[str, ...]
) -> None:
    folder = {"bert": bert_folder, "xlmr": xlmr_folder, "bundled": TINY}.get(kind)
    folder = folder or with_outliers(tmp_path / "outliers", xlmr_folder)
    if not folder.is_dir():
        pytest.skip("the bundled model is not in this checkout")
    some = [*texts, " ".join(texts), ""]
    whole = M3Encoder.load(folder, device="cpu").encode_documents(some)
    half = M3Encoder.load(folder, device="cpu", dtype="bfloat16").encode_documents(some)
    assert whole.dense is not None
    assert half.dense is not None
    assert whole.multi is not None
    assert half.multi is not None
    assert not np.array_equal(whole.dense, half.dense)
    assert (whole.dense * half.dense).sum(axis=1).min() >= 0.999
    assert (whole.multi.values * half.multi.values).sum(axis=1).min() >= 0.999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu", "dtype": "float16"}, "float16 is for GPUs; on a CPU use bfloat16 or float32"),
        ({"dtype": "int8"}, "dtype is one of float32, float16, bfloat16, not 'int8'"),
        ({"device": "gpu"}, "the device 'gpu' cannot be used here"),
        ({"device": "cuda:77"}, "the device 'cuda:77' cannot be used here"),
        ({"device": "meta"}, "the device 'meta' cannot be used here"),
        ({"device": ""}, "the device '' cannot be used here"),
    ],
)
def test_devices_and_types_that_are_not_there(
    tiny_model_folder: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        M3Encoder.load(tiny_model_folder, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ModelError, match="there is no folder 'm3-enormous'"):
        M3Encoder.load("m3-enormous")


def test_the_schema_is_what_a_store_needs(encoder: M3Encoder) -> None:
    schema = encoder.schema()
    assert (schema.dense, schema.sparse, schema.multi) == (32, encoder.model.config.vocab_size, 24)
    assert schema.fingerprint == encoder.fingerprint
    assert encoder.schema([Representation.SPARSE]).representations == {Representation.SPARSE}
