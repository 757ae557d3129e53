"""The embedded store: Qdrant Edge, the engine itself, in this process and in a folder."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import qdrant_edge as edge

from m3_core.errors import InputError, StoreError, StoreNotFound, Unsupported
from m3_core.store import Fields, Schema
from m3_integrations.qdrant import options as opt
from m3_integrations.qdrant.base import QdrantBase
from m3_integrations.qdrant.edge_engine import EdgeEngine, named_errors
from m3_integrations.qdrant.edge_files import CONFIG, SIDECAR, WAL, read_layout, write_note
from m3_integrations.qdrant.layout import Names, Note, new_fields

_NO_GRAPH = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000)
_INDEXES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
}
_DATATYPES = {"float32": edge.VectorStorageDatatype.Float32, "float16": edge.VectorStorageDatatype.Float16}
_QUANTIZATION = {
    "int8": edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8),
    "binary": edge.BinaryQuantizationConfig(),
}
_OPTIONS: Mapping[str, opt.Parser] = {
    "exact": opt.flag,
    "fingerprint": str,
    "datatype": str,
    "on_disk": opt.flag,
    "quantization": str,
    "payload_indexes": opt.indexes,
}


class QdrantEdgeStore(QdrantBase):
    """A collection in a folder, served by the engine in this process: ``qdrant+file://index/pages``.

    One process, and one object in it, holds the folder at a time. What a write has returned from survives a kill
    of the process. Searches are exhaustive unless the collection was made with a graph (``hnsw=``), which takes
    long to build (36 s for 16,000 documents of 384 dimensions, 3 s without) and is built by `optimize` only.
    """

    @classmethod
    def from_url(cls, url: str, *, schema: Schema | None = None, **options: Any) -> Self:
        """Open ``qdrant+file://FOLDER``; with a schema, make it if it is not there. See `open_store`.

        Options, in the URL or beside it: those of `create` and `open` (``payload_indexes=lang:keyword,year:float``),
        and names of fields (``text=page_content``; ``multi=none`` leaves a channel out). Those that only matter when
        a collection is made are passed over where there is one.
        """
        partial = options.pop("partial", False)
        place, merged = opt.split_url(url, options)
        fields, settings = opt.read_options(merged, _OPTIONS)
        folder = opt.folder_of(place)
        opening = {name: settings[name] for name in ("exact", "fingerprint") if name in settings}
        if schema is None or _is_collection(Path(folder)):
            return cls.open(folder, fields=fields, schema=schema, partial=partial, **opening)
        settings.pop("fingerprint", None)
        return cls.create(folder, schema=schema, fields=opt.new_fields(fields), **settings)

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        schema: Schema,
        fields: Fields = Fields(),
        datatype: str = "float32",
        on_disk: bool | None = None,
        quantization: Any = None,
        hnsw: Any = None,
        payload_indexes: opt.PayloadIndexes | None = None,
        exact: bool | None = None,
    ) -> Self:
        """Make a collection in a folder that does not exist or is empty.

        datatype: of dense and multi-vectors; ``float16`` halves them (scores within 1e-3). on_disk: whether vectors
        are left on disk until they are read. quantization: of dense and multi-vectors: ``"int8"``, ``"binary"`` or
        a configuration of `qdrant_edge`; ``hnsw``: a `qdrant_edge.HnswIndexConfig` for the dense vectors. exact:
        whether searches look at everything in spite of these two. payload_indexes: for filters that are often used.

        Raises:
            StoreError: there is a collection already, or something else.
        """
        path = Path(folder)
        names = new_fields(fields, schema)
        paths = opt.index_paths(payload_indexes, names)
        config = _config(schema, names, opt.check_datatype(datatype), on_disk, quantization, hnsw)
        if _is_collection(path):
            raise StoreError(f"there is a collection in {path} already; open it, or use another folder")
        if path.is_file() or (path.is_dir() and {item.name for item in path.iterdir()} - {SIDECAR, WAL}):
            raise StoreError(
                f"{path} is no empty folder; a collection needs one of its own (delete what is there if it is the rest "
                "of a collection whose making was interrupted)"
            )
        note = Note(str(uuid.uuid4()), schema.fingerprint, schema.sparse, names)
        place = _place(path)
        with named_errors(place):
            path.mkdir(parents=True, exist_ok=True)
            write_note(path, note)
            shard = edge.EdgeShard.create(str(path), config)
            for key, kind in paths.items():
                shard.update(edge.UpdateOperation.create_field_index(key, _INDEXES[kind]))
        engine = EdgeEngine(shard, place, path)
        return cls._checked(engine, schema=None, place=place, exact=exact)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        fields: Fields | Names | None = None,
        schema: Schema | None = None,
        fingerprint: str | None = None,
        exact: bool | None = None,
        partial: bool = False,
    ) -> Self:
        """Open a collection. fields: its names, or some of them; by default those it was made with.

        partial: vectors that are named may be missing still, see `m3_core.extending.Extensible`.

        Raises:
            StoreNotFound: there is none in the folder. StoreLocked: another process or object holds it.
            SchemaMismatch: it does not fit the fields, the schema or the fingerprint, where they are given.
        """
        path, place = Path(folder), _place(Path(folder))
        if not _is_collection(path):
            raise StoreNotFound(f"there is no Qdrant collection in {path}; make one by ingesting into it")
        with named_errors(place):
            read_layout(path)  # what is damaged is named before the engine takes hold of it
            shard = edge.EdgeShard.load(str(path))
        engine = EdgeEngine(shard, place, path)
        return cls._checked(
            engine,
            schema=schema,
            fingerprint=fingerprint,
            place=place,
            fields=fields,
            exact=exact,
            partial=partial,
        )

    def twin(self, url: str, schema: Schema) -> Self:
        """Edge adds vectors to a collection itself, so that it needs no copy.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(f"{self.place} takes new vectors in place; leave the copy out (--to)")

    def check_alias(self, alias: str, source: Self) -> None:
        """Edge has no aliases.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(f"{self.place} is in a folder, and Qdrant Edge has no aliases")

    def switch_alias(self, alias: str, source: Self) -> None:
        """Raises as `check_alias`."""
        self.check_alias(alias, source)

    def optimize(self) -> bool:
        """Merge segments, free the space of what was deleted, and build the graph if the collection has one.

        Edge never does this by itself. After a large ingest it halves the time of searches and costs about a
        quarter of the time of writing (without a graph); returns whether there was anything to do.
        """
        with self._opened():
            engine = self._engine
            assert isinstance(engine, EdgeEngine)
            return engine.optimize()


def _is_collection(path: Path) -> bool:
    return (path / CONFIG).is_file()


def _place(path: Path) -> str:
    return f"qdrant+file://{path.resolve()}"


def _config(
    schema: Schema, names: Fields, datatype: str, on_disk: bool | None, quantization: Any, hnsw: Any
) -> edge.EdgeConfig:
    if isinstance(quantization, str):
        if quantization not in _QUANTIZATION:
            raise InputError(f"quantization is {' or '.join(_QUANTIZATION)}, not {quantization!r}")
        quantization = _QUANTIZATION[quantization]
    common = {
        "distance": edge.Distance.Dot,
        "datatype": _DATATYPES[datatype],
        "on_disk": on_disk,
        "quantization_config": quantization,
    }
    vectors = {}
    if names.dense is not None and schema.dense is not None:
        graph = _NO_GRAPH if hnsw is None else hnsw
        vectors[names.dense] = edge.EdgeVectorParams(size=schema.dense, hnsw_config=graph, **common)
    if names.multi is not None and schema.multi is not None:
        vectors[names.multi] = edge.EdgeVectorParams(
            size=schema.multi,
            hnsw_config=_NO_GRAPH,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            **common,
        )
    sparse = {} if names.sparse is None else {names.sparse: edge.EdgeSparseVectorParams(on_disk=on_disk)}
    return edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)
