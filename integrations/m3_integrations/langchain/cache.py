"""Each text through the model once, whoever asks for which of its representations, and from which thread."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

import numpy as np

from m3_core.encoder import M3Encoder
from m3_core.errors import InputError
from m3_core.types import FloatArray, IntArray, Representation


@dataclass(frozen=True, slots=True, eq=False)
class TextVectors:
    """Of one text. dense: (d,) float32. tokens, weights: its lexical weights, empty if the model has none."""

    dense: FloatArray
    tokens: IntArray
    weights: FloatArray


class VectorCache:
    """Dense and sparse vectors of the texts asked for last.

    It holds the ``max_texts`` last texts beside as many as the largest call asked for: vector stores ask for all
    texts of a call once per representation, and meanwhile others may ask for their queries.
    """

    def __init__(self, encoder: M3Encoder, max_texts: int) -> None:
        if max_texts < 0:
            raise InputError(f"max_texts must be at least 0, not {max_texts}")
        self.encoder = encoder
        self._kinds = encoder.representations - {Representation.MULTI}
        self._max_texts = max_texts
        self._largest_call = 0
        self._lock = Lock()
        self._held: OrderedDict[str, Future[TextVectors]] = OrderedDict()

    def vectors(self, texts: Sequence[str]) -> list[TextVectors]:
        """The vectors of the texts, in order; those that are not held are encoded, in one call.

        Raises:
            InputError: an element is not a string (names its index).
        """
        _check(texts)
        wanted = dict.fromkeys(texts)
        with self._lock:
            mine = [text for text in wanted if text not in self._held]
            for text in wanted:
                self._held.setdefault(text, Future())
                self._held.move_to_end(text)
            futures = {text: self._held[text] for text in wanted}
            self._largest_call = max(self._largest_call, len(wanted))
            while len(self._held) > self._max_texts + self._largest_call:
                self._held.popitem(last=False)
        # First what this call has to do, then waiting for others: so no two calls ever wait for each other.
        if mine:
            self._encode(mine, futures)
        return [futures[text].result() for text in texts]

    def clear(self) -> None:
        """Forget every text."""
        with self._lock:
            self._held.clear()
            self._largest_call = 0

    def _encode(self, texts: Sequence[str], futures: dict[str, Future[TextVectors]]) -> None:
        try:
            vectors = self.encoder.encode_documents(texts, representations=self._kinds)
        except BaseException as error:
            with self._lock:
                for text in texts:
                    if self._held.get(text) is futures[text]:
                        del self._held[text]
            for text in texts:
                futures[text].set_exception(error)
            raise
        assert vectors.dense is not None  # every model has it
        none = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for row, text in enumerate(texts):
            tokens, weights = none if vectors.sparse is None else vectors.sparse_row(row)
            futures[text].set_result(TextVectors(vectors.dense[row].copy(), tokens, weights))


def _check(texts: Sequence[str]) -> None:
    if isinstance(texts, str | bytes):
        raise InputError(f"give a list of texts, not one {type(texts).__name__}: [{texts[:40]!r}, ...]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"the text at index {index} is {type(text).__name__}, not a string")
