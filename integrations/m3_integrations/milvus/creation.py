"""Making a collection, and finishing one whose making was interrupted."""

from collections.abc import Mapping
from typing import Any, Literal

from m3_core.errors import InputError, Unsupported
from m3_core.store import Fields, Schema
from m3_core.types import MAX_ID_BYTES, Representation
from m3_integrations.milvus.connection import Connection, pymilvus
from m3_integrations.milvus.convert import TEXT_BYTES
from m3_integrations.milvus.layout import (
    ARRAY_CAPACITY,
    BOUNDS,
    KEY,
    PROPERTY,
    REST,
    TERM_LENGTH,
    TERMS,
    Layout,
    Marker,
    read_layout,
)


def create_collection(
    connection: Connection,
    schema: Schema,
    fields: Fields,
    *,
    index: str,
    index_params: Mapping[str, Any],
    terms: Literal["array", "text"],
) -> None:
    """Make an empty collection for the dense and sparse channels of a schema.

    Raises:
        Unsupported: the schema has neither, or Milvus Lite is asked for another index than FLAT.
        InputError: two fields have the same name.
    """
    names = {
        kind: name
        for kind in (Representation.DENSE, Representation.SPARSE)
        if kind in schema.representations and (name := fields.name_of(kind)) is not None
    }
    if not names:
        raise Unsupported("Milvus holds dense and sparse vectors, and this schema has neither")
    if connection.lite and index.upper() != "FLAT":
        raise Unsupported(f"Milvus Lite searches exactly with the index FLAT only, not with {index}")
    every = [KEY, fields.id, fields.text, REST, fields.metadata, TERMS, BOUNDS, *names.values()]
    if not fields.id or not fields.metadata or len(set(every)) < len(every):
        raise InputError(
            f"a new collection needs a field for the id and one for the metadata, and a name once: {every}"
        )
    kinds = pymilvus.DataType
    made = pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    made.add_field(KEY, kinds.VARCHAR, is_primary=True, max_length=64)
    made.add_field(fields.id, kinds.VARCHAR, max_length=MAX_ID_BYTES)
    made.add_field(fields.text, kinds.VARCHAR, max_length=TEXT_BYTES)
    array = {"element_type": kinds.VARCHAR, "max_capacity": ARRAY_CAPACITY}
    made.add_field(REST, kinds.ARRAY, max_length=TEXT_BYTES, **array)
    made.add_field(fields.metadata, kinds.JSON)
    if terms == "array":
        made.add_field(TERMS, kinds.ARRAY, max_length=TERM_LENGTH, **array)
    else:
        made.add_field(TERMS, kinds.VARCHAR, max_length=TEXT_BYTES)
    made.add_field(BOUNDS, kinds.JSON)
    if Representation.DENSE in names:
        made.add_field(names[Representation.DENSE], kinds.FLOAT_VECTOR, dim=schema.dense)
    if Representation.SPARSE in names:
        made.add_field(names[Representation.SPARSE], kinds.SPARSE_FLOAT_VECTOR)
    held = Fields(
        dense=names.get(Representation.DENSE),
        sparse=names.get(Representation.SPARSE),
        multi=None,
        text=fields.text,
        id=fields.id,
        metadata=fields.metadata,
    )
    marker = Marker(
        schema.fingerprint, schema.sparse, held, {"index_type": index, "params": dict(index_params)}
    )
    connection.client.create_collection(
        connection.address.collection,
        schema=made,
        properties={PROPERTY: marker.dump()},
        consistency_level="Strong",
        timeout=connection.address.timeout,
    )


def open_layout(connection: Connection, fields: Fields | None) -> Layout:
    """Read the layout of a collection, make what indexes of ours are missing, and load it for searching."""
    client, name, timeout = connection.client, connection.address.collection, connection.address.timeout
    layout = _describe(connection, fields)
    if layout.marker is not None and layout.problems:
        wanted = pymilvus.MilvusClient.prepare_index_params()
        for kind, field in layout.channels.items():
            if field not in layout.indexes:
                sparse = {"index_type": "SPARSE_INVERTED_INDEX", "params": {}}
                spec = layout.marker.index if kind is Representation.DENSE else sparse
                wanted.add_index(field_name=field, metric_type="IP", **spec)
        client.create_index(name, wanted, timeout=timeout)
        layout = _describe(connection, fields)
    if all(column.name in layout.indexes for column in layout.columns.values() if "VECTOR" in column.type):
        client.load_collection(name, timeout=timeout)
        if connection.lite:  # what a process wrote last lies in a log, and reading it there is slow
            client.flush(name, timeout=timeout)
    return layout


def _describe(connection: Connection, fields: Fields | None) -> Layout:
    client, name, timeout = connection.client, connection.address.collection, connection.address.timeout
    indexes = [
        client.describe_index(name, index, timeout=timeout)
        for index in client.list_indexes(name, timeout=timeout)
    ]
    description = client.describe_collection(name, timeout=timeout)
    return read_layout(description, indexes, fields, lite=connection.lite)
