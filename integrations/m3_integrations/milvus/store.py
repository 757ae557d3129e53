"""Documents with dense and sparse vectors in a Milvus collection, on a server or in Milvus Lite."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal, Self

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
from m3_core.errors import (
    DimensionMismatch,
    InputError,
    SchemaMismatch,
    StoreError,
    Unsupported,
)
from m3_core.filters import Filter, Where
from m3_core.store import Capabilities, ClosingMixin, Fields, Page, Problem, Schema
from m3_core.text import without_secrets
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Record, Representation
from m3_integrations.milvus.address import Location, beside
from m3_integrations.milvus.columns import ColumnDialect
from m3_integrations.milvus.connection import Connection
from m3_integrations.milvus.convert import (
    SPARSE_SPACE,
    Row,
    exact_scores,
    query_cells,
    vector_cells,
    vectors_of,
)
from m3_integrations.milvus.creation import (
    absent,
    as_mapping,
    connecting,
    create_collection,
    exists,
    open_layout,
    take_names,
)
from m3_integrations.milvus.documents import primary_key, to_document, to_row
from m3_integrations.milvus.extending import Extending
from m3_integrations.milvus.filters import Expression, translate
from m3_integrations.milvus.layout import Layout, Names, problems
from m3_integrations.milvus.table import MOST_ROWS, ROWS_AT_ONCE, Table


class MilvusStore(Extending, ClosingMixin):
    """Dense and sparse vectors in Milvus: a server, or Milvus Lite (``milvus+file://``) in this process.

    Multi-vectors are not held. Safe to use from several threads. Make one with `create`, `open` or `from_url`.

    URLs: ``milvus://host:19530/collection``; ``milvus+file://folder/name`` for the collection
    ``documents`` in the Milvus Lite folder ``folder/name.db``, and ``milvus+file://folder/name.db/collection``
    for a collection of another name. Options of the connection, as keywords or in the URL's query:
    ``token`` or ``user`` and ``password`` (or the environment's MILVUS_TOKEN), ``database``, ``timeout`` (seconds, 60);
    for TLS ``secure``, ``ca_certs`` (a file of those to trust), and with it ``client_cert`` and ``client_key``.
    """

    holds = frozenset({Representation.DENSE, Representation.SPARSE})
    """The channels that a new collection can have."""

    def __init__(
        self,
        connection: Connection,
        fields: Fields | Names | None = None,
        fingerprint: str | None = None,
        search_params: Mapping[str, Any] | str | None = None,
        partial: bool = False,
    ) -> None:
        """Take over a connection to a collection that is there; use `create`, `open` or `from_url`."""
        with connection.calling():
            layout = open_layout(connection, fields, partial=partial)
        held = None if layout.marker is None else layout.marker.fingerprint
        check_fingerprint(held, fingerprint, connection.address.identity)
        self._connection = connection
        self._search_params = as_mapping("search_params", search_params)
        self._closed = False
        self._use(layout, held or fingerprint)

    def _use(self, layout: Layout, fingerprint: str | None) -> None:
        """Work with the fields that are there."""
        self.named = layout.fields
        self._layout, self._fingerprint = layout, fingerprint
        self._schema = layout.schema(fingerprint)
        self._table = Table(self._connection, layout, self._search_params)

    @classmethod
    def create(
        cls,
        location: Location,
        *,
        schema: Schema,
        fields: Fields | None = None,
        index: str = "FLAT",
        index_params: Mapping[str, Any] | str | None = None,
        filter_terms: Literal["array", "text"] | None = None,
        search_params: Mapping[str, Any] | str | None = None,
        **options: Any,
    ) -> Self:
        """Make an empty collection for a model, and open it.

        location: a URL, or a `MilvusClient` of your own, which stays open, with ``collection=`` beside it.
        fields: the names of its fields. index, index_params: of the dense field; FLAT is exact, ``HNSW``
        and others are faster on large collections of a server. filter_terms: how what filters ask for is
        kept; None takes what the engine is fastest at. search_params: go with every dense search, like
        ``{"ef": 200}``.

        Raises:
            StoreError: there is such a collection already.
            Unsupported: the schema has neither dense nor sparse vectors, or Lite is asked for another index.
        """
        with connecting(location, options, create=True) as (connection, _):
            if exists(connection):
                raise StoreError(f"there is a collection {connection.address.identity} already; open it")
            return cls._make(
                connection,
                schema,
                fields=fields,
                index=index,
                index_params=index_params,
                filter_terms=filter_terms,
                search_params=search_params,
            )

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        fields: Fields | Names | None = None,
        fingerprint: str | None = None,
        search_params: Mapping[str, Any] | str | None = None,
        partial: bool = False,
        **options: Any,
    ) -> Self:
        """Open a collection, also one that was made by others; location is as in `create`.

        fields: the names of its fields, or some of them; by default those it was made with. In other people's collections the
        primary key is the id (``Fields(id=None)``), and ``Fields(metadata="")`` means that the metadata
        lies in columns and undeclared fields beside the text. fingerprint: of the model whose vectors it
        holds; compared with the one the collection was made for, or believed if it says nothing. partial: vector
        fields that are named may be missing still, see `m3_core.extending.Extensible`.

        Raises:
            StoreNotFound: there is no such collection.
            SchemaMismatch: a field for id, text or metadata is missing.
            FingerprintMismatch: it holds another model's vectors.
        """
        with connecting(location, options, create=False) as (connection, _):
            if not exists(connection):
                raise absent(connection)
            return cls(connection, fields, fingerprint, search_params, partial)

    @classmethod
    def from_url(cls, url: str, *, schema: Schema | None = None, **options: Any) -> Self:
        """Open the collection at the URL; with a schema, make it if it is not there, or check that it fits.

        Takes the options of `create` and `open`, also from the URL's query, and names of fields (``text=body``;
        ``id=none`` where the primary key is the id, ``dense=none`` leaves a channel out).

        Raises:
            StoreNotFound: there is no such collection, and no schema to make it for.
            SchemaMismatch: it does not fit the schema; says what does not.
        """
        partial = options.pop("partial", False)
        allowed = _SETTINGS | Fields.__dataclass_fields__.keys()
        with connecting(url, options, create=schema is not None, allowed=allowed) as (connection, given):
            names = take_names(given)
            if not exists(connection):
                if schema is None:
                    raise absent(connection)
                made = names if isinstance(names, Fields) else replace(Fields(), **(names or {}))  # type: ignore[arg-type]
                return cls._make(connection, schema, **{**given, "fields": made})
            wanted = None if schema is None else schema.fingerprint
            fingerprint = given.get("fingerprint") or wanted
            store = cls(connection, names, fingerprint, given.get("search_params"), partial)
            if schema is not None:
                store._require(schema)
            return store

    @classmethod
    def _make(
        cls,
        connection: Connection,
        schema: Schema,
        *,
        fields: Fields | None = None,
        index: str = "FLAT",
        index_params: Mapping[str, Any] | str | None = None,
        filter_terms: Literal["array", "text"] | None = None,
        search_params: Mapping[str, Any] | str | None = None,
        fingerprint: str | None = None,
    ) -> Self:
        if fingerprint is not None:
            check_fingerprint(schema.fingerprint, fingerprint, connection.address.identity)
        with connection.calling():
            create_collection(
                connection,
                schema,
                fields or Fields(),
                index=index,
                index_params=index_params,
                filter_terms=filter_terms,
            )
        return cls(connection, None, schema.fingerprint, search_params)

    def twin(self, url: str, schema: Schema) -> Self:
        """Open the collection at the URL, made after this one if it is not there; see `m3_core.extending.Extensible`.

        On the same server this store's client is used, which is the caller's or has the credentials that were given.
        """
        if not url.startswith("milvus"):
            named = without_secrets(url)
            raise Unsupported(
                f"{self.place} is copied as it is, to a URL like {self.place}_m3, not {named!r}"
            )
        with ExitStack() as stack:
            connection = Connection(beside(url, self._connection.address), create=True)
            stack.callback(connection.close)
            with self._calling(), connection.calling():
                if not exists(connection):
                    self.make_alike(connection, schema)
                self.index_alike(connection)
            made = type(self)(connection, self.named, partial=True)
            stack.pop_all()
            return made

    def check(self, schema: Schema) -> list[Problem]:
        """What does not fit a model (fingerprint, dimensions, metric, a missing field or index); empty if all does."""
        return problems(self._layout, self._fingerprint, schema)

    def _require(self, schema: Schema) -> None:
        found = self.check(schema)
        if found:
            here, there = self._schema, schema
            sizes = [(here.dense, there.dense), (here.sparse, there.sparse)]
            other = any(
                None not in pair and SPARSE_SPACE not in pair and len(set(pair)) == 2 for pair in sizes
            )
            kind = DimensionMismatch if other else SchemaMismatch
            raise kind("; ".join(f"{problem.what}: {problem.remedy}" for problem in found))

    @property
    def capabilities(self) -> Capabilities:
        dialect = self._layout.dialect
        refused = dialect.unsupported if isinstance(dialect, ColumnDialect) else frozenset()
        kinds = self._schema.representations
        return Capabilities(kinds, unsupported_filters=refused, exact=self._layout.exact)

    @property
    def fingerprint(self) -> str | None:
        return self._fingerprint

    @property
    def identity(self) -> str:
        return self._connection.address.identity

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write documents whole; see `Store.upsert`. What goes in one request of 16 MB is written as one."""
        with self._calling():
            self._check_writable()
            batch = check_upsert(documents, vectors, self._schema)
            self._check_vocabulary(batch.vectors)
            rows = [to_row(self._layout, document) for document in batch.documents]
            if self._layout.lite and self._layout.dynamic:
                self._blank_undeclared([document.id for document in batch.documents], rows)
            channels = self._layout.channels
            self._table.upsert(
                {**row, **vector_cells(batch.vectors, n, channels)} for n, row in enumerate(rows)
            )

    def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Replace channels of existing documents; see `Store.update_vectors`.

        The documents are read and written whole: what another client changes in them meanwhile is undone.
        """
        with self._calling():
            self._check_writable()
            check_update(ids, vectors, self._schema)
            self._check_vocabulary(vectors)
            self._table.strong()
            there = self._table.rows(ids, [])
            absent = [name for name in ids if name not in there]
            if absent:
                raise InputError(f"there is no document with the id {absent[0]!r}; nothing was updated")
            every = [*self._layout.columns, *(["$meta"] if self._layout.dynamic else [])]
            for start in range(0, len(ids), ROWS_AT_ONCE):
                some = ids[start : start + ROWS_AT_ONCE]
                rows = self._table.rows(some, every)
                self._table.upsert(
                    {**rows[name], **vector_cells(vectors, start + n, self._layout.channels)}
                    for n, name in enumerate(some)
                )

    def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        """Delete the named documents and those that match; see `Store.delete`."""
        check_ids(ids)
        with self._calling():
            condition = False if where is None else self._expression(where)
            keys = [key for name in ids if (key := primary_key(self._layout, name)) is not None]
            expressions = [expression for expression, _ in self._table.among(keys)]
            if condition is not False:
                expressions.append(self._table.everything() if condition is True else condition)
            self._table.delete(expressions)

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        """The named documents, None for those that are not there; see `Store.get`."""
        check_ids(ids)
        with self._calling():
            rows = self._table.rows(ids, self._fields(vectors))
            return [self._record(rows[name], vectors) if name in rows else None for name in ids]

    def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        """A page of the documents in the order of their primary keys; the cursor is the last key of the page before.

        At most 16,383 documents, however many are asked for.
        """
        check_size(size, "the page size")
        size = min(size, MOST_ROWS - 1)
        with self._calling():
            condition, fields = self._expression(where), self._fields(vectors)
            rows = self._table.after(self._key_of(cursor), condition, fields, size + 1)
            last = str(rows[size - 1][self._layout.key.name]) if len(rows) > size else None
            return Page([self._record(row, vectors) for row in rows[:size]], last)

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        """The best documents of every query by each channel; see `Store.search`.

        Raises:
            InputError: ``k`` is above 16,384, which is all that Milvus returns.
        """
        with self._calling():
            self._check_usable(k)
            check_search(queries, k, self._schema)
            self._check_vocabulary(queries.only(k.keys()))
            condition = self._expression(where)
            return {kind: self._best(queries, kind, size, condition) for kind, size in k.items()}

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Exact scores of the named documents, NaN for what is not there; see `Store.score`."""
        with self._calling():
            self._check_usable([by])
            check_score(queries, by, ids, self._schema)
            self._check_vocabulary(queries.only([by]))
            field = self._layout.channels[by]
            found = self._table.rows(list(dict.fromkeys(name for some in ids for name in some)), [field])
        return exact_scores(queries, by, ids, found, self._layout.channels)

    def count(self, *, where: Where = None) -> int:
        """How many documents there are, or match."""
        with self._calling():
            return self._table.count(self._expression(where))

    def close(self) -> None:
        """Close the connection; Milvus Lite lets go of its folder."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    @contextmanager
    def _calling(self) -> Iterator[None]:
        with self._connection.calling():
            if self._closed:
                raise StoreError(f"the store {self.identity} is closed")
            yield

    def _expression(self, where: Where) -> Expression:
        condition = Filter.parse(where)
        return True if condition is None else translate(condition, self._layout.dialect.leaf)

    def _key_of(self, cursor: str | None) -> str | int | None:
        if cursor is None:
            return None
        try:
            cursor.encode()
            return cursor if self._layout.key.type == "VARCHAR" else int(cursor)
        except (AttributeError, ValueError):
            raise InputError(f"{cursor!r} is no cursor of a page of {self.identity}") from None

    def _fields(self, vectors: Collection[Representation]) -> list[str]:
        self._check_usable(vectors)
        check_held(vectors, self._schema.representations)
        return [*self._layout.payload, *(self._layout.channels[kind] for kind in vectors)]

    def _record(self, row: Row, vectors: Collection[Representation]) -> Record:
        held = {self._layout.channels[kind] for kind in vectors}
        document = to_document(self._layout, {name: value for name, value in row.items() if name not in held})
        kinds = [kind for kind in vectors if row[self._layout.channels[kind]] is not None]
        if not kinds:
            return Record(document)
        width = self._schema.sparse or SPARSE_SPACE
        return Record(document, vectors_of([row], kinds, self._layout.channels, width=width))

    def _best(self, queries: M3Vectors, by: Representation, k: int, condition: Expression) -> list[list[Hit]]:
        hits: list[list[Hit]] = [[] for _ in range(len(queries))]
        cells = query_cells(queries, by)
        found = self._table.search([cell for _, cell in cells], self._layout.channels[by], k, condition)
        for (row, _), rows in zip(cells, found, strict=True):
            best = [Hit(to_document(self._layout, held), score, {by: score}) for held, score in rows]
            if by is Representation.SPARSE:
                best = [hit for hit in best if hit.score > 0]
            hits[row] = sorted(best, key=lambda hit: (-hit.score, hit.id))
        return hits

    def _check_usable(self, wanted: Collection[Representation]) -> None:
        for kind in wanted:
            if problem := self._layout.problems.get(kind):
                raise SchemaMismatch(f"{problem.what}: {problem.remedy}")

    def _check_writable(self) -> None:
        self._check_usable(self._layout.problems)
        if self._layout.key.automatic:
            raise Unsupported(
                f"the primary keys of {self.identity} are assigned by Milvus, so its documents cannot be replaced; "
                "write into a collection made by MilvusStore.create"
            )

    def _check_vocabulary(self, vectors: M3Vectors) -> None:
        held = self._schema.sparse
        if vectors.sparse is not None and held not in (None, SPARSE_SPACE, vectors.sparse.shape[1]):
            raise DimensionMismatch(
                f"the lexical weights are over {vectors.sparse.shape[1]} tokens, {self.identity} was made for "
                f"{held}; use the model the collection was made with"
            )

    def _blank_undeclared(self, ids: Sequence[str], rows: Sequence[Row]) -> None:
        """Name what undeclared fields a document had before, as null: Milvus Lite would keep them."""
        held = self._table.rows(ids, ["$meta"])
        for name, row in zip(ids, rows, strict=True):
            row.update(dict.fromkeys(held.get(name, {}).keys() - row.keys()))


_SETTINGS = frozenset({"fields", "fingerprint", "index", "index_params", "filter_terms", "search_params"})
