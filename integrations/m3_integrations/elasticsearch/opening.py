"""Connections to an index for `ElasticsearchStore`, and the request that makes one."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import elasticsearch as es

from m3_core.errors import InputError, StoreError
from m3_core.store import Fields, Schema
from m3_integrations.elasticsearch.connection import REFRESH, Connection
from m3_integrations.elasticsearch.creation import Metadata, new_mappings
from m3_integrations.elasticsearch.options import check_index, make_client

Location: TypeAlias = str | es.Elasticsearch
"""``http://host:9200``, or a client of the caller's, which stays open."""


class Opening:
    """A connection that is closed, if its client is ours, when the block fails."""

    def __init__(self, location: Location, index: str, connecting: Mapping[str, Any], refresh: str) -> None:
        if refresh not in REFRESH:
            raise InputError(f"refresh is one of {', '.join(REFRESH)}, not {refresh!r}")
        check_index(index)
        options = dict(connecting)
        retries = int(options.pop("retries", 4))
        owned = isinstance(location, str)
        client = make_client(location, **options) if isinstance(location, str) else location
        self._connection = Connection(client, index, owned=owned, retries=retries, refresh=refresh)  # type: ignore[arg-type]

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._connection.close()


def make_index(
    connection: Connection,
    schema: Schema,
    fields: Fields,
    *,
    dense_index: str | Mapping[str, Any] = "hnsw",
    metadata_mapping: Metadata = "any",
    shards: int | None = None,
    replicas: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Make an empty index for a model; see `ElasticsearchStore.create`."""
    mappings = new_mappings(schema, fields, index=dense_index, metadata=metadata_mapping)
    numbers = {"number_of_shards": shards, "number_of_replicas": replicas}
    wanted = {**{name: number for name, number in numbers.items() if number is not None}, **(settings or {})}
    try:
        connection.call(
            lambda: connection.client.indices.create(
                index=connection.index, mappings=mappings, settings=wanted
            )
        )
    except StoreError:
        # If the answer was lost and the request made again, the index is there already, and it is this one.
        if not connection.exists() or connection.notes() != [mappings["_meta"]]:
            raise


def without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The options but for some."""
    return {name: value for name, value in options.items() if name not in names}
