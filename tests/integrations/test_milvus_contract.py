"""The contract, for Milvus Lite and, where one is named, for a server."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from m3_core.store import Schema
from m3_core.testing import hostile
from m3_core.testing.filtering import FilterContract
from m3_core.testing.injecting import InjectionContract
from m3_core.testing.store_contract import StoreContract
from m3_core.types import Representation
from m3_integrations.milvus import MilvusStore
from m3_integrations.milvus.address import parse_url
from m3_integrations.milvus.connection import Connection

SERVER = os.environ.get("M3_TEST_MILVUS_URL")
PREFIX = f"m3_contract_{os.getpid()}_"
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


class TestMilvusLiteArrays(FilterContract, InjectionContract):
    """Filters with their terms as a server keeps them."""

    representations: ClassVar[frozenset[Representation]] = CHANNELS
    ids = hostile.IDS[:5]  # ids are as above

    def make_store(self, schema: Schema, folder: Path) -> MilvusStore:
        return MilvusStore.create(f"milvus+file://{folder}", schema=schema, filter_terms="array")


@pytest.mark.skipif(SERVER is None, reason="M3_TEST_MILVUS_URL, like milvus://localhost:19530, is not set")
class TestMilvusServer(StoreContract):
    """A server, in collections of its own that are dropped at the end."""

    representations: ClassVar[frozenset[Representation]] = CHANNELS
    can_reopen: ClassVar[bool] = True

    def make_store(self, schema: Schema, folder: Path) -> MilvusStore:
        return MilvusStore.create(self.url(folder), schema=schema)

    def reopen(self, schema: Schema | None, folder: Path) -> MilvusStore:
        return MilvusStore.from_url(self.url(folder), schema=schema)

    def url(self, folder: Path) -> str:
        """A collection for each folder of this run."""
        return f"{SERVER}/{PREFIX}{zlib.crc32(str(folder).encode()):08x}"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _drop(cls) -> Iterator[None]:
        yield
        connection = Connection(parse_url(f"{SERVER}/{PREFIX}", {})[0])
        for name in connection.client.list_collections():
            if name.startswith(PREFIX):
                connection.client.drop_collection(name)
        connection.close()
