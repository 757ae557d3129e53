"""Stores that can be given vectors of a model afterwards: what `m3_core.backfill` and ``m3 check`` need beside `Store`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from m3_core.store import Fields, Schema, Store, open_store, stores_by_scheme
from m3_core.types import M3Vectors, Representation


@runtime_checkable
class Extensible(Store, Protocol):
    """A collection that may lack vector fields still: ``open_store(url, partial=True, text="body", dense="m3_dense")``.

    Opened so, ids and metadata of a collection that others made are taken as they are there (the engine's own id, the
    fields beside the text), unless other names are given.
    """

    @property
    def place(self) -> str:
        """The URL that opens it, without options; no credentials."""

    @property
    def named(self) -> Fields:
        """The names in use, those of fields to come included."""

    @property
    def contents(self) -> str:
        """What the collection has, in words: vectors, and fields where they are declared."""

    @property
    def taken(self) -> Collection[str]:
        """The names that a new vector field cannot have."""

    @property
    def in_place(self) -> bool:
        """Whether `extend` can add fields, as far as that can be known before."""

    @property
    def holds(self) -> frozenset[Representation]:
        """The channels that the engine can hold."""

    def lacking(self, schema: Schema) -> Mapping[Representation, str]:
        """The fields, by channel, that are named and wanted by the schema but not there yet."""

    def extend(self, schema: Schema) -> None:
        """Add the fields that are lacking, and note the model and the names in the collection's own metadata.

        Raises:
            Unsupported: the engine cannot add them; a `twin` may have them.
            SchemaMismatch: a field of the name is there and does not fit the model, or holds another model's vectors.
        """

    def bare(self, ids: Sequence[str], kinds: Collection[Representation]) -> Sequence[str]:
        """Those of the documents that have no vector of any of the channels, which the collection has fields for."""

    def count_bare(self, kinds: Collection[Representation]) -> int | None:
        """How many documents have no vector of any of the channels; None where that cannot be counted."""

    def twin(self, url: str, schema: Schema) -> Self:
        """Open the collection at the URL, made after this one if it is not there: its fields and those it lacks.

        Raises:
            Unsupported: the URL is not of the same engine, or the engine cannot make one.
            SchemaMismatch: there is one, and it does not fit.
        """

    def carry(self, source: Self, ids: Sequence[str], vectors: M3Vectors | None) -> None:
        """Write documents of ``source`` as they are there, with these vectors; this is a `twin` of it.

        vectors: of the documents, one row each; None for documents without.

        Raises:
            InputError: an id that the source does not hold any more.
        """

    def check_alias(self, alias: str, source: Self) -> None:
        """Whether `switch_alias` can be done.

        Raises:
            Unsupported: the engine has no aliases. InputError: the alias is not there, or leads elsewhere.
        """

    def switch_alias(self, alias: str, source: Self) -> None:
        """Let the alias lead here instead of to ``source``, in one step; nothing if it leads here already."""


def open_partial(url: str, **options: Any) -> Store:
    """Open a store whose vector fields may be missing, if its engine can add them; any other as `open_store` does.

    Raises:
        StoreNotFound, MissingExtra, SchemaMismatch: as `open_store`.
    """
    point = stores_by_scheme().get(url.partition("://")[0])
    if point is not None and hasattr(point.load(), "extend"):
        options["partial"] = True
    return open_store(url, **options)
