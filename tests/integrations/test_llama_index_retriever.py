"""`M3Retriever`, `M3Rerank` and `M3Embedding`, alone and beside LlamaIndex's own parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from m3_core.encoder import M3Encoder
from m3_core.errors import (
    FilterError,
    FingerprintMismatch,
    InputError,
    RepresentationMissing,
    Unsupported,
)
from m3_core.fusion import ReciprocalRank, WeightedSum
from m3_core.memory import MemoryStore
from m3_core.retriever import Retriever
from m3_core.store import Schema
from m3_core.types import Document, M3Vectors, Representation
from m3_integrations._cache import VectorCache
from m3_integrations.llama_index import M3Embedding, M3NodeWithScore, M3Rerank, M3Retriever

DENSE, SPARSE, MULTI = Representation
QUERY = "Berlin ist die Hauptstadt von Deutschland"


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


@pytest.fixture
def encoded(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were encoded."""
    seen: list[str] = []
    real = encoder._encode

    def encode(texts: Any, *args: Any, **kwargs: Any) -> M3Vectors:
        seen.extend(texts)
        return real(texts, *args, **kwargs)

    monkeypatch.setattr(encoder, "_encode", encode)
    return seen


@pytest.fixture(scope="module")
def store(encoder: M3Encoder, texts: tuple[str, ...]) -> MemoryStore:
    store = MemoryStore(encoder.schema())
    documents = [
        Document(f"{row:02}", text, {"row": row, "half": row // 6}) for row, text in enumerate(texts)
    ]
    store.upsert(documents, encoder.encode_documents(texts))
    return store


def test_hits_with_the_scores_of_the_channels(encoder: M3Encoder, store: MemoryStore) -> None:
    found = M3Retriever(encoder, store, similarity_top_k=5).retrieve(QUERY)
    expected = Retriever(encoder, store).search(QUERY, 5)
    assert [item.node_id for item in found] == [hit.id for hit in expected]
    for item, hit in zip(found, expected, strict=True):
        assert isinstance(item, M3NodeWithScore)
        assert item.score == pytest.approx(hit.score, abs=1e-6)
        assert item.scores == pytest.approx({kind.value: score for kind, score in hit.scores.items()})
        assert item.scores.keys() == {"dense", "sparse", "multi"}
        assert item.node == TextNode(id_=hit.id, text=hit.document.text, metadata=dict(hit.document.metadata))


async def test_async_gives_the_same(encoder: M3Encoder, store: MemoryStore) -> None:
    retriever = M3Retriever(encoder, store, similarity_top_k=5, filters={"half": 1})
    assert await retriever.aretrieve(QUERY) == retriever.retrieve(QUERY)


def test_one_forward_for_a_query(encoder: M3Encoder, store: MemoryStore, encoded: list[str]) -> None:
    M3Retriever(encoder, store).retrieve(QUERY)
    assert encoded == [QUERY]


def test_options(encoder: M3Encoder, store: MemoryStore) -> None:
    filters = MetadataFilters(
        filters=[MetadataFilter(key="row", value=[1, 2, 7], operator=FilterOperator.IN)]
    )
    found = M3Retriever(encoder, store, similarity_top_k=12, filters=filters).retrieve(QUERY)
    assert sorted(item.node_id for item in found) == ["01", "02", "07"]
    assert len(M3Retriever(encoder, store, similarity_top_k=12, group_by="half").retrieve(QUERY)) == 2
    ranked = M3Retriever(encoder, store, similarity_top_k=12, fusion=ReciprocalRank(), candidates=12)
    expected = Retriever(encoder, store, fusion=ReciprocalRank(), candidates=12).search(QUERY, 12)
    assert [item.node_id for item in ranked.retrieve(QUERY)] == [hit.id for hit in expected]
    assert len(M3Retriever(encoder, store).retrieve(QUERY)) == 2


def test_other_texts_or_an_embedding_in_the_place_of_the_dense_vector(
    encoder: M3Encoder, store: MemoryStore, texts: tuple[str, ...]
) -> None:
    dense = M3Retriever(encoder, store, similarity_top_k=12, fusion=WeightedSum(1, 0, 0))
    other = encoder.encode_queries([texts[4]]).dense
    assert other is not None
    for bundle in (
        QueryBundle(QUERY, custom_embedding_strs=[texts[4]]),
        QueryBundle(QUERY, embedding=(3 * other[0]).tolist()),
    ):
        found = dense.retrieve(bundle)
        assert found[0].node_id == "04"
        assert found[0].score == pytest.approx(1.0, abs=1e-5)
        sparse = M3Retriever(encoder, store, similarity_top_k=12, fusion=WeightedSum(0, 1, 0))
        assert sparse.retrieve(bundle) == sparse.retrieve(QUERY)


def test_what_does_not_fit(encoder: M3Encoder, store: MemoryStore) -> None:
    with pytest.raises(InputError, match="similarity_top_k"):
        M3Retriever(encoder, store, similarity_top_k=0)
    with pytest.raises(FilterError):
        M3Retriever(encoder, store, filters={"$what": 1})
    schema = encoder.schema()
    with pytest.raises(FingerprintMismatch):
        M3Retriever(encoder, MemoryStore(Schema(dense=schema.dense, fingerprint="another")))
    with pytest.raises(Unsupported, match="multi"):
        M3Retriever(encoder, MemoryStore(schema.only([DENSE])), fusion=WeightedSum())


def test_in_a_query_engine(encoder: M3Encoder, store: MemoryStore) -> None:
    retriever = M3Retriever(encoder, store, similarity_top_k=3)
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    response = engine.query(QUERY)
    assert [item.node_id for item in response.source_nodes] == [
        item.node_id for item in retriever.retrieve(QUERY)
    ]
    assert all(isinstance(item, M3NodeWithScore) and item.scores for item in response.source_nodes)
    for item in response.source_nodes:
        assert item.get_content() in str(response)
    assert "scores" not in str(response)


def test_equal_nodes_of_several_retrievers_are_one(encoder: M3Encoder, store: MemoryStore) -> None:
    parts: list[Any] = [
        M3Retriever(encoder, store, similarity_top_k=12, fusion=fusion)
        for fusion in (WeightedSum(1, 0, 0), WeightedSum(0, 0, 1))
    ]
    fused = QueryFusionRetriever(
        parts,
        llm=MockLLM(),
        num_queries=1,
        similarity_top_k=24,
        use_async=False,
        mode="reciprocal_rerank",  # type: ignore[arg-type]
    )
    found = fused.retrieve(QUERY)
    assert len(found) == len({item.node_id for item in found}) == 12


def nodes_of(texts: tuple[str, ...]) -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(id_=f"{row:02}", text=text, metadata={"row": row}), score=float(row))
        for row, text in enumerate(texts)
    ]


@pytest.mark.parametrize("fusion", [None, WeightedSum(0.2, 0.8, 0)])
def test_reranking(encoder: M3Encoder, texts: tuple[str, ...], fusion: WeightedSum | None) -> None:
    nodes = nodes_of(texts)
    ranked = M3Rerank(encoder, fusion=fusion).postprocess_nodes(nodes, query_str=QUERY)
    weights = (fusion or WeightedSum()).weights
    pairs = [(QUERY, f"row: {row}\n\n{text}") for row, text in enumerate(texts)]
    scores = encoder.compute_scores(pairs, weights)["all"]
    assert [int(item.node_id) for item in ranked] == np.argsort(-scores, kind="stable").tolist()
    for item in ranked:
        assert isinstance(item, M3NodeWithScore)
        assert item.score == pytest.approx(scores[int(item.node_id)], abs=1e-5)
        assert item.scores.keys() == {
            kind.value for kind in WeightedSum().representations if weights.of(kind)
        }
    assert [item.score for item in nodes] == [float(row) for row in range(12)]
    best = M3Rerank(encoder, fusion=fusion, top_n=3).postprocess_nodes(nodes, QueryBundle(QUERY))
    assert [item.node_id for item in best] == [item.node_id for item in ranked[:3]]


async def test_reranking_async(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    rerank = M3Rerank(encoder, top_n=4)
    nodes = nodes_of(texts)
    assert await rerank.apostprocess_nodes(nodes, query_str=QUERY) == rerank.postprocess_nodes(
        nodes, query_str=QUERY
    )


def test_reranking_keeps_the_order_of_equals(encoder: M3Encoder) -> None:
    nodes = [NodeWithScore(node=TextNode(id_=name, text="the same")) for name in "cab"]
    ranked = M3Rerank(encoder).postprocess_nodes(nodes, query_str=QUERY)
    assert [item.node_id for item in ranked] == ["c", "a", "b"]


def test_reranking_without_nodes_or_query(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    assert M3Rerank(encoder).postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InputError, match="query"):
        M3Rerank(encoder).postprocess_nodes(nodes_of(texts))
    with pytest.raises(ValueError, match="top_n"):
        M3Rerank(encoder, top_n=0)
    with pytest.raises(InputError, match=r"reranking is by a WeightedSum of the channels' scores, not Recip"):
        M3Rerank(encoder, fusion=ReciprocalRank())  # type: ignore[arg-type]


def test_reranking_is_seen_by_callbacks(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = M3Rerank(encoder, top_n=1, callback_manager=CallbackManager([debug]))
    rerank.postprocess_nodes(nodes_of(texts), query_str=QUERY)
    ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert start.payload is not None
    assert end.payload is not None
    assert start.payload["query_str"] == QUERY
    assert len(end.payload["nodes"]) == 1


async def test_the_embedding_gives_the_model_s_vectors(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    embed_model = M3Embedding(encoder, embed_batch_size=5)
    vectors = encoder.encode_documents(texts)
    assert vectors.dense is not None
    found = embed_model.get_text_embedding_batch(list(texts))
    assert np.abs(np.array(found) - vectors.dense).max() < 1e-6
    assert found == await M3Embedding(encoder).aget_text_embedding_batch(list(texts))
    assert embed_model.get_query_embedding(texts[3]) == embed_model.get_text_embedding(texts[3]) == found[3]
    assert await embed_model.aget_query_embedding(texts[3]) == await embed_model.aget_text_embedding(texts[3])
    indices, values = embed_model.sparse_encoder(list(texts))
    for row in range(len(texts)):
        tokens, weights = vectors.sparse_row(row)
        assert indices[row] == tokens.tolist()
        assert values[row] == pytest.approx(weights.tolist(), abs=1e-6)


def test_vectors_of_a_batch(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    some = [*texts, "", texts[0]]
    expected = encoder.encode_documents(some)
    for kinds in ([DENSE], [SPARSE], [MULTI, DENSE], [DENSE, SPARSE, MULTI]):
        vectors = M3Embedding(encoder).vectors(some, kinds)
        assert vectors.representations == set(kinds)
        assert len(vectors) == len(some)
        for kind in kinds:
            if kind is DENSE:
                assert vectors.dense is not None
                assert expected.dense is not None
                assert np.abs(vectors.dense - expected.dense).max() < 1e-6
            elif kind is SPARSE:
                assert vectors.sparse is not None
                assert expected.sparse is not None
                assert abs(vectors.sparse - expected.sparse).max() < 1e-6
            else:
                assert vectors.multi is not None
                assert expected.multi is not None
                assert (vectors.multi.offsets == expected.multi.offsets).all()
                assert np.abs(vectors.multi.values - expected.multi.values).max() < 1e-6
    assert len(M3Embedding(encoder).vectors([], [DENSE, SPARSE, MULTI])) == 0


def test_the_cache_keeps_what_is_asked_for(
    encoder: M3Encoder, texts: tuple[str, ...], encoded: list[str]
) -> None:
    cache = VectorCache(encoder, max_texts=100)
    assert cache.vectors(texts)[0].multi is None
    cache.keep([DENSE, MULTI])
    assert cache.vectors(texts)[0].multi is not None
    assert cache.vectors(texts)[5].tokens is not None
    assert encoded == [*texts, *texts]
    cache.release([texts[2], "never seen"])
    cache.vectors(texts)
    assert encoded == [*texts, *texts, texts[2]]
    cache.keep([DENSE, SPARSE])
    cache.clear()
    assert cache._bytes == 0
    cache.vectors(texts[:1])
    assert encoded[-1] == texts[0]


def test_the_cache_holds_no_more_bytes_than_allowed(encoder: M3Encoder, encoded: list[str]) -> None:
    size = VectorCache(encoder, 10).vectors(["a b c"])[0].nbytes
    cache = VectorCache(encoder, max_texts=100, max_bytes=5 * size)
    several = [f"{letter} b c" for letter in "abcdefgh"]
    assert len(cache.vectors(several)) == 8
    assert 0 < cache._bytes <= 5 * size
    assert cache._bytes == sum(future.result().nbytes for future in cache._held.values())
    encoded.clear()
    cache.vectors(several[-1:])
    assert encoded == []
    cache.vectors(several[:1])
    assert encoded == several[:1]
    with pytest.raises(InputError, match="max_bytes"):
        VectorCache(encoder, 1, -1)


def test_the_name_of_the_model_says_which_it_is(encoder: M3Encoder) -> None:
    embed_model = M3Embedding(encoder)
    assert encoder.fingerprint in embed_model.model_name
    assert embed_model.to_dict()["model_name"] == embed_model.model_name
    assert M3Embedding(encoder, model_name="mine").model_name == "mine"


def test_a_model_without_lexical_weights(tiny_model_folder: Path) -> None:
    encoder = M3Encoder.load(tiny_model_folder, device="cpu")
    encoder.model.sparse_linear = None
    embed_model = M3Embedding(encoder)
    assert embed_model.kept == {DENSE}
    assert len(embed_model.get_text_embedding("x")) == encoder.schema([DENSE]).dense
    with pytest.raises(RepresentationMissing):
        embed_model.sparse_encoder(["x"])
    with pytest.raises(RepresentationMissing):
        embed_model.vectors(["x"], [SPARSE])
    with pytest.raises(RepresentationMissing):
        M3Rerank(encoder)


@pytest.mark.parametrize("query", [QUERY, "..."])
def test_in_the_official_qdrant_store(
    encoder: M3Encoder, texts: tuple[str, ...], encoded: list[str], query: str
) -> None:
    embed_model = M3Embedding(encoder)
    vector_store = QdrantVectorStore(
        "pages",
        client=QdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=embed_model.sparse_encoder,
        sparse_query_fn=embed_model.sparse_encoder,
        batch_size=5,
    )
    nodes: list[BaseNode] = [TextNode(text=text) for text in texts]
    index = VectorStoreIndex(
        nodes,
        storage_context=StorageContext.from_defaults(vector_store=vector_store),
        embed_model=embed_model,
    )
    assert sorted(encoded) == sorted(texts)
    encoded.clear()
    retriever = index.as_retriever(
        vector_store_query_mode=VectorStoreQueryMode.SPARSE, similarity_top_k=12, sparse_top_k=12
    )
    found = {item.text: item.score for item in retriever.retrieve(query)}
    hybrid = index.as_retriever(
        vector_store_query_mode=VectorStoreQueryMode.HYBRID, similarity_top_k=4, sparse_top_k=12
    )
    assert len(hybrid.retrieve(query)) == 4
    assert encoded == [query]
    scores = encoder.compute_scores([(query, text) for text in texts])["sparse"]
    expected = {text: score for text, score in zip(texts, scores.tolist(), strict=True) if score > 0}
    assert found == pytest.approx(expected, abs=1e-5)
