"""What a Milvus collection looks like, and what of it does not fit. Pure functions on Milvus's own descriptions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from m3_core.errors import SchemaMismatch
from m3_core.store import Fields, Problem, Schema
from m3_core.types import Representation
from m3_integrations.milvus.columns import Column, ColumnDialect
from m3_integrations.milvus.convert import SPARSE_SPACE
from m3_integrations.milvus.filters import IndexDialect

PROPERTY = "m3.collection"
"""The property of a collection that says it is one of ours: what `Marker` holds, as JSON."""
KEY, REST, TERMS, BOUNDS = "m3_key", "m3_rest", "m3_terms", "m3_bounds"
"""Fields of our own collections: the primary key, what a VARCHAR does not hold of the text, the filter index."""

Names: TypeAlias = Mapping[str, str | None]
"""Some fields of `Fields` by name."""

_METRICS = {Representation.DENSE: ("IP", "COSINE"), Representation.SPARSE: ("IP",)}
_TYPES = {Representation.DENSE: "FLOAT_VECTOR", Representation.SPARSE: "SPARSE_FLOAT_VECTOR"}
_EXHAUSTIVE = {"FLAT", "GPU_BRUTE_FORCE", "SPARSE_INVERTED_INDEX", "SPARSE_WAND"}


@dataclass(frozen=True, slots=True)
class Marker:
    """What a collection says about itself in its properties.

    index: of the dense field. ours: whether this library made the collection, and did not only add vectors to it.
    """

    fingerprint: str | None
    vocabulary: int | None
    fields: Fields
    index: Mapping[str, Any]
    ours: bool = True

    def dump(self) -> str:
        """As the value of the property."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def load(value: str) -> "Marker":
        """From the value of the property."""
        held = json.loads(value)
        fields = Fields(**held["fields"])
        return Marker(held["fingerprint"], held["vocabulary"], fields, held["index"], held.get("ours", True))


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a vector field, as Milvus describes it."""

    type: str
    metric: str
    exact: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of a collection, read from Milvus's descriptions.

    columns: all declared fields. dynamic: undeclared ones are taken too. strong: reads see what was written,
    without asking for it. problems: what keeps a channel from being used. own: made by `MilvusStore.create`.
    """

    name: str
    fields: Fields
    columns: Mapping[str, Column]
    indexes: Mapping[str, Index]
    key: Column
    dynamic: bool = False
    strong: bool = True
    lite: bool = False
    marker: Marker | None = None
    problems: Mapping[Representation, Problem] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        return self.marker is not None and self.marker.ours

    @property
    def channels(self) -> Mapping[Representation, str]:
        """The vector fields by channel, of those that are there."""
        names = {kind: self.fields.name_of(kind) for kind in _TYPES}
        return {kind: name for kind, name in names.items() if name is not None and name in self.columns}

    @property
    def exact(self) -> bool:
        """Whether every index is exhaustive."""
        return all(name in self.indexes and self.indexes[name].exact for name in self.channels.values())

    def schema(self, fingerprint: str | None) -> Schema:
        """What the collection holds, as far as it can be used."""
        usable = {kind: name for kind, name in self.channels.items() if kind not in self.problems}
        dense = usable.get(Representation.DENSE)
        vocabulary = (self.marker and self.marker.vocabulary) or SPARSE_SPACE
        return Schema(
            dense=None if dense is None else self.columns[dense].dimension,
            sparse=vocabulary if Representation.SPARSE in usable else None,
            fingerprint=fingerprint,
        )

    @property
    def dialect(self) -> IndexDialect | ColumnDialect:
        """How filters are asked."""
        if self.own:
            return IndexDialect(TERMS, BOUNDS, "array" if self.columns[TERMS].type == "ARRAY" else "text")
        inside = self.fields.metadata
        columns = {} if inside else {name: self.columns[name] for name in self.metadata_columns}
        return ColumnDialect(
            columns, frozenset(self.columns) - columns.keys(), inside, self.dynamic, self.lite
        )

    @property
    def metadata_columns(self) -> Sequence[str]:
        """The declared fields that are metadata, where it lies at the top level."""
        others = {self.key.name, self.fields.text, *self.channels.values()}
        return [
            name
            for name, column in self.columns.items()
            if name not in others and not column.type.endswith("VECTOR")
        ]

    @property
    def payload(self) -> list[str]:
        """The fields to ask for when a document is wanted."""
        names = [self.key.name, *([self.fields.text] if self.fields.text in self.columns else [])]
        if self.own:
            return [*names, REST, str(self.fields.id), self.fields.metadata]
        if self.fields.metadata:
            return [*names, self.fields.metadata]
        return [*names, *self.metadata_columns, *(["$meta"] if self.dynamic else [])]


def read_layout(
    description: Mapping[str, Any],
    indexes: Sequence[Mapping[str, Any]],
    wanted: Fields | Names | None,
    *,
    lite: bool,
    partial: bool = False,
) -> Layout:
    """The layout of a collection.

    description, indexes: what ``describe_collection`` and ``describe_index`` return. wanted: the names of its
    fields, or some; the others are as the collection says, or the default names. partial: the text and vector
    fields may be missing, in a collection that others made; of the channels only those count that are named, if any is.

    Raises:
        SchemaMismatch: a field that is needed for every document is missing; names those that are there.
    """
    columns = {column.name: column for column in map(_column, description["fields"])}
    held = dict(description.get("properties") or {}).get(PROPERTY)
    marker = None if held is None else Marker.load(held)
    fields = _names(columns, marker, wanted, partial=partial)
    key = next(column for column in columns.values() if column.primary)
    name = str(description["collection_name"])
    said = marker is not None or (wanted is not None and not isinstance(wanted, Fields) and "text" in wanted)
    free = partial or (said and bool(description.get("enable_dynamic_field")))
    _check_names(name, columns, key, fields, own=marker is not None and marker.ours, free=free)
    described = {str(index["field_name"]): _index(index) for index in indexes}
    layout = Layout(
        name=name,
        fields=fields,
        columns=columns,
        indexes=described,
        key=key,
        dynamic=bool(description.get("enable_dynamic_field")),
        strong=description.get("consistency_level_name", description.get("consistency_level"))
        in ("Strong", 0),
        lite=lite,
        marker=marker,
    )
    found = {kind: _problem(layout, kind) for kind in layout.channels}
    problems = {kind: problem for kind, problem in found.items() if problem is not None}
    return replace(layout, problems=problems)


def _names(
    columns: Mapping[str, Column], marker: Marker | None, wanted: Fields | Names | None, *, partial: bool
) -> Fields:
    if isinstance(wanted, Fields):
        return wanted
    found = marker.fields if marker else Fields()
    if partial and marker is None:
        usual = {kind.value: found.name_of(kind) for kind in Representation}
        there = {
            kind.value: usual[kind.value]
            if (column := columns.get(str(usual[kind.value]))) and column.type == _TYPES.get(kind)
            else None
            for kind in Representation
        }
        found = replace(found, id=None, metadata="", **there)  # type: ignore[arg-type]
    names = wanted or {}
    if partial and any(names.get(kind.value) for kind in Representation):
        found = replace(found, dense=None, sparse=None, multi=None)
    return replace(found, **names)  # type: ignore[arg-type]


def _column(described: Mapping[str, Any]) -> Column:
    params = described.get("params") or {}
    element = described.get("element_type")
    return Column(
        name=described["name"],
        type=described["type"].name,
        element=getattr(element, "name", None),
        nullable=bool(described.get("nullable")),
        primary=bool(described.get("is_primary")),
        automatic=bool(described.get("auto_id")),
        max_length=int(params["max_length"]) if "max_length" in params else None,
        dimension=int(params["dim"]) if "dim" in params else None,
    )


def _index(described: Mapping[str, Any]) -> Index:
    kind = str(described.get("index_type", "")).upper()
    drops = "drop_ratio_build" in json.dumps({key: str(value) for key, value in described.items()})
    return Index(kind, str(described.get("metric_type", "")).upper(), kind in _EXHAUSTIVE and not drops)


def _check_names(
    name: str, columns: Mapping[str, Column], key: Column, fields: Fields, *, own: bool, free: bool
) -> None:
    """free: whether the text may be in no declared field."""
    wanted = {"text": None if free else fields.text, "id": fields.id, "metadata": fields.metadata}
    missing = {what: field for what, field in wanted.items() if field and field not in columns}
    if missing:
        raise SchemaMismatch(
            f"{name} has no field {', '.join(f'{field!r} for the {what}' for what, field in missing.items())}; "
            f"it has {', '.join(sorted(columns))}: name the right ones with fields=Fields(...)"
        )
    if not own and fields.id not in (None, key.name):
        raise SchemaMismatch(
            f"in {name}, documents are found by the primary key {key.name!r}, not by {fields.id!r}; "
            "open it with Fields(id=None)"
        )


def _problem(layout: Layout, kind: Representation) -> Problem | None:
    """What keeps a channel from being used, None if nothing does."""
    name = layout.channels[kind]
    column, index = layout.columns[name], layout.indexes.get(name)
    if column.type != _TYPES[kind]:
        return Problem(
            f"the field {name!r} for {kind.value} vectors is {column.type}, not {_TYPES[kind]}",
            f"name another field, or leave the channel out with Fields({kind.value}=None)",
        )
    if index is None:
        return Problem(
            f"the {kind.value} field {name!r} has no index",
            f"create one, like {'FLAT' if kind is Representation.DENSE else 'SPARSE_INVERTED_INDEX'} with metric IP",
        )
    if index.metric not in _METRICS[kind]:
        return Problem(
            f"the {kind.value} field {name!r} is indexed for the metric {index.metric}",
            f"index it for {' or '.join(_METRICS[kind])}, the inner product that M3 scores are",
        )
    return None


def problems(layout: Layout, fingerprint: str | None, wanted: Schema) -> list[Problem]:
    """What of a collection does not fit a model. Multi-vectors are not asked for: Milvus holds none."""
    found = list(layout.problems.values())
    if fingerprint is not None and wanted.fingerprint is not None and fingerprint != wanted.fingerprint:
        found.append(
            Problem(
                f"{layout.name} holds vectors of the model {fingerprint}, but this model is {wanted.fingerprint}",
                "open it with the model it was made with, or write into another collection",
            )
        )
    for kind in _TYPES:
        if kind in wanted.representations and kind not in layout.channels:
            found.append(
                Problem(
                    f"{layout.name} has no {kind.value} field {layout.fields.name_of(kind) or ''!r}",
                    "name it with fields=Fields(...), or keep this channel in a second collection (SplitStore)",
                )
            )
    held = layout.schema(fingerprint)
    sizes: tuple[tuple[Literal["dense", "sparse"], str], ...] = (
        ("dense", "dense vectors of {} dimensions"),
        ("sparse", "lexical weights over {} tokens"),
    )
    for channel, what in sizes:
        here, there = getattr(held, channel), getattr(wanted, channel)
        if here is not None and there is not None and here not in (there, SPARSE_SPACE):
            found.append(
                Problem(
                    f"{layout.name} holds {what.format(here)}, this model makes {there}",
                    "use the model the collection was made with, or another collection",
                )
            )
    return found
