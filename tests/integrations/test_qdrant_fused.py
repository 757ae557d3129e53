"""Qdrant: the M3 score fused by the store equals the one computed by its client, and numpy in float64."""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from m3_core.errors import InputError, StoreError, Unsupported
from m3_core.fusion import Fusion, ReciprocalRank, WeightedSum, top
from m3_core.memory import MemoryStore
from m3_core.store import FusedSearch, Schema
from m3_core.testing import corpus
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Ragged, Representation
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore
from m3_integrations.qdrant.base import QdrantBase

DENSE, SPARSE, MULTI = Representation
SCHEMA = Schema(dense=384, sparse=30_000, multi=384)
Scores: TypeAlias = npt.NDArray[np.float64]
Passing: TypeAlias = npt.NDArray[np.bool_]
TIE = 1e-6
"""Scores that are nearer than this may come in either order."""
SUMS = (
    WeightedSum.passages(),
    WeightedSum.long_documents(),
    WeightedSum.passages(multi=False),
    WeightedSum(0.0, 1.0, 0.5),
    WeightedSum(1e-3, 30.0, 2.0),
)


def like_a_model(n: int, seed: int, topics: int = 40) -> M3Vectors:
    """Vectors with the model's shape and a spread of scores: texts of a topic are near each other."""
    chance = np.random.default_rng(seed)
    themes = np.random.default_rng(7).standard_normal((topics, 384))

    def near(topic: int, size: int) -> FloatArray:
        values = themes[topic] + 1.2 * chance.standard_normal((size, 384))
        unit: FloatArray = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
        return unit

    of = chance.integers(0, topics, n)
    rows = [
        {int(topic * 200 + token): float(weight) for token, weight in zip(tokens, weights, strict=True)}
        for topic in of
        for tokens in [chance.choice(400, 30, replace=False)]
        for weights in [chance.uniform(0.01, 0.4, 30)]
    ]
    return M3Vectors(
        dense=np.concatenate([near(topic, 1) for topic in of]),
        sparse=corpus.sparse_rows(rows, SCHEMA.sparse or 0),
        multi=Ragged.from_rows([near(topic, int(chance.integers(10, 70))) for topic in of], dimension=384),
    )


def all_scores(queries: M3Vectors, row: int, passages: M3Vectors) -> dict[Representation, Scores]:
    """Every passage's scores in float64, by the formulas of arXiv 2402.03216, section 3.2."""
    assert queries.dense is not None
    assert queries.sparse is not None
    assert queries.multi is not None
    assert passages.dense is not None
    assert passages.sparse is not None
    assert passages.multi is not None
    dense = passages.dense.astype(float) @ queries.dense[row].astype(float)
    sparse = (passages.sparse.astype(float) @ queries.sparse[[row]].astype(float).T).toarray()[:, 0]
    query = queries.multi[row].astype(float)
    multi = np.array(
        [(query @ passage.astype(float).T).max(axis=1).sum() / len(query) for passage in passages.multi]
    )
    return {DENSE: dense, SPARSE: sparse, MULTI: multi}


def weighted(scores: Mapping[Representation, Scores], fusion: WeightedSum) -> Scores:
    """The sum of every document."""
    total = np.zeros(len(scores[DENSE]))
    for kind in Representation:
        total += fusion.weights.of(kind) * scores[kind]
    return total


def candidates_of(
    scores: Mapping[Representation, Scores], sizes: Mapping[Representation, int], passing: Passing
) -> tuple[set[int], set[int]]:
    """The documents that are among the best of a channel, and those that are or are tied at its cut."""
    certain: set[int] = set()
    possible: set[int] = set()
    for kind, size in sizes.items():
        there = np.flatnonzero(passing & (scores[kind] > 0) if kind is SPARSE else passing)
        ranked = np.sort(scores[kind][there])[::-1]
        last, following = (ranked[place] if place < len(ranked) else -np.inf for place in (size - 1, size))
        certain.update(there[scores[kind][there] > following + TIE].tolist())
        possible.update(there[scores[kind][there] >= last - TIE].tolist())
    return certain, possible


def assert_fused(
    store: QdrantBase, documents: list[Document], passages: M3Vectors, queries: M3Vectors
) -> None:
    """Store, client (`MemoryStore`, `score` and `fuse`) and numpy agree on the ten best and on their scores."""
    assert isinstance(store, FusedSearch)
    client = MemoryStore(store.schema)
    client.upsert(documents, passages)
    every = [all_scores(queries, row, passages) for row in range(len(queries))]
    untied = 0
    for place, fusion in enumerate(SUMS):
        where = {"n": {"$lt": 700}} if place % 2 else None
        passing = np.array([place % 2 == 0 or document.metadata["n"] < 700 for document in documents])
        sizes = {kind: 30 + 10 * number for number, kind in enumerate(sorted(fusion.representations))}
        found = store.search_fused(queries, fusion, 10, sizes, where=where)
        assert len(found) == len(queries)
        by_channel = client.search(queries, sizes, where=where)
        for row, hits in enumerate(found):
            exact = weighted(every[row], fusion)
            certain, possible = candidates_of(every[row], sizes, passing)
            names = [hit.id for hit in hits]
            rows = [int(name.removeprefix("doc-")) for name in names]
            assert len(set(rows)) == 10
            assert set(rows) <= possible
            assert [hit.document for hit in hits] == [documents[number] for number in rows]
            assert [hit.score for hit in hits] == pytest.approx(exact[rows].tolist(), abs=1e-5)
            assert names == [hit.id for hit in sorted(hits, key=lambda hit: (-hit.score, hit.id))]
            assert {number for number in certain if exact[number] > hits[-1].score + 2e-5} <= set(rows)
            computed = fuse_as_client(
                client, queries.take([row]), fusion, [by_channel[kind][row] for kind in sizes]
            )
            best = top(computed, 10)
            if certain == possible:
                assert [computed[name] for name in best] == pytest.approx(
                    [hit.score for hit in hits], abs=1e-5
                )
            if certain == possible and np.diff(np.sort(exact[sorted(possible)])[-11:]).min() > 2e-5:
                untied += 1
                assert names == list(best)
    assert untied > len(SUMS) * len(queries) / 2, "most rankings have to be without ties, to say something"


def fuse_as_client(
    client: MemoryStore, query: M3Vectors, fusion: WeightedSum, found: Sequence[Sequence[Hit]]
) -> dict[str, float]:
    """What the retriever does: every candidate gets the scores that it lacks."""
    names = sorted({hit.id for hits in found for hit in hits})
    return fusion.fuse(
        {
            kind: dict(zip(names, client.score(query, kind, [names])[0].tolist(), strict=True))
            for kind in fusion.representations
        }
    )


def fill(store: QdrantBase, n: int) -> tuple[list[Document], M3Vectors]:
    documents = [Document(f"doc-{row}", f"text {row}", {"n": row}) for row in range(n)]
    passages = like_a_model(n, seed=1)
    store.upsert(documents, passages)
    return documents, passages


def test_embedded_equals_client_and_float64_over_1000_documents(tmp_path: Path) -> None:
    with QdrantEdgeStore.create(tmp_path / "store", schema=SCHEMA) as store:
        documents, passages = fill(store, 1000)
        assert_fused(store, documents, passages, like_a_model(3, seed=2))
        assert store.optimize()
        assert_fused(store, documents, passages, like_a_model(1, seed=3))


@pytest.mark.slow
def test_memory_equals_client_and_float64_over_1000_documents() -> None:
    with QdrantStore.create(":memory:", "fused", schema=SCHEMA) as store:
        assert_fused(store, *fill(store, 1000), like_a_model(2, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "memory"])
def test_bundled_model_over_1000_documents(
    tmp_path: Path, kind: str, help_pages: tuple[list[Document], M3Vectors, M3Vectors, Schema]
) -> None:
    documents, passages, queries, schema = help_pages
    if kind == "edge":
        store: QdrantBase = QdrantEdgeStore.create(tmp_path / "store", schema=schema)
    else:
        store = QdrantStore.create(":memory:", "help", schema=schema)
    with store:
        store.upsert(documents, passages)
        assert_fused(store, documents, passages, queries)


@pytest.fixture(scope="module")
def help_pages() -> tuple[list[Document], M3Vectors, M3Vectors, Schema]:
    """1,000 passages in twelve languages and some of their titles as queries, encoded by the bundled model."""
    root = Path(__file__).parents[2]
    if not (root / "m3_core/models/m3-tiny/model.safetensors").is_file():
        pytest.skip("the bundled model is not there")
    from m3_core.encoder import M3Encoder

    with gzip.open(root / "examples/corpus/libreoffice-help.jsonl.gz", "rt", encoding="utf-8") as lines:
        pages = [json.loads(line) for line in lines][::-1][:1000]
    encoder = M3Encoder.load("m3-tiny")
    documents = [Document(f"doc-{row}", page["text"], {"n": row}) for row, page in enumerate(pages)]
    passages = encoder.encode_documents([document.text for document in documents])
    return (
        documents,
        passages,
        encoder.encode_queries([page["title"] for page in pages[::250]]),
        encoder.schema(),
    )


@pytest.fixture(scope="module", params=["edge", "memory"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantBase]:
    made: QdrantBase
    if request.param == "edge":
        made = QdrantEdgeStore.create(tmp_path_factory.mktemp("fused") / "store", schema=SCHEMA)
    else:
        made = QdrantStore.create(":memory:", "small", schema=SCHEMA)
    with made:
        yield made


class TestSmall:
    """Both engines, with what is particular."""

    @pytest.fixture(scope="class")
    @classmethod
    def content(cls, small: QdrantBase) -> tuple[list[Document], M3Vectors]:
        return fill(small, 120)

    def test_equals_client_and_float64(
        self, small: QdrantBase, content: tuple[list[Document], M3Vectors]
    ) -> None:
        assert_fused(small, *content, like_a_model(2, seed=3))

    def test_queries_that_are_empty_in_a_channel(
        self, small: QdrantBase, content: tuple[list[Document], M3Vectors]
    ) -> None:
        """Nothing is found by it, and its part of the sum is 0; what the others find stays."""
        queries = like_a_model(2, seed=4)
        assert queries.multi is not None
        bare = M3Vectors(
            dense=queries.dense,
            sparse=corpus.sparse_rows([{}, {}], SCHEMA.sparse or 0),
            multi=Ragged.from_rows([queries.multi[0], np.zeros((0, 384), np.float32)], dimension=384),
        )
        candidates = dict.fromkeys(Representation, 10)
        found = small.search_fused(bare, WeightedSum(1.0, 5.0, 0.0), 5, candidates)
        assert queries.dense is not None
        dense = content[1].dense
        assert dense is not None
        for row, hits in enumerate(found):
            best = np.sort(dense @ queries.dense[row])[::-1]
            assert [hit.score for hit in hits][:1] == pytest.approx(best[:1].tolist(), abs=1e-5)
        (zero, _) = small.search_fused(bare, WeightedSum(0.0, 1.0, 0.0), 3, {DENSE: 3, SPARSE: 3})
        assert [hit.score for hit in zero] == [0, 0, 0]
        assert [hit.id for hit in zero] == sorted(hit.id for hit in zero)
        assert small.search_fused(bare, WeightedSum(0.0, 1.0, 0.0), 3, {SPARSE: 3}) == [[], []]
        assert small.search_fused(bare.take([]), WeightedSum(), 3, candidates) == []

    @pytest.mark.parametrize(
        "fusion",
        [
            ReciprocalRank(),
            ReciprocalRank(k=1),
            ReciprocalRank(10, 2.0, 2.0, 2.0),
            ReciprocalRank(60, 1.0, 0.0, 1.0),
        ],
    )
    def test_reciprocal_rank(
        self, small: QdrantBase, content: tuple[list[Document], M3Vectors], fusion: Fusion
    ) -> None:
        queries = like_a_model(3, seed=5)
        candidates = dict.fromkeys(Representation, 20)
        where = {"n": {"$gte": 10}}
        found = small.search_fused(queries, fusion, 60, candidates, where=where)
        by_channel = small.search(queries, dict.fromkeys(fusion.representations, 20), where=where)
        for row, hits in enumerate(found):
            expected = fusion.fuse(
                {kind: {hit.id: hit.score for hit in rows[row]} for kind, rows in by_channel.items()}
            )
            assert {hit.id: pytest.approx(hit.score, abs=1e-7) for hit in hits} == expected

    @pytest.mark.parametrize("fusion", [ReciprocalRank(60, 1.0, 0.5, 1.0), ReciprocalRank(k=0.5)])
    def test_reciprocal_rank_that_the_engine_cannot_do(self, small: QdrantBase, fusion: Fusion) -> None:
        with pytest.raises(Unsupported, match="equal weights and an integer k"):
            small.search_fused(like_a_model(1, seed=6), fusion, 5, dict.fromkeys(Representation, 5))

    def test_only_weighted_sums_are_promised(self, small: QdrantBase) -> None:
        assert small.capabilities.fusions == {"WeightedSum"}

    def test_bad_arguments(self, small: QdrantBase) -> None:
        queries = like_a_model(1, seed=6)
        with pytest.raises(InputError):
            small.search_fused(queries, WeightedSum(), 0, {DENSE: 3})
        with pytest.raises(InputError):
            small.search_fused(queries, WeightedSum(), 3, {DENSE: 0})
        with pytest.raises(InputError, match="multi"):
            small.search_fused(queries.only([DENSE, SPARSE]), WeightedSum(), 3, {DENSE: 3})


def test_closed(tmp_path: Path) -> None:
    store = QdrantEdgeStore.create(tmp_path / "store", schema=SCHEMA)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.search_fused(like_a_model(1, seed=6), WeightedSum(), 3, {DENSE: 3})
