"""`M3VectorStore` beyond LangChain's standard tests: hybrid search, scores, relevance, diversity, deletion."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, aindex, index

from m3_core.encoder import M3Encoder
from m3_core.errors import DimensionMismatch, FingerprintMismatch, InputError, Unsupported
from m3_core.fusion import ReciprocalRank, WeightedSum
from m3_core.memory import MemoryStore
from m3_core.retriever import Retriever
from m3_core.store import Schema, Store
from m3_core.types import FloatArray, Representation
from m3_integrations.langchain import M3Embeddings, M3VectorStore
from m3_integrations.milvus import MilvusStore
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore

QUERY = "Die Hauptstadt an der Spree und die Hauptstadt Japans"
DENSE, SPARSE, MULTI = Representation
DENSE_ALONE = WeightedSum(1.0, 0.0, 0.0)
MAKERS: dict[str, Callable[[Schema, Path], Store]] = {
    "memory": lambda schema, folder: MemoryStore(schema),
    "qdrant": lambda schema, folder: QdrantStore.create(":memory:", "pages", schema=schema),
    "qdrant-edge": lambda schema, folder: QdrantEdgeStore.create(folder / "pages", schema=schema),
    "milvus": lambda schema, folder: MilvusStore.create(
        f"milvus+file://{folder}/pages", schema=schema.only([DENSE, SPARSE])
    ),
}


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


@pytest.fixture(scope="module")
def documents(texts: tuple[str, ...]) -> list[LangChainDocument]:
    return [
        LangChainDocument(id=f"doc-{row}", page_content=text, metadata={"row": row, "even": row % 2 == 0})
        for row, text in enumerate(texts)
    ]


@pytest.fixture(scope="module", params=list(MAKERS))
def searched(
    request: pytest.FixtureRequest,
    encoder: M3Encoder,
    documents: list[LangChainDocument],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[M3VectorStore]:
    """Twelve sentences in each of the stores; tests only read it."""
    with MAKERS[request.param](encoder.schema(), tmp_path_factory.mktemp("store")) as store:
        vector_store = M3VectorStore(encoder, store)
        vector_store.add_documents(documents)
        yield vector_store


@pytest.fixture
def empty(encoder: M3Encoder) -> M3VectorStore:
    return M3VectorStore(encoder, MemoryStore(encoder.schema()))


@pytest.fixture(scope="module")
def similarities(encoder: M3Encoder, texts: tuple[str, ...]) -> FloatArray:
    """Cosines of the query and of the sentences with all sentences, (1 + n, n)."""
    dense = encoder.encode_documents([QUERY, *texts]).dense
    assert dense is not None
    found: FloatArray = dense @ dense[1:].T
    return found


async def both(call: Callable[..., Any], twin: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the method answers, if its async twin answers the same."""
    answer = call(*args, **kwargs)
    assert await twin(*args, **kwargs) == answer
    return answer


@pytest.mark.parametrize("fusion", [None, DENSE_ALONE, WeightedSum(0.0, 1.0, 0.0), ReciprocalRank(multi=0.0)])
@pytest.mark.parametrize("where", [None, {"even": True}, {"row": {"$gte": 20}}])
async def test_similarity_search(searched: M3VectorStore, fusion: Any, where: Any) -> None:
    core = Retriever(searched.encoder, searched.store, fusion=fusion)
    hits = core.search(QUERY, 5, where=where)
    options = {"fusion": fusion, "where": where}
    found = await both(
        searched.similarity_search_with_score, searched.asimilarity_search_with_score, QUERY, 5, **options
    )
    assert [document.id for document, _ in found] == [hit.id for hit in hits]
    assert [score for _, score in found] == pytest.approx([hit.score for hit in hits])
    assert [document.metadata for document, _ in found] == [hit.document.metadata for hit in hits]
    plain = await both(searched.similarity_search, searched.asimilarity_search, QUERY, 5, **options)
    assert plain == [document for document, _ in found]


def test_filter_is_another_name_for_where(searched: M3VectorStore) -> None:
    wanted = searched.similarity_search(QUERY, where={"even": True})
    assert wanted
    assert searched.similarity_search(QUERY, filter={"even": True}) == wanted
    with pytest.raises(InputError, match="two names for the same thing"):
        searched.similarity_search(QUERY, where={"even": True}, filter={"even": True})


async def test_by_vector(searched: M3VectorStore, similarities: FloatArray) -> None:
    query = searched.embeddings.embed_query(QUERY)
    found = await both(
        searched.similarity_search_by_vector, searched.asimilarity_search_by_vector, query, k=3
    )
    assert [document.metadata["row"] for document in found] == np.argsort(-similarities[0])[:3].tolist()
    even = searched.similarity_search_by_vector(query, 12, where={"even": True})
    assert sorted(document.metadata["row"] for document in even) == [0, 2, 4, 6, 8, 10]
    with pytest.raises(DimensionMismatch, match="3 dimensions"):
        searched.similarity_search_by_vector([0.1, 0.2, 0.3])


def reference_mmr(similarities: FloatArray, rows: list[int], k: int, mult: float) -> list[int]:
    """Carbonell and Goldstein 1998: the next is the one with the largest mix of relevance and novelty."""
    chosen: list[int] = []
    while len(chosen) < k:
        rest = [row for row in rows if row not in chosen]
        worth = [
            mult * similarities[0, row]
            - (1 - mult) * max((similarities[1 + other, row] for other in chosen), default=0.0)
            for row in rest
        ]
        # The first is the most relevant, whatever the mix.
        best = int(np.argmax(worth if chosen else [similarities[0, row] for row in rest]))
        chosen.append(rest[best])
    return chosen


def test_max_marginal_relevance_encodes_the_query_once(searched: M3VectorStore) -> None:
    lengths: list[int] = []
    with searched.encoder.model.register_forward_pre_hook(
        lambda _, arguments: lengths.extend(arguments[0].lengths)
    ):
        searched.max_marginal_relevance_search(QUERY, fusion=WeightedSum(0.0, 1.0, 0.0))
    assert len(lengths) == 1


@pytest.mark.parametrize("mult", [0.0, 0.3, 0.7, 1.0])
async def test_max_marginal_relevance(searched: M3VectorStore, similarities: FloatArray, mult: float) -> None:
    fetched = [document.metadata["row"] for document in searched.similarity_search(QUERY, 6)]
    found = await both(
        searched.max_marginal_relevance_search,
        searched.amax_marginal_relevance_search,
        QUERY,
        k=4,
        fetch_k=6,
        lambda_mult=mult,
    )
    assert [document.metadata["row"] for document in found] == reference_mmr(similarities, fetched, 4, mult)
    nearest = np.argsort(-similarities[0])[:6].tolist()
    by_vector = await both(
        searched.max_marginal_relevance_search_by_vector,
        searched.amax_marginal_relevance_search_by_vector,
        searched.embeddings.embed_query(QUERY),
        k=4,
        fetch_k=6,
        lambda_mult=mult,
    )
    assert [document.metadata["row"] for document in by_vector] == reference_mmr(
        similarities, nearest, 4, mult
    )


def test_max_marginal_relevance_with_filter_and_wrong_mix(searched: M3VectorStore) -> None:
    found = searched.max_marginal_relevance_search(QUERY, k=12, where={"even": True}, fusion=DENSE_ALONE)
    assert sorted(document.metadata["row"] for document in found) == [0, 2, 4, 6, 8, 10]
    assert searched.max_marginal_relevance_search(QUERY, where={"row": -1}) == []
    with pytest.raises(InputError, match="lambda_mult must be a number from 0 to 1, not 2"):
        searched.max_marginal_relevance_search(QUERY, lambda_mult=2.0)


async def test_relevance_scores_of_the_dense_channel(
    searched: M3VectorStore, similarities: FloatArray
) -> None:
    found = await both(
        searched.similarity_search_with_relevance_scores,
        searched.asimilarity_search_with_relevance_scores,
        QUERY,
        k=12,
        fusion=DENSE_ALONE,
    )
    scores = {document.metadata["row"]: score for document, score in found}
    assert all(0.0 <= score <= 1.0 for score in scores.values())
    for row, score in scores.items():
        assert score == pytest.approx((1 + similarities[0, row]) / 2, abs=1e-5)
    middle = sorted(scores.values())[6]
    above = searched.similarity_search_with_relevance_scores(
        QUERY, k=12, fusion=DENSE_ALONE, score_threshold=middle
    )
    assert len(above) == 6
    for fusion in (WeightedSum(5.0, 0.0, 0.0), ReciprocalRank(sparse=0.0, multi=0.0)):
        same = searched.similarity_search_with_relevance_scores(QUERY, k=12, fusion=fusion)
        assert [document.id for document, _ in same] == [document.id for document, _ in found]
        assert [score for _, score in same] == pytest.approx([score for _, score in found], abs=1e-6)


def test_relevance_of_a_text_with_itself_is_not_above_one(
    searched: M3VectorStore, texts: tuple[str, ...]
) -> None:
    for text in texts:
        ((_, score),) = searched.similarity_search_with_relevance_scores(text, k=1, fusion=DENSE_ALONE)
        assert 0.999 < score <= 1.0


@pytest.mark.parametrize(
    "fusion", [None, WeightedSum(1.0, 0.3, 0.0), WeightedSum(0.0, 1.0, 0.0), ReciprocalRank(multi=0.0)]
)
async def test_relevance_scores_are_refused_for_other_fusions(searched: M3VectorStore, fusion: Any) -> None:
    reason = r"no relevance scores in \[0, 1\] for .*no upper bound.*fusion=WeightedSum\(1, 0, 0\)"
    with pytest.raises(InputError, match=reason):
        searched.similarity_search_with_relevance_scores(QUERY, fusion=fusion)
    with pytest.raises(InputError, match=reason):
        await searched.asimilarity_search_with_relevance_scores(QUERY, fusion=fusion)


def test_relevance_by_the_fusion_of_the_constructor(searched: M3VectorStore) -> None:
    dense = M3VectorStore(searched.encoder, searched.store, fusion=DENSE_ALONE)
    assert dense.similarity_search_with_relevance_scores(QUERY) == (
        searched.similarity_search_with_relevance_scores(QUERY, fusion=DENSE_ALONE)
    )


async def test_as_retriever(searched: M3VectorStore) -> None:
    plain = searched.as_retriever(search_kwargs={"k": 3, "where": {"even": True}})
    wanted = searched.similarity_search(QUERY, 3, where={"even": True})
    assert len(wanted) == 3
    assert await both(plain.invoke, plain.ainvoke, QUERY) == wanted
    assert plain.invoke(QUERY, k=1) == wanted[:1]
    diverse = searched.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 5})
    assert await both(diverse.invoke, diverse.ainvoke, QUERY) == searched.max_marginal_relevance_search(
        QUERY, 2, 5
    )
    threshold: dict[str, Any] = {"score_threshold": 0.0, "fusion": DENSE_ALONE, "k": 2}
    scored = searched.as_retriever(search_type="similarity_score_threshold", search_kwargs=threshold)
    assert await both(scored.invoke, scored.ainvoke, QUERY) == searched.similarity_search(
        QUERY, 2, fusion=DENSE_ALONE
    )
    unbounded = searched.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5}
    )
    with pytest.raises(InputError, match="no relevance scores"):
        unbounded.invoke(QUERY)
    assert searched.as_retriever().tags == ["M3VectorStore", "M3Embeddings"]


async def test_from_texts(encoder: M3Encoder, documents: list[LangChainDocument]) -> None:
    embeddings = M3Embeddings(encoder)
    texts = [document.page_content for document in documents]
    metadatas = [document.metadata for document in documents]
    ids = [str(document.id) for document in documents]
    made = M3VectorStore.from_texts(texts, embeddings, metadatas, ids=ids, fusion=DENSE_ALONE)
    assert made.get_by_ids(ids) == documents
    assert made.similarity_search_with_relevance_scores(QUERY, 1)
    assert made.embeddings.encoder is encoder
    later = await M3VectorStore.afrom_texts(texts, embeddings, metadatas, ids=ids)
    assert await later.aget_by_ids(ids) == documents
    assert M3VectorStore.from_documents(documents, embeddings).get_by_ids(ids) == documents
    theirs = MemoryStore(encoder.schema([DENSE]))
    assert M3VectorStore.from_texts(texts, embeddings, store=theirs).store is theirs
    assert theirs.count() == len(texts)
    with pytest.raises(InputError, match=r"takes M3Embeddings.*not DeterministicFakeEmbedding"):
        M3VectorStore.from_texts(texts, DeterministicFakeEmbedding(size=4))


async def test_add_texts_and_ids(empty: M3VectorStore) -> None:
    assert empty.add_texts(iter(["one", "two"]), [{"n": 1}, {"n": 2}], ids=["a", "b"]) == ["a", "b"]
    assert await empty.aadd_texts(["three"], ids=["c"]) == ["c"]
    own = LangChainDocument(id="own", page_content="four")
    first, second = empty.add_documents([own, LangChainDocument(page_content="five")], ids=[None, "given"])
    assert (first, second) == ("own", "given")
    assert empty.add_documents([own], ids=["other"]) == ["other"]  # what the call says goes before
    (drawn,) = empty.add_texts(["six"])
    assert len({drawn, *empty.add_texts(["six"])}) == 2
    assert empty.store.count() == 8
    assert [document.page_content for document in empty.get_by_ids(["b", "none", "a"])] == ["two", "one"]
    assert empty.add_documents([]) == []


def test_small_batches_write_the_same(encoder: M3Encoder, documents: list[LangChainDocument]) -> None:
    small, whole = (M3VectorStore(encoder, MemoryStore(encoder.schema())) for _ in range(2))
    small.add_documents(documents, batch_size=5)
    whole.add_documents(documents)
    assert small.store.count() == len(documents)
    assert small.similarity_search(QUERY, 12) == whole.similarity_search(QUERY, 12)


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([LangChainDocument(page_content="a")], {"ids": ["1", "2"]}, "1 documents came with 2 ids"),
        ([LangChainDocument(page_content="a")], {"ids": "1"}, r"write \['1'\]"),
        ([LangChainDocument(page_content="a")], {"ids": [7]}, "must be a string, not int: 7"),
        ([LangChainDocument(page_content="a", id="x" * 513)], {}, "1 to 512 UTF-8 bytes"),
        ([LangChainDocument(page_content="a", metadata={"b.c": 1})], {}, "'b.c' is empty or has a dot"),
        ([LangChainDocument(page_content="a", metadata={"when": {1, 2}})], {}, "set cannot be kept as JSON"),
        ([LangChainDocument(page_content="a")], {"namespace": "n"}, "unknown option 'namespace'"),
    ],
)
def test_what_cannot_be_added(
    empty: M3VectorStore, documents: list[LangChainDocument], options: dict[str, Any], message: str
) -> None:
    good = [LangChainDocument(page_content="good")]
    with pytest.raises(InputError, match=message):
        empty.add_documents(documents if "ids" in options else good + documents, batch_size=1, **options)
    assert empty.store.count() == 0


def test_texts_and_metadatas_that_differ_in_number(empty: M3VectorStore) -> None:
    with pytest.raises(InputError, match="2 texts came with 1 metadatas"):
        empty.add_texts(["a", "b"], [{}])
    with pytest.raises(InputError, match="2 documents came with 1 ids"):
        empty.add_texts(["a", "b"], ids=["1"])


async def test_delete(empty: M3VectorStore, documents: list[LangChainDocument]) -> None:
    empty.add_documents(documents)
    with pytest.raises(InputError, match=r"delete\(where=\{\}\)"):
        empty.delete()
    assert empty.delete([])
    assert empty.store.count() == 12
    assert empty.delete(["doc-0", "there is none"])
    assert await empty.adelete(["doc-1"])
    assert empty.store.count() == 10
    assert empty.delete(where={"even": True})
    assert [document.id for document in empty.get_by_ids(["doc-2", "doc-3"])] == ["doc-3"]
    assert empty.delete(filter={"row": 3})
    assert empty.store.count() == 4
    assert empty.delete(where={})
    assert empty.store.count() == 0


async def test_the_indexing_of_langchain(encoder: M3Encoder, documents: list[LangChainDocument]) -> None:
    """Documents that changed are written, those that are gone are deleted."""
    vector_store = M3VectorStore(encoder, MemoryStore(encoder.schema()))
    records = InMemoryRecordManager("pages")
    records.create_schema()
    options: dict[str, Any] = {"cleanup": "full", "source_id_key": "row", "key_encoder": "blake2b"}
    first = index(documents[:6], records, vector_store, **options)
    assert (first["num_added"], first["num_deleted"]) == (6, 0)
    again = await aindex(documents[2:8], records, vector_store, **options)
    assert (again["num_added"], again["num_skipped"], again["num_deleted"]) == (2, 4, 2)
    assert vector_store.store.count() == 6
    found = {document.metadata["row"] for document in vector_store.similarity_search(QUERY, 12)}
    assert found == set(range(2, 8))


def test_what_may_be_read_once(empty: M3VectorStore, documents: list[LangChainDocument]) -> None:
    assert empty.add_documents(iter(documents)) == [document.id for document in documents]
    assert empty.get_by_ids(["doc-3"]) == [documents[3]]
    texts, metadatas, ids = iter(["one", "two"]), ({"row": row} for row in (1, 2)), iter(["a", None])
    first, second = empty.add_texts(texts, metadatas, ids=ids)
    assert first == "a"
    assert [document.metadata for document in empty.get_by_ids(["a", second])] == [{"row": 1}, {"row": 2}]


def test_one_text_is_no_list_of_texts(empty: M3VectorStore) -> None:
    with pytest.raises(InputError, match=r"for one text write \['abc'\]"):
        empty.add_texts("abc")
    assert empty.store.count() == 0


@pytest.mark.parametrize("embedding", ["a text", None, [], [[0.0] * 32], ["a"]])
def test_what_is_no_embedding(empty: M3VectorStore, embedding: Any) -> None:
    for search in (empty.similarity_search_by_vector, empty.max_marginal_relevance_search_by_vector):
        with pytest.raises(InputError, match="an embedding is a list of numbers, not"):
            search(embedding)


@pytest.mark.parametrize("name", ["k", "fetch_k"])
def test_sizes_of_a_diverse_choice(empty: M3VectorStore, name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=f"{name} must be an integer of at least 1, not 0"):
        empty.max_marginal_relevance_search(QUERY, **options)
    with pytest.raises(InputError, match=f"{name} must be an integer of at least 1, not 0"):
        empty.max_marginal_relevance_search_by_vector([0.0] * 32, **options)


def test_what_does_not_fit(encoder: M3Encoder) -> None:
    sparse = M3VectorStore(encoder, MemoryStore(encoder.schema([SPARSE])))
    sparse.add_texts(["one"])
    with pytest.raises(Unsupported, match="holds sparse, not dense"):
        sparse.similarity_search_by_vector([0.0] * 32)
    with pytest.raises(Unsupported, match="the fusion weighs only dense"):
        M3VectorStore(encoder, sparse.store, fusion=DENSE_ALONE)
    with pytest.raises(InputError, match="the encoder is an M3Encoder"):
        M3VectorStore(sparse.store, encoder)  # type: ignore[arg-type]
    with pytest.raises(FingerprintMismatch, match="stranger"):
        M3VectorStore(encoder, MemoryStore(Schema(dense=32, fingerprint="stranger")))
    with pytest.raises(InputError, match="unknown option 'score_treshold'; there are k, where and fusion"):
        sparse.similarity_search(QUERY, score_treshold=0.5)
