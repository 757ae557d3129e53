"""Qdrant: `QdrantStore` on a server (``qdrant://``), `QdrantEdgeStore` embedded in this process (``qdrant+file://``).

Both hold dense, sparse and multi-vectors in the named vectors of one collection. What is particular to the engine:

- Points have ids made from the documents' ids (uuid5), or their ids are the documents' (``Fields(id=None)``).
- Metadata come back as they went in. In filters, a float that needs 16 or 17 digits equals its nearest neighbours
  (4 units in the last place), because the engine's JSON parser does not keep the last bit. Integers up to 2**53
  and the numbers people write (``19.99``) are compared exactly.
- The embedded store is exact and never reorganises itself: call `QdrantEdgeStore.optimize` after a large ingest.
- Weighted sums can be fused in the engine, exactly (`QdrantStore.search_fused`).
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from m3_core.extras import require

require("qdrant_edge", extra="qdrant")
if (
    find_spec("qdrant_client") is None
):  # importing it takes a second, which the embedded store need not wait for
    require("qdrant_client", extra="qdrant")

from m3_integrations.qdrant.edge import QdrantEdgeStore  # noqa: E402  # after the check for the extra

if TYPE_CHECKING:
    from m3_integrations.qdrant.server import QdrantStore

__all__ = ["QdrantEdgeStore", "QdrantStore"]


def __getattr__(name: str) -> Any:
    if name == "QdrantStore":
        from m3_integrations.qdrant.server import QdrantStore

        return QdrantStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
