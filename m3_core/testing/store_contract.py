"""The contract that every store is held to. A store's test file is a subclass with `make_store`:

::

    from m3_core.testing.store_contract import StoreContract

    class TestMyStore(StoreContract):
        representations = frozenset({Representation.DENSE, Representation.SPARSE})
        can_reopen = True

        def make_store(self, schema, folder):
            return MyStore.create(folder, schema=schema)

        def reopen(self, schema, folder):
            return MyStore.open(folder, schema=schema)

Everything is compared with `m3_core.memory.MemoryStore`, by hand-made tables and with float64 arithmetic; vectors
are seeded, no model is needed. What differs by engine is said in class attributes (`ContractBase`).
"""

from m3_core.testing.failing import FailureContract
from m3_core.testing.filtering import FilterContract
from m3_core.testing.injecting import InjectionContract
from m3_core.testing.reading import ReadContract
from m3_core.testing.searching import SearchContract
from m3_core.testing.writing import WriteContract


class StoreContract(
    WriteContract, ReadContract, SearchContract, FilterContract, InjectionContract, FailureContract
):
    """All tests; subclass it and give `make_store`."""
