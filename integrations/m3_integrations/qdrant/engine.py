"""What the two engines have in common: the requests a store makes of them, in neither's own classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from m3_core.errors import StoreError
from m3_core.types import Json, Representation
from m3_integrations.qdrant.filters import Condition, Dialect
from m3_integrations.qdrant.layout import Layout, Note

PointId: TypeAlias = int | str
"""An unsigned integer, or a UUID in its canonical form."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """Token ids and their weights."""

    indices: list[int]
    values: list[float]


Vector: TypeAlias = list[float] | list[list[float]] | Sparse


@dataclass(frozen=True, slots=True)
class Point:
    """What is written; an update of vectors has no payload."""

    id: PointId
    vectors: Mapping[str, Vector]
    payload: Mapping[str, Json] = field(default_factory=dict)


class Found(NamedTuple):
    """What is read: a point with what was asked for of it. A tuple, because hundreds are made in one search."""

    id: PointId
    payload: Mapping[str, Json]
    vectors: Mapping[str, Vector]
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Query:
    """The nearest points to a vector, or without one any points that pass the filter."""

    limit: int
    vector: Vector | None = None
    using: str = ""
    filter: Condition | None = None
    payload: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Weighted:
    """The points with the highest ``Σ weight · score``, a score that a part does not give counting 0."""

    parts: Sequence[Query]
    weights: Sequence[float]
    limit: int
    filter: Condition | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """The points with the highest ``Σ 1 / (k + rank)`` over the parts, rank from 1."""

    parts: Sequence[Query]
    k: int
    limit: int
    filter: Condition | None


Request: TypeAlias = Query | Weighted | Ranked


class RequestTooLarge(StoreError):
    """The server, or a proxy before it, takes no request of this size; in parts it may."""


class Engine(Protocol):
    """One collection. What is written is seen by the next call; every method may raise a `StoreError`."""

    @property
    def dialect(self) -> Dialect: ...
    def layout(self) -> Layout: ...
    def add_vector(self, kind: Representation, name: str, size: int) -> None: ...
    def write_note(self, note: Note) -> None: ...
    def upsert(self, points: Sequence[Point]) -> None: ...
    def update_vectors(self, points: Sequence[Point]) -> None: ...
    def delete_vectors(self, ids: Sequence[PointId], name: str) -> None: ...
    def delete(self, ids: Sequence[PointId]) -> None: ...
    def delete_matching(self, condition: Condition) -> None: ...

    def retrieve(
        self, ids: Sequence[PointId], *, payload: bool, vectors: Sequence[str]
    ) -> Sequence[Found]: ...

    def scroll(
        self, *, condition: Condition | None, start: PointId | None, limit: int, vectors: Sequence[str]
    ) -> tuple[Sequence[Found], PointId | None]: ...

    def query(self, requests: Sequence[Request]) -> list[list[Found]]: ...

    def query_ids(self, requests: Sequence[Request]) -> list[list[Any]]:
        """What `query` finds as ids alone, in the engine's own form, which its dialect's ``has_id`` takes."""
        ...

    def count(self, condition: Condition | None) -> int: ...
    def close(self) -> None: ...
