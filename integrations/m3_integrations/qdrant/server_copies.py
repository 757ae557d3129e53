"""A collection of a server made after another one, and the alias that leads to either."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from qdrant_client import QdrantClient, models

from m3_core.errors import InputError
from m3_integrations.qdrant.engine import Engine
from m3_integrations.qdrant.server_engine import METADATA_KEY, ClientEngine, is_local
from m3_integrations.qdrant.server_errors import Calls


def make_alike(
    source: QdrantClient,
    name: str,
    target: QdrantClient,
    collection: str,
    call: Calls,
    vectors: Mapping[str, models.VectorParams],
    sparse: Mapping[str, models.SparseVectorParams],
) -> None:
    """Make an empty collection with the vectors, the settings and the payload indexes of another one, and more vectors."""
    info = call(lambda: source.get_collection(name))
    params = info.config.params
    settings: dict[str, Any] = {}
    if not is_local(target):
        settings = {
            "shard_number": params.shard_number,
            "replication_factor": params.replication_factor,
            "write_consistency_factor": params.write_consistency_factor,
            "on_disk_payload": params.on_disk_payload,
            "hnsw_config": models.HnswConfigDiff(**info.config.hnsw_config.model_dump()),
            "quantization_config": info.config.quantization_config,
        }
    metadata = {key: value for key, value in (info.config.metadata or {}).items() if key != METADATA_KEY}
    held: Any = params.vectors or {}
    if vectors:  # the name of one without a name is ""
        held = {**(held if isinstance(held, dict) else {"": held}), **vectors}
    call(
        lambda: target.create_collection(
            collection,
            vectors_config=held,
            sparse_vectors_config={**(params.sparse_vectors or {}), **sparse},
            metadata=metadata or None,
            **settings,
        )
    )
    for path, index in (info.payload_schema or {}).items():
        call(
            partial(target.create_payload_index, collection, path, index.params or index.data_type, wait=True)
        )


class Aliased:
    """The part of a store on a server that is about aliases; see `m3_core.extending.Extensible`."""

    place: str
    _engine: Engine

    def check_alias(self, alias: str, source: Self) -> None:
        """Whether an alias leads to the source or to this collection already.

        Raises:
            InputError: there is no such alias, or it leads elsewhere.
        """
        leads = self._aliases()
        if alias not in leads:
            raise InputError(
                f"there is no alias {alias!r} on the server of {self.place}; there are {', '.join(sorted(leads)) or 'none'}:"
                " an alias that is switched must be there, so that the programs that use it notice nothing"
            )
        if leads[alias] not in (source._name, self._name):
            raise InputError(
                f"the alias {alias!r} leads to {leads[alias]!r}, not to {source._name!r}, which is copied"
            )

    def switch_alias(self, alias: str, source: Self) -> None:
        """Let the alias lead to this collection, in one request that is carried out whole or not at all."""
        self.check_alias(alias, source)
        new = models.CreateAlias(collection_name=self._name, alias_name=alias)
        steps: list[models.AliasOperations] = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)),
            models.CreateAliasOperation(create_alias=new),
        ]
        self._server.call(lambda: self._server.client.update_collection_aliases(steps))

    @property
    def _name(self) -> str:
        """The collection's own name, also where it was opened by an alias."""
        name = self.place.rpartition("/")[2]
        return self._aliases().get(name, name)

    def _aliases(self) -> dict[str, str]:
        answer = self._server.call(self._server.client.get_aliases)
        return {item.alias_name: item.collection_name for item in answer.aliases}

    @property
    def _server(self) -> ClientEngine:
        assert isinstance(self._engine, ClientEngine)
        return self._engine
