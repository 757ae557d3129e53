"""Text to token ids and back, on the Rust tokenizer of a model folder. Holds no state, so threads may share it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from m3_core.errors import InputError, ModelError

MCLS_EVERY = 256
"""Content tokens per CLS with MCLS (arXiv 2402.03216, section 3.4)."""

_SPECIAL_NAMES = {
    "cls": ("cls_token", "bos_token"),
    "eos": ("eos_token", "sep_token"),
    "pad": ("pad_token",),
    "unk": ("unk_token",),
}
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "added_tokens.json",
)


class M3Tokenizer:
    """The tokenizer of a model folder.

    backend: the `tokenizers.Tokenizer`, without truncation and padding. special_ids: cls, eos, pad and unk,
    which carry no lexical weight (as FlagEmbedding leaves them out).
    """

    def __init__(self, backend: Tokenizer, special: dict[str, str], files: dict[str, bytes]) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.files = files
        found = {name: backend.token_to_id(token) for name, token in special.items()}
        ids = {name: token_id for name, token_id in found.items() if token_id is not None}
        missing = sorted(_SPECIAL_NAMES.keys() - ids.keys())
        if missing:
            raise ModelError(f"the tokenizer names no {', '.join(missing)} token that is in its vocabulary")
        self.cls_id, self.eos_id, self.pad_id, self.unk_id = (
            ids[name] for name in ("cls", "eos", "pad", "unk")
        )
        self.special_ids = frozenset(ids.values())

    @staticmethod
    def load(folder: Path) -> "M3Tokenizer":
        """Read ``tokenizer.json`` and the names of the special tokens; without it, let transformers convert.

        Raises:
            ModelError: no usable tokenizer files; names the file and the reason.
        """
        path = folder / "tokenizer.json"
        files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}
        special = _special_tokens(files)
        try:
            if path.is_file():
                return M3Tokenizer(Tokenizer.from_file(str(path)), special, files)
            from transformers import AutoTokenizer

            slow = AutoTokenizer.from_pretrained(str(folder), use_fast=True, trust_remote_code=False)
            special = {name: getattr(slow, f"{name}_token") for name in _SPECIAL_NAMES}
            return M3Tokenizer(slow.backend_tokenizer, special, files)
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from error
        except Exception as error:
            raise ModelError(f"{folder}: the tokenizer cannot be read: {error}") from error

    def save(self, folder: Path) -> None:
        """Write the files it was loaded from, and ``tokenizer.json``."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        self.backend.save(str(folder / "tokenizer.json"))

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included."""
        return int(self.backend.get_vocab_size())

    def encode(
        self, texts: Sequence[str], max_length: int, *, mcls: bool = False, first: int = 0
    ) -> tuple[list[list[int]], list[bool]]:
        """Token ids with CLS and end of text, and which texts were cut to ``max_length`` tokens.

        With ``mcls`` a CLS stands before every 256 content tokens; they count towards ``max_length``.
        ``first`` is the index of the first text, for messages.

        Raises:
            InputError: an element is not a string; names its index.
        """
        encodings = self.backend.encode_batch_fast(
            [_clean(text, row) for row, text in enumerate(texts, start=first)], add_special_tokens=False
        )
        room = max_length - 2
        if mcls:
            # n content tokens take n + ceil(n / 256) + 1 places.
            blocks, rest = divmod(max_length - 1, MCLS_EVERY + 1)
            room = blocks * MCLS_EVERY + max(0, rest - 1)
        rows, cut = [], []
        for encoding in encodings:
            ids = encoding.ids
            cut.append(len(ids) > room)
            rows.append(self._frame(ids[:room], mcls))
        return rows, cut

    def _frame(self, ids: list[int], mcls: bool) -> list[int]:
        if not mcls:
            return [self.cls_id, *ids, self.eos_id]
        framed = []
        for start in range(0, max(1, len(ids)), MCLS_EVERY):
            framed += [self.cls_id, *ids[start : start + MCLS_EVERY]]
        return [*framed, self.eos_id]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(token id, start, end) of every content token; start and end are character positions in ``text``."""
        encoding = self.backend.encode(_clean(text, 0), add_special_tokens=False)
        return [
            (token, start, end) for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def token(self, token_id: int) -> str:
        """The token's string, for people; ids are what the library works with."""
        return str(self.backend.id_to_token(token_id))


def _clean(text: object, row: int) -> str:
    if not isinstance(text, str):
        raise InputError(f"the text at index {row} is {type(text).__name__}, not a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Surrogate pairs become the character they mean, lone surrogates U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _special_tokens(files: dict[str, bytes]) -> dict[str, str]:
    named: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            content = json.loads(files.get(name, b"{}"))
        except ValueError as error:
            raise ModelError(f"{name} is not JSON: {error}") from error
        named.update({key: value for key, value in content.items() if key.endswith("_token")})
    tokens: dict[str, str] = {}
    for name, keys in _SPECIAL_NAMES.items():
        value = next((named[key] for key in keys if named.get(key)), None)
        tokens[name] = str(value["content"] if isinstance(value, dict) else value)
    return tokens
