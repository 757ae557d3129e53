"""M3 hybrid retrieval: one encoder, three representations, the stores people already run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3_core.compose import SplitStore, UnionStore
    from m3_core.encoder import M3Encoder
    from m3_core.errors import (
        DimensionMismatch,
        FilterError,
        FingerprintMismatch,
        IngestError,
        IngestInterrupted,
        IngestStopped,
        InputError,
        JournalError,
        M3Error,
        MissingExtra,
        ModelError,
        RepresentationMissing,
        SchemaMismatch,
        StoreError,
        StoreLocked,
        StoreNotFound,
        StoreUnavailable,
        Unsupported,
    )
    from m3_core.explain import Explanation
    from m3_core.extending import Extensible, open_partial
    from m3_core.filters import Filter
    from m3_core.fusion import Fusion, ReciprocalRank, WeightedSum
    from m3_core.ingestion.backfill import BackfillPlan, backfill, plan_backfill
    from m3_core.ingestion.copy import copy_store
    from m3_core.ingestion.run import ingest
    from m3_core.ingestion.sources import Rejected, read_source
    from m3_core.ingestion.summary import IngestSummary
    from m3_core.memory import MemoryStore
    from m3_core.retriever import AsyncRetriever, Hits, Retriever
    from m3_core.store import AsyncStore, Capabilities, Fields, Page, Schema, Store, open_store
    from m3_core.threaded import ThreadedStore
    from m3_core.types import Document, Hit, M3Vectors, Ragged, Record, Representation

_HOMES = {
    "compose": ("SplitStore", "UnionStore"),
    "encoder": ("M3Encoder",),
    "errors": (
        "DimensionMismatch",
        "FilterError",
        "FingerprintMismatch",
        "IngestError",
        "IngestInterrupted",
        "IngestStopped",
        "InputError",
        "JournalError",
        "M3Error",
        "MissingExtra",
        "ModelError",
        "RepresentationMissing",
        "SchemaMismatch",
        "StoreError",
        "StoreLocked",
        "StoreNotFound",
        "StoreUnavailable",
        "Unsupported",
    ),
    "filters": ("Filter",),
    "fusion": ("Fusion", "ReciprocalRank", "WeightedSum"),
    "extending": ("Extensible", "open_partial"),
    "ingestion.backfill": ("BackfillPlan", "backfill", "plan_backfill"),
    "ingestion.copy": ("copy_store",),
    "ingestion.run": ("ingest",),
    "ingestion.sources": ("Rejected", "read_source"),
    "ingestion.summary": ("IngestSummary",),
    "memory": ("MemoryStore",),
    "explain": ("Explanation",),
    "retriever": ("AsyncRetriever", "Hits", "Retriever"),
    "store": (
        "AsyncStore",
        "Capabilities",
        "Fields",
        "Page",
        "Schema",
        "Store",
        "open_store",
    ),
    "threaded": ("ThreadedStore",),
    "types": ("Document", "Hit", "M3Vectors", "Ragged", "Record", "Representation"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncRetriever",
    "AsyncStore",
    "BackfillPlan",
    "Capabilities",
    "DimensionMismatch",
    "Document",
    "Explanation",
    "Extensible",
    "Fields",
    "Filter",
    "FilterError",
    "FingerprintMismatch",
    "Fusion",
    "Hit",
    "Hits",
    "IngestError",
    "IngestInterrupted",
    "IngestStopped",
    "IngestSummary",
    "InputError",
    "JournalError",
    "M3Encoder",
    "M3Error",
    "M3Vectors",
    "MemoryStore",
    "MissingExtra",
    "ModelError",
    "Page",
    "Ragged",
    "ReciprocalRank",
    "Record",
    "Rejected",
    "Representation",
    "RepresentationMissing",
    "Retriever",
    "Schema",
    "SchemaMismatch",
    "SplitStore",
    "Store",
    "StoreError",
    "StoreLocked",
    "StoreNotFound",
    "StoreUnavailable",
    "ThreadedStore",
    "UnionStore",
    "Unsupported",
    "WeightedSum",
    "backfill",
    "copy_store",
    "ingest",
    "open_partial",
    "open_store",
    "plan_backfill",
    "read_source",
]


def __getattr__(name: str) -> Any:
    # Importing on first use keeps `import m3_core` and `m3 --help` free of torch, transformers and scipy.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
