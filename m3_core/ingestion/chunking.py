"""Long documents in pieces: chunks of so many tokens, and the ids they are stored under."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING

from m3_core.errors import InputError
from m3_core.types import MAX_ID_BYTES, Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARENT_FIELD = "parent_id"
CHUNK_FIELD = "chunk"
_DIGITS = 10  # room for the chunk's number
_WINDOW = 8_192


def chunk_id(parent: str, number: int) -> str:
    """The id of a chunk: ``parent#number``. A parent too long for that is shortened and marked by a hash.

    >>> chunk_id("manual/ja", 3)
    'manual/ja#3'
    """
    encoded = parent.encode()
    room = MAX_ID_BYTES - 1 - _DIGITS
    if len(encoded) > room:
        digest = blake2b(encoded, digest_size=16).hexdigest()
        parent = encoded[: room - 1 - len(digest)].decode(errors="ignore") + "~" + digest
    return f"{parent}#{number}"


def chunk_of(name: str) -> tuple[str, int] | None:
    """The document and the number whose chunk would be stored under an id, None if none would.

    >>> chunk_of("manual/ja#3")
    ('manual/ja', 3)
    """
    parent, _, number = name.rpartition("#")
    if not parent or not number.isdecimal() or chunk_id(parent, int(number)) != name:
        return None
    return parent, int(number)


def part_ids(name: str, whole: bool, chunks: Iterable[int]) -> list[str]:
    """The ids a document is stored under: its own if it is stored whole, and those of its chunks."""
    return ([name] if whole else []) + [chunk_id(name, number) for number in chunks]


class Chunker:
    """Splits texts at the largest semantic boundaries (paragraph, sentence, word) that fit ``tokens`` tokens.

    The model's special tokens are not counted. Spaces around a chunk are trimmed.

    Raises:
        InputError: ``tokens`` is less than 1.
    """

    def __init__(self, tokenizer: "Tokenizer", tokens: int) -> None:
        from semantic_text_splitter import TextSplitter
        from tokenizers import Tokenizer

        if tokens < 1:
            raise InputError(f"a chunk needs at least 1 token, not {tokens}")
        self.tokens = tokens
        # A copy: cutting and padding would falsify the counts, and the caller's tokenizer must not change.
        own = Tokenizer.from_str(tokenizer.to_str())
        own.no_truncation()
        own.no_padding()
        self._splitter = TextSplitter.from_huggingface_tokenizer(own, tokens)

    def split(self, document: Document) -> list[Document]:
        """The chunks as documents of their own: metadata plus ``parent_id`` and ``chunk`` (from 0); at least one.

        Raises:
            InputError: the metadata already has one of these fields.
        """
        for name in (PARENT_FIELD, CHUNK_FIELD):
            if name in document.metadata:
                raise InputError(
                    f"the metadata of document {document.id!r} has a field {name!r}, which chunks need; rename it"
                )
        windows = _windows(document.text, max(_WINDOW, 8 * self.tokens))
        texts = [text for window in windows for text in self._splitter.chunks(window)] or [document.text]
        return [
            Document(
                chunk_id(document.id, number),
                text,
                {**document.metadata, PARENT_FIELD: document.id, CHUNK_FIELD: number},
            )
            for number, text in enumerate(texts)
        ]


def _windows(text: str, size: int) -> Iterator[str]:
    """The text in stretches of at most ``size`` characters, cut at a paragraph, line or space where there is one.

    The splitter's time grows with the square of a stretch without any boundary (200,000 letters: 20 s).
    """
    start = 0
    while len(text) - start > size:
        half = start + size // 2
        cuts = (text.rfind(mark, half, start + size) + len(mark) for mark in ("\n\n", "\n", " "))
        end = next((cut for cut in cuts if cut > half), start + size)
        yield text[start:end]
        start = end
    yield text[start:]
