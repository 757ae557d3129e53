"""Hard negatives without mining: passages that resemble each other are put into the same batch.

Every other passage of a batch is a negative already, so neighbours cost nothing and teach more than strangers.
"""

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from m3_core.types import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

DUPLICATE = (
    0.8  # cosine from which a passage is taken for another version of the same one, which may answer too
)


SKETCH = 256  # dimensions of the random projection that likeness is computed on; its error is about 0.06


class Neighbours:
    """Passages as sketches of their tf-idf vectors: (n, SKETCH) rows of length 1."""

    def __init__(self, passages: Sequence[Sequence[int]]) -> None:
        vectors = _tf_idf(passages)
        signs = np.random.default_rng(0).choice(
            np.array([-1, 1], dtype=np.float32), (vectors.shape[1], SKETCH)
        )
        sketches: FloatArray = vectors @ signs
        self.sketches = sketches / np.maximum(np.linalg.norm(sketches, axis=1, keepdims=True), 1e-9)

    def blocks(self, size: int, random: Random) -> list[list[int]]:
        """All passages in blocks of ``size`` (a last one may be smaller): one drawn, and those most like it.

        A passage is in one block only, so later blocks hold what is left.
        """
        count = len(self.sketches)
        left = np.ones(count, dtype=bool)
        blocks = []
        for seed in random.sample(range(count), count):
            if not left[seed]:
                continue
            left[seed] = False
            likeness = self.sketches @ self.sketches[seed]
            likeness[~left | (likeness >= DUPLICATE)] = -np.inf
            wanted = min(3 * size, count)
            nearest = np.argpartition(-likeness, wanted - 1)[:wanted]
            nearest = nearest[np.argsort(-likeness[nearest], kind="stable")]
            taken = self._apart(nearest[likeness[nearest] > -np.inf], size - 1)
            left[taken] = False
            blocks.append([seed, *taken])
        return blocks

    def _apart(self, candidates: IntArray, count: int) -> list[int]:
        """The first ``count`` candidates that are no version of one another."""
        alike = self.sketches[candidates] @ self.sketches[candidates].T >= DUPLICATE
        taken: list[int] = []
        for place in range(len(candidates)):
            if len(taken) < count and not alike[place, taken].any():
                taken.append(place)
        return [int(candidates[place]) for place in taken]


def _tf_idf(passages: Sequence[Sequence[int]]) -> "csr_array[Any, Any]":
    """(n, ids) rows of length 1: square root of the count times log(n / document frequency)."""
    from scipy.sparse import csr_array

    rows = np.repeat(np.arange(len(passages)), [len(passage) for passage in passages])
    ids = np.concatenate([np.asarray(passage, dtype=np.int64) for passage in passages])
    counts = csr_array(
        (np.ones(len(ids), np.float32), (rows, ids)), shape=(len(passages), int(ids.max()) + 1)
    )
    counts.sum_duplicates()
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    counts.data = np.sqrt(counts.data) * np.log(len(passages) / frequency[counts.indices]).astype(np.float32)
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    owners = np.repeat(np.arange(len(passages)), np.diff(counts.indptr))
    counts.data /= np.maximum(lengths, 1e-9)[owners].astype(np.float32)
    return counts
