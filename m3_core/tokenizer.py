"""Text to token ids and back, on the Rust tokenizer of a model folder. Holds no state, so threads may share it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from m3_core.errors import InputError, ModelError

MCLS_EVERY = 256
"""Content tokens per CLS with MCLS (arXiv 2402.03216, section 3.4)."""

_SPECIAL_NAMES = {
    "cls": ("cls_token", "bos_token"),
    "eos": ("eos_token", "sep_token"),
    "pad": ("pad_token",),
    "unk": ("unk_token",),
}
_BACKEND, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_FILES = (
    _BACKEND,
    _CONFIG,
    "special_tokens_map.json",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "added_tokens.json",
)
_WORD_MARKS = "▁Ġ"
_CONTENT = ("added_tokens", "normalizer", "pre_tokenizer", "model")
"""The parts of a ``tokenizer.json`` that decide which tokens a text has."""


class M3Tokenizer:
    """The tokenizer of a model folder.

    backend: the `tokenizers.Tokenizer`, without truncation and padding; its post-processor is the framing of
    one text, CLS and end of text. special: the token names of cls, eos, pad and unk. special_ids: their ids,
    which carry no lexical weight (as FlagEmbedding leaves them out). files: the files of its folder, as read.
    """

    def __init__(
        self, backend: Tokenizer, special: Mapping[str, str], files: Mapping[str, bytes] | None = None
    ) -> None:
        self.backend, self.special = backend, dict(special)
        self.files = dict(files or {})
        if _BACKEND not in self.files:
            self.files[_BACKEND] = backend.to_str().encode()
        found = {name: backend.token_to_id(token) for name, token in special.items()}
        ids = {name: token_id for name, token_id in found.items() if token_id is not None}
        missing = [name for name in _SPECIAL_NAMES if name not in ids]
        if missing:
            raise ModelError(f"the tokenizer names no {', '.join(missing)} token that is in its vocabulary")
        self.cls_id, self.eos_id, self.pad_id, self.unk_id = (
            ids[name] for name in ("cls", "eos", "pad", "unk")
        )
        self.special_ids = frozenset(ids.values())
        backend.no_truncation()
        backend.no_padding()
        frame = [(special["cls"], self.cls_id), (special["eos"], self.eos_id)]
        backend.post_processor = TemplateProcessing(
            single=[special["cls"], "$A", special["eos"]],
            pair=[special["cls"], "$A", special["eos"], special["eos"], "$B", special["eos"]],
            special_tokens=frame,
        )

    @staticmethod
    def load(folder: Path) -> "M3Tokenizer":
        """Read ``tokenizer.json`` and the names of the special tokens; without it, let transformers convert.

        Raises:
            ModelError: no usable tokenizer files; names the file and the reason.
        """
        files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}
        try:
            if _BACKEND in files:
                return M3Tokenizer(_read_backend(files[_BACKEND]), _special_tokens(files), files)
            from transformers import AutoTokenizer

            slow = AutoTokenizer.from_pretrained(
                str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
            )
            special = {name: str(getattr(slow, f"{name}_token")) for name in _SPECIAL_NAMES}
            return M3Tokenizer(slow.backend_tokenizer, special, files)
        except Exception as error:
            raise ModelError(f"{folder}: the tokenizer cannot be read: {error}") from error

    def save(self, folder: Path) -> None:
        """Write the files it was loaded from, ``tokenizer.json`` with the framing of one text in it.

        The configuration names the class that takes ``tokenizer.json`` as it is; transformers 5 rebuilds those of
        the model's own classes from the vocabulary and its own defaults (lower case, for BERT).
        """
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        config = {**_json_object(self.files, _CONFIG), "tokenizer_class": "PreTrainedTokenizerFast"}
        for name, keys in _SPECIAL_NAMES.items():
            config.update(dict.fromkeys(keys, self.special[name]))
        (folder / _CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        # Not what the backend would write: another release of it may name its parts otherwise.
        parts = json.loads(self.files[_BACKEND])
        frame = json.loads(self.backend.to_str())["post_processor"]
        parts |= {"post_processor": frame, "truncation": None, "padding": None}
        (folder / _BACKEND).write_text(json.dumps(parts, ensure_ascii=False), "utf-8")

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id, added tokens included."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def content(self) -> bytes:
        """What decides which tokens a text has, as canonical JSON; for the fingerprint."""
        parts = json.loads(self.files[_BACKEND])
        kept = {name: parts.get(name) for name in _CONTENT} | {"special": self.special}
        return json.dumps(kept, sort_keys=True).encode()

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
        room = content_room(max_length, mcls=mcls)
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
        """(token id, start, end) of every content token; start and end are character positions in ``text``.

        Spaces around a word are not covered, and a token that only marks where a word begins covers nothing.
        """
        encoding = self.backend.encode(_clean(text, 0), add_special_tokens=False)
        spans = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            piece = text[start:end] if self.token(token).strip(_WORD_MARKS) else ""
            start += len(piece) - len(piece.lstrip())
            spans.append((token, start, start + len(piece.strip())))
        return spans

    def token(self, token_id: int) -> str:
        """The token's string, for people; ids are what the library works with."""
        return str(self.backend.id_to_token(token_id))


def content_room(max_length: int, *, mcls: bool = False) -> int:
    """How many content tokens fit into ``max_length`` places, beside CLS and end of text.

    >>> content_room(10), content_room(258, mcls=True), content_room(260, mcls=True)
    (8, 256, 257)
    """
    if not mcls:
        return max_length - 2
    # n content tokens take n + ceil(n / 256) + 1 places.
    blocks, rest = divmod(max_length - 1, MCLS_EVERY + 1)
    return blocks * MCLS_EVERY + max(0, rest - 1)


def _clean(text: object, row: int) -> str:
    if not isinstance(text, str):
        raise InputError(f"the text at index {row} is {type(text).__name__}, not a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Surrogate pairs become the character they mean, lone surrogates U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _read_backend(content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the Rust side raises nothing narrower
        raise ModelError(f"{_BACKEND} is damaged: {error}") from error


def _special_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    named = {**_json_object(files, _CONFIG), **_json_object(files, "special_tokens_map.json")}
    tokens: dict[str, str] = {}
    for name, keys in _SPECIAL_NAMES.items():
        value = next((named[key] for key in keys if named.get(key)), None)
        if value is not None:
            tokens[name] = str(value["content"] if isinstance(value, dict) else value)
    return tokens


def _json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        content = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise ModelError(f"{name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{name} is not a JSON object")
    return content
