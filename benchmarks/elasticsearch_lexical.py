"""How long a lexical search takes, beside the bare call: `python benchmarks/elasticsearch_lexical.py http://localhost:9200`.

Random documents of 20 to 60 tokens whose frequencies fall as those of words do; queries of 12. The bare call is
the same request by elasticsearch-py, with the answer left as it comes; both are alternated, so that what the machine
does besides meets both. Without a URL a 7.17 node is started from Maven's jars, as the tests do.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import elasticsearch as es
import numpy as np
from scipy.sparse import csr_array

from m3_core.store import Schema
from m3_core.types import Document, M3Vectors, Representation
from m3_integrations.elasticsearch import ElasticsearchStore

VOCABULARY, TOKENS, K = 250_002, 12, 10
BATCH = 2_000
_SPARSE = Representation.SPARSE


def lexical(n: int, smallest: int, largest: int, seed: int) -> M3Vectors:
    """Lexical weights of n texts with so many different tokens."""
    chance = np.random.default_rng(seed)
    frequency = 1 / (np.arange(VOCABULARY) + 20)
    edges = np.cumsum(frequency / frequency.sum())
    rows = []
    for size in chance.integers(smallest, largest + 1, n):
        found = np.unique(np.searchsorted(edges, chance.random(4 * size)).clip(0, VOCABULARY - 1))
        rows.append(chance.permutation(found)[:size])
    offsets = np.cumsum([0, *map(len, rows)])
    weights = chance.uniform(0.01, 0.4, offsets[-1]).astype(np.float32)
    return M3Vectors(sparse=csr_array((weights, np.concatenate(rows), offsets), shape=(n, VOCABULARY)))


def bare(client: es.Elasticsearch, index: str, query: M3Vectors) -> Callable[[], list[str]]:
    """The same search by the client alone; the body is made before the clock starts."""
    tokens, weights = query.sparse_row(0)
    clauses = [
        {"rank_feature": {"field": f"sparse.{token}", "linear": {}, "boost": weight}}
        for token, weight in zip(tokens.tolist(), weights.tolist(), strict=True)
    ]
    body = {
        "query": {"bool": {"should": clauses, "minimum_should_match": 1}},
        "size": K,
        "_source": {"excludes": ["sparse", "m3_terms"]},
        "track_total_hits": False,
    }

    def search() -> list[str]:
        return [hit["_id"] for hit in client.search(index=index, body=body)["hits"]["hits"]]

    return search


def by_store(store: ElasticsearchStore, query: M3Vectors) -> Callable[[], list[str]]:
    """The search of the library."""
    return lambda: [hit.id for hit in store.search(query, {_SPARSE: K})[_SPARSE][0]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url", nargs="?", help="of a server; without it a node is started")
    arguments.add_argument("--documents", type=int, default=50_000)
    arguments.add_argument("--queries", type=int, default=200)
    given = arguments.parse_args()
    if given.url is None:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from servers.elasticsearch import url_of

        given.url = url_of("lexical")
    index = f"m3-benchmark-{os.getpid()}"
    with es.Elasticsearch(given.url, request_timeout=300) as client:
        schema = Schema(sparse=VOCABULARY)
        store = ElasticsearchStore.create(client, index, schema=schema, shards=1, replicas=0)
        try:
            start = time.perf_counter()
            for first in range(0, given.documents, BATCH):
                size = min(BATCH, given.documents - first)
                names = [f"doc-{first + row}" for row in range(size)]
                documents = [
                    Document(name, f"the text of {name}", {"page": row}) for row, name in enumerate(names)
                ]
                store.upsert(documents, lexical(size, 20, 60, seed=first))
            assert store.count() == given.documents
            print(f"{given.documents} documents written in {time.perf_counter() - start:.1f} s")
            client.indices.forcemerge(index=index, max_num_segments=1)
            measure(client, store, index, given.queries)
        finally:
            client.indices.delete(index=index)


def measure(client: es.Elasticsearch, store: ElasticsearchStore, index: str, queries: int) -> None:
    """Alternate the two, check that they find the same, and print the medians."""
    times: dict[str, list[float]] = {"store": [], "bare client": []}
    for row in range(-20, queries):  # twenty to warm up
        query = lexical(1, TOKENS, TOKENS, seed=1_000_000 + row)
        ways = {"store": by_store(store, query), "bare client": bare(client, index, query)}
        found = {}
        for name, search in sorted(ways.items(), reverse=row % 2 == 0):
            start = time.perf_counter()
            found[name] = search()
            if row >= 0:
                times[name].append(time.perf_counter() - start)
        assert set(found["store"]) == set(found["bare client"]), found
    for name, seconds in times.items():
        p50, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
        print(
            f"{name:12} p50 {p50 * 1000:6.2f} ms   p95 {p95 * 1000:6.2f} ms   ({len(seconds)} queries, {TOKENS} tokens)"
        )


if __name__ == "__main__":
    main()
