"""Texts to `M3Vectors`: tokenise once, plan batches by tokens, one forward each, collect in the order of the input."""

import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3_core.backbone import TokenBatch
from m3_core.collect import Collector
from m3_core.errors import InputError
from m3_core.folder import find_model
from m3_core.model import M3Model
from m3_core.scoring import Weights, channel_scores
from m3_core.store import Schema
from m3_core.tokenizer import MCLS_EVERY, M3Tokenizer, content_room
from m3_core.types import FloatArray, M3Vectors, Representation

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Beyond about a thousand tokens a CPU forward leaves the cache and slows down; a GPU wants to be filled.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 8192}
_BLOCK_CHARACTERS = 4_000_000


class TruncationWarning(UserWarning):
    """Texts were longer than ``max_length`` tokens and were cut; ``M3Vectors.truncated`` says which."""


class M3Encoder:
    """An M3 model with its tokenizer, ready to encode. Safe to call from several threads; can be pickled.

    Queries and documents are encoded alike, without instructions (arXiv 2402.03216).
    """

    def __init__(
        self,
        model: M3Model,
        tokenizer: M3Tokenizer,
        *,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        mcls: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.mcls = model.eval(), tokenizer, mcls
        self.device = next(model.parameters()).device
        self.max_length = model.config.max_length
        self.max_length = self._check_length(max_length)
        self.batch_tokens = (
            _BATCH_TOKENS.get(self.device.type, 1024) if batch_tokens is None else batch_tokens
        )
        self._fingerprint = model.fingerprint
        self._lock = threading.Lock()
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, not {batch_tokens}")

    @staticmethod
    def load(
        name: str | Path = "m3-tiny",
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        mcls: bool = False,
    ) -> "M3Encoder":
        """Load the bundled ``m3-tiny``, a folder in BGE-M3 format, or a hub repository like ``BAAI/bge-m3``.

        device: cpu, cuda, cuda:1, mps; by default the best there is. dtype: float32, bfloat16, or float16
        (GPU only) for matrix products, residual stream and LayerNorm staying float32; by default float32 on a
        CPU and float16 on a GPU. max_length: tokens, by default all the model has positions for.
        batch_tokens: tokens in one forward; a longer text is a batch of its own. mcls: a CLS every 256
        tokens, their hidden states averaged, for long documents (arXiv 2402.03216, section 3.4).

        Raises:
            ModelError: the folder cannot be loaded. InputError: an option that cannot be used.
        """
        place = _device(device)
        kind = _dtype(dtype, place)
        model, tokenizer = M3Model.load(find_model(name))
        model.cast(kind).to(place)
        return M3Encoder(model, tokenizer, max_length=max_length, batch_tokens=batch_tokens, mcls=mcls)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def representations(self) -> frozenset[Representation]:
        """What the model can emit."""
        return self.model.representations

    @property
    def fingerprint(self) -> str:
        """Of weights and tokenizer; with MCLS another one, because the dense vectors differ."""
        with self._lock:
            if self._fingerprint is None:
                self._fingerprint = self.model.compute_fingerprint(self.tokenizer)
        return f"{self._fingerprint}-mcls" if self.mcls else self._fingerprint

    def schema(self, representations: Collection[Representation] | None = None) -> Schema:
        """Dimensions and fingerprint, as a store needs them to make or check a collection."""
        wanted = self._wanted(representations)
        multi = self.model.colbert_linear
        return Schema(
            dense=self.model.config.hidden_size,
            sparse=self.model.config.vocab_size,
            multi=None if multi is None else multi.out_features,
            fingerprint=self.fingerprint,
        ).only(wanted)

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        representations: Collection[Representation] | None = None,
        max_length: int | None = None,
        progress: bool = False,
    ) -> M3Vectors:
        """Vectors of n queries, in order. See `encode_documents`."""
        return self._encode_all(texts, representations, max_length, progress)

    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        representations: Collection[Representation] | None = None,
        max_length: int | None = None,
        progress: bool = False,
    ) -> M3Vectors:
        """Vectors of n texts, in order: dense (n, d), sparse CSR (n, vocab), multi ragged; all in one pass.

        An empty text is a text without words: a dense vector, no lexical weights, the one multi-vector of the
        end-of-text token. Lone surrogates count as U+FFFD.

        Raises:
            InputError: an element is not a string (names its index), or max_length is out of range.
            RepresentationMissing: the model has no head for what was asked.
        """
        return self._encode_all(texts, representations, max_length, progress)

    def iter_documents(
        self,
        texts: Iterable[str],
        *,
        representations: Collection[Representation] | None = None,
        max_length: int | None = None,
        look_ahead: int = 512,
    ) -> Iterator[M3Vectors]:
        """The vectors of a stream of any length, as consecutive blocks, in order.

        At most ``look_ahead`` texts (or about four million characters) are read before their vectors are
        yielded, and batches are formed inside such a block.
        """
        if look_ahead < 1:
            raise InputError(f"look_ahead must be at least 1, not {look_ahead}")
        _check_texts(texts)
        return self._encode_blocks(
            _blocks(texts, look_ahead), self._wanted(representations), self._check_length(max_length)
        )

    def compute_scores(
        self,
        pairs: Sequence[tuple[str, str]],
        weights: Weights | None = None,
        *,
        max_length: int | None = None,
    ) -> dict[str, FloatArray]:
        """Scores of n (query, passage) pairs in five modes, each (n,): dense, sparse, multi, dense+sparse, all.

        The mixed modes are plain weighted sums ``w_dense·s_dense + w_sparse·s_sparse (+ w_multi·s_multi)``;
        FlagEmbedding divides them by the sum of the weights. By default the paper's weights 1, 0.3, 1.

        Raises:
            InputError: an element is not a pair of strings (names its index).
            RepresentationMissing: the model lacks one of the three heads.
        """
        weights, pairs = weights or Weights(), list(pairs)
        self.model.check(tuple(Representation))
        for row, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or [isinstance(text, str) for text in pair] != [True] * 2:
                raise InputError(f"the pair at index {row} is not (query, passage), two strings: {pair!r}")
        rows: dict[str, int] = {}
        places = [[rows.setdefault(text, len(rows)) for text in pair] for pair in pairs]
        vectors = self._encode_all(list(rows), None, max_length, progress=False)
        scores = {kind: np.zeros(len(pairs), dtype=np.float32) for kind in Representation}
        for row, (query, passage) in enumerate(places):
            passages = vectors.take([passage])
            for kind in Representation:
                scores[kind][row] = channel_scores(vectors, query, passages, kind)[0]
        dense_sparse = (
            weights.dense * scores[Representation.DENSE] + weights.sparse * scores[Representation.SPARSE]
        )
        mixed = {
            "dense+sparse": dense_sparse,
            "all": dense_sparse + weights.multi * scores[Representation.MULTI],
        }
        return {**{kind.value: scores[kind] for kind in Representation}, **mixed}

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text as strings, for people: one for each of its multi-vectors, in order, end of text last."""
        room = content_room(self.max_length, mcls=self.mcls)
        content = [self.tokenizer.token(token) for token, _, _ in self.tokenizer.spans(text)[:room]]
        return [*content, self.tokenizer.special["eos"]]

    def _wanted(self, representations: Collection[Representation] | None) -> tuple[Representation, ...]:
        if representations is None:
            return tuple(kind for kind in Representation if kind in self.representations)
        try:
            wanted = tuple(Representation(kind) for kind in representations)
        except ValueError:
            raise InputError(
                f"representations are dense, sparse and multi, not {representations!r}"
            ) from None
        if not wanted:
            raise InputError("no representation was asked for; give dense, sparse or multi")
        self.model.check(wanted)
        return wanted

    def _check_length(self, max_length: int | None) -> int:
        limit = self.model.config.max_length
        if max_length is None:
            return self.max_length
        if isinstance(max_length, bool) or not isinstance(max_length, int) or not 3 <= max_length <= limit:
            raise InputError(f"max_length must be 3 to {limit} tokens for this model, not {max_length!r}")
        return max_length

    def _encode_all(
        self,
        texts: Iterable[str],
        representations: Collection[Representation] | None,
        max_length: int | None,
        progress: bool,
    ) -> M3Vectors:
        _check_texts(texts)
        limit = self._check_length(max_length)
        vectors = self._encode(list(texts), self._wanted(representations), limit, progress=progress)
        _warn_truncated(int(vectors.truncated.sum()), len(vectors), limit, stacklevel=4)
        return vectors

    def _encode_blocks(
        self, blocks: Iterable[list[str]], wanted: Sequence[Representation], limit: int
    ) -> Iterator[M3Vectors]:
        cut = total = 0
        for block in blocks:
            vectors = self._encode(block, wanted, limit, first=total)
            cut, total = cut + int(vectors.truncated.sum()), total + len(block)
            yield vectors
        _warn_truncated(cut, total, limit, stacklevel=3)

    def _encode(
        self,
        texts: Sequence[str],
        wanted: Sequence[Representation],
        limit: int,
        *,
        progress: bool = False,
        first: int = 0,
    ) -> M3Vectors:
        # Equal texts pass through the model once: it is less work, and alone it makes their vectors equal to the bit,
        # because a matrix product rounds a row by its place in the batch.
        distinct: dict[tuple[tuple[int, ...], bool], int] = {}
        every_text = zip(*self.tokenizer.encode(texts, limit, mcls=self.mcls, first=first), strict=True)
        places = [distinct.setdefault((tuple(row), cut), len(distinct)) for row, cut in every_text]
        tokens = [row for row, _ in distinct]
        lengths = [len(row) for row in tokens]
        every = MCLS_EVERY + 1 if self.mcls else None
        # The last token is no CLS; of those before it, the first is one, and with MCLS every 257th.
        counts = [length - 1 - (length - 2) // every if every else length - 1 for length in lengths]
        collector = Collector(self.model, wanted, counts, self.tokenizer.special_ids)
        with _progress(len(tokens), progress) as advance:
            for rows in plan_batches(lengths, self.batch_tokens):
                batch = TokenBatch.of([tokens[row] for row in rows], self.device, cls_every=every)
                with torch.inference_mode():
                    collector.add(rows, batch, self.model(batch, wanted))
                advance(len(rows))
        vectors = collector.finish(np.asarray([cut for _, cut in distinct], dtype=np.bool_))
        return vectors if len(distinct) == len(places) else vectors.take(places)


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows sorted by length, longest first, cut into batches of at most ``budget`` tokens; a longer one is alone.

    >>> plan_batches([3, 9, 4, 2], budget=6)
    [[1], [2], [0, 3]]
    """
    batches: list[list[int]] = []
    room = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if lengths[row] > room:
            batches.append([])
            room = budget
        batches[-1].append(row)
        room -= lengths[row]
    return batches


def _check_texts(texts: object) -> None:
    if isinstance(texts, str | bytes):
        raise InputError(f"give a list of texts, not one {type(texts).__name__}: [{texts[:40]!r}, ...]")
    if not isinstance(texts, Iterable):
        raise InputError(f"give a list of texts, not {type(texts).__name__}")


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    block: list[str] = []
    characters = 0
    for text in texts:
        block.append(text)
        characters += len(text) if isinstance(text, str) else 0
        if len(block) == size or characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _warn_truncated(cut: int, total: int, max_length: int, *, stacklevel: int) -> None:
    if cut:
        warnings.warn(
            f"{cut} of {total} texts were longer than {max_length} tokens and were cut; "
            "M3Vectors.truncated says which, m3_core.ingest(chunk_tokens=...) splits them instead",
            TruncationWarning,
            stacklevel=stacklevel,
        )


def _progress(total: int, shown: bool) -> Any:
    if not shown:
        return nullcontext(lambda _: None)
    from m3_core.progress import bar

    return bar("encoding", total)


def _device(name: str | None) -> torch.device:
    if name is None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _dtype(name: str | None, device: torch.device) -> torch.dtype:
    if name is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise InputError(f"dtype is one of {', '.join(DTYPES)}, not {name!r}")
    if name == "float16" and device.type == "cpu":
        raise InputError("float16 is for GPUs; on a CPU use bfloat16 or float32")
    return DTYPES[name]
