"""What a store is: the protocol every engine implements, and how stores are found by URL."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from m3_core.errors import InputError, StoreNotFound
from m3_core.filters import Where
from m3_core.text import without_secrets
from m3_core.types import (
    Document,
    FloatArray,
    Hit,
    M3Vectors,
    Record,
    Representation,
)

if TYPE_CHECKING:
    from m3_core.fusion import Fusion


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can hold and do.

    representations: the channels it holds. fusions: classes of fusion that `FusedSearch.search_fused`
    does exactly. unsupported_filters: operators it refuses by name. exact: whether search is exhaustive
    (no approximate index). score_tolerance: largest absolute error of a score by the engine's own number
    format, for vectors of unit length; 0 where it keeps float32.
    """

    representations: frozenset[Representation]
    fusions: frozenset[str] = frozenset()
    unsupported_filters: frozenset[str] = frozenset()
    exact: bool = True
    score_tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Fields:
    """The names a collection uses. ``None`` for a channel means the collection does not hold it.

    metadata: the field that holds the metadata as one object; "" means that it lies at the top level
    beside text and id (other people's collections). id: the field that holds the document's id, or None
    where the engine's own id is the document's id.
    """

    dense: str | None = "dense"
    sparse: str | None = "sparse"
    multi: str | None = "multi"
    text: str = "text"
    id: str | None = "id"
    metadata: str = "metadata"

    def name_of(self, representation: Representation) -> str | None:
        """The vector field of a channel."""
        return {"dense": self.dense, "sparse": self.sparse, "multi": self.multi}[representation.value]

    @property
    def representations(self) -> frozenset[Representation]:
        """The channels that have a field."""
        return frozenset(kind for kind in Representation if self.name_of(kind) is not None)


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a scan: the records, and the cursor that brings the next part (None after the last)."""

    records: Sequence[Record]
    cursor: str | None


class SearchResult(dict[Representation, list[list[Hit]]]):
    """What a search over several stores returns: the hits by channel, and the ``missing``.

    missing: the identities of the stores that did not answer and were left out, as the caller chose
    (`UnionStore`, `SplitStore`). A plain dictionary, which other stores return, misses nothing:
    ``getattr(result, "missing", ())``.
    """

    def __init__(self, hits: Mapping[Representation, list[list[Hit]]], missing: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.missing = tuple(missing)


class ScoreResult(list[FloatArray]):
    """What scores from several stores are: the scores by query, and the ``missing``, as in a `SearchResult`."""

    def __init__(self, scores: Iterable[FloatArray], missing: Sequence[str] = ()) -> None:
        super().__init__(scores)
        self.missing = tuple(missing)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a new collection is made for: the model's dimensions and fingerprint.

    dense, multi: dimensions, None leaves the channel out. sparse: the size of the vocabulary, None
    leaves the channel out. An encoder's `schema()` makes one.
    """

    dense: int | None = None
    sparse: int | None = None
    multi: int | None = None
    fingerprint: str | None = None

    @property
    def representations(self) -> frozenset[Representation]:
        """The channels that are wanted."""
        present = {"dense": self.dense, "sparse": self.sparse, "multi": self.multi}
        return frozenset(Representation(name) for name, size in present.items() if size is not None)

    def only(self, representations: Collection[Representation]) -> "Schema":
        """The same model with no other channels than the named ones."""
        return Schema(
            dense=self.dense if Representation.DENSE in representations else None,
            sparse=self.sparse if Representation.SPARSE in representations else None,
            multi=self.multi if Representation.MULTI in representations else None,
            fingerprint=self.fingerprint,
        )


@runtime_checkable
class Store(Protocol):
    """A collection of documents with their vectors. Every method may raise a `StoreError`.

    Batches of any size are accepted; the store splits them as its engine needs. What a method has
    written is seen by the next call on the same object (read-your-writes).
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def fingerprint(self) -> str | None:
        """Of the model whose vectors the collection holds, kept in its own metadata; None if unknown."""

    @property
    def identity(self) -> str:
        """A string that names the collection across processes (no credentials in it); a journal is bound to it."""

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write documents whole: whatever an id held before is gone. Of equal ids in one call the last wins.

        ``vectors`` may hold more channels than the store; those are left out. It must hold all the store has.
        """

    def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Replace the given channels of existing documents; text and metadata stay untouched.

        Raises:
            InputError: an id that is not there, named.
        """

    def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        """Delete the named documents, and those the filter matches. Ids that are not there are no error."""

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        """The named documents in the order asked, None for those that are not there."""

    def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        """Every document, ``size`` at a time, in an order of the engine's own that is stable while nothing is written."""

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        """The best ``k[channel]`` documents of every query by each channel of ``k``, best first, ties by id.

        A hit's score is the channel's (`m3_core.scoring`); documents with a sparse score of 0 are no hits.
        """

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Exact scores of the named documents, ``ids[i]`` for query i. NaN: there is no such vector or document."""

    def count(self, *, where: Where = None) -> int:
        """How many documents there are, or match."""

    def close(self) -> None:
        """Release connections, files and locks. Closing twice is no error; other calls after it raise StoreError."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Close; `ClosingMixin` has both."""


@runtime_checkable
class FusedSearch(Protocol):
    """A store that can fuse by itself, exactly: the fusions named in its capabilities."""

    def search_fused(
        self,
        queries: M3Vectors,
        fusion: "Fusion",
        k: int,
        candidates: Mapping[Representation, int],
        *,
        where: Where = None,
    ) -> list[list[Hit]]:
        """The best k by the fusion over the union of the candidates of each channel. Hits carry the fused score only."""


class AsyncStore(Protocol):
    """The same names as `Store`, awaited. `ThreadedStore` makes one of a `Store`."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def fingerprint(self) -> str | None: ...
    @property
    def identity(self) -> str: ...
    async def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None: ...
    async def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None: ...
    async def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None: ...
    async def get(
        self, ids: Sequence[str], *, vectors: Collection[Representation] = ()
    ) -> list[Record | None]: ...
    async def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page: ...
    async def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]: ...
    async def score(
        self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]
    ) -> list[FloatArray]: ...
    async def count(self, *, where: Where = None) -> int: ...
    async def close(self) -> None: ...


class StoreFactory(Protocol):
    """What an entry point of the group ``m3.stores`` names: a class (or object) with these two methods.

    ``options`` are the query parameters of the URL and the keyword arguments of `open_store`. A factory whose engine
    cannot hold every channel says which it can in an attribute ``holds``, a set of `Representation`.
    """

    def from_url(self, url: str, *, schema: Schema | None = None, **options: Any) -> Store:
        """Open the collection at the URL; with a schema, make it if it is not there."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a check found that does not fit, and what to do about it."""

    what: str
    remedy: str


@runtime_checkable
class Checking(Protocol):
    """A store that can say what of it does not fit a model."""

    def check(self, schema: Schema) -> Sequence[Problem]:
        """What does not fit; empty if all does. Nothing is written."""


def stores_by_scheme() -> Mapping[str, Any]:
    """The entry points of installed stores, by URL scheme."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="m3.stores")}


def open_store(url: str, *, schema: Schema | None = None, **options: Any) -> Store:
    """Open the store a URL names, like ``qdrant+file://index/pages`` or ``milvus://localhost:19530/pages``.

    With a ``schema`` (`M3Encoder.schema`) a collection that is not there is made for it, and one that is
    there is checked against it. Stores are found through the entry points ``m3.stores`` of installed packages.

    Options go into the URL's query or beside it; each store's ``from_url`` names its own. Keys are better taken from the
    environment (QDRANT_API_KEY, MILVUS_TOKEN, ELASTICSEARCH_API_KEY): other users of a machine see a command's arguments.

    Raises:
        InputError: the URL is not a string, or an option is not known.
        StoreNotFound: no installed store has this scheme; or there is no such collection and no schema.
        MissingExtra: the store's own package is not installed; the message is the pip line.
        SchemaMismatch: the collection does not fit the schema.
    """
    return _factory(url).from_url(url, schema=schema, **options)


def channels_of(url: str) -> frozenset[Representation]:
    """The channels that a collection could hold which is made at this URL.

    Raises:
        StoreNotFound: no installed store has this scheme. MissingExtra: its package is not installed.
    """
    return frozenset(getattr(_factory(url), "holds", Representation))


def _factory(url: str) -> StoreFactory:
    if not isinstance(url, str):
        raise InputError(
            f"a store's URL is a string, like 'qdrant+file://index/pages', not {url!r:.80}; a client of yours goes to "
            "open or create of the engine's own store, like QdrantStore"
        )
    scheme, separator, _ = url.partition("://")
    stores = stores_by_scheme()
    if not separator or scheme not in stores:
        raise StoreNotFound(
            f"no store is installed for {without_secrets(url)!r}; a store's URL starts with one of: "
            + ", ".join(f"{name}://" for name in sorted(stores))
        )
    factory: StoreFactory = stores[scheme].load()
    return factory


class ClosingMixin:
    """``with`` for a store: closes it at the end."""

    def close(self) -> None:
        """Release what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
