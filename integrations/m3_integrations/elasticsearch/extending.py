"""What backfilling needs of an index beside the store: fields added, documents copied as they are, aliases."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import elasticsearch as es

from m3_core.checks import check_fingerprint, check_held
from m3_core.errors import DimensionMismatch, InputError, SchemaMismatch, StoreError, Unsupported
from m3_core.store import Fields, Problem, Schema
from m3_core.types import M3Vectors, Representation
from m3_integrations.elasticsearch import convert
from m3_integrations.elasticsearch.bulk import index_item
from m3_integrations.elasticsearch.connection import Connection
from m3_integrations.elasticsearch.creation import dense_spec, problems
from m3_integrations.elasticsearch.filters import Query
from m3_integrations.elasticsearch.layout import META, Layout, Note
from m3_integrations.elasticsearch.reading import Reader

_OF_ONE_INDEX = frozenset(
    {
        "uuid",
        "version",
        "creation_date",
        "provided_name",
        "resize",
        "history",
        "blocks",
        "routing",
        "verified_before_close",
    }
)
"""Settings that another index cannot have, or should not."""


class Extending:
    """The part of a store that `m3_core.extending.Extensible` names; mixed into the store."""

    holds: ClassVar[frozenset[Representation]]
    _connection: Connection
    _layout: Layout
    _fingerprint: str | None
    _reader: Reader

    @property
    def place(self) -> str:
        """The URL that opens the index, without options."""
        return self._connection.place

    @property
    def named(self) -> Fields:
        """The names in use, those of fields to come included."""
        return self._layout.fields

    @property
    def contents(self) -> str:
        """The fields of the index, for people."""
        return self._layout.listed

    @property
    def taken(self) -> frozenset[str]:
        """The names that a new field cannot have."""
        return frozenset(self._layout.mapping)

    @property
    def in_place(self) -> bool:
        """Whether fields can be added: always, as far as the mapping and the modules of the cluster allow."""
        return True

    def lacking(self, schema: Schema) -> Mapping[Representation, str]:
        """The fields, by channel, that are named and wanted by the schema but not in the mapping yet."""
        layout = self._layout
        named = {
            kind: layout.fields.name_of(kind) for kind in Representation if kind in schema.representations
        }
        return {kind: name for kind, name in named.items() if name is not None and name not in layout.mapping}

    def extend(self, schema: Schema) -> None:
        """Add the fields that are lacking, and note the model in ``_meta``; see `m3_core.extending.Extensible`."""
        missing, layout = self.lacking(schema), self._layout
        check_held(missing, self.holds)
        check_fingerprint(self._fingerprint, schema.fingerprint, self.place)
        self._require(schema.only(layout.fields.representations - missing.keys()), missing)
        specs: dict[Representation, dict[str, Any]] = {
            Representation.DENSE: dense_spec(schema.dense or 0, "hnsw"),
            Representation.SPARSE: {"type": "rank_features"},
        }
        properties = {name: specs[kind] for kind, name in missing.items()}
        for index, described in self._connection.describe().items():
            if described["mappings"].get("_source", {}).get("enabled") is False:
                raise Unsupported(
                    f"{self.place} keeps no _source, so that its documents can be neither read nor updated"
                )
            self._put_mapping(index, properties, described["mappings"].get("_meta", {}), schema)
        self._fingerprint = schema.fingerprint
        self._layout = self._read_layout()

    def bare(self, ids: Sequence[str], kinds: Collection[Representation]) -> list[str]:
        """Those of the documents that have no vector of any of the channels."""
        # Whether a document has lexical weights cannot be asked of an index, only seen.
        source = {
            "includes": [self._layout.channels[kind] for kind in kinds if kind is Representation.SPARSE]
        }
        query: Query = {"bool": {"filter": [{"ids": {"values": list(ids)}}], "must_not": self._have(kinds)}}
        body = {"query": query, "size": len(ids), "_source": source, "track_total_hits": False}
        hits = self._connection.search(body)["hits"]["hits"]
        return [hit["_id"] for hit in hits if not source["includes"] or not hit.get("_source")]

    def count_bare(self, kinds: Collection[Representation]) -> int | None:
        """How many documents have no vector of any of the channels; None for lexical weights, which cannot be counted."""
        if Representation.SPARSE in kinds:
            return None
        return self._connection.count({"bool": {"must_not": self._have(kinds)}})

    def _have(self, kinds: Collection[Representation]) -> list[Query]:
        return [
            {"exists": {"field": self._layout.channels[kind]}}
            for kind in kinds
            if kind is Representation.DENSE
        ]

    def _require(self, schema: Schema, missing: Mapping[Representation, str]) -> None:
        """Raise SchemaMismatch unless the fields that are there fit the model."""
        there = replace(self._layout.fields, **{kind.value: None for kind in missing})  # type: ignore[arg-type]
        found: list[Problem] = problems(replace(self._layout, fields=there), schema, self._fingerprint)
        if found:
            sizes = (self._layout.schema.dense, schema.dense)
            kind = DimensionMismatch if None not in sizes and sizes[0] != sizes[1] else SchemaMismatch
            raise kind(f"{self.place}: " + "; ".join(f"{one.what}: {one.remedy}" for one in found))

    def _put_mapping(
        self, index: str, properties: Mapping[str, Any], meta: Mapping[str, Any], schema: Schema
    ) -> None:
        """Add fields to one index, with our note beside what else ``_meta`` says."""
        before = Note.from_json(meta.get(META)) or Note(ours=False)
        held = before.fields or Fields(dense=None, sparse=None)
        names = self._layout.fields
        kept = {kind.value: names.name_of(kind) or held.name_of(kind) for kind in Representation}
        note = Note(
            schema.fingerprint,
            before.vocabulary if schema.sparse is None else schema.sparse,
            replace(names, **{**kept, "multi": None}),  # type: ignore[arg-type]
            before.terms,
            before.ours,
        )
        if not properties and note == before:
            return
        new = {**meta, META: note.to_json()}
        put = self._connection.client.indices.put_mapping
        try:
            self._connection.call(lambda: put(index=index, properties=dict(properties), meta=new))
        except StoreError as error:
            if not isinstance(error.__cause__, es.BadRequestError):
                raise
            kinds = ", ".join(f"{name!r} ({spec['type']})" for name, spec in properties.items())
            raise Unsupported(
                f"{error}; this cluster cannot add {kinds} to the index: dense vectors need Elasticsearch 8, lexical "
                "weights 7 and a mapping with room for another field; leave a channel out (--into), or copy"
            ) from error

    def _read_layout(self) -> Layout:
        raise NotImplementedError

    def carry(self, source: Self, ids: Sequence[str], vectors: M3Vectors | None) -> None:
        """Write documents of the source as they are, with these vectors beside the fields they have."""
        found = source._reader.by_id(ids, {"exclude_vectors": False}, vectors=True)
        for name in ids:
            if name not in found:
                raise InputError(f"there is no document with the id {name!r} any more")

        def cells(row: int) -> dict[str, Any]:
            return {} if vectors is None else convert.vector_cells(vectors, row, self._layout)

        self._connection.write(
            index_item(name, {**found[name]["_source"], **cells(row)}, found[name].get("_routing"))
            for row, name in enumerate(ids)
        )

    def make_alike(self, other: Connection) -> None:
        """Make an empty index with the mapping and the settings of this one."""
        described = self._connection.describe()
        mappings: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for one in described.values():
            properties = {**mappings.get("properties", {}), **one["mappings"].get("properties", {})}
            mappings = {**mappings, **one["mappings"], "properties": properties}
            settings |= one["settings"]["index"]
        meta = {key: value for key, value in mappings.get("_meta", {}).items() if key != META}
        kept = {name: value for name, value in settings.items() if name not in _OF_ONE_INDEX}
        create = other.client.indices.create
        other.call(lambda: create(index=other.index, mappings={**mappings, "_meta": meta}, settings=kept))

    def check_alias(self, alias: str, source: Self) -> None:
        """Whether an alias leads to the source or to this index already.

        Raises:
            InputError: there is no such alias, or it leads elsewhere.
        """
        leads = set(self._leads(alias))
        if leads != set(self._connection.describe()) and not leads <= set(source._connection.describe()):
            raise InputError(
                f"the alias {alias!r} leads to {', '.join(sorted(leads))}, not to {source.place}, which is copied"
            )

    def switch_alias(self, alias: str, source: Self) -> None:
        """Let the alias lead to this index, with its filter and routing, in one request."""
        self.check_alias(alias, source)
        leads, new = self._leads(alias), next(iter(self._connection.describe()))
        if set(leads) == {new}:
            return
        remove = [{"remove": {"index": index, "alias": alias}} for index in leads]
        settings = next(iter(leads.values()))
        steps = [*remove, {"add": {"index": new, "alias": alias, **settings}}]
        self._connection.call(lambda: self._connection.client.indices.update_aliases(actions=steps))

    def _leads(self, alias: str) -> dict[str, Any]:
        """The indices that an alias leads to, with its settings there."""
        answer = self._connection.call(lambda: self._connection.client.indices.get_alias()).body
        every = {name: index["aliases"] for name, index in answer.items() if index.get("aliases")}
        found = {name: aliases[alias] for name, aliases in every.items() if alias in aliases}
        if not found:
            there = ", ".join(sorted({name for aliases in every.values() for name in aliases})) or "none"
            raise InputError(
                f"there is no alias {alias!r} on the cluster of {self.place}; there are {there}: an alias that is "
                "switched must be there, so that the programs that use it notice nothing"
            )
        return found
