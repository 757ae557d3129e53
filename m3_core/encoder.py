"""Texts to `M3Vectors`: tokenise once, plan batches by tokens, one forward each, collect in the order of the input."""

import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from m3_core.backbone import TokenBatch
from m3_core.errors import InputError
from m3_core.model import M3Model, find_model
from m3_core.scoring import Weights, channel_scores
from m3_core.store import Schema
from m3_core.tokenizer import MCLS_EVERY, M3Tokenizer
from m3_core.types import FloatArray, IntArray, M3Vectors, Ragged, Representation

if TYPE_CHECKING:
    from scipy.sparse import csr_array

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Beyond about a thousand tokens a CPU forward leaves the cache and slows down; a GPU wants to be filled.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 8192}
_BLOCK_CHARACTERS = 4_000_000


class TruncationWarning(UserWarning):
    """Texts were longer than ``max_length`` tokens and were cut; ``M3Vectors.truncated`` says which."""


class M3Encoder:
    """An M3 model with its tokenizer, ready to encode. Safe to call from several threads.

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
        self.max_length = self._check_length(max_length or model.config.max_length)
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(self.device.type, 1024)
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
        return self.encode_documents(
            texts, representations=representations, max_length=max_length, progress=progress
        )

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
        if isinstance(texts, str | bytes):
            raise InputError(f"give a list of texts, not one {type(texts).__name__}: [{texts[:40]!r}, ...]")
        vectors = self._encode(list(texts), self._wanted(representations), max_length, progress)
        _warn_truncated(
            int(vectors.truncated.sum()), len(vectors), self._check_length(max_length or self.max_length)
        )
        return vectors

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
        wanted, cut, total = self._wanted(representations), 0, 0
        for block in _blocks(texts, look_ahead):
            vectors = self._encode(block, wanted, max_length, progress=False, first=total)
            cut, total = cut + int(vectors.truncated.sum()), total + len(block)
            yield vectors
        _warn_truncated(cut, total, self._check_length(max_length or self.max_length))

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
        """
        weights = weights or Weights()
        for row, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2:
                raise InputError(f"the pair at index {row} is not (query, passage): {pair!r}")
        queries, query_rows = self._encode_once([query for query, _ in pairs], max_length)
        passages, passage_rows = self._encode_once([passage for _, passage in pairs], max_length)
        scores = {kind: np.zeros(len(pairs), dtype=np.float32) for kind in Representation}
        for row, (q, p) in enumerate(zip(query_rows, passage_rows, strict=True)):
            passage = passages.take([p])
            for kind in Representation:
                scores[kind][row] = channel_scores(queries, q, passage, kind)[0]
        dense_sparse = (
            weights.dense * scores[Representation.DENSE] + weights.sparse * scores[Representation.SPARSE]
        )
        mixed = {
            "dense+sparse": dense_sparse,
            "all": dense_sparse + weights.multi * scores[Representation.MULTI],
        }
        return {**{kind.value: scores[kind] for kind in Representation}, **mixed}

    def _encode_once(self, texts: Sequence[str], max_length: int | None) -> tuple[M3Vectors, list[int]]:
        """The vectors of the distinct texts, and for each text its row among them."""
        rows: dict[str, int] = {}
        places = [rows.setdefault(text, len(rows)) for text in texts]
        return self.encode_documents(list(rows), max_length=max_length), places

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

    def _check_length(self, max_length: int) -> int:
        limit = self.model.config.max_length
        if not 3 <= max_length <= limit:
            raise InputError(f"max_length must be 3 to {limit} tokens for this model, not {max_length}")
        return max_length

    def _encode(
        self,
        texts: Sequence[str],
        wanted: Sequence[Representation],
        max_length: int | None,
        progress: bool,
        first: int = 0,
    ) -> M3Vectors:
        limit = self._check_length(max_length or self.max_length)
        tokens, truncated = self.tokenizer.encode(texts, limit, mcls=self.mcls, first=first)
        collected = _Collector(len(texts), wanted, self)
        batches = plan_batches([len(row) for row in tokens], self.batch_tokens)
        every = MCLS_EVERY + 1 if self.mcls else None
        with _progress(len(texts), progress) as advance:
            for rows in batches:
                batch = TokenBatch.of([tokens[row] for row in rows], self.device, cls_every=every)
                with torch.inference_mode():
                    collected.add(rows, batch, self.model(batch, wanted))
                advance(len(rows))
        return collected.finish(np.asarray(truncated, dtype=np.bool_))


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


class _Collector:
    """Puts the outputs of batches where their texts were in the input."""

    def __init__(self, size: int, wanted: Sequence[Representation], encoder: M3Encoder) -> None:
        config = encoder.model.config
        self.size, self.vocab = size, config.vocab_size
        self.special = np.asarray(sorted(encoder.tokenizer.special_ids), dtype=np.int64)
        dense = Representation.DENSE in wanted
        self.dense = np.zeros((size, config.hidden_size), dtype=np.float32) if dense else None
        self.sparse: list[tuple[IntArray, FloatArray]] | None = (
            [] if Representation.SPARSE in wanted else None
        )
        head = encoder.model.colbert_linear
        self.width = head.out_features if head is not None and Representation.MULTI in wanted else None
        self.multi: list[FloatArray] = [np.empty((0, self.width or 0), np.float32)] * size

    def add(self, rows: Sequence[int], batch: TokenBatch, output: Any) -> None:
        owners = np.repeat(np.asarray(rows, dtype=np.int64), batch.lengths)
        if self.dense is not None:
            self.dense[rows] = output.dense.float().cpu().numpy()
        if self.sparse is not None:
            ids, weights = batch.ids.cpu().numpy(), output.weights.float().cpu().numpy()
            self.sparse.append(_lexical_weights(owners, ids, weights, self.special, self.vocab))
        if self.width is not None:
            values = output.multi.float().cpu().numpy()
            kept = owners[~batch.cls.cpu().numpy()]
            starts = np.flatnonzero(np.diff(kept, prepend=-1)).tolist()
            for start, end in pairwise([*starts, len(kept)]):
                self.multi[kept[start]] = values[start:end]

    def finish(self, truncated: np.ndarray[Any, np.dtype[np.bool_]]) -> M3Vectors:
        multi = None if self.width is None else Ragged.from_rows(self.multi, dimension=self.width)
        sparse = None if self.sparse is None else _csr(self.sparse, self.size, self.vocab)
        return M3Vectors(dense=self.dense, sparse=sparse, multi=multi, truncated=truncated)


def _lexical_weights(
    owners: IntArray, ids: IntArray, weights: FloatArray, special: IntArray, vocab: int
) -> tuple[IntArray, FloatArray]:
    """Keys ``text * vocab + token id``, ascending, and the maximum weight over the token's positions in the text."""
    kept = (weights > 0) & ~np.isin(ids, special)
    keys, weights = owners[kept] * vocab + ids[kept], weights[kept]
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.maximum.reduceat(weights, starts) if len(starts) else weights


def _csr(parts: Sequence[tuple[IntArray, FloatArray]], size: int, vocab: int) -> "csr_array[Any, Any]":
    from scipy.sparse import csr_array

    keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in parts)])
    values = np.concatenate([np.empty(0, np.float32), *(values for _, values in parts)])
    order = np.argsort(keys, kind="stable")
    rows, columns = np.divmod(keys[order], vocab)
    indptr = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=size), out=indptr[1:])
    return csr_array((values[order], columns, indptr), shape=(size, vocab))


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


def _warn_truncated(cut: int, total: int, max_length: int) -> None:
    if cut:
        warnings.warn(
            f"{cut} of {total} texts were longer than {max_length} tokens and were cut; "
            "M3Vectors.truncated says which, m3_core.ingest(chunk_tokens=...) splits them instead",
            TruncationWarning,
            stacklevel=3,
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
        torch.empty(0, device=device)
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
