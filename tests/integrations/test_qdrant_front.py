"""The Qdrant store over HTTP: everything crosses a socket to a front of the tests', which stands in for a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from qdrant_client import QdrantClient
from servers.qdrant_front import QdrantFront

from m3_core.store import Schema, Store
from m3_core.testing.store_contract import StoreContract
from m3_integrations.qdrant import QdrantStore


@pytest.mark.slow
class TestContract(StoreContract):
    """The contract suite; searches are told to be exact, as the engine behind the front is."""

    can_reopen = True
    front: ClassVar[QdrantFront]
    client: ClassVar[QdrantClient]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_front(cls) -> Iterator[None]:
        with QdrantFront() as cls.front:
            cls.client = QdrantClient(url=cls.front.url, check_compatibility=False, timeout=60)
            yield
            cls.client.close()

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return QdrantStore.create(self.client, _name(folder), schema=schema, exact=True)

    def reopen(self, schema: Schema | None, folder: Path) -> Store:
        return QdrantStore.open(self.client, _name(folder), schema=schema, exact=True)


def _name(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"
