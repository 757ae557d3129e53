"""What an index looks like, and what of it does not fit. Pure functions on Elasticsearch's own descriptions."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from m3_core.errors import SchemaMismatch
from m3_core.filters import And, Filter
from m3_core.store import Fields, Problem, Schema
from m3_core.types import Json, Representation
from m3_integrations.elasticsearch.filters import Query, terms_leaf, translate
from m3_integrations.elasticsearch.mapped import MappedField, mapped_fields, mapped_leaf

META = "m3"
"""The member of a mapping's ``_meta`` that says it is one of ours: what `Note` holds."""
TERMS = "m3_terms"
ANY_VOCABULARY = 2**31 - 1
"""The width of sparse rows whose vocabulary is not known."""
MOST_HITS = 10_000
"""The default of ``index.max_result_window``, and the most candidates of a knn search."""

Names: TypeAlias = Mapping[str, str | None]
"""Some fields of `Fields` by name."""

_TYPES = {Representation.DENSE: "dense_vector", Representation.SPARSE: "rank_features"}
_VECTORS = frozenset({"dense_vector", "sparse_vector", "rank_features", "rank_vectors"})
_SIMILARITIES = ("dot_product", "cosine", "max_inner_product")
_SPARSE_ERROR = 2.0**-8
"""Of a score of at most 1: `rank_features` keeps a weight's first 9 binary digits and cuts off the rest."""


@dataclass(frozen=True, slots=True)
class Note:
    """What an index says about itself in ``_meta``. terms: the field of filter terms, if it has one.

    ours: whether this library made the index, and did not only add vectors to it.
    """

    fingerprint: str | None = None
    vocabulary: int | None = None
    fields: Fields | None = None
    terms: str | None = None
    ours: bool = True

    def to_json(self) -> Json:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: Json) -> "Note | None":
        """The note in a JSON object, None if there is none; members that this version does not know are left out."""
        if not isinstance(value, Mapping):
            return None
        names = value.get("fields")
        known = Fields.__dataclass_fields__
        fields = Fields(**{key: name for key, name in names.items() if key in known}) if names else None
        return Note(
            value.get("fingerprint"),
            value.get("vocabulary"),
            fields,
            value.get("terms"),
            value.get("ours", True),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """An index, read from its description.

    mapping: every mapped field by path; dense: the dense field's own spec; hidden: fields that no document shows.
    """

    name: str
    uuid: str
    fields: Fields
    mapping: Mapping[str, MappedField]
    dense: Mapping[str, Any]
    dynamic: bool
    note: Note | None = None
    window: int = MOST_HITS
    hidden: frozenset[str] = frozenset()

    @property
    def channels(self) -> Mapping[Representation, str]:
        """The vector fields by channel, of those that can be used."""
        return {kind: name for kind, name, problem in self._channels() if problem is None}

    @property
    def problems(self) -> Mapping[Representation, Problem]:
        """What keeps a channel that is named from being used."""
        return {kind: problem for kind, _, problem in self._channels() if problem is not None}

    def _channels(self) -> Iterator[tuple[Representation, str, Problem | None]]:
        for kind, wanted in _TYPES.items():
            name = self.fields.name_of(kind)
            if name is not None:
                yield kind, name, self._problem(kind, name, wanted)

    def _problem(self, kind: Representation, name: str, wanted: str) -> Problem | None:
        field = self.mapping.get(name)
        if field is None:
            return Problem(
                f"{self.name} has no field {name!r} for {kind.value} vectors",
                "name the right one with fields=Fields(...), keep this channel in a second index (SplitStore), "
                f"or add it: {self.adding(name, {'type': wanted})}",
            )
        if field.type != wanted:
            return Problem(
                f"the field {name!r} for {kind.value} vectors is mapped as {field.type}, not as {wanted}",
                f"name another field, or leave the channel out with Fields({kind.value}=None)",
            )
        if kind is Representation.DENSE and self.dense.get("index") is False:
            return Problem(
                f"the dense field {name!r} is not indexed, so that it cannot be searched",
                "copy the documents into an index whose dense_vector has index: true and index_options",
            )
        if kind is Representation.DENSE and self.similarity not in _SIMILARITIES:
            return Problem(
                f"the dense field {name!r} is indexed for the similarity {self.similarity}",
                f"index it for one of {', '.join(_SIMILARITIES)}: M3 scores are inner products",
            )
        return None

    def adding(self, name: str, spec: Mapping[str, Any]) -> str:
        """The line of Python that adds a field to the index."""
        return f"client.indices.put_mapping(index={self.name!r}, properties={ {name: dict(spec)}!r})"

    @property
    def similarity(self) -> str:
        return str(self.dense.get("similarity", "cosine"))

    @property
    def exact(self) -> bool:
        """Whether a dense search looks at every vector, and not at a graph of them or at shortened ones."""
        kind = self.dense.get("index_options", {}).get("type")
        return Representation.DENSE not in self.channels or kind == "flat"

    @property
    def score_tolerance(self) -> float:
        return _SPARSE_ERROR if Representation.SPARSE in self.channels else 0.0

    @property
    def schema(self) -> Schema:
        """What the index holds, as far as it can be used."""
        note = self.note or Note()
        return Schema(
            dense=self.dense.get("dims") if Representation.DENSE in self.channels else None,
            sparse=(note.vocabulary or ANY_VOCABULARY) if Representation.SPARSE in self.channels else None,
            fingerprint=note.fingerprint,
        )

    @property
    def terms(self) -> str | None:
        """The field of filter terms, in an index of ours that takes any metadata."""
        return self.note.terms if self.note is not None else None

    @property
    def prefix(self) -> str:
        """What stands before the name of a metadata field."""
        return f"{self.fields.metadata}." if self.fields.metadata else ""

    @property
    def listed(self) -> str:
        """The fields, for people."""
        return _listed(self.mapping)

    def query(self, condition: Filter | None) -> Query | None:
        """The query for a filter, None if it is for everything."""
        if condition is None or condition == And(()):
            return None
        if self.terms is not None:
            return translate(condition, terms_leaf(self.terms))
        return translate(condition, mapped_leaf(self.mapping, self.prefix, dynamic=self.dynamic))

    def knows(self, condition: Filter | None) -> bool:
        """Whether every field of a filter was in the mapping when it was read."""
        if condition is None or self.terms is not None:
            return True
        return all(self.prefix + name in self.mapping for name in condition.fields())


def read_layout(answer: Mapping[str, Any], wanted: Fields | Names | None, *, partial: bool = False) -> Layout:
    """The layout of an index, or of the indices behind an alias.

    answer: what ``GET /index`` returns. wanted: None takes the names in the note of an index of ours, or those
    of the usual names that are there. partial: vector fields may be missing, in an index that others made; of the
    channels only those count that are named, if any is.

    Raises:
        SchemaMismatch: indices behind an alias differ in their vectors; a field that was named is missing.
    """
    name, described = next(iter(sorted(answer.items())))
    properties: dict[str, Any] = {}
    for one in answer.values():
        properties.update(one["mappings"].get("properties", {}))
    mappings = described["mappings"]
    note = Note.from_json(mappings.get("_meta", {}).get(META))
    mapping = dict(mapped_fields(properties))
    fields = (note and note.fields) or _usual(mapping)
    if partial and (note is None or note.fields is None):
        fields = replace(fields, id=None, metadata="")
    if isinstance(wanted, Fields):
        fields = wanted
    elif wanted is not None:
        if partial and any(wanted.get(kind.value) for kind in Representation):
            fields = replace(fields, dense=None, sparse=None, multi=None)
        fields = replace(fields, **wanted)  # type: ignore[arg-type]
    _check_names(name, mapping, fields, partial=partial)
    for other, one in answer.items():
        for vector in (fields.dense, fields.sparse):
            if _spec(one["mappings"].get("properties", {}), vector) != _spec(properties, vector):
                raise SchemaMismatch(
                    f"the indices {name} and {other} map {vector!r} differently; open one of them by its own name"
                )
    index = described.get("settings", {}).get("index", {})
    dynamic = _spec(properties, fields.metadata or None).get("dynamic", mappings.get("dynamic", True))
    return Layout(
        name=name,
        uuid=str(index.get("uuid", "")),
        fields=fields,
        mapping=mapping,
        dense=_spec(properties, fields.dense),
        dynamic=str(dynamic).lower() in ("true", "strict"),
        note=note,
        window=int(index.get("max_result_window", MOST_HITS)),
        # Who wants to read all texts does not want all vectors of other models with them.
        hidden=frozenset(path for path, field in mapping.items() if partial and field.type in _VECTORS),
    )


def _spec(properties: Mapping[str, Any], path: str | None) -> Mapping[str, Any]:
    """A field's own mapping; empty if it is not there."""
    spec: Mapping[str, Any] = {"properties": properties}
    for name in [] if path is None else path.split("."):
        spec = spec.get("properties", {}).get(name, {})
    return spec if path is not None else {}


def _usual(mapping: Mapping[str, MappedField]) -> Fields:
    usual = Fields()

    def found(name: str | None, kind: str) -> bool:
        return name in mapping and mapping[str(name)].type == kind

    return Fields(
        dense=usual.dense if found(usual.dense, "dense_vector") else None,
        sparse=usual.sparse if found(usual.sparse, "rank_features") else None,
        multi=None,
        text=usual.text,
        id=usual.id if found(usual.id, "keyword") else None,
        metadata=usual.metadata if found(usual.metadata, "object") else "",
    )


def _check_names(name: str, mapping: Mapping[str, MappedField], fields: Fields, *, partial: bool) -> None:
    if not partial and not fields.representations - {Representation.MULTI}:
        raise SchemaMismatch(
            f"{name} has no dense_vector 'dense' and no rank_features 'sparse'; it has {_listed(mapping)}: say which "
            "are which with fields=Fields(dense=..., sparse=...), None for a channel that it does not hold"
        )
    if fields.id is not None and (fields.id not in mapping or mapping[fields.id].type != "keyword"):
        raise SchemaMismatch(
            f"{name} has no keyword field {fields.id!r} with the documents' ids; it has {_listed(mapping)}: "
            "name the right one with fields=Fields(id=...), or use Fields(id=None) for the engine's _id alone"
        )


def _listed(mapping: Mapping[str, MappedField]) -> str:
    return ", ".join(f"{path} ({field.type})" for path, field in sorted(mapping.items())) or "no fields"
