"""What backfilling needs of a collection of either engine beside the store: fields added, documents copied as they are."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from m3_core.errors import InputError
from m3_core.store import Fields, Problem, Schema
from m3_core.types import ALL_REPRESENTATIONS, M3Vectors, Representation
from m3_integrations.qdrant import convert
from m3_integrations.qdrant.engine import Engine, Found, Point
from m3_integrations.qdrant.filters import Condition
from m3_integrations.qdrant.layout import Layout, findings, raise_first
from m3_integrations.qdrant.requests import Requests

_SAMPLE = 4
"""Points looked at when a collection that others made is opened."""


class Extending:
    """The part of a store that `m3_core.extending.Extensible` names; mixed into the store."""

    holds = ALL_REPRESENTATIONS
    fields: Fields
    named: Fields
    _engine: Engine
    _layout: Layout
    _place: str
    _requests: Requests
    _opened: Callable[[], AbstractContextManager[None]]
    _use: Callable[[Layout], None]
    _fitting: Callable[[M3Vectors, Sequence[str]], M3Vectors]

    @property
    def place(self) -> str:
        """The URL that opens the collection, without options."""
        return self._place

    @property
    def contents(self) -> str:
        """The vectors of the collection, for people."""
        return str(self._layout)

    @property
    def taken(self) -> frozenset[str]:
        """The names that a new vector cannot have."""
        return frozenset({*self._layout.vectors, *self._layout.sparse})

    @property
    def in_place(self) -> bool:
        """Whether fields can be added; only servers older than 1.18 refuse, when they are asked."""
        return True

    def lacking(self, schema: Schema) -> Mapping[Representation, str]:
        """The vectors, by channel, that are named and wanted by the schema but not there yet."""
        named = {kind: self.named.name_of(kind) for kind in Representation if kind in schema.representations}
        return {
            kind: name
            for kind, name in named.items()
            if name is not None and self.fields.name_of(kind) is None
        }

    def extend(self, schema: Schema) -> None:
        """Add the vectors that are lacking, and note the model; see `m3_core.extending.Extensible`."""
        with self._opened():
            wanted = schema.only(self.named.representations)
            raise_first(findings(self._layout, self.fields, wanted), self._place)
            sizes = {Representation.DENSE: schema.dense, Representation.MULTI: schema.multi}
            missing = self.lacking(schema)
            if missing and "" in self._layout.vectors:
                warnings.warn(
                    f"{self._place} has a vector without a name; now that there are others beside it, programs that "
                    "write it may have to name it '': try them on a copy (--to) if in doubt",
                    stacklevel=3,
                )
            for kind, name in missing.items():
                self._engine.add_vector(kind, name, sizes.get(kind) or 0)
            note = self._layout.extended(self.named, schema)
            if note != self._layout.note:
                self._engine.write_note(note)
            self._use(self._engine.layout())

    def bare(self, ids: Sequence[str], kinds: Collection[Representation]) -> list[str]:
        """Those of the documents that have no vector of any of the channels."""
        with self._opened():
            points = {
                point: name for name in ids if (point := convert.point_id(name, self.fields)) is not None
            }
            if not points:  # none are asked for, which a limit cannot say
                return []
            named = self._engine.dialect.has_id(list(points))
            condition = self._without(kinds, [named])
            found, _ = self._engine.scroll(condition=condition, start=None, limit=len(ids), vectors=())
            return [points[point.id] for point in found]

    def count_bare(self, kinds: Collection[Representation]) -> int:
        """How many documents have no vector of any of the channels."""
        with self._opened():
            return self._engine.count(self._without(kinds, []))

    def _without(self, kinds: Collection[Representation], others: Sequence[Condition]) -> Condition:
        dialect = self._engine.dialect
        return dialect.filter(
            must=others, must_not=[dialect.has_vector(name) for name in self._requests.names(kinds)]
        )

    def carry(self, source: "Extending", ids: Sequence[str], vectors: M3Vectors | None) -> None:
        """Write points of the source as they are, with these vectors beside those they have."""
        with self._opened(), source._opened():
            others = [*source._layout.vectors, *source._layout.sparse]
            points = [convert.point_id(name, source.fields) for name in ids]
            wanted = [point for point in points if point is not None]
            held = {
                found.id: found for found in source._engine.retrieve(wanted, payload=True, vectors=others)
            }
            for name, point in zip(ids, points, strict=True):
                if point not in held:
                    raise InputError(f"there is no document with the id {name!r} any more")
            fitting = None if vectors is None else self._fitting(vectors, ids)

            def whole() -> Iterator[Point]:
                for row, point in enumerate(wanted):
                    new = {} if fitting is None else convert.to_vectors(fitting, row, self.fields)
                    yield Point(point, {**held[point].vectors, **new}, held[point].payload)

            self._requests.write(whole(), self._engine.upsert)

    def _foreign_ids(self) -> Iterator[Problem]:
        """Whether points can be found by the ids of their documents, if others made them; by the first few."""
        if self._layout.note.id is None and (point := self._foreign_point(self.fields)) is not None:
            name = point.payload.get(self.fields.id or "")
            yield Problem(
                f"the id of point {point.id} is not made from its payload field {self.fields.id!r}, {name!r}",
                "use Fields(id=None), so that the points' ids are the documents'",
            )

    def _looks_ours(self) -> bool:
        """Whether this library wrote the points, although the server could keep no note of it."""
        found, _ = self._engine.scroll(condition=None, start=None, limit=1, vectors=())
        return bool(found) and self._foreign_point(Fields()) is None

    def _foreign_point(self, fields: Fields) -> Found | None:
        """One of the first few points whose id is not that of a document with these fields."""
        found, _ = self._engine.scroll(condition=None, start=None, limit=_SAMPLE, vectors=())
        for point in found:
            name = point.id if fields.id is None else point.payload.get(fields.id)
            if name is None or convert.point_id(str(name), fields) != point.id:
                return point
        return None
