"""The store over either engine: everything but connections, folders and the making of collections."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from m3_core.checks import (
    check_fingerprint,
    check_held,
    check_ids,
    check_score,
    check_search,
    check_size,
    check_update,
    check_upsert,
)
from m3_core.errors import InputError, SchemaMismatch, StoreError
from m3_core.filters import Where
from m3_core.fusion import Fusion
from m3_core.store import Capabilities, ClosingMixin, Fields, Page, Problem, Schema
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Record, Representation
from m3_integrations.qdrant import convert, fused
from m3_integrations.qdrant.engine import Engine, Point, PointId
from m3_integrations.qdrant.extending import Extending
from m3_integrations.qdrant.layout import Layout, Names, findings, raise_first
from m3_integrations.qdrant.requests import Requests, scale

LongMulti: TypeAlias = Literal["fail", "cut"]


class QdrantBase(Extending, ClosingMixin):
    """A collection of either engine. Make one with `create` or `open` of `QdrantStore` or `QdrantEdgeStore`.

    May be used from several threads.
    """

    multi_numbers: int | None = None
    """Numbers (vectors times dimensions) that one multi-vector may have at most; None: the engine has no limit."""

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        *,
        place: str,
        fields: Fields | Names | None = None,
        exact: bool | None = None,
        long_multi: LongMulti = "fail",
        partial: bool = False,
    ) -> None:
        if long_multi not in ("fail", "cut"):
            raise InputError(f"long_multi is 'fail' or 'cut', not {long_multi!r}")
        self._engine, self._place, self._exact = engine, place, exact
        if partial:
            self.named = layout.partial(fields, ours=self._looks_ours())
        else:
            self.named = layout.fields(fields)
        self._partial = partial
        self._use(layout)
        self._chosen = layout.chosen(fields)
        self._long_multi = long_multi
        self._closed = False

    def _use(self, layout: Layout) -> None:
        """Work with the vectors that are there; only what is opened partially may lack some that are named."""
        self.fields = layout.held(self.named) if self._partial else self.named
        raise_first(findings(layout, self.fields), self._place)
        self.schema = layout.schema(self.fields)
        self._layout = layout
        self._approximate = layout.approximate(self.fields) and self._exact is not True
        self._requests = Requests(
            self._engine, self.fields, exact=not layout.approximate(self.fields) or bool(self._exact)
        )

    @classmethod
    def _checked(
        cls, engine: Engine, *, schema: Schema | None, fingerprint: str | None = None, **settings: Any
    ) -> Self:
        """A store over the engine, after all checks; the engine is closed if one fails."""
        with ExitStack() as stack:
            stack.callback(engine.close)
            store = cls(engine, engine.layout(), **settings)
            check_fingerprint(store.fingerprint, fingerprint, store._place)
            raise_first(findings(store._layout, store.fields, schema, chosen=store._chosen), store._place)
            for problem in store._foreign_ids():
                raise SchemaMismatch(f"{store._place} does not fit: {problem.what} ({problem.remedy})")
            stack.pop_all()
            return store

    @property
    def capabilities(self) -> Capabilities:
        """What it holds. The engine fuses weighted sums exactly; for reciprocal rank see `search_fused`."""
        return Capabilities(
            self.fields.representations,
            fusions=frozenset({"WeightedSum"}),
            exact=not self._approximate,
            score_tolerance=self._layout.tolerance(self.fields),
        )

    @property
    def fingerprint(self) -> str | None:
        """Of the model whose vectors the collection holds, from the collection's own metadata."""
        return self._layout.note.fingerprint

    @property
    def identity(self) -> str:
        """The collection's name with an id that was made with it; or its place, if this library did not make it."""
        if self._layout.note.id is None:
            return self._place
        scheme, _, path = self._place.partition("://")
        return f"{scheme}:{path.rpartition('/')[2]}#{self._layout.note.id}"

    def check(self, schema: Schema) -> list[Problem]:
        """What does not fit a model: dimensions, missing vectors, settings, fingerprint. Nothing is written."""
        with self._opened():
            found = findings(self._layout, self.fields, schema, chosen=self._chosen)
            return [problem for _, problem in found] + list(self._foreign_ids())

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write documents whole; see `Store.upsert`.

        Raises:
            InputError: a multi-vector is larger than the engine takes, unless ``long_multi="cut"``.
        """
        with self._opened():
            batch = check_upsert(documents, vectors, self.schema)
            held = self._fitting(batch.vectors, [document.id for document in batch.documents])
            # What can be refused is refused before the first write; vectors become lists batch by batch.
            parts = [
                (convert.writable_id(document.id, self.fields), convert.to_payload(document, self.fields))
                for document in batch.documents
            ]
            self._requests.write(
                (
                    Point(point, convert.to_vectors(held, row, self.fields), payload)
                    for row, (point, payload) in enumerate(parts)
                ),
                self._engine.upsert,
            )

    def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Replace channels of existing documents; see `Store.update_vectors`."""
        with self._opened():
            check_update(ids, vectors, self.schema)
            if not ids:
                return
            points = [convert.point_id(name, self.fields) for name in ids]
            there = {point.id for point in self._requests.retrieve(points, payload=False)}
            known: list[PointId] = []
            for name, point in zip(ids, points, strict=True):
                if point is None or point not in there:
                    raise InputError(f"there is no document with the id {name!r}; nothing was updated")
                known.append(point)
            held = self._fitting(vectors, ids)
            named = ((point, convert.to_vectors(held, row, self.fields)) for row, point in enumerate(known))
            self._requests.write(
                (Point(point, vectors) for point, vectors in named if vectors), self._engine.update_vectors
            )
            bare = [] if held.multi is None else np.flatnonzero(np.diff(held.multi.offsets) == 0).tolist()
            if bare:
                self._engine.delete_vectors([known[row] for row in bare], str(self.fields.multi))

    def _fitting(self, vectors: M3Vectors, ids: Sequence[str]) -> M3Vectors:
        if self.multi_numbers is None:
            return vectors
        return convert.fit_multi(vectors, ids, self.multi_numbers, cut=self._long_multi == "cut")

    def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        """Delete the named documents and those that match; see `Store.delete`."""
        check_ids(ids)
        condition = self._requests.condition(where)
        with self._opened():
            points = [point for name in ids if (point := convert.point_id(name, self.fields)) is not None]
            self._requests.delete(points)
            if condition is not None:
                self._engine.delete_matching(condition)

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        """The named documents, None for those that are not there; see `Store.get`."""
        check_ids(ids)
        with self._opened():
            check_held(vectors, self.schema.representations)
            points = [convert.point_id(name, self.fields) for name in ids]
            found = {
                point.id: point for point in self._requests.retrieve(points, payload=True, kinds=vectors)
            }
            return [
                convert.to_record(found[point], self.fields, vectors, self.schema) if point in found else None
                for point in points
            ]

    def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        """A page of the documents in the order of their points' ids; see `Store.scan`."""
        check_size(size, "the page size")
        condition = self._requests.condition(where)
        with self._opened():
            check_held(vectors, self.schema.representations)
            start = None if cursor is None else convert.point_id(cursor, Fields(id=None))
            if cursor is not None and start is None:
                raise InputError(f"{cursor!r} is not a cursor of a scan of this store")
            found, following = self._engine.scroll(
                condition=condition, start=start, limit=size, vectors=self._requests.names(vectors)
            )
            records = [convert.to_record(point, self.fields, vectors, self.schema) for point in found]
            return Page(records, None if following is None else str(following))

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        """The best documents of every query by each channel, all in one request; see `Store.search`."""
        condition = self._requests.condition(where)
        with self._opened():
            check_search(queries, k, self.schema)
            asked = {
                (kind, row): query
                for row in range(len(queries))
                for kind, limit in k.items()
                if (query := self._requests.query(queries, row, kind, limit, condition, payload=True))
            }
            hits: dict[Representation, list[list[Hit]]] = {
                kind: [[] for _ in range(len(queries))] for kind in k
            }
            for (kind, row), found in zip(asked, self._requests.ask(list(asked.values())), strict=True):
                hits[kind][row] = self._requests.hits(found, kind, scale(queries, row, kind))
            return hits

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Exact scores of the named documents, by queries that are filtered to them; see `Store.score`."""
        with self._opened():
            check_score(queries, by, ids, self.schema)
            points = [[convert.point_id(name, self.fields) for name in names] for names in ids]
            asked = [
                (row, query)
                for row, some in enumerate(points)
                if (wanted := list(dict.fromkeys(point for point in some if point is not None)))
                for query in self._requests.scores(queries, row, by, wanted)
            ]
            known: list[dict[PointId | None, float]] = [{} for _ in ids]
            answers = self._requests.ask([query for _, query in asked])
            for (row, query), found in zip(asked, answers, strict=True):
                factor = 0.0 if query.vector is None else scale(queries, row, by)
                known[row].update((point.id, factor * point.score) for point in found)
            return [
                np.array([scores.get(point, np.nan) for point in some], dtype=np.float32)
                for scores, some in zip(known, points, strict=True)
            ]

    def search_fused(
        self,
        queries: M3Vectors,
        fusion: Fusion,
        k: int,
        candidates: Mapping[Representation, int],
        *,
        where: Where = None,
    ) -> list[list[Hit]]:
        """The best k by the fusion over the union of the candidates, fused by the engine; see `FusedSearch`.

        A weighted sum is exact. Reciprocal rank is not among the fusions in `capabilities`: documents with equal
        scores in a channel have ranks in the engine's own order there, where `m3_core.fusion` orders them by id.

        Raises:
            Unsupported: reciprocal rank with unequal weights, or with a k that is not an integer.
        """
        check_size(k, "k")
        condition = self._requests.condition(where)
        with self._opened():
            check_search(queries, candidates, self.schema)
            check_search(queries, dict.fromkeys(fusion.representations, k), self.schema)
            found = fused.search(self._requests, queries, fusion, k, candidates, condition)
            return [self._requests.hits(points) for points in found]

    def count(self, *, where: Where = None) -> int:
        """How many documents there are, or match."""
        condition = self._requests.condition(where)
        with self._opened():
            return self._engine.count(condition)

    def close(self) -> None:
        """Release the connection, or the folder and its lock."""
        if not self._closed:
            self._closed = True
            self._engine.close()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        if self._closed:
            raise StoreError(f"the store {self.identity} is closed")
        yield
