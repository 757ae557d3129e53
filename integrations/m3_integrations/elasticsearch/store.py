"""Documents with dense vectors and lexical weights in an Elasticsearch index."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

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
from m3_core.errors import (
    DimensionMismatch,
    InputError,
    SchemaMismatch,
    StoreError,
    StoreNotFound,
    Unsupported,
)
from m3_core.filters import Filter, Where
from m3_core.scoring import channel_scores
from m3_core.store import Capabilities, ClosingMixin, Fields, Page, Problem, Schema
from m3_core.text import without_secrets
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Record, Representation
from m3_integrations.elasticsearch import convert
from m3_integrations.elasticsearch.bulk import delete_item, index_item, update_item
from m3_integrations.elasticsearch.connection import Connection, Refresh
from m3_integrations.elasticsearch.creation import Metadata, problems
from m3_integrations.elasticsearch.extending import Extending
from m3_integrations.elasticsearch.layout import ANY_VOCABULARY, Layout, Names, read_layout
from m3_integrations.elasticsearch.mapped import check_types
from m3_integrations.elasticsearch.opening import Location, Opening, make_index, without
from m3_integrations.elasticsearch.options import left_out, split_url
from m3_integrations.elasticsearch.reading import Found, Reader
from m3_integrations.elasticsearch.searching import Searcher

_CANDIDATES = 200


class ElasticsearchStore(Extending, ClosingMixin):
    """An index: ``elasticsearch://host:9200/pages``, or ``elasticsearch+https://`` for TLS. Made here or by others.

    Lexical weights lie in a ``rank_features`` field (features are token ids), dense vectors in a ``dense_vector``;
    an index may have one of the two. A document's id is its ``_id``. Safe to use from several threads.
    """

    holds = frozenset({Representation.DENSE, Representation.SPARSE})
    """The channels that a new index can have."""

    def __init__(
        self,
        connection: Connection,
        *,
        fields: Fields | Names | None = None,
        fingerprint: str | None = None,
        candidates: int = _CANDIDATES,
        partial: bool = False,
    ) -> None:
        """Take over a connection to an index that is there; use `create`, `open` or `from_url`."""
        layout = read_layout(connection.describe(), fields, partial=partial)
        held = layout.note.fingerprint if layout.note is not None else None
        check_fingerprint(held, fingerprint, connection.place)
        self._connection, self._layout, self._partial = connection, layout, partial
        self._fingerprint = held or fingerprint
        self._reader = Reader(connection)
        self._searcher = Searcher(connection, candidates)

    @classmethod
    def from_url(cls, url: str, *, schema: Schema | None = None, **options: Any) -> Self:
        """Open the index at the URL; with a schema, make it if it is not there. See `open_store`.

        Options, in the URL or beside it: those of `create` and `open`, and names of fields (``text=body``;
        ``dense=none`` leaves a channel out). Those that only matter when an index is made are passed over where
        there is one.
        """
        partial = options.pop("partial", False)
        address, index, given = split_url(url, options)
        with Opening(address, index, given.connecting, given.opening.get("refresh", "read")) as connection:
            if connection.exists():
                opening = without(given.opening, "refresh")
                return cls._opened(connection, schema, fields=given.fields, partial=partial, **opening)
            if schema is None:
                raise StoreNotFound(f"there is no index {connection.place}; make one by ingesting into it")
            names = given.fields
            fields = names if isinstance(names, Fields) else replace(Fields(), **(names or {}))  # type: ignore[arg-type]
            make_index(connection, schema, fields, **given.creating)
            return cls(connection, **without(given.opening, "refresh", "fingerprint"))

    @classmethod
    def create(
        cls,
        location: Location,
        index: str,
        *,
        schema: Schema,
        fields: Fields = Fields(),
        dense_index: str | Mapping[str, Any] = "hnsw",
        metadata_mapping: Metadata = "any",
        shards: int | None = None,
        replicas: int | None = None,
        settings: Mapping[str, Any] | None = None,
        candidates: int = _CANDIDATES,
        refresh: Refresh = "read",
        **connecting: Any,
    ) -> Self:
        """Make an empty index for a model, and open it.

        location: ``http://host:9200``, or a client of your own, which stays open. dense_index: ``"hnsw"``
        (approximate), ``"flat"`` (exact; every vector is looked at), a type that shortens vectors like
        ``"int8_hnsw"``, or ``index_options`` as they are. metadata_mapping: ``"any"`` keeps whatever JSON metadata
        is and filters it exactly; ``"mapped"`` indexes each field as keyword, double or boolean, for Kibana and other
        queries, and then a field has one type in all documents. shards, replicas, settings: of the index.
        candidates: that an approximate dense search looks for in each shard, 10,000 at most. refresh: when writes
        become visible, see `Refresh`. connecting: ``api_key``, or ``username`` and ``password`` (or the
        environment's ELASTICSEARCH_API_KEY, ELASTICSEARCH_USERNAME, ELASTICSEARCH_PASSWORD), ``timeout`` in seconds,
        ``retries``, ``ca_certs``, ``verify_certs``, ``ssl_assert_fingerprint``, ``client_cert``, ``client_key``.

        Raises:
            StoreError: there is such an index already, or the cluster says no.
            Unsupported: the schema has neither dense vectors nor lexical weights.
            StoreUnavailable: the cluster does not answer.
        """
        with Opening(location, index, connecting, refresh) as connection:
            if connection.exists():
                raise StoreError(
                    f"there is an index {connection.place} already; open it, or use another name"
                )
            make_index(
                connection,
                schema,
                fields,
                dense_index=dense_index,
                metadata_mapping=metadata_mapping,
                shards=shards,
                replicas=replicas,
                settings=settings,
            )
            return cls(connection, candidates=candidates)

    @classmethod
    def open(
        cls,
        location: Location,
        index: str,
        *,
        fields: Fields | Names | None = None,
        schema: Schema | None = None,
        fingerprint: str | None = None,
        candidates: int = _CANDIDATES,
        refresh: Refresh = "read",
        partial: bool = False,
        **connecting: Any,
    ) -> Self:
        """Open an index or alias, made here or by others; the other arguments are as in `create`.

        fields: its names, or some of them; by default those it was made with, or the usual ones that are there.
        ``Fields(id=...)`` names a keyword field with the same value as ``_id``, which pages are sorted by; None if
        there is none. ``Fields(metadata="")`` means that the metadata lies beside the text. fingerprint: of the
        model whose vectors it holds; believed if the index says nothing. partial: vector fields that are named may be
        missing still, see `m3_core.extending.Extensible`.

        Raises:
            StoreNotFound: there is none of that name. StoreUnavailable: the cluster does not answer.
            SchemaMismatch: it does not fit the fields, the schema or the fingerprint, where they are given.
        """
        with Opening(location, index, connecting, refresh) as connection:
            return cls._opened(
                connection,
                schema,
                fields=fields,
                fingerprint=fingerprint,
                candidates=candidates,
                partial=partial,
            )

    @classmethod
    def _opened(
        cls, connection: Connection, schema: Schema | None, *, fingerprint: str | None = None, **options: Any
    ) -> Self:
        wanted = fingerprint or (schema.fingerprint if schema is not None else None)
        store = cls(connection, fingerprint=wanted, **options)
        if schema is not None:  # a channel that is left out by its name is not asked for
            schema = schema.only(schema.representations - left_out(options.get("fields")))
        found = [] if schema is None else problems(store._layout, schema, store._fingerprint)
        if schema is not None and found:
            here, there = store._layout.schema.dense, schema.dense
            kind = DimensionMismatch if None not in (here, there) and here != there else SchemaMismatch
            raise kind(
                f"{connection.place}: " + "; ".join(f"{problem.what}: {problem.remedy}" for problem in found)
            )
        return store

    def check(self, schema: Schema) -> list[Problem]:
        """What does not fit a model, by the mapping as it is now; empty if all does."""
        return problems(self._read_layout(), schema, self._fingerprint)

    def _read_layout(self) -> Layout:
        return read_layout(self._connection.describe(), self._layout.fields, partial=self._partial)

    def twin(self, url: str, schema: Schema) -> Self:
        """Open the index at the URL, made after this one if it is not there; see `m3_core.extending.Extensible`.

        On the same cluster this store's client is used, which is the caller's or has the credentials that were given.
        """
        if not url.startswith("elasticsearch"):
            named = without_secrets(url)
            raise Unsupported(
                f"{self.place} is copied as it is, to a URL like {self.place}_m3, not {named!r}"
            )
        address, index, given = split_url(url, {})
        same = url.partition("?")[0].rpartition("/")[0] == self.place.rpartition("/")[0]
        location = self._connection.client if same else address
        with Opening(location, index, given.connecting, given.opening.get("refresh", "read")) as connection:
            if not connection.exists():
                self.make_alike(connection)
            return self._opened(connection, None, fields=self._layout.fields, partial=True)

    @property
    def capabilities(self) -> Capabilities:
        layout = self._layout
        return Capabilities(
            layout.schema.representations, exact=layout.exact, score_tolerance=layout.score_tolerance
        )

    @property
    def fingerprint(self) -> str | None:
        return self._fingerprint

    @property
    def identity(self) -> str:
        """The address and name of the index, and the id that it was given when it was made."""
        return f"{self._connection.place}#{self._layout.uuid}"

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write documents whole; see `Store.upsert`. Each is written or named in the error, with the reason.

        Raises:
            InputError: documents that cannot be kept, or that the index refuses; the others of the call are written.
        """
        batch = check_upsert(documents, vectors, self._layout.schema)
        self._check_vocabulary(batch.vectors)
        self._check_there()
        self._check_metadata(batch.documents)
        held = self._elsewhere([document.id for document in batch.documents])
        self._connection.write(
            index_item(
                document.id,
                convert.to_source(document, self._layout)
                | convert.vector_cells(batch.vectors, row, self._layout),
                held.get(document.id, {}).get("_routing"),
                held.get(document.id, {}).get("_index"),
            )
            for row, document in enumerate(batch.documents)
        )

    def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Replace channels of existing documents; see `Store.update_vectors`."""
        check_update(ids, vectors, self._layout.schema)
        self._check_vocabulary(vectors)
        found = self._reader.by_id(ids, False)
        absent = [name for name in ids if name not in found]
        if absent:
            raise InputError(f"there is no document with the id {absent[0]!r}; nothing was updated")
        self._connection.write(
            update_item(found[name], convert.vector_cells(vectors, row, self._layout))
            for row, name in enumerate(ids)
        )

    def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        """Delete the named documents, and those that match when the call begins; see `Store.delete`."""
        check_ids(ids)
        condition = Filter.parse(where)
        layout = self._layout_for(condition)
        query = layout.query(condition)  # a filter that is refused is refused before anything is deleted
        self._check_there()
        held = self._elsewhere(ids)
        self._connection.write(delete_item(name, held.get(name)) for name in dict.fromkeys(ids) if name)
        if condition is not None:
            for hits in self._reader.ids(query, layout):
                self._connection.write(delete_item(hit["_id"], hit) for hit in hits)

    def _elsewhere(self, ids: Sequence[str]) -> Mapping[str, Found]:
        """Where documents are that may be in another place than that of their ids: others route theirs, and alias."""
        note = self._layout.note
        return {} if note is not None and note.ours else self._reader.by_id(ids, False)

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        """The named documents, None for those that are not there; see `Store.get`."""
        check_ids(ids)
        check_held(vectors, self._layout.schema.representations)
        source = convert.source_filter(self._layout, vectors)
        found = self._reader.by_id(ids, source, vectors=bool(vectors))
        return [self._record(found[name], vectors) if name in found else None for name in ids]

    def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        """A page of the documents in the order of their ids, where the index has a field of them (`Reader`).

        At most 9,999 documents, or what the index's ``max_result_window`` allows, however many are asked for.
        """
        check_size(size, "the page size")
        check_held(vectors, self._layout.schema.representations)
        condition = Filter.parse(where)
        layout = self._layout_for(condition)
        source = convert.source_filter(layout, vectors)
        hits, after = self._reader.page(
            layout.query(condition), source, cursor, min(size, layout.window - 1), layout
        )
        return Page([self._record(hit, vectors) for hit in hits], after)

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        """The best documents of every query by each channel, in one round trip; see `Store.search`.

        Raises:
            InputError: ``k`` is above 10,000, or what the index's ``max_result_window`` allows.
        """
        check_search(queries, k, self._layout.schema)
        self._check_vocabulary(queries.only(k.keys()))
        for kind, size in k.items():
            if size > self._layout.window:
                raise InputError(
                    f"k for {kind.value} is {size}, but {self._connection.place} returns {self._layout.window} hits at most"
                )
        condition = Filter.parse(where)
        return self._searcher.search(queries, k, condition, self._layout_for(condition))

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Exact scores from the stored vectors, NaN for what is not there; see `Store.score`."""
        check_score(queries, by, ids, self._layout.schema)
        self._check_vocabulary(queries.only([by]))
        layout = self._layout
        source = {"includes": [layout.channels[by]], "exclude_vectors": False}
        names = list(dict.fromkeys(name for some in ids for name in some))
        found = self._reader.by_id(names, source, vectors=True)
        held = {name: hit for name, hit in found.items() if convert.has(hit, by, layout)}
        width = self._width if queries.sparse is None else int(queries.sparse.shape[1])
        passages = convert.vectors_of(list(held.values()), [by], layout, width=width)
        place = {name: row for row, name in enumerate(held)}
        scores = []
        for row, some in enumerate(ids):
            rows = np.array([place.get(name, -1) for name in some], dtype=np.int64)
            exact = np.full(len(some), np.nan, dtype=np.float32)
            known = np.flatnonzero(rows >= 0)
            if len(known):
                exact[known] = channel_scores(queries, row, passages.take(rows[known].tolist()), by)
            scores.append(exact)
        return scores

    def count(self, *, where: Where = None) -> int:
        """How many documents there are, or match."""
        condition = Filter.parse(where)
        return self._connection.count(self._layout_for(condition).query(condition))

    def close(self) -> None:
        """Close the client, unless the caller brought it."""
        self._connection.close()

    @property
    def _width(self) -> int:
        return self._layout.schema.sparse or ANY_VOCABULARY

    def _layout_for(self, condition: Filter | None) -> Layout:
        """The layout, read again if a filter asks for a field that was not mapped when it was read."""
        if not self._layout.knows(condition):
            self._layout = self._read_layout()
        return self._layout

    def _record(self, hit: Found, vectors: Collection[Representation]) -> Record:
        document = convert.to_document(hit, self._layout)
        kinds = [kind for kind in vectors if convert.has(hit, kind, self._layout)]
        if not kinds:
            return Record(document)
        return Record(document, convert.vectors_of([hit], kinds, self._layout, width=self._width))

    def _check_there(self) -> None:
        """Raise StoreNotFound where the index is gone: a write would make another one, with a guessed mapping."""
        if not self._connection.exists():
            raise StoreNotFound(
                f"there is no index {self._connection.place} any more; make one by ingesting into it"
            )

    def _check_metadata(self, documents: Sequence[Document]) -> None:
        layout = self._layout
        if not layout.fields.metadata:
            taken = {layout.fields.text, layout.fields.id, layout.terms, *layout.channels.values()}
            for document in documents:
                if clash := sorted(taken & document.metadata.keys(), key=str):
                    raise InputError(
                        f"the metadata field {clash[0]!r} of document {document.id!r} has the name of another field of "
                        f"{self._connection.place}; give it another name"
                    )
        if layout.note is not None and layout.note.ours and layout.terms is None:
            self._layout = layout = self._read_layout()
            check_types(documents, layout.mapping, layout.prefix)

    def _check_vocabulary(self, vectors: M3Vectors) -> None:
        held = self._layout.schema.sparse
        if vectors.sparse is not None and held not in (None, ANY_VOCABULARY, vectors.sparse.shape[1]):
            raise DimensionMismatch(
                f"the lexical weights are over {vectors.sparse.shape[1]} tokens, {self._connection.place} was made for "
                f"{held}; use the model the index was made with"
            )
