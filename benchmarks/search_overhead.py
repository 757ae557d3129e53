"""What `Retriever.search` costs beside the raw client calls it makes: `python benchmarks/search_overhead.py`.

The raw calls of each search are recorded, with the very request objects, and then made again without this library;
payloads are read in both. The queries are vectors already, so nothing is encoded. Search and replay take turns over
the same queries, each as often first; the medians are compared. A ratio of 1.10 says that a tenth was added.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from m3_core.encoder import M3Encoder
from m3_core.fusion import Fusion, ReciprocalRank, WeightedSum
from m3_core.retriever import Retriever
from m3_core.store import Schema
from m3_core.testing import corpus
from m3_core.types import Document, M3Vectors, Ragged
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore

FUSIONS: dict[str, Fusion] = {
    "weighted sum": WeightedSum(),
    "weighted sum, no multi": WeightedSum.passages(multi=False),
    "dense alone": WeightedSum(1, 0, 0),
    "reciprocal rank": ReciprocalRank(),
}


class Recorder:
    """A client that notes every call, so that it can be made again."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: list[Callable[[], Any]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(lambda: method(*args, **kwargs))
            return method(*args, **kwargs)

        return call


def vectors_of(schema: Schema, texts: int, rows: int, seed: int) -> M3Vectors:
    """Random vectors: so many multi-vectors each, and lexical weights as many."""
    plain = corpus.vectors(Schema(dense=schema.dense, sparse=schema.sparse), texts, seed=seed)
    values = np.random.default_rng(seed).standard_normal((texts * rows, schema.multi or 0), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return M3Vectors(plain.dense, plain.sparse, Ragged(values, np.arange(texts + 1) * rows))


def read(answer: Any) -> None:
    """Read the payload of every point, which the engine hands over when it is looked at."""
    for points in answer:
        for point in getattr(points, "points", points):
            _ = point.id, point.score, point.payload


@contextmanager
def stores(schema: Schema) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        edge = QdrantEdgeStore.create(Path(folder) / "index", schema=schema)
        memory = QdrantStore.create(":memory:", "pages", schema=schema)
        with edge, memory:
            yield {"Qdrant Edge": edge, "qdrant :memory:": memory}


def measure(retriever: Retriever, recorder: Recorder, queries: M3Vectors, rounds: int) -> tuple[float, float]:
    """Median seconds of a search and of its raw calls."""
    ours: list[float] = []
    raw: list[float] = []
    for row in range(len(queries)):
        query = queries.take([row])
        recorder.calls.clear()
        retriever.search(query, k=10)
        calls = list(recorder.calls)

        def search(query: M3Vectors = query) -> None:
            ours.append(seconds(lambda: retriever.search(query, k=10)))

        def replay(calls: list[Callable[[], Any]] = calls) -> None:
            raw.append(seconds(lambda: [read(call()) for call in calls]))

        for turn in range(rounds):  # the second of two finds the caches warm, so they take turns at being it
            for step in (search, replay) if turn % 2 else (replay, search):
                step()
    return statistics.median(ours), statistics.median(raw)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--tokens", type=int, default=100, help="multi-vectors of a document")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    encoder = M3Encoder.load("m3-tiny", device="cpu")
    schema = encoder.schema()
    documents = [
        Document(f"d{row:06}", "insert a table into the document " * 10, {"lang": "en", "row": row})
        for row in range(options.documents)
    ]
    queries = vectors_of(schema, options.queries, 12, seed=1)
    print(f"{options.documents} documents of {options.tokens} tokens, k = 10, 100 candidates a channel")
    print(f"{'':16} {'':24} {'search ms':>10} {'raw ms':>8} {'ratio':>6}")
    with stores(schema) as opened:
        for place, store in opened.items():
            for start in range(0, len(documents), 500):
                some = documents[start : start + 500]
                store.upsert(some, vectors_of(schema, len(some), options.tokens, seed=100 + start))
            engine = store._engine
            name = "_shard" if hasattr(engine, "_shard") else "_client"
            recorder = Recorder(getattr(engine, name))
            setattr(engine, name, recorder)
            for title, fusion in FUSIONS.items():
                retriever = Retriever(encoder, store, fusion=fusion)
                measure(retriever, recorder, queries.take([0]), 1)
                ours, raw = measure(retriever, recorder, queries, options.rounds)
                print(f"{place:16} {title:24} {ours * 1e3:10.2f} {raw * 1e3:8.2f} {ours / raw:6.3f}")
            setattr(engine, name, recorder.client)


if __name__ == "__main__":
    main()
