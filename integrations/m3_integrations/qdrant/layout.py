"""What a collection looks like, and whether that fits what it is opened for. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeAlias

from m3_core.errors import DimensionMismatch, FingerprintMismatch, InputError, SchemaMismatch
from m3_core.store import Fields, Problem, Schema
from m3_core.types import Json, Representation

_TOLERANCE = {"float32": 0.0, "float16": 1e-3}
"""By datatype: query and passage of unit length are each rounded by up to 2**-12 of every number in float16."""
_CHANNELS = frozenset(kind.value for kind in Representation)
_OTHER_MODEL = "use the model it was made with, or another collection"
_ANY_VOCABULARY = 2**32
"""Token ids are unsigned 32-bit integers in Qdrant."""

Names: TypeAlias = Mapping[str, str | None]
"""Some fields of `Fields` by name."""


@dataclass(frozen=True, slots=True)
class VectorInfo:
    """A named dense or multi-vector. distance: in lower case; graph: whether it gets an HNSW index."""

    size: int
    distance: str
    multi: bool = False
    datatype: str = "float32"
    graph: bool = False
    quantized: bool = False


@dataclass(frozen=True, slots=True)
class SparseInfo:
    """A named sparse vector. idf: whether the engine changes the weights by itself."""

    idf: bool = False
    datatype: str = "float32"


@dataclass(frozen=True, slots=True)
class Note:
    """What a collection says about itself in its own metadata; nothing, if this library did not make or extend it.

    id: made when the collection is made, so that one that was deleted and made again is another one. None if others
    made it.
    """

    id: str | None = None
    fingerprint: str | None = None
    vocabulary: int | None = None
    fields: Fields | None = None

    def to_json(self) -> Json:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: Json) -> "Note":
        """The note in a JSON object; members that this version does not know are left out."""
        if not isinstance(value, Mapping):
            return Note()
        known = {item.name: value.get(item.name) for item in fields(Note)}
        if isinstance(known["fields"], Mapping):
            names = {item.name for item in fields(Fields)}
            known["fields"] = Fields(
                **{name: text for name, text in known["fields"].items() if name in names}
            )
        return Note(**known)


@dataclass(frozen=True, slots=True)
class Layout:
    """The vectors of a collection by name, and its note."""

    vectors: Mapping[str, VectorInfo] = field(default_factory=dict)
    sparse: Mapping[str, SparseInfo] = field(default_factory=dict)
    note: Note = Note()

    def fields(self, wanted: Fields | Names | None) -> Fields:
        """The names to use: those wanted, or by default those in the note, or the usual ones that are there.

        Raises:
            SchemaMismatch: nothing was wanted and none of the usual names is there.
        """
        if isinstance(wanted, Fields):
            return wanted
        names = wanted or {}
        if any(names.get(kind) is not None for kind in _CHANNELS):
            return replace(Fields(dense=None, sparse=None, multi=None), **names)  # type: ignore[arg-type]
        found = self.note.fields or self._usual()
        if not found.representations:
            raise SchemaMismatch(
                f"the collection has no vector named dense, sparse or multi; it holds {self}; say which are which "
                "with Fields(dense=..., sparse=..., multi=...), None for a channel that it does not hold"
            )
        return replace(found, **names)  # type: ignore[arg-type]

    def partial(self, wanted: Fields | Names | None, *, ours: bool) -> Fields:
        """The names to use and to add, where vectors may be missing still; those of channels only if they are named.

        ours: whether points and metadata are laid out as this library does, although there is no note.
        """
        if isinstance(wanted, Fields):
            return wanted
        usual = self._usual() if ours else replace(self._usual(), id=None, metadata="")
        found = self.note.fields or usual
        names = wanted or {}
        if any(names.get(channel) for channel in _CHANNELS):
            found = replace(found, dense=None, sparse=None, multi=None)
        return replace(found, **names)  # type: ignore[arg-type]

    def held(self, names: Fields) -> Fields:
        """The names without those of vectors that are not there."""
        there = {*self.vectors, *self.sparse}
        missing = {kind.value: None for kind in Representation if names.name_of(kind) not in there}
        return replace(names, **missing)  # type: ignore[arg-type]

    def extended(self, named: Fields, schema: Schema) -> Note:
        """The note of the collection once it holds the named channels for the model, beside those it had."""
        before = self.note.fields or Fields(dense=None, sparse=None, multi=None)
        kept = {kind.value: named.name_of(kind) or before.name_of(kind) for kind in Representation}
        return Note(
            self.note.id,
            schema.fingerprint,
            self.note.vocabulary if schema.sparse is None else schema.sparse,
            replace(named, **kept),  # type: ignore[arg-type]
        )

    def chosen(self, wanted: Fields | Names | None) -> bool:
        """Whether somebody decided which channels there are, now or when the collection was made."""
        return (
            self.note.fields is not None or isinstance(wanted, Fields) or bool(_CHANNELS & set(wanted or ()))
        )

    def _usual(self) -> Fields:
        usual = Fields()
        return replace(
            usual,
            dense=usual.dense if self._is(usual.dense, multi=False) else None,
            sparse=usual.sparse if usual.sparse in self.sparse else None,
            multi=usual.multi if self._is(usual.multi, multi=True) else None,
        )

    def _is(self, name: str | None, *, multi: bool) -> bool:
        return name is not None and name in self.vectors and self.vectors[name].multi == multi

    def schema(self, names: Fields) -> Schema:
        """The dimensions of the named channels; the vocabulary is 2**32 where it is not known."""
        return Schema(
            dense=None if names.dense is None else self.vectors[names.dense].size,
            sparse=None if names.sparse is None else self.note.vocabulary or _ANY_VOCABULARY,
            multi=None if names.multi is None else self.vectors[names.multi].size,
            fingerprint=self.note.fingerprint,
        )

    def approximate(self, names: Fields) -> bool:
        """Whether a search may pass over documents unless it is told to be exhaustive."""
        used = [self.vectors[name] for name in (names.dense, names.multi) if name is not None]
        return any(info.graph or info.quantized for info in used)

    def tolerance(self, names: Fields) -> float:
        """Largest absolute error of a score by the datatypes, for vectors of unit length."""
        datatypes = [self.vectors[name].datatype for name in (names.dense, names.multi) if name is not None]
        if names.sparse is not None:
            datatypes.append(self.sparse[names.sparse].datatype)
        return max((_TOLERANCE[datatype] for datatype in datatypes), default=0.0)

    def __str__(self) -> str:
        parts = [
            f"{name!r} ({info.size} dimensions, {'multi-vectors, ' * info.multi}{info.distance})"
            for name, info in self.vectors.items()
        ]
        return ", ".join([*parts, *(f"{name!r} (sparse)" for name in self.sparse)]) or "no vectors"


Finding: TypeAlias = tuple[type[SchemaMismatch], Problem]


def findings(
    layout: Layout, names: Fields, schema: Schema | None = None, *, chosen: bool = True
) -> list[Finding]:
    """Everything that does not fit, with the error it is: names and settings, and the schema if there is one.

    chosen: whether a channel without a name is somebody's decision; otherwise the lack of it is a problem.
    """
    differences = () if schema is None else _differences(layout, names, schema, chosen)
    return [*_settings(layout, names), *differences]


def raise_first(found: list[Finding], collection: str) -> None:
    """Raise an error that says all of it, of the kind of the first, if there is any."""
    if found:
        problems = "; ".join(f"{problem.what} ({problem.remedy})" for _, problem in found)
        raise found[0][0](f"{collection} does not fit: {problems}")


def _settings(layout: Layout, names: Fields) -> Iterator[Finding]:
    """What makes a channel unusable for any model."""
    for kind in Representation:
        name = names.name_of(kind)
        if name is None:
            continue
        held: Mapping[str, Any] = layout.sparse if kind is Representation.SPARSE else layout.vectors
        if name not in held:
            what = "sparse index" if kind is Representation.SPARSE else "vector"
            yield _problem(
                f"there is no {what} named {name!r} for {kind.value}; there is {layout}",
                f"Fields({kind.value}=...) with its name, or None to go without",
            )
            continue
        info = held[name]
        if isinstance(info, VectorInfo) and info.multi != (kind is Representation.MULTI):
            is_multi = (
                "holds multi-vectors" if info.multi else "holds one vector per document, not multi-vectors"
            )
            yield _problem(f"{name!r} {is_multi}", f"another name for {kind.value}")
        if isinstance(info, VectorInfo) and info.distance not in ("dot", "cosine"):
            yield _problem(
                f"{name!r} compares by {info.distance}",
                "M3 scores are inner products: a collection with distance Dot or Cosine",
            )
        if isinstance(info, SparseInfo) and info.idf:
            yield _problem(
                f"{name!r} multiplies weights by IDF",
                "lexical weights are complete as they are: a sparse vector without modifier",
            )
        if info.datatype not in _TOLERANCE:
            yield _problem(
                f"{name!r} keeps {info.datatype}", f"a datatype that keeps M3 scores: {', '.join(_TOLERANCE)}"
            )


def _differences(layout: Layout, names: Fields, schema: Schema, chosen: bool) -> Iterator[Finding]:
    """What differs between the collection and the model."""
    for kind in Representation:
        name = names.name_of(kind)
        wanted = {"dense": schema.dense, "sparse": schema.sparse, "multi": schema.multi}[kind.value]
        if name is None and wanted is not None and not chosen:
            yield _problem(
                f"there is no vector for {kind.value}; there is {layout}",
                f"Fields({kind.value}=...) with its name, or None to go without",
            )
        elif name is not None and wanted is None:
            yield _problem(
                f"the collection holds {kind.value} vectors and the model makes none",
                f"Fields({kind.value}=None) to leave them out",
            )
        elif name is not None and name in layout.vectors and layout.vectors[name].size != wanted:
            size = layout.vectors[name].size
            what = f"{name!r} has {size} dimensions, the model's {kind.value} vectors have {wanted}"
            yield DimensionMismatch, Problem(what, _OTHER_MODEL)
        elif name is not None and name in layout.sparse and layout.note.vocabulary not in (None, wanted):
            what = f"{name!r} was made for {layout.note.vocabulary} tokens, the model has {wanted}"
            yield DimensionMismatch, Problem(what, _OTHER_MODEL)
    held = layout.note.fingerprint
    if held is not None and schema.fingerprint is not None and held != schema.fingerprint:
        what = f"its vectors were made by the model {held}, this model is {schema.fingerprint}"
        yield FingerprintMismatch, Problem(what, _OTHER_MODEL)


def _problem(what: str, remedy: str) -> Finding:
    return SchemaMismatch, Problem(what, f"use {remedy}")


def new_fields(wanted: Fields, schema: Schema) -> Fields:
    """The names of a new collection: those wanted of the channels that the schema has.

    Raises:
        InputError: none is left, or two of them are the same.
    """
    names = replace(
        wanted,
        dense=None if schema.dense is None else wanted.dense,
        sparse=None if schema.sparse is None else wanted.sparse,
        multi=None if schema.multi is None else wanted.multi,
    )
    if not names.representations:
        raise InputError(
            "the schema and the fields have no channel in common; give at least one of dense, sparse, multi"
        )
    for group in ([names.dense, names.sparse, names.multi], [names.text, names.id, names.metadata]):
        given = [name for name in group if name is not None]
        if len(set(given)) != len(given):
            raise InputError(f"two fields have the same name: {given}")
    return names
