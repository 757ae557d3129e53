"""MemoryStore against the contract, and what only it promises."""

from pathlib import Path

from m3_core.memory import MemoryStore
from m3_core.store import Schema, Store
from m3_core.testing.store_contract import StoreContract
from m3_core.types import Representation


class TestMemoryStore(StoreContract):
    def make_store(self, schema: Schema, folder: Path) -> Store:
        return MemoryStore(schema)


class TestDenseAndSparse(TestMemoryStore):
    representations = frozenset({Representation.DENSE, Representation.SPARSE})


class TestSparseAlone(TestMemoryStore):
    representations = frozenset({Representation.SPARSE})
