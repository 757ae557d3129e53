"""Vectors to requests, in batches that an engine takes, and answers to hits."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from m3_core.errors import InputError
from m3_core.filters import Filter, Where
from m3_core.store import Fields
from m3_core.types import Hit, M3Vectors, Representation
from m3_integrations.qdrant import convert
from m3_integrations.qdrant.engine import (
    Engine,
    Found,
    Point,
    PointId,
    Query,
    Ranked,
    Request,
    RequestTooLarge,
    Weighted,
)
from m3_integrations.qdrant.filters import Condition, translate

REQUEST_BYTES = 24 << 20
"""Of one write or batch of queries, as JSON; a server takes 32 MiB."""
_IDS_AT_ONCE = 512
"""Points read by id in one request."""
_DELETED_AT_ONCE = 10_000
_ID_BYTES = 40


class Requests:
    """Asks the engine of one collection, whose fields have these names.

    exact: whether searches pass over no document, at the cost of looking at all of them.
    """

    def __init__(self, engine: Engine, fields: Fields, *, exact: bool) -> None:
        self.engine, self.fields, self.exact = engine, fields, exact

    def condition(self, where: Where) -> Condition | None:
        """The engine's filter; None for none."""
        parsed = Filter.parse(where)
        return None if parsed is None else translate(parsed, self.engine.dialect, self.fields.metadata)

    def query(
        self,
        queries: M3Vectors,
        row: int,
        kind: Representation,
        limit: int,
        condition: Condition | None,
        *,
        payload: bool = False,
        exact: bool | None = None,
    ) -> Query | None:
        """The best documents of one query by one channel; None if the query is empty there and finds nothing."""
        vector = convert.to_vector(queries, row, kind)
        if vector is None or not convert.vector_size(vector):
            return None
        name = str(self.fields.name_of(kind))
        return Query(limit, vector, name, condition, payload, self.exact if exact is None else exact)

    def scores(
        self, queries: M3Vectors, row: int, kind: Representation, points: Sequence[PointId]
    ) -> list[Query]:
        """Requests that together bring the exact score of each of the points that has such a vector.

        A document without a token in common with the query is no result of a lexical search, but scores 0;
        so the points that have lexical weights at all are asked for first.
        """
        dialect = self.engine.dialect
        named = dialect.has_id(points)
        query = self.query(queries, row, kind, len(points), dialect.filter(must=[named]), exact=True)
        found = [] if query is None else [query]
        if kind is Representation.SPARSE:
            has_weights = dialect.has_vector(str(self.fields.sparse))
            found.insert(0, Query(len(points), filter=dialect.filter(must=[named, has_weights])))
        return found

    def ask(self, requests: Sequence[Request]) -> list[list[Found]]:
        """The answers, in order, by as few calls as the size of the requests allows."""
        return [found for run in _runs(requests) for found in self.engine.query(run)]

    def ask_ids(self, requests: Sequence[Request]) -> list[list[Any]]:
        """The ids of the answers, in the form in which the dialect's ``has_id`` takes them."""
        return [ids for run in _runs(requests) for ids in self.engine.query_ids(run)]

    def retrieve(
        self, points: Sequence[PointId | None], *, payload: bool, kinds: Collection[Representation] = ()
    ) -> Iterator[Found]:
        """Those of the points that are there, in any order."""
        known = list(dict.fromkeys(point for point in points if point is not None))
        for start in range(0, len(known), _IDS_AT_ONCE):
            some = known[start : start + _IDS_AT_ONCE]
            yield from self.engine.retrieve(some, payload=payload, vectors=self.names(kinds))

    def delete(self, points: Sequence[PointId]) -> None:
        """Delete the points, as many in one request as go into one."""
        for start in range(0, len(points), _DELETED_AT_ONCE):
            self.engine.delete(points[start : start + _DELETED_AT_ONCE])

    def write(self, points: Iterable[Point], send: Callable[[Sequence[Point]], None]) -> None:
        """Send the points in batches; no more than one batch is held at a time.

        Raises:
            InputError: a point is too large for the server by itself.
        """
        batch: list[Point] = []
        size = 0
        for point in points:
            added = convert.json_size(point)
            if batch and size + added > REQUEST_BYTES:
                self._send(batch, send)
                batch, size = [], 0
            batch.append(point)
            size += added
        if batch:
            self._send(batch, send)

    def _send(self, points: Sequence[Point], send: Callable[[Sequence[Point]], None]) -> None:
        """Send a batch; in halves where the server, or a proxy before it, takes no request of that size."""
        try:
            send(points)
        except RequestTooLarge as error:
            if len(points) == 1:
                name = points[0].payload.get(str(self.fields.id), points[0].id)
                raise InputError(f"the document {name!r} is too large to be written: {error}") from error
            half = len(points) // 2
            self._send(points[:half], send)
            self._send(points[half:], send)

    def names(self, kinds: Collection[Representation]) -> list[str]:
        """The vectors of the channels."""
        return [str(self.fields.name_of(kind)) for kind in kinds]

    def hits(
        self, found: Sequence[Found], kind: Representation | None = None, scale: float = 1.0
    ) -> list[Hit]:
        """The documents found, best first, equal scores by id. kind: the channel whose scores these are."""
        hits = []
        for point in found:
            score = point.score * scale
            if kind is not Representation.SPARSE or score > 0:
                document = convert.to_document(point, self.fields)
                hits.append(Hit(document, score, {} if kind is None else {kind: score}))
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def scale(queries: M3Vectors, row: int, kind: Representation) -> float:
    """What the engine's score is to be multiplied by: MaxSim is a sum there, and a mean in arXiv 2402.03216."""
    if kind is Representation.MULTI and queries.multi is not None:
        return 1 / max(1, len(queries.multi[row]))
    return 1.0


def _runs(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """The requests in runs of at most `REQUEST_BYTES`."""
    for run in convert.batches([_size(request) for request in requests], REQUEST_BYTES):
        yield [requests[place] for place in run]


def _size(request: Request) -> int:
    match request:
        case Weighted() | Ranked():
            return sum(_size(part) for part in request.parts)
        case Query():
            return convert.vector_size(request.vector) + _ID_BYTES * request.limit
