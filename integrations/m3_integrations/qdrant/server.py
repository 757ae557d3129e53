"""The store on a Qdrant server, by `qdrant_client`; ``:memory:`` is the client's stand-in for tests."""

import uuid
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from qdrant_client import QdrantClient, models

from m3_core.errors import InputError, StoreError, StoreNotFound, Unsupported
from m3_core.store import Fields, Schema
from m3_core.text import without_secrets
from m3_core.types import Representation
from m3_integrations.qdrant import options as opt
from m3_integrations.qdrant.base import LongMulti, QdrantBase
from m3_integrations.qdrant.connection import CONNECTING, Connection, connected, split_place
from m3_integrations.qdrant.layout import Names, Note, new_fields
from m3_integrations.qdrant.server_copies import Aliased, make_alike
from m3_integrations.qdrant.server_engine import METADATA_KEY, ClientEngine, is_local

_NO_GRAPH = models.HnswConfigDiff(m=0)
_QUANTIZATION: Mapping[str, Any] = {
    "int8": models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
}
_OPENING: Mapping[str, opt.Parser] = {"exact": opt.flag, "fingerprint": str, "long_multi": str}
_CREATING: Mapping[str, opt.Parser] = {
    "datatype": str,
    "on_disk": opt.flag,
    "quantization": str,
    "payload_indexes": opt.indexes,
}
_OPTIONS: Mapping[str, opt.Parser] = {**CONNECTING, **_OPENING, **_CREATING, "https": opt.flag}


class QdrantStore(Aliased, QdrantBase):
    """A collection on a server: ``qdrant://host:6333/pages``. Collections made here or by others.

    Dense vectors get the server's HNSW graph, so that searches are approximate unless ``exact=True``;
    multi-vectors get none (they are compared with everything that a search looks at), lexical weights an exact index.
    """

    multi_numbers = 1_048_575

    @classmethod
    def from_url(cls, url: str, *, schema: Schema | None = None, **options: Any) -> Self:
        """Open ``qdrant://HOST:PORT/COLLECTION``; with a schema, make it if it is not there. See `open_store`.

        ``qdrant://:memory:/COLLECTION`` is new and empty each time. Options, in the URL or beside it: those of
        `create` and `open`; ``https`` (by default TLS is spoken if there is an API key or an option about certificates);
        names of fields (``text=page_content``; ``multi=none`` leaves a channel out). Those that only matter when a
        collection is made are passed over where there is one.
        """
        lacking = options.pop("partial", False)
        place, merged = opt.split_url(url, options)
        fields, settings = opt.read_options(merged, _OPTIONS)
        groups = [
            {name: settings[name] for name in settings.keys() & group}
            for group in (CONNECTING, _OPENING, _CREATING)
        ]
        connecting, opening, creating = groups
        location, collection = split_place(place, settings)
        with connected(location, **connecting) as connection:
            if schema is None or connection.exists(collection):
                return cls.open(
                    connection, collection, fields=fields, schema=schema, partial=lacking, **opening
                )
            opening.pop("fingerprint", None)
            names = opt.new_fields(fields)
            return cls.create(connection, collection, schema=schema, fields=names, **creating, **opening)

    @classmethod
    def create(
        cls,
        location: str | QdrantClient | Connection,
        collection: str,
        *,
        schema: Schema,
        fields: Fields = Fields(),
        datatype: str = "float32",
        on_disk: bool | None = None,
        quantization: Any = None,
        hnsw: models.HnswConfigDiff | None = None,
        payload_indexes: opt.PayloadIndexes | None = None,
        exact: bool | None = None,
        long_multi: LongMulti = "fail",
        collection_options: Mapping[str, Any] | None = None,
        **connecting: Any,
    ) -> Self:
        """Make a collection.

        location: ``http://host:6333``, ``https://...``, ``:memory:``, or a client of your own, which stays open.
        datatype: of dense and multi-vectors; ``float16`` halves them (scores within 1e-3). on_disk: whether vectors
        and the sparse index are left on disk. quantization: of dense and multi-vectors: ``"int8"``, ``"binary"`` or
        a configuration of `qdrant_client`. hnsw: of the dense vectors. payload_indexes: for filters that are often
        used. exact: whether searches look at everything. long_multi: what to do with a multi-vector of a million
        numbers or more, which the server refuses: ``"fail"``, or ``"cut"`` with a warning. collection_options: for
        `QdrantClient.create_collection` (shards, replicas, ...). connecting: ``api_key`` (or the environment's
        QDRANT_API_KEY), ``timeout`` in seconds (60), ``retries`` of a call that failed for a passing reason (4),
        ``prefer_grpc``, ``grpc_port``; for TLS ``ca_certs`` (a file of those to trust), ``verify_certs`` (false trusts
        anybody; not for gRPC), ``client_cert`` and ``client_key``.

        Raises:
            StoreError: there is a collection of that name already, or the server says no.
            StoreUnavailable: the server does not answer.
        """
        names = new_fields(fields, schema)
        paths = opt.index_paths(payload_indexes, names)
        vectors, sparse = _vectors(schema, names, opt.check_datatype(datatype), on_disk, quantization, hnsw)
        note = Note(str(uuid.uuid4()), schema.fingerprint, schema.sparse, names)
        with connected(location, **connecting) as connection:
            client, place = connection.client, connection.place(collection)
            if connection.exists(collection):
                raise StoreError(f"there is a collection {place} already; open it, or use another name")
            call = connection.calls(collection)
            engine = ClientEngine(client, collection, call, owned=connection.owned)
            try:
                call(
                    lambda: client.create_collection(
                        collection,
                        vectors_config=vectors,
                        sparse_vectors_config=sparse,
                        metadata={METADATA_KEY: note.to_json()},
                        **(collection_options or {}),
                    )
                )
            except StoreError:
                # If the answer was lost and the request made again, the collection is there already, and is this one.
                if not connection.exists(collection) or engine.layout().note.id != note.id:
                    raise
            for path, kind in paths.items() if not is_local(client) else ():
                index = models.PayloadSchemaType(kind)
                call(partial(client.create_payload_index, collection, path, field_schema=index, wait=True))
            store = cls._checked(
                engine, schema=None, place=place, fields=names, exact=exact, long_multi=long_multi
            )
            if store.fingerprint != schema.fingerprint:
                warnings.warn(
                    f"{place}: this server keeps no metadata of collections (1.16 and later do), so that a "
                    "search with another model cannot be noticed",
                    stacklevel=2,
                )
            return store

    @classmethod
    def open(
        cls,
        location: str | QdrantClient | Connection,
        collection: str,
        *,
        fields: Fields | Names | None = None,
        schema: Schema | None = None,
        fingerprint: str | None = None,
        exact: bool | None = None,
        long_multi: LongMulti = "fail",
        partial: bool = False,
        **connecting: Any,
    ) -> Self:
        """Open a collection, made here or by others; location, long_multi and connecting are as in `create`.

        fields: its names, or some of them; by default those it was made with, or the usual ones that are there.
        exact: whether searches look at everything; by default where there is no approximate index. partial: vectors
        that are named may be missing still, see `m3_core.extending.Extensible`.

        Raises:
            StoreNotFound: there is none of that name. StoreUnavailable: the server does not answer.
            SchemaMismatch: it does not fit the fields, the schema or the fingerprint, where they are given.
        """
        with connected(location, **connecting) as connection:
            place = connection.place(collection)
            if not connection.exists(collection):
                raise StoreNotFound(f"there is no collection {place}; make one by ingesting into it")
            return cls._checked(
                ClientEngine(
                    connection.client, collection, connection.calls(collection), owned=connection.owned
                ),
                schema=schema,
                fingerprint=fingerprint,
                place=place,
                fields=fields,
                exact=exact,
                long_multi=long_multi,
                partial=partial,
            )

    def twin(self, url: str, schema: Schema) -> Self:
        """Open the collection at the URL, made after this one if it is not there; see `m3_core.extending.Extensible`.

        On the same server this store's client is used, which is the caller's or has the credentials that were given.
        """
        place, options = opt.split_url(url, {})
        fields, settings = opt.read_options(options, _OPTIONS)
        if not url.startswith("qdrant://") or fields is not None:
            named = without_secrets(url)
            raise Unsupported(
                f"{self.place} is copied as it is, to a URL like {self.place}_m3, not {named!r}"
            )
        location, collection = split_place(place, settings)
        engine = self._server
        same = place.rpartition("/")[0] == self.place.partition("://")[2].rpartition("/")[0]
        connecting = {name: settings[name] for name in settings.keys() & CONNECTING}
        with connected(engine.client if same else location, **connecting) as connection:
            if not connection.exists(collection):
                missing = self.lacking(schema)
                dense, sparse, multi = (missing.get(kind) for kind in Representation)
                names = Fields(dense, sparse, multi)
                added = _vectors(schema, names, "float32", None, None, None)
                call = connection.calls(collection)
                make_alike(engine.client, self._name, connection.client, collection, call, *added)
            return self.open(connection, collection, fields=self.named, partial=True)


def _vectors(
    schema: Schema,
    names: Fields,
    datatype: str,
    on_disk: bool | None,
    quantization: Any,
    hnsw: models.HnswConfigDiff | None,
) -> tuple[dict[str, models.VectorParams], dict[str, models.SparseVectorParams]]:
    if isinstance(quantization, str):
        if quantization not in _QUANTIZATION:
            raise InputError(f"quantization is {' or '.join(_QUANTIZATION)}, not {quantization!r}")
        quantization = _QUANTIZATION[quantization]
    common: dict[str, Any] = {
        "distance": models.Distance.DOT,
        "datatype": models.Datatype(datatype),
        "on_disk": on_disk,
        "quantization_config": quantization,
    }
    vectors = {}
    if names.dense is not None and schema.dense is not None:
        vectors[names.dense] = models.VectorParams(size=schema.dense, hnsw_config=hnsw, **common)
    if names.multi is not None and schema.multi is not None:
        vectors[names.multi] = models.VectorParams(
            size=schema.multi,
            hnsw_config=_NO_GRAPH,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            **common,
        )
    index = models.SparseVectorParams(index=models.SparseIndexParams(on_disk=on_disk))
    return vectors, {} if names.sparse is None else {names.sparse: index}
