"""Milvus as a store of dense and sparse vectors. Needs ``pip install 'm3-retrieval[milvus]'``."""

from m3_integrations.milvus.store import MilvusStore

__all__ = ["MilvusStore"]
