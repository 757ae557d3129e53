"""What backfilling needs of a collection beside the store: fields added, documents copied as they are, aliases."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from m3_core.checks import check_fingerprint, check_held
from m3_core.errors import DimensionMismatch, InputError, SchemaMismatch, StoreError, Unsupported
from m3_core.store import Fields, Schema
from m3_core.types import M3Vectors, Representation
from m3_integrations.milvus.address import pymilvus
from m3_integrations.milvus.connection import Connection
from m3_integrations.milvus.convert import Row, sparse_cell, vector_cells
from m3_integrations.milvus.creation import DEFAULT_INDEX, add_vector_field, open_layout
from m3_integrations.milvus.documents import primary_key
from m3_integrations.milvus.layout import PROPERTY, Layout, Marker, problems
from m3_integrations.milvus.table import ROWS_AT_ONCE, Table

_ADDS_VECTORS = (3, 0)
"""The first server that adds vector fields to a collection."""
_ABOUT_AN_INDEX = frozenset(
    {
        "field_name",
        "index_name",
        "total_rows",
        "indexed_rows",
        "pending_index_rows",
        "state",
        "index_type",
        "metric_type",
    }
)
"""What a description of an index has besides its parameters."""
_LONGEST_ELEMENT = 65_535
_AUTOMATIC = "its primary keys are assigned by Milvus, so that its documents cannot be written again"


class Extending:
    """The part of a store that `m3_core.extending.Extensible` names; mixed into the store."""

    holds: ClassVar[frozenset[Representation]]
    named: Fields
    _connection: Connection
    _layout: Layout
    _fingerprint: str | None
    _table: Table
    _calling: Callable[[], AbstractContextManager[None]]
    _use: Callable[[Layout, str | None], None]

    @property
    def place(self) -> str:
        """The URL that opens the collection, without options but for the database."""
        return self._connection.address.identity

    @property
    def contents(self) -> str:
        """The fields of the collection, for people."""
        columns = [f"{column.name} ({column.type})" for column in self._layout.columns.values()]
        return ", ".join([*columns, *(["undeclared ones"] if self._layout.dynamic else [])])

    @property
    def taken(self) -> frozenset[str]:
        """The names that a new field cannot have."""
        return frozenset(self._layout.columns)

    @property
    def in_place(self) -> bool:
        """Whether fields can be added, and documents be written again: not in Lite, and by servers from 3.0 on."""
        if self._layout.lite or self._layout.key.automatic:
            return False
        with self._calling():
            version = str(self._connection.client.get_server_version()).lstrip("v")
        numbers = [int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit()]
        return tuple(numbers) >= _ADDS_VECTORS

    def lacking(self, schema: Schema) -> Mapping[Representation, str]:
        """The fields, by channel, that are named and wanted by the schema but not there yet."""
        named = {kind: self.named.name_of(kind) for kind in Representation if kind in schema.representations}
        return {kind: name for kind, name in named.items() if name is not None and name not in self.taken}

    def extend(self, schema: Schema) -> None:
        """Add the fields that are lacking, and note the model; see `m3_core.extending.Extensible`."""
        missing = self.lacking(schema)
        check_held(missing, self.holds)
        check_fingerprint(self._fingerprint, schema.fingerprint, self.place)
        there = schema.only(self.named.representations - missing.keys())
        if found := problems(self._layout, self._fingerprint, there):
            sizes = (self._layout.schema(None).dense, there.dense)
            kind = DimensionMismatch if None not in sizes and sizes[0] != sizes[1] else SchemaMismatch
            raise kind("; ".join(f"{problem.what}: {problem.remedy}" for problem in found))
        if self._layout.key.automatic:
            raise Unsupported(f"{self.place}: {_AUTOMATIC}")
        for channel, name in missing.items():
            self._add(channel, name, schema)
        marker = self._extended(schema)
        with self._calling():
            if marker != self._layout.marker:
                self._alter({PROPERTY: marker.dump()})
            self._use(open_layout(self._connection, self.named, partial=True), schema.fingerprint)

    def bare(self, ids: Sequence[str], kinds: Collection[Representation]) -> list[str]:
        """Those of the documents whose vectors are null, where the fields allow that."""
        if not (expression := self._without(kinds)):
            return []
        names = {key: name for name in ids if (key := primary_key(self._layout, name)) is not None}
        found: list[str] = []
        with self._calling():
            for among, _ in self._table.among(list(names), ROWS_AT_ONCE):
                rows = self._table.after(None, f"({among}) and {expression}", [], ROWS_AT_ONCE)
                found += [names[row[self._layout.key.name]] for row in rows]
        return found

    def count_bare(self, kinds: Collection[Representation]) -> int:
        """How many documents' vectors are null, where the fields allow that."""
        with self._calling():
            expression = self._without(kinds)
            return self._table.count(expression) if expression else 0

    def _without(self, kinds: Collection[Representation]) -> str:
        """The expression for documents without any of the vectors; "" where every document must have one."""
        fields = [self._layout.columns[self._layout.channels[kind]] for kind in kinds]
        if not all(field.nullable for field in fields):
            return ""
        return "(" + " and ".join(f"{field.name} is null" for field in fields) + ")"

    def _add(self, kind: Representation, name: str, schema: Schema) -> None:
        if self._layout.lite:
            raise Unsupported(f"{self.place}: Milvus Lite cannot add fields to a collection")
        types = pymilvus.DataType
        options: dict[str, Any] = {"data_type": types.SPARSE_FLOAT_VECTOR}
        if kind is Representation.DENSE:
            options = {"data_type": types.FLOAT_VECTOR, "dim": schema.dense}
        address = self._connection.address
        try:
            with self._calling():
                self._connection.client.add_collection_field(
                    address.collection, name, nullable=True, timeout=address.timeout, **options
                )
        except StoreError as error:
            raise Unsupported(
                f"this server cannot add vector fields to a collection (3.0 and later can): {error}"
            ) from error

    def _alter(self, properties: Mapping[str, str]) -> None:
        address = self._connection.address
        self._connection.client.alter_collection_properties(
            address.collection, dict(properties), timeout=address.timeout
        )

    def _extended(self, schema: Schema) -> Marker:
        """What the collection says of itself once it holds the named channels for the model, beside those it had."""
        before = self._layout.marker
        held = before.fields if before else Fields(dense=None, sparse=None, multi=None)
        kept = {kind.value: self.named.name_of(kind) or held.name_of(kind) for kind in Representation}
        return Marker(
            schema.fingerprint,
            schema.sparse or (before.vocabulary if before else None),
            replace(self.named, **kept),  # type: ignore[arg-type]
            before.index if before else DEFAULT_INDEX,
            before is not None and before.ours,
        )

    def make_alike(self, other: Connection, schema: Schema) -> None:
        """Make an empty collection with the fields and settings of this one, and the vector fields that it lacks.

        Primary keys that Milvus assigned here are written there, so that documents keep them.
        """
        check_held(self.lacking(schema), self.holds)
        client, name = self._connection.client, self._connection.address.collection
        description = client.describe_collection(name)
        for field in description["fields"]:
            field["auto_id"] = False
            if getattr(field.get("element_type"), "name", "") == "VARCHAR":
                field["params"].setdefault("max_length", _LONGEST_ELEMENT)  # which Lite does not tell
        made = pymilvus.CollectionSchema.construct_from_dict(description)
        for kind, field in self.lacking(schema).items():
            add_vector_field(made, kind, field, schema)
        other.client.create_collection(
            other.address.collection,
            schema=made,
            properties={
                key: value for key, value in description.get("properties", {}).items() if key != PROPERTY
            },
            num_shards=description.get("num_shards") or 1,
            consistency_level=description.get("consistency_level_name", "Strong"),
        )

    def index_alike(self, other: Connection) -> None:
        """Make there the indexes that the fields have here, and those of the vector fields that are new."""
        client, name = self._connection.client, self._connection.address.collection
        there = set(other.client.list_indexes(other.address.collection))
        wanted = pymilvus.MilvusClient.prepare_index_params()
        for index in client.list_indexes(name):
            held = client.describe_index(name, index)
            rest = {key: value for key, value in held.items() if key not in _ABOUT_AN_INDEX}
            metric = {"metric_type": held["metric_type"]} if held.get("metric_type") else {}
            if held["field_name"] not in there and index not in there:
                wanted.add_index(
                    field_name=held["field_name"], index_type=held["index_type"], params=rest, **metric
                )
        described = other.client.describe_collection(other.address.collection)
        fields = {field["name"] for field in described["fields"]} - self.taken - there
        for kind in Representation:
            if (field := self.named.name_of(kind)) in fields:
                spec = DEFAULT_INDEX
                if kind is Representation.SPARSE:
                    spec = {"index_type": "SPARSE_INVERTED_INDEX", "params": {}}
                wanted.add_index(field_name=field, metric_type="IP", **spec)
        if len(wanted):
            other.client.create_index(other.address.collection, wanted, sync=not other.lite)

    def carry(self, source: Self, ids: Sequence[str], vectors: M3Vectors | None) -> None:
        """Write rows of the source as they are, with these vectors; a row without gets zeros, which find nothing."""
        fields = [*source._layout.columns, *(["$meta"] if source._layout.dynamic else [])]
        for start in range(0, len(ids), ROWS_AT_ONCE):
            some = ids[start : start + ROWS_AT_ONCE]
            with source._calling():
                rows = source._table.rows(some, fields)
            for name in some:
                if name not in rows:
                    raise InputError(f"there is no document with the id {name!r} any more")
            with self._calling():
                if self._layout.lite and self._layout.dynamic:
                    # Lite would keep undeclared fields that the document had before, and no longer has.
                    keys = [key for name in some if (key := primary_key(self._layout, name)) is not None]
                    self._table.delete([expression for expression, _ in self._table.among(keys)])
                self._table.upsert(
                    {**rows[name], **self._cells(vectors, start + row)} for row, name in enumerate(some)
                )

    def _cells(self, vectors: M3Vectors | None, row: int) -> Row:
        channels = {
            kind: name for kind, name in self._layout.channels.items() if self.named.name_of(kind) is not None
        }
        if vectors is not None:
            return vector_cells(vectors, row, channels)
        cells: Row = {}
        if (dense := channels.get(Representation.DENSE)) is not None:
            cells[dense] = np.zeros(self._layout.columns[dense].dimension or 0, np.float32)
        if (sparse := channels.get(Representation.SPARSE)) is not None:
            cells[sparse] = sparse_cell(np.empty(0, np.int64), np.empty(0, np.float32))
        return cells

    def check_alias(self, alias: str, source: Self) -> None:
        """Whether an alias leads to the source or to this collection already.

        Raises:
            InputError: there is no such alias, or it leads elsewhere.
        """
        client = self._connection.client
        with self._calling():
            aliases = list(client.list_aliases()["aliases"])
            leads = client.describe_alias(alias)["collection_name"] if alias in aliases else None
        if leads is None:
            raise InputError(
                f"there is no alias {alias!r} at {self.place}; there are {', '.join(sorted(aliases)) or 'none'}: an "
                "alias that is switched must be there, so that the programs that use it notice nothing"
            )
        if leads not in (source._layout.name, self._layout.name):
            raise InputError(
                f"the alias {alias!r} leads to {leads!r}, not to {source._layout.name!r}, which is copied"
            )

    def switch_alias(self, alias: str, source: Self) -> None:
        """Let the alias lead to this collection, in one request."""
        self.check_alias(alias, source)
        with self._calling():
            self._connection.client.alter_alias(self._layout.name, alias)
