"""A synchronous store behind the asynchronous protocol."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from m3_core.filters import Where
from m3_core.store import Capabilities, Page, Store
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Record, Representation


class ThreadedStore:
    """An `AsyncStore` of a `Store`: every call runs in a worker thread."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def capabilities(self) -> Capabilities:
        return self.store.capabilities

    @property
    def fingerprint(self) -> str | None:
        return self.store.fingerprint

    @property
    def identity(self) -> str:
        return self.store.identity

    async def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        await asyncio.to_thread(self.store.upsert, documents, vectors)

    async def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        await asyncio.to_thread(self.store.update_vectors, ids, vectors)

    async def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        await asyncio.to_thread(self.store.delete, ids, where=where)

    async def get(
        self, ids: Sequence[str], *, vectors: Collection[Representation] = ()
    ) -> list[Record | None]:
        return await asyncio.to_thread(self.store.get, ids, vectors=vectors)

    async def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        return await asyncio.to_thread(
            self.store.scan, where=where, vectors=vectors, cursor=cursor, size=size
        )

    async def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> Mapping[Representation, list[list[Hit]]]:
        return await asyncio.to_thread(self.store.search, queries, k, where=where)

    async def score(
        self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]
    ) -> list[FloatArray]:
        return await asyncio.to_thread(self.store.score, queries, by, ids)

    async def count(self, *, where: Where = None) -> int:
        return await asyncio.to_thread(self.store.count, where=where)

    async def close(self) -> None:
        await asyncio.to_thread(self.store.close)
