"""Requests to Qdrant Edge, in its own classes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import qdrant_edge as edge

from m3_core.errors import StoreError, StoreLocked
from m3_core.types import Representation
from m3_integrations.qdrant.edge_files import read_layout, write_note
from m3_integrations.qdrant.engine import (
    Found,
    Point,
    PointId,
    Query,
    Ranked,
    Request,
    Sparse,
    Vector,
    Weighted,
)
from m3_integrations.qdrant.filters import Condition
from m3_integrations.qdrant.layout import Layout, Note

_NO_VECTORS: Mapping[str, Vector] = MappingProxyType({})


class EdgeDialect:
    """Conditions as `qdrant_edge` writes them."""

    def equals(self, key: str, value: str | bool) -> Condition:
        # Edge reads Python's bool as an integer, which it is; numpy's is none.
        typed: Any = np.bool_(value) if isinstance(value, bool) else value
        return edge.FieldCondition(key=key, match=edge.MatchValue(typed))

    def any_of(self, key: str, values: Sequence[str]) -> Condition:
        return edge.FieldCondition(key=key, match=edge.MatchAny(list(values)))

    def other_than(self, key: str, value: str | int) -> Condition:
        others: Any = [value]
        return edge.FieldCondition(key=key, match=edge.MatchExcept(others))

    def between(self, key: str, **bounds: float) -> Condition:
        return edge.FieldCondition(key=key, range=edge.RangeFloat(**bounds))

    def has_id(self, ids: Sequence[PointId]) -> Condition:
        return edge.HasIdCondition(set(ids))

    def has_vector(self, name: str) -> Condition:
        return edge.HasVectorCondition(name)

    def filter(
        self,
        *,
        must: Sequence[Condition] = (),
        should: Sequence[Condition] = (),
        must_not: Sequence[Condition] = (),
    ) -> Condition:
        return edge.Filter(must=list(must), should=list(should), must_not=list(must_not))


class EdgeEngine:
    """The `Engine` of one shard."""

    dialect = EdgeDialect()

    def __init__(self, shard: edge.EdgeShard, place: str, folder: Path) -> None:
        self._shard, self._place, self._folder = shard, place, folder

    def layout(self) -> Layout:
        return read_layout(self._folder)

    def add_vector(self, kind: Representation, name: str, size: int) -> None:
        many = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        if kind is Representation.SPARSE:
            self._update(edge.UpdateOperation.create_sparse_vector(name))
        else:
            several = many if kind is Representation.MULTI else None
            self._update(edge.UpdateOperation.create_dense_vector(name, size, edge.Distance.Dot, several))

    def write_note(self, note: Note) -> None:
        with named_errors(self._place):
            write_note(self._folder, note)

    def upsert(self, points: Sequence[Point]) -> None:
        written = [edge.Point(point.id, _named(point.vectors), dict(point.payload)) for point in points]
        self._update(edge.UpdateOperation.upsert_points(written))

    def update_vectors(self, points: Sequence[Point]) -> None:
        written = [edge.PointVectors(point.id, _named(point.vectors)) for point in points]
        self._update(edge.UpdateOperation.update_vectors(written))

    def delete_vectors(self, ids: Sequence[PointId], name: str) -> None:
        self._update(edge.UpdateOperation.delete_vectors(list(ids), [name]))

    def delete(self, ids: Sequence[PointId]) -> None:
        self._update(edge.UpdateOperation.delete_points(list(ids)))

    def delete_matching(self, condition: Condition) -> None:
        self._update(edge.UpdateOperation.delete_points_by_filter(condition))

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: Sequence[str]) -> Sequence[Found]:
        with named_errors(self._place):
            records = self._shard.retrieve(list(ids), payload, list(vectors) or False)
        return [_record(record) for record in records]

    def scroll(
        self, *, condition: Condition | None, start: PointId | None, limit: int, vectors: Sequence[str]
    ) -> tuple[Sequence[Found], PointId | None]:
        request = edge.ScrollRequest(
            offset=start,
            limit=limit,
            filter=condition,
            with_payload=True,
            with_vector=list(vectors) or False,
        )
        with named_errors(self._place):
            records, following = self._shard.scroll(request)
        return [_record(record) for record in records], None if following is None else _id(following)

    def query(self, requests: Sequence[Request]) -> list[list[Found]]:
        return [
            [Found(_id(point.id), point.payload or {}, _NO_VECTORS, point.score) for point in points]
            for points in self._ask(requests)
        ]

    def query_ids(self, requests: Sequence[Request]) -> list[list[Any]]:
        return [[point.id for point in points] for points in self._ask(requests)]

    def _ask(self, requests: Sequence[Request]) -> list[list[edge.ScoredPoint]]:
        batch = edge.QueryBatchRequest([_request(request) for request in requests])
        with named_errors(self._place):
            return self._shard.query_batch(batch)

    def count(self, condition: Condition | None) -> int:
        with named_errors(self._place):
            return self._shard.count(edge.CountRequest(exact=True, filter=condition))

    def optimize(self) -> bool:
        with named_errors(self._place):
            return self._shard.optimize()

    def close(self) -> None:
        with named_errors(self._place):
            self._shard.flush()
            self._shard.close()

    def _update(self, operation: edge.UpdateOperation) -> None:
        with named_errors(self._place):
            self._shard.update(operation)


@contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Our errors instead of the engine's, which are all plain `Exception`, and the system's."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{place}: {error}") from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        message = str(error).removeprefix("Service runtime error: ")
        if "WouldBlock" in message:
            raise StoreLocked(
                f"{place} is open in another process or another object of this one; close it there first"
            ) from error
        raise StoreError(f"{place}: {message}") from error


def _id(value: Any) -> PointId:
    return value if isinstance(value, int) else str(value)


def _record(record: edge.Record) -> Found:
    vectors: Mapping[str, Any] = record.vector if isinstance(record.vector, dict) else {}
    return Found(
        _id(record.id), record.payload or {}, {name: _from_edge(vector) for name, vector in vectors.items()}
    )


def _from_edge(vector: Any) -> Vector:
    return Sparse(vector.indices, vector.values) if isinstance(vector, edge.SparseVector) else vector


def _to_edge(vector: Vector) -> Any:
    return edge.SparseVector(vector.indices, vector.values) if isinstance(vector, Sparse) else vector


def _named(vectors: Mapping[str, Vector]) -> dict[str, Any]:
    return {name: _to_edge(vector) for name, vector in vectors.items()}


def _nearest(query: Query) -> dict[str, Any]:
    """The arguments that a request and a part of one share."""
    params = edge.SearchParams(
        exact=query.exact, quantization=edge.QuantizationSearchParams(ignore=query.exact, rescore=True)
    )
    nearest = None if query.vector is None else edge.Query.Nearest(_to_edge(query.vector), query.using)
    return {"limit": query.limit, "query": nearest, "filter": query.filter, "params": params}


def _request(request: Request) -> edge.QueryRequest:
    match request:
        case Query():
            return edge.QueryRequest(**_nearest(request), with_payload=request.payload)
        case Ranked(parts, k):
            # Edge counts ranks from 0, so the k of 1 / (k + rank) with ranks from 1 is one more there.
            fusion: Any = edge.Fusion.Rrf(k + 1)
        case Weighted(parts, weights):
            expression = edge.Expression
            terms = [
                expression.Mult([expression.Constant(weight), expression.Variable(f"$score[{part}]")])
                for part, weight in enumerate(weights)
            ]
            missing = {f"$score[{part}]": 0.0 for part in range(len(weights))}
            fusion = edge.Formula(expression.Sum(terms), missing)
    return edge.QueryRequest(
        limit=request.limit,
        query=fusion,
        prefetches=[edge.Prefetch(**_nearest(part)) for part in parts],
        filter=request.filter,
        with_payload=True,
    )
