"""The contract suite over Qdrant: embedded, in the client's memory, and on a server if there is one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from qdrant_client import QdrantClient

from m3_core.store import Schema, Store
from m3_core.testing.store_contract import StoreContract
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore

SERVER = "M3_TEST_QDRANT_URL"


class TestEdge(StoreContract):
    """The embedded engine."""

    can_reopen = True
    locks_folder = True

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return QdrantEdgeStore.create(folder, schema=schema)

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        return QdrantEdgeStore.open(folder, schema=schema)


class TestMemory(StoreContract):
    """The client's stand-in in memory; "reopening" is another store over the same client."""

    can_reopen = True
    client: ClassVar[QdrantClient]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_client(cls) -> Iterator[None]:
        cls.client = QdrantClient(":memory:")
        yield
        cls.client.close()

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return QdrantStore.create(self.client, _name(folder), schema=schema)

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        return QdrantStore.open(self.client, _name(folder), schema=schema)


@pytest.mark.skipif(not os.environ.get(SERVER), reason=f"needs a Qdrant server; set {SERVER} to its http URL")
class TestServer(StoreContract):
    """A real server. Collections are named after the tests' folders and deleted in the end."""

    can_reopen = True
    client: ClassVar[QdrantClient]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_client(cls) -> Iterator[None]:
        cls.client = QdrantClient(url=os.environ[SERVER], api_key=os.environ.get("QDRANT_API_KEY"))
        yield
        for collection in cls.client.get_collections().collections:
            if collection.name.startswith("m3-contract-"):
                cls.client.delete_collection(collection.name)
        cls.client.close()

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return QdrantStore.create(self.client, _name(folder), schema=schema, exact=True)

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        return QdrantStore.open(self.client, _name(folder), schema=schema, exact=True)


def _name(folder: Path) -> str:
    return f"m3-contract-{folder.parent.name}-{folder.name}"
