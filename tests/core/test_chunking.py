"""Chunks against the tokenizer's own count."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from m3_core.errors import InputError
from m3_core.ingestion.chunking import Chunker, chunk_id
from m3_core.types import MAX_ID_BYTES, Document

CHARACTERS = [chr(0x4E00 + i) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token per CJK character and per word; truncation on, to see that the chunker is not misled by it."""
    tokenizer = Tokenizer(models.Unigram([("?", -9.0), *((c, -1.0) for c in CHARACTERS)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    return tokenizer


def count(tokenizer: Tokenizer, text: str) -> int:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    length = len(tokenizer.encode(text).ids)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    return length


@pytest.mark.parametrize("tokens", [1, 7, 100])
@pytest.mark.parametrize(
    "text",
    [
        " ".join(CHARACTERS * 5),
        "".join(CHARACTERS * 5),
        "\n\n".join("".join(CHARACTERS[i : i + 9]) + "。" for i in range(0, 150, 10)),
        "".join(CHARACTERS * 100),  # no boundary anywhere in 20,000 characters
    ],
    ids=["words", "letters", "paragraphs", "long"],
)
def test_chunks_fit_and_lose_nothing(tokenizer: Tokenizer, text: str, tokens: int) -> None:
    if tokens == 1 and len(text) > 10_000:
        pytest.skip("20,000 chunks say no more than 1,000")
    chunks = Chunker(tokenizer, tokens).split(Document("a", text))
    assert all(count(tokenizer, chunk.text) <= tokens for chunk in chunks)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    assert [chunk.metadata["chunk"] for chunk in chunks] == list(range(len(chunks)))
    assert len(chunks) <= 4 * (count(tokenizer, text) // tokens + 1)


def test_the_callers_tokenizer_is_left_as_it_is(tokenizer: Tokenizer) -> None:
    Chunker(tokenizer, 5)
    assert tokenizer.truncation is not None
    assert tokenizer.padding is not None


def test_a_short_or_empty_text_is_one_chunk(tokenizer: Tokenizer) -> None:
    chunker = Chunker(tokenizer, 5)
    for text in ("", "   ", "one"):
        (chunk,) = chunker.split(Document("a", text, {"lang": "en"}))
        assert chunk == Document("a#0", text, {"lang": "en", "parent_id": "a", "chunk": 0})


def test_too_few_tokens(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="at least 1 token, not 0"):
        Chunker(tokenizer, 0)


@settings(max_examples=300)
@given(
    one=st.text(min_size=1, max_size=200).filter(lambda t: t.isprintable()),
    other=st.text(min_size=1, max_size=200).filter(lambda t: t.isprintable()),
    numbers=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_ids_of_chunks_are_short_and_apart(one: str, other: str, numbers: tuple[int, int]) -> None:
    ids = [chunk_id(parent, number) for parent in (one, one * 50, other, other * 50) for number in numbers]
    assert all(1 <= len(name.encode()) <= MAX_ID_BYTES for name in ids)
    pairs = {(parent, number) for parent in (one, one * 50, other, other * 50) for number in numbers}
    assert len(set(ids)) == len(pairs)


def test_a_long_id_keeps_its_beginning() -> None:
    name = chunk_id("é" * 256, 12)
    assert name.startswith("é" * 200)
    assert name.endswith("#12")
    assert len(name.encode()) <= MAX_ID_BYTES
    assert name != chunk_id("é" * 255 + "è", 12)
