"""The contract, for Milvus Lite and, where one is named, for a server."""

from pathlib import Path
from typing import ClassVar

from m3_core.store import Schema
from m3_core.testing.store_contract import StoreContract
from m3_core.types import Representation
from m3_integrations.milvus import MilvusStore

CHANNELS = frozenset({Representation.DENSE, Representation.SPARSE})


class TestMilvusLite(StoreContract):
    """Milvus Lite, with the flat index and filter terms as it takes them best."""

    representations: ClassVar[frozenset[Representation]] = CHANNELS
    can_reopen: ClassVar[bool] = True
    locks_folder: ClassVar[bool] = True

    def make_store(self, schema: Schema, folder: Path) -> MilvusStore:
        return MilvusStore.create(f"milvus+file://{folder}", schema=schema)

    def reopen(self, schema: Schema | None, folder: Path) -> MilvusStore:
        return MilvusStore.from_url(f"milvus+file://{folder}", schema=schema)
