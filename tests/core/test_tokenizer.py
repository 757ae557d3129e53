"""Ids, framing, MCLS and odd texts; the files a tokenizer is read from and written to."""

import json
from pathlib import Path

import pytest

from m3_core.errors import InputError, ModelError
from m3_core.tokenizer import MCLS_EVERY, M3Tokenizer


@pytest.fixture(params=["bert", "xlmr"])
def folder(request: pytest.FixtureRequest, bert_folder: Path, xlmr_folder: Path) -> Path:
    return bert_folder if request.param == "bert" else xlmr_folder


@pytest.fixture
def tokenizer(folder: Path) -> M3Tokenizer:
    return M3Tokenizer.load(folder)


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt"):
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_ids_are_those_of_transformers(tokenizer: M3Tokenizer, folder: Path, texts: tuple[str, ...]) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder)
    some = [*texts, "", " ", "UPPER Ünïcödé", "[CLS] </s>"]
    assert tokenizer.encode(some, 8192)[0] == reference(some)["input_ids"]


def test_texts_are_cut_to_the_length_and_marked(tokenizer: M3Tokenizer, texts: tuple[str, ...]) -> None:
    (whole, empty), cut = tokenizer.encode([texts[0], ""], 8192)
    assert cut == [False, False]
    assert empty == [tokenizer.cls_id, tokenizer.eos_id]
    size = len(whole)
    (exact, shorter, shortest), cut = (
        [tokenizer.encode([texts[0]], length)[part][0] for length in (size, size - 1, 3)] for part in (0, 1)
    )
    assert cut == [False, True, True]
    assert exact == whole
    assert shorter == [*whole[: size - 2], tokenizer.eos_id]
    assert shortest == [tokenizer.cls_id, whole[1], tokenizer.eos_id]


@pytest.mark.parametrize("words", [0, 1, 255, 256, 257, 511, 512, 513, 1000])
def test_mcls_puts_a_cls_before_every_256_content_tokens(tokenizer: M3Tokenizer, words: int) -> None:
    text = " ".join(["Berlin"] * words)
    content = tokenizer.encode([text], 8192)[0][0][1:-1]
    (framed,), _ = tokenizer.encode([text], 8192, mcls=True)
    expected = []
    for start in range(0, len(content), MCLS_EVERY):
        expected += [tokenizer.cls_id, *content[start : start + MCLS_EVERY]]
    assert framed == [*(expected or [tokenizer.cls_id]), tokenizer.eos_id]


@pytest.mark.parametrize("length", [3, 257, 258, 259, 260, 261, 515, 516, 517, 600])
def test_mcls_fills_the_length_and_never_exceeds_it(tokenizer: M3Tokenizer, length: int) -> None:
    text = " ".join(["Berlin"] * 700)
    (framed,), cut = tokenizer.encode([text], length, mcls=True)
    assert cut == [True]
    # A place stays empty only where the next content token would need a CLS before it.
    assert length - 1 <= len(framed) <= length
    assert framed[0] == tokenizer.cls_id
    assert framed[-1] == tokenizer.eos_id
    assert framed[-2] != tokenizer.cls_id
    if len(framed) < length:
        assert (len(framed) - 1) % (MCLS_EVERY + 1) == 0
    kept = [token for token in framed if token not in (tokenizer.cls_id, tokenizer.eos_id)]
    assert kept == tokenizer.encode([text], 8192)[0][0][1 : 1 + len(kept)]


@pytest.mark.parametrize("bad", [None, b"bytes", 7, ["nested"]])
def test_what_is_no_string_is_named_by_its_index(tokenizer: M3Tokenizer, bad: object) -> None:
    with pytest.raises(InputError, match=rf"index 12 is {type(bad).__name__}, not a string"):
        tokenizer.encode(["a", "b", bad], 10, first=10)  # type: ignore[list-item]


def test_surrogates(tokenizer: M3Tokenizer) -> None:
    (pair, emoji, lone, replaced), _ = tokenizer.encode(["a \ud83d\ude42", "a 🙂", "a \ud800 b", "a � b"], 99)
    assert pair == emoji
    assert lone == replaced


def test_spans_point_at_the_characters(tokenizer: M3Tokenizer) -> None:
    text = "Berlin ist die Hauptstadt"
    spans = tokenizer.spans(text)
    assert [token for token, _, _ in spans] == tokenizer.encode([text], 99)[0][0][1:-1]
    for token, start, end in spans:
        piece = tokenizer.token(token).replace("##", "").replace("▁", "")
        assert text[start:end] == piece


def test_save_and_load_keep_the_content(tokenizer: M3Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = M3Tokenizer.load(tmp_path)
    assert again.content() == tokenizer.content()
    assert again.special == tokenizer.special
    again.save(tmp_path)
    assert M3Tokenizer.load(tmp_path).content() == tokenizer.content()


def test_the_content_follows_the_vocabulary_and_the_special_tokens(folder: Path, tmp_path: Path) -> None:
    original = M3Tokenizer.load(folder).content()
    other = copy_of(folder, tmp_path / "lower")
    parts = json.loads((other / "tokenizer.json").read_text())
    parts["normalizer"] = {"type": "Lowercase"}
    (other / "tokenizer.json").write_text(json.dumps(parts))
    assert M3Tokenizer.load(other).content() != original
    # How a text is framed is not read from the file, nor are truncation and padding.
    other = copy_of(folder, tmp_path / "framed")
    parts = json.loads((other / "tokenizer.json").read_text())
    parts["post_processor"] = None
    parts["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (other / "tokenizer.json").write_text(json.dumps(parts))
    again = M3Tokenizer.load(other)
    assert again.content() == original
    assert len(again.encode(["Berlin " * 50], 8192)[0][0]) > 50


def test_without_tokenizer_json_transformers_converts(
    bert_folder: Path, tmp_path: Path, texts: tuple[str, ...]
) -> None:
    tokenizer = M3Tokenizer.load(bert_folder)
    vocabulary = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), "utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "eos_token": "[SEP]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    converted = M3Tokenizer.load(tmp_path)
    # The fixture's vocabulary was made with the same normaliser that BertTokenizer has without lower case.
    assert converted.encode(list(texts), 8192) == tokenizer.encode(list(texts), 8192)
    assert converted.special_ids == tokenizer.special_ids
    converted.save(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert M3Tokenizer.load(tmp_path).content() == converted.content()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"model": 3}', b"null"])
def test_a_damaged_tokenizer_json_is_named(folder: Path, tmp_path: Path, content: bytes) -> None:
    other = copy_of(folder, tmp_path / "damaged")
    (other / "tokenizer.json").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"damaged: the tokenizer cannot be read: tokenizer\.json is damaged"
    ):
        M3Tokenizer.load(other)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_configuration_is_named(folder: Path, tmp_path: Path, content: str) -> None:
    other = copy_of(folder, tmp_path / "damaged")
    (other / "tokenizer_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is not (a )?JSON"):
        M3Tokenizer.load(other)


def test_special_tokens_that_nobody_names(folder: Path, tmp_path: Path) -> None:
    other = copy_of(folder, tmp_path / "nameless")
    (other / "tokenizer_config.json").write_text('{"pad_token": "[PAD]", "unk_token": {"content": "<unk>"}}')
    with pytest.raises(ModelError, match=r"nameless.*names no cls, eos.* token that is in its vocabulary"):
        M3Tokenizer.load(other)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        M3Tokenizer.load(tmp_path)
