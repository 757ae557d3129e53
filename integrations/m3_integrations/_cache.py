"""Each text through the model once, whoever asks for which of its representations, and from which thread."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from m3_core.checks import check_encoder
from m3_core.encoder import M3Encoder
from m3_core.errors import InputError
from m3_core.types import FloatArray, IntArray, Representation

MAX_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True, eq=False)
class TextVectors:
    """Of one text. dense: (d,) float32. tokens, weights: its lexical weights, empty if the cache keeps none.

    multi: (t, d_m) float32, None if the cache keeps none.
    """

    dense: FloatArray
    tokens: IntArray
    weights: FloatArray
    multi: FloatArray | None = None

    @property
    def nbytes(self) -> int:
        multi = 0 if self.multi is None else self.multi.nbytes
        return self.dense.nbytes + self.tokens.nbytes + self.weights.nbytes + multi


class VectorCache:
    """Vectors of the texts asked for last: dense, sparse if the model has them, multi once `keep` asks for them.

    It holds the ``max_texts`` last texts beside as many as the largest call asked for: vector stores ask for all
    texts of a call once per representation, and meanwhile others may ask for their queries. It never holds more
    than ``max_bytes`` of vectors; what is gone is encoded again when it is asked for.
    """

    def __init__(self, encoder: M3Encoder, max_texts: int, max_bytes: int = MAX_BYTES) -> None:
        check_encoder(encoder)
        for name, value in (("max_texts", max_texts), ("max_bytes", max_bytes)):
            if value < 0:
                raise InputError(f"{name} must be at least 0, not {value}")
        self.encoder = encoder
        self.kinds = encoder.representations - {Representation.MULTI}
        self._max_texts, self._max_bytes = max_texts, max_bytes
        self._largest_call = self._bytes = 0
        self._lock = Lock()
        self._held: OrderedDict[str, Future[TextVectors]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts empty: what is being encoded for one process cannot be waited for in another."""
        return _empty, (self.encoder, self._max_texts, self._max_bytes, self.kinds)

    def keep(self, kinds: Collection[Representation]) -> None:
        """Keep these representations too, from now on; what was held without them is forgotten."""
        with self._lock:
            if not self.kinds >= set(kinds):
                self.kinds |= frozenset(kinds)
                self._forget(list(self._held))

    def vectors(self, texts: Iterable[str]) -> list[TextVectors]:
        """The vectors of the texts, in order; those that are not held are encoded, in one call.

        Raises:
            InputError: an element is not a string (names its index).
        """
        texts = _listed(texts)
        wanted = dict.fromkeys(texts)
        with self._lock:
            kinds = self.kinds
            mine = [text for text in wanted if text not in self._held]
            for text in wanted:
                self._held.setdefault(text, Future())
                self._held.move_to_end(text)
            futures = {text: self._held[text] for text in wanted}
            self._largest_call = max(self._largest_call, len(wanted))
            self._trim()
        # First what this call has to do, then waiting for others: so no two calls ever wait for each other.
        if mine:
            self._encode(mine, futures, kinds)
        return [futures[text].result() for text in texts]

    def release(self, texts: Iterable[str]) -> None:
        """Forget these texts."""
        with self._lock:
            self._forget(texts)

    def clear(self) -> None:
        """Forget every text."""
        with self._lock:
            self._forget(list(self._held))
            self._largest_call = 0

    def _encode(
        self, texts: Sequence[str], futures: dict[str, Future[TextVectors]], kinds: frozenset[Representation]
    ) -> None:
        try:
            vectors = self.encoder.encode_documents(texts, representations=kinds)
        except BaseException as error:
            with self._lock:
                self._forget(text for text in texts if self._held.get(text) is futures[text])
            for text in texts:
                futures[text].set_exception(error)
            raise
        assert vectors.dense is not None  # every model has it
        none = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for row, text in enumerate(texts):
            tokens, weights = none if vectors.sparse is None else vectors.sparse_row(row)
            multi = None if vectors.multi is None else vectors.multi[row].copy()
            made = TextVectors(vectors.dense[row].copy(), tokens, weights, multi)
            with self._lock:
                futures[text].set_result(made)
                if self._held.get(text) is futures[text]:
                    self._bytes += made.nbytes
                    self._trim()

    def _trim(self) -> None:
        """Forget the texts not asked for the longest while there are too many of them, or of their vectors."""
        while len(self._held) > self._max_texts + self._largest_call or self._bytes > self._max_bytes:
            self._forget([next(iter(self._held))])

    def _forget(self, texts: Iterable[str]) -> None:
        for text in texts:
            future = self._held.pop(text, None)
            if future is not None and future.done() and future.exception() is None:
                self._bytes -= future.result().nbytes


def _empty(
    encoder: M3Encoder, max_texts: int, max_bytes: int, kinds: frozenset[Representation]
) -> VectorCache:
    cache = VectorCache(encoder, max_texts, max_bytes)
    cache.keep(kinds)
    return cache


def _listed(texts: Iterable[str]) -> list[str]:
    """The texts of whatever may be gone through, once."""
    if isinstance(texts, str | bytes):
        raise InputError(f"give a list of texts, not one {type(texts).__name__}: [{texts[:40]!r}, ...]")
    if not isinstance(texts, Iterable):
        raise InputError(f"give a list of texts, not {type(texts).__name__}")
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputError(f"the text at index {index} is {type(text).__name__}, not a string")
    return listed
