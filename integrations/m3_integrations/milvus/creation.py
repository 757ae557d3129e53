"""Connecting to a collection, making it, and finishing one whose making was interrupted."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from m3_core.errors import InputError, StoreNotFound, Unsupported
from m3_core.store import Fields, Schema
from m3_core.types import MAX_ID_BYTES, Representation
from m3_integrations.milvus.address import Location, parse_url, pymilvus
from m3_integrations.milvus.connection import Connection
from m3_integrations.milvus.convert import TEXT_BYTES
from m3_integrations.milvus.documents import ARRAY_CAPACITY
from m3_integrations.milvus.filters import TERM_LENGTH
from m3_integrations.milvus.layout import (
    BOUNDS,
    KEY,
    PROPERTY,
    REST,
    TERMS,
    Layout,
    Marker,
    Names,
    read_layout,
)

DEFAULT_INDEX: Mapping[str, Any] = {"index_type": "FLAT", "params": {}}
"""Of a dense field: exact."""


@contextmanager
def connecting(
    location: Location, options: Mapping[str, Any], *, create: bool, allowed: Collection[str] = ()
) -> Iterator[tuple[Connection, dict[str, Any]]]:
    """A connection, closed again if what follows fails, and the options that are not about it."""
    address, given = parse_url(location, options)
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise InputError(f"a Milvus store has no option {', '.join(map(repr, unknown))} here")
    connection = Connection(address, create=create)
    try:
        yield connection, given
    except BaseException:
        connection.close()
        raise


def take_names(given: dict[str, Any]) -> Fields | Names | None:
    """The names of fields among the options, which are taken out of them."""
    names = {name: given.pop(name) for name in Fields.__dataclass_fields__ if name in given}
    read = {name: None if value in (None, "none") else str(value) for name, value in names.items()}
    return given.pop("fields", None) or read or None


def exists(connection: Connection) -> bool:
    """Whether there is such a collection."""
    with connection.calling():
        address = connection.address
        return bool(connection.client.has_collection(address.collection, timeout=address.timeout))


def absent(connection: Connection) -> StoreNotFound:
    """The error for a collection that is not there; of a folder of others it says which are."""
    address = connection.address
    held: list[str] = []
    if address.path is not None:
        with connection.calling():
            held = sorted(connection.client.list_collections(timeout=address.timeout))
    remedy = (
        f"the folder holds {', '.join(held[:5])}: write milvus+file://{address.path}/{held[0]}"
        if held
        else "make one by ingesting into it"
    )
    return StoreNotFound(f"there is no collection {address.identity}; {remedy}")


def as_mapping(name: str, value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """An option that is a dictionary, or JSON where it stood in a URL."""
    try:
        held = json.loads(value) if isinstance(value, str) else value or {}
        return dict(held)
    except (ValueError, TypeError):
        raise InputError(f"{name} is a dictionary, or a JSON object in a URL, not {value!r}") from None


def create_collection(
    connection: Connection,
    schema: Schema,
    fields: Fields,
    *,
    index: str,
    index_params: Mapping[str, Any] | str | None,
    filter_terms: Literal["array", "text"] | None,
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
    params = as_mapping("index_params", index_params)
    terms = filter_terms or ("text" if connection.lite else "array")
    if terms not in ("array", "text"):
        raise InputError(f"filter_terms is 'array' or 'text', not {terms!r}")
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
    for kind, name in names.items():
        add_vector_field(made, kind, name, schema)
    held = Fields(
        dense=names.get(Representation.DENSE),
        sparse=names.get(Representation.SPARSE),
        multi=None,
        text=fields.text,
        id=fields.id,
        metadata=fields.metadata,
    )
    marker = Marker(schema.fingerprint, schema.sparse, held, {"index_type": index, "params": params})
    connection.client.create_collection(
        connection.address.collection,
        schema=made,
        properties={PROPERTY: marker.dump()},
        consistency_level="Strong",
        timeout=connection.address.timeout,
    )


def add_vector_field(made: Any, kind: Representation, name: str, schema: Schema) -> None:
    """Add the field of a channel to a schema of Milvus."""
    if kind is Representation.DENSE:
        made.add_field(name, pymilvus.DataType.FLOAT_VECTOR, dim=schema.dense)
    else:
        made.add_field(name, pymilvus.DataType.SPARSE_FLOAT_VECTOR)


def open_layout(connection: Connection, fields: Fields | Names | None, *, partial: bool = False) -> Layout:
    """Read the layout of a collection, make what indexes of ours are missing, and load it for searching."""
    client, name, timeout = connection.client, connection.address.collection, connection.address.timeout
    layout = _describe(connection, fields, partial)
    if layout.marker is not None and layout.problems:
        wanted = pymilvus.MilvusClient.prepare_index_params()
        for kind, field in layout.channels.items():
            if field not in layout.indexes:
                sparse = {"index_type": "SPARSE_INVERTED_INDEX", "params": {}}
                spec = layout.marker.index if kind is Representation.DENSE else sparse
                wanted.add_index(field_name=field, metric_type="IP", **spec)
        # Milvus Lite has made the index when it answers, and asking it whether it has takes half a second.
        client.create_index(name, wanted, timeout=timeout, sync=not connection.lite)
        layout = _describe(connection, fields, partial)
    if all(column.name in layout.indexes for column in layout.columns.values() if "VECTOR" in column.type):
        client.load_collection(name, timeout=timeout)
        if connection.lite:  # what a process wrote last lies in a log, and reading it there is slow
            client.flush(name, timeout=timeout)
    return layout


def _describe(connection: Connection, fields: Fields | Names | None, partial: bool) -> Layout:
    client, name, timeout = connection.client, connection.address.collection, connection.address.timeout
    indexes = [
        client.describe_index(name, index, timeout=timeout)
        for index in client.list_indexes(name, timeout=timeout)
    ]
    description = client.describe_collection(name, timeout=timeout)
    return read_layout(description, indexes, fields, lite=connection.lite, partial=partial)
