"""The values that travel between encoder, stores and retrievers. No behaviour beyond slicing and checking."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from m3_core.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Json: TypeAlias = Any
"""What JSON can say: None, bool, int, float, str, and lists and string-keyed dictionaries of these."""

MAX_ID_BYTES = 512
MAX_DEPTH = 64
"""Levels of metadata, and of a filter; readers of JSON give up at some depth, the strictest known at 128."""
FIELD_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""A metadata field in a filter: ASCII letters, digits, ``_`` and ``-``, with dots for nesting."""


class Representation(StrEnum):
    """One of the three outputs of an M3 model, and the channel of a store that holds it."""

    DENSE = "dense"
    SPARSE = "sparse"
    MULTI = "multi"


ALL_REPRESENTATIONS = frozenset(Representation)


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different lengths without padding: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    values: (sum of t_i, d) float32; offsets: (n + 1,) int64, starting at 0.
    """

    values: FloatArray
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> FloatArray:
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[FloatArray]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: Sequence[int]) -> "Ragged":
        """The named rows, in the order named."""
        return Ragged.from_rows([self[row] for row in rows], dimension=self.values.shape[1])

    @staticmethod
    def from_rows(rows: Sequence[FloatArray], *, dimension: int) -> "Ragged":
        """Rows of shape (t_i, dimension), joined."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.concatenate(rows, dtype=np.float32) if rows else np.empty((0, dimension), np.float32)
        return Ragged(values.reshape(-1, dimension), offsets)


@dataclass(frozen=True, slots=True, eq=False)
class M3Vectors:
    """The representations of n texts. Each field that is present has n rows.

    dense: (n, d) float32, normalised. sparse: (n, vocab) float32 CSR, token id -> weight > 0.
    multi: n rows of (t_i, d_m) float32, each vector normalised. truncated: (n,) which texts were cut
    at ``max_length`` tokens.
    """

    dense: FloatArray | None = None
    sparse: "csr_array[Any, Any] | None" = None
    multi: Ragged | None = None
    truncated: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def __post_init__(self) -> None:
        sizes = {name: n for name, n in self._sizes() if n is not None}
        if len(set(sizes.values())) > 1:
            raise InputError(f"the representations have different numbers of rows: {sizes}")
        if not len(self.truncated) and len(self):
            object.__setattr__(self, "truncated", np.zeros(len(self), dtype=np.bool_))

    def _sizes(self) -> Iterator[tuple[str, int | None]]:
        yield "dense", None if self.dense is None else len(self.dense)
        yield "sparse", None if self.sparse is None else self.sparse.shape[0]
        yield "multi", None if self.multi is None else len(self.multi)
        yield "truncated", len(self.truncated) or None

    def __len__(self) -> int:
        return next((n for _, n in self._sizes() if n is not None), 0)

    @property
    def representations(self) -> frozenset[Representation]:
        """Which representations are present."""
        return frozenset(
            Representation(name) for name, n in self._sizes() if n is not None and name != "truncated"
        )

    def take(self, rows: Sequence[int]) -> "M3Vectors":
        """The named texts, in the order named."""
        index = np.asarray(rows, dtype=np.int64)
        return M3Vectors(
            dense=None if self.dense is None else self.dense[index],
            sparse=None if self.sparse is None else self.sparse[index],
            multi=None if self.multi is None else self.multi.take(rows),
            truncated=self.truncated[index],
        )

    def only(self, representations: Iterable[Representation]) -> "M3Vectors":
        """The same texts with no other representations than the named ones."""
        keep = set(representations)
        return M3Vectors(
            dense=self.dense if Representation.DENSE in keep else None,
            sparse=self.sparse if Representation.SPARSE in keep else None,
            multi=self.multi if Representation.MULTI in keep else None,
            truncated=self.truncated,
        )

    def sparse_row(self, row: int) -> tuple[IntArray, FloatArray]:
        """Token ids (ascending) and weights of one text; both are empty for a text without lexical weights."""
        if self.sparse is None:
            raise InputError("these vectors have no sparse representation")
        start, end = self.sparse.indptr[row], self.sparse.indptr[row + 1]
        tokens: IntArray = self.sparse.indices[start:end].astype(np.int64)
        order = np.argsort(tokens)
        return tokens[order], self.sparse.data[start:end].astype(np.float32)[order]

    @staticmethod
    def concat(parts: Sequence["M3Vectors"]) -> "M3Vectors":
        """The texts of all parts, in order; the parts must hold the same representations."""
        if not parts:
            raise InputError("there are no parts to join")
        if len(parts) == 1:
            return parts[0]
        kinds = {part.representations for part in parts}
        if len(kinds) != 1:
            raise InputError(
                "cannot join vectors with different representations: "
                + " and ".join(sorted(", ".join(sorted(kind)) or "none" for kind in kinds))
            )
        (kind,) = kinds
        dense = [part.dense for part in parts if part.dense is not None]
        sparse = [part.sparse for part in parts if part.sparse is not None]
        rows = [row for part in parts if part.multi is not None for row in part.multi]
        multi = None
        if Representation.MULTI in kind:
            width = next(part.multi.values.shape[1] for part in parts if part.multi is not None)
            multi = Ragged.from_rows(rows, dimension=width)
        return M3Vectors(
            dense=np.concatenate(dense) if dense else None,
            sparse=_stack(sparse) if sparse else None,
            multi=multi,
            truncated=np.concatenate([part.truncated for part in parts]),
        )


def _stack(rows: "Sequence[csr_array[Any, Any]]") -> "csr_array[Any, Any]":
    from scipy.sparse import csr_array, vstack

    return csr_array(vstack(rows, format="csr"))


@dataclass(frozen=True, slots=True)
class Document:
    """What a store keeps beside the vectors. The id is 1 to 512 UTF-8 bytes; metadata is a JSON object."""

    id: str
    text: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A document read back from a store, with the vectors that were asked for (n = 1), if any."""

    document: Document
    vectors: M3Vectors | None = None

    @property
    def id(self) -> str:
        return self.document.id


@dataclass(frozen=True, slots=True)
class Hit:
    """A found document. ``scores`` holds the score per channel; ``score`` the one it was ranked by."""

    document: Document
    score: float
    scores: Mapping[Representation, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.document.id


def check_id(value: object) -> str:
    """The id itself, if it is a string of 1 to 512 UTF-8 bytes.

    Raises:
        InputError: it is not; the message says what it is.
    """
    if not isinstance(value, str):
        raise InputError(f"a document id must be a string, not {type(value).__name__}: {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InputError(
            f"the document id {value!r} holds a lone surrogate, which no store can keep"
        ) from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise InputError(
            f"a document id must be 1 to {MAX_ID_BYTES} UTF-8 bytes long, this has {size}: {value[:60]!r}"
        )
    return value


def check_document(document: Document) -> None:
    """Raise InputError, naming the document and the field, for what some store could not keep as it is."""
    check_id(document.id)
    if not isinstance(document.text, str):
        raise InputError(
            f"the text of document {document.id!r} is {type(document.text).__name__}, not a string"
        )
    _check_string(document.text, f"the text of document {document.id!r}")
    if not isinstance(document.metadata, Mapping):
        raise InputError(
            f"the metadata of document {document.id!r} is {type(document.metadata).__name__}, not a dictionary"
        )
    _check_json(document.metadata, f"metadata of document {document.id!r}")


def _check_string(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} holds a lone surrogate, which no store can keep") from None


def _check_json(value: Json, where: str, level: int = 1) -> None:
    if level > MAX_DEPTH + 1:
        raise InputError(f"{where[:200]}: metadata may be nested {MAX_DEPTH} levels deep, this is deeper")
    match value:
        case None | bool():
            return
        case str():
            _check_string(value, where)
        case int():
            if not -(2**63) <= value < 2**63:
                raise InputError(f"{where}: the integer {value} does not fit in 64 bits; keep it as a string")
        case float():
            if not math.isfinite(value):
                raise InputError(f"{where}: {value} is not a JSON number; leave the field out or use null")
        case list() | tuple():
            for item in value:
                _check_json(item, where, level + 1)
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InputError(f"{where}: the key {key!r} is {type(key).__name__}, not a string")
                if not key or "." in key:
                    raise InputError(
                        f"{where}: the key {key!r} is empty or has a dot; dots are for nesting, use a dictionary"
                    )
                _check_string(key, where)
                _check_json(item, f"{where}, field {key!r}", level + 1)
        case _:
            raise InputError(f"{where}: {type(value).__name__} cannot be kept as JSON: {value!r}")
