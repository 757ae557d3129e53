"""How long the exact M3 sum takes, by the three ways there are, in both engines: `python benchmarks/qdrant_fusion.py`.

one request: every part nests the searches of all channels. two requests: the candidates, then their scores by
parts filtered to their ids (what `search_fused` does). client: `search`, `score` for what is missing, and the sum
outside. Random vectors; all three return the same documents, which is checked.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from m3_core.fusion import WeightedSum, top
from m3_core.store import Schema
from m3_core.testing import corpus
from m3_core.types import M3Vectors, Ragged, Representation
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore
from m3_integrations.qdrant.base import QdrantBase
from m3_integrations.qdrant.requests import scale

FUSION, K = WeightedSum(), 10
SCHEMA = Schema(dense=384, sparse=3_000, multi=384)
Answer = list[list[str]]


def random_vectors(n: int, rows: int, seed: int) -> M3Vectors:
    """n texts with so many multi-vectors each."""
    chance = np.random.default_rng(seed)
    plain = corpus.vectors(Schema(dense=384, sparse=3_000), n, seed=seed)
    values = chance.standard_normal((n, rows, 384)).astype(np.float32)
    values /= np.linalg.norm(values, axis=2, keepdims=True)
    return M3Vectors(plain.dense, plain.sparse, Ragged.from_rows(list(values), dimension=384))


def two_requests(store: QdrantBase, queries: M3Vectors, candidates: Mapping[Representation, int]) -> Answer:
    """As `search_fused` does it."""
    return [[hit.id for hit in hits] for hits in store.search_fused(queries, FUSION, K, candidates)]


def by_client(store: QdrantBase, queries: M3Vectors, candidates: Mapping[Representation, int]) -> Answer:
    """As the retriever does it for a store that cannot fuse."""
    found = store.search(queries, candidates)
    scores = [
        {kind: {hit.id: hit.score for hit in rows[row]} for kind, rows in found.items()}
        for row in range(len(queries))
    ]
    names = [sorted({name for channel in row.values() for name in channel}) for row in scores]
    for kind in FUSION.representations:
        missing = [
            [name for name in every if name not in row.get(kind, {})]
            for every, row in zip(names, scores, strict=True)
        ]
        values = store.score(queries, kind, missing)
        for row, some, numbers in zip(scores, missing, values, strict=True):
            row.setdefault(kind, {}).update(zip(some, np.nan_to_num(numbers).tolist(), strict=True))
    return [list(top(FUSION.fuse(row), K)) for row in scores]


def one_request(store: QdrantBase, queries: M3Vectors, candidates: Mapping[Representation, int]) -> Answer:
    """Every part searches for the candidates of all channels again and scores their union."""
    ask = _one_request_edge if isinstance(store, QdrantEdgeStore) else _one_request_client
    return [ask(store, queries, row, candidates) for row in range(len(queries))]


def _one_request_edge(
    store: QdrantBase, queries: M3Vectors, row: int, candidates: Mapping[Representation, int]
) -> list[str]:
    nearest = {}
    for kind in Representation:
        query = store._requests.query(queries, row, kind, 1, None)
        assert query is not None
        vector = query.vector
        if kind is Representation.SPARSE:
            vector = edge.SparseVector(vector.indices, vector.values)
        nearest[kind] = edge.Query.Nearest(vector, query.using)
    exact = edge.SearchParams(exact=True)
    inner = [edge.Prefetch(limit, nearest[kind], params=exact) for kind, limit in candidates.items()]
    terms = [
        edge.Expression.Mult(
            [
                edge.Expression.Constant(_weight(queries, row, kind)),
                edge.Expression.Variable(f"$score[{part}]"),
            ]
        )
        for part, kind in enumerate(Representation)
    ]
    request = edge.QueryRequest(
        limit=K,
        query=edge.Formula(edge.Expression.Sum(terms), {f"$score[{part}]": 0.0 for part in range(3)}),
        prefetches=[
            edge.Prefetch(sum(candidates.values()), nearest[kind], inner, exact) for kind in Representation
        ],
        with_payload=True,
    )
    return [str(point.payload["id"]) for point in store._engine._shard.query(request)]


def _one_request_client(
    store: QdrantBase, queries: M3Vectors, row: int, candidates: Mapping[Representation, int]
) -> list[str]:
    nearest = {}
    for kind in Representation:
        query = store._requests.query(queries, row, kind, 1, None)
        assert query is not None
        vector = query.vector
        if kind is Representation.SPARSE:
            vector = models.SparseVector(indices=vector.indices, values=vector.values)
        nearest[kind] = {"query": vector, "using": query.using}
    inner = [models.Prefetch(limit=limit, **nearest[kind]) for kind, limit in candidates.items()]
    terms = [
        models.MultExpression(mult=[_weight(queries, row, kind), f"$score[{part}]"])
        for part, kind in enumerate(Representation)
    ]
    answer = store._engine._client.query_points(
        store._engine._collection,
        query=models.FormulaQuery(
            formula=models.SumExpression(sum=terms), defaults={f"$score[{part}]": 0.0 for part in range(3)}
        ),
        prefetch=[
            models.Prefetch(limit=sum(candidates.values()), prefetch=inner, **nearest[kind])
            for kind in Representation
        ],
        limit=K,
    )
    return [str(point.payload["id"]) for point in answer.points]


def _weight(queries: M3Vectors, row: int, kind: Representation) -> float:
    return FUSION.weights.of(kind) * scale(queries, row, kind)


def measure(
    store: QdrantBase, queries: M3Vectors, candidates: Mapping[Representation, int], repeats: int
) -> None:
    """Print the median time of one query by each way."""
    ways: Mapping[str, Callable[[QdrantBase, M3Vectors, Mapping[Representation, int]], Answer]] = {
        "one request": one_request,
        "two requests": two_requests,
        "client": by_client,
    }
    answers = {name: way(store, queries, candidates) for name, way in ways.items()}
    if len({str(answer) for answer in answers.values()}) != 1:
        raise SystemExit(f"the ways do not agree: {answers}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way(store, queries, candidates)
            times[name].append((time.perf_counter() - start) / len(queries) * 1e3)
    searching = "+".join(kind.value for kind in candidates)
    limit = next(iter(candidates.values()))
    line = "  ".join(f"{name} {statistics.median(each):8.1f} ms" for name, each in times.items())
    print(f"{type(store).__name__:16} {searching:19} {limit:4} candidates each:  {line}")


def main() -> None:
    """Fill both stores and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=40, help="multi-vectors of a document")
    parser.add_argument("--query-rows", type=int, default=12, help="multi-vectors of a query")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    documents = corpus.documents(options.documents)
    passages = random_vectors(options.documents, options.rows, seed=0)
    queries = random_vectors(options.queries, options.query_rows, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        embedded = QdrantEdgeStore.create(Path(folder) / "store", schema=SCHEMA)
        memory = QdrantStore.create(":memory:", "fusion", schema=SCHEMA)
        for store, repeats in ((embedded, options.repeats), (memory, 1)):
            with store:
                store.upsert(documents, passages)
                for kinds in (list(Representation), [Representation.DENSE, Representation.SPARSE]):
                    for limit in (20, 100):
                        measure(store, queries, dict.fromkeys(kinds, limit), repeats)


if __name__ == "__main__":
    main()
