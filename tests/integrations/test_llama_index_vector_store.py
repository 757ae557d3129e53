"""`M3VectorStore` under a `VectorStoreIndex`, over every store."""

import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from elasticsearch import Elasticsearch
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    BaseNode,
    IndexNode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from servers.elasticsearch import Kind, url_of

from m3_core.compose import SplitStore
from m3_core.encoder import M3Encoder
from m3_core.errors import DimensionMismatch, FingerprintMismatch, InputError, StoreError, Unsupported
from m3_core.fusion import ReciprocalRank, WeightedSum
from m3_core.memory import MemoryStore
from m3_core.retriever import Retriever
from m3_core.store import Schema, Store
from m3_core.types import Document, M3Vectors, Representation
from m3_integrations.elasticsearch import ElasticsearchStore
from m3_integrations.llama_index import M3Embedding, M3Rerank, M3VectorStore
from m3_integrations.llama_index.convert import encoded_text
from m3_integrations.milvus import MilvusStore
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore

DENSE, SPARSE, MULTI = Representation


NODES: dict[Representation, Kind] = {DENSE: "dense", SPARSE: "lexical"}
INDEX = "m3-llama-index-"


def on_nodes(schema: Schema, _: Path) -> Store:
    """Dense vectors on Elasticsearch 8.19 and lexical weights on 7.17."""
    parts = {
        channel.value: ElasticsearchStore.create(
            url_of(kind),
            f"{INDEX}{uuid4().hex}",
            schema=schema.only([channel]),
            dense_index="flat",
            shards=1,
            replicas=0,
        )
        for channel, kind in NODES.items()
    }
    return SplitStore(**parts)


MAKE: dict[str, Callable[[Schema, Path], Store]] = {
    "memory": lambda schema, folder: MemoryStore(schema),
    "qdrant": lambda schema, folder: QdrantStore.create(":memory:", "pages", schema=schema),
    "edge": lambda schema, folder: QdrantEdgeStore.create(folder / "pages", schema=schema),
    "milvus": lambda schema, folder: MilvusStore.create(
        f"milvus+file://{folder}/pages", schema=schema.only([DENSE, SPARSE])
    ),
    "elasticsearch": on_nodes,
}
STORES = [pytest.param(name, marks=pytest.mark.slow if name == "elasticsearch" else ()) for name in MAKE]


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


@pytest.fixture(scope="module", params=STORES)
def opened(
    request: pytest.FixtureRequest, encoder: M3Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    with MAKE[request.param](encoder.schema(), tmp_path_factory.mktemp("stores")) as store:
        yield store
    for kind in NODES.values() if request.param == "elasticsearch" else ():
        with Elasticsearch(url_of(kind), request_timeout=120) as client:
            for name in client.indices.get(index=f"{INDEX}*"):
                client.indices.delete(index=name)


@pytest.fixture
def store(opened: Store) -> Iterator[Store]:
    yield opened
    opened.delete(where={})


@pytest.fixture
def embed_model(encoder: M3Encoder) -> M3Embedding:
    return M3Embedding(encoder)


@pytest.fixture
def vector_store(embed_model: M3Embedding, store: Store) -> M3VectorStore:
    return M3VectorStore(embed_model, store)


@pytest.fixture
def memory(embed_model: M3Embedding, nodes: list[BaseNode]) -> M3VectorStore:
    """For what does not depend on the store."""
    made = M3VectorStore(embed_model, MemoryStore(embed_model.encoder.schema()))
    made.add(nodes)
    return made


@pytest.fixture
def nodes(texts: tuple[str, ...]) -> list[BaseNode]:
    """Twelve nodes of three documents: "d0" has 0, 3, 6, 9."""
    return [
        TextNode(
            id_=f"n{row:02}",
            text=text,
            metadata={"z": row % 2, "row": row, "a": ["x", f"t{row % 4}"]},
            excluded_embed_metadata_keys=["row"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"d{row % 3}")},
        )
        for row, text in enumerate(texts)
    ]


@pytest.fixture
def forwards(encoder: M3Encoder) -> Iterator[Counter[tuple[int, ...]]]:
    """How often each text, by its tokens, went through the model; counted by the model itself."""
    seen: Counter[tuple[int, ...]] = Counter()

    def count(model: Any, arguments: tuple[Any, ...]) -> None:
        tokens, start = arguments[0].ids.tolist(), 0
        for length in arguments[0].lengths:
            seen[tuple(tokens[start : start + length])] += 1
            start += length

    hook = encoder.model.register_forward_pre_hook(count)
    yield seen
    hook.remove()


def once(encoder: M3Encoder, texts: list[str]) -> Counter[tuple[int, ...]]:
    tokens, _ = encoder.tokenizer.encode(texts, encoder.max_length)
    return Counter({tuple(map(int, row)) for row in tokens})


def where(key: str, value: Any, operator: str = "==") -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])


def context(vector_store: M3VectorStore) -> StorageContext:
    return StorageContext.from_defaults(vector_store=vector_store)


def ids(found: list[BaseNode]) -> list[str]:
    return [node.node_id for node in found]


@pytest.mark.parametrize("use_async", [False, True])
def test_each_node_and_query_goes_through_the_model_once(
    embed_model: M3Embedding,
    vector_store: M3VectorStore,
    texts: tuple[str, ...],
    forwards: Counter[tuple[int, ...]],
    use_async: bool,
) -> None:
    documents = [LlamaDocument(text=" ".join(texts), doc_id=f"d{n}", metadata={"n": n}) for n in range(2)]
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=context(vector_store),
        embed_model=embed_model,
        transformations=[SentenceSplitter(chunk_size=60, chunk_overlap=0)],
        use_async=use_async,
    )
    stored = vector_store.get_nodes()
    assert len(stored) > 10
    assert forwards == once(embed_model.encoder, [encoded_text(node) for node in stored])
    forwards.clear()
    found = index.as_retriever(similarity_top_k=3).retrieve("Hauptstadt von Deutschland")
    assert len(found) == 3
    assert forwards == once(embed_model.encoder, ["Hauptstadt von Deutschland"])


def test_the_hits_are_the_retriever_s(
    vector_store: M3VectorStore, store: Store, encoder: M3Encoder, nodes: list[BaseNode]
) -> None:
    assert vector_store.add(nodes) == ids(nodes)
    query = "the capital of Japan"
    expected = Retriever(encoder, store).search(query, 5)
    found = vector_store.query(VectorStoreQuery(query_str=query, similarity_top_k=5))
    assert found.ids == [hit.id for hit in expected]
    assert found.similarities == pytest.approx([hit.score for hit in expected], abs=1e-4)
    index = VectorStoreIndex.from_vector_store(vector_store, embed_model=vector_store.embed_model)
    again = index.as_retriever(similarity_top_k=5).retrieve(query)
    assert [item.node_id for item in again] == found.ids


def test_nodes_come_back_as_they_were(vector_store: M3VectorStore, nodes: list[BaseNode]) -> None:
    vector_store.add(nodes)
    assert vector_store.get_nodes(ids(nodes)) == nodes
    found = vector_store.query(VectorStoreQuery(query_str="Berlin", similarity_top_k=12))
    assert found.nodes is not None
    assert sorted(found.nodes, key=lambda node: node.node_id) == nodes
    assert list(found.nodes[0].metadata) == ["z", "row", "a"]


def test_reading_and_deleting(vector_store: M3VectorStore, store: Store, nodes: list[BaseNode]) -> None:
    vector_store.add(nodes)
    assert sorted(ids(vector_store.get_nodes())) == ids(nodes)
    assert ids(vector_store.get_nodes(["n03", "missing", "n01"])) == ["n03", "n01"]
    assert sorted(ids(vector_store.get_nodes(filters=where("row", 9, ">")))) == ["n10", "n11"]
    assert ids(vector_store.get_nodes(["n10", "n03"], where("row", 9, ">"))) == ["n10"]
    vector_store.delete("d0")
    left = [node for node in nodes if node.ref_doc_id != "d0"]
    assert len(left) == 8
    assert sorted(ids(vector_store.get_nodes())) == ids(left)
    vector_store.delete_nodes(["n01", "n02"], where("row", 1))
    vector_store.delete_nodes([])
    assert store.count() == 7
    vector_store.delete_nodes(["n02", "missing"])
    vector_store.delete_nodes(filters=where("row", 9, ">"))
    assert sorted(ids(vector_store.get_nodes())) == ["n04", "n05", "n07", "n08"]
    vector_store.clear()
    assert store.count() == 0
    assert vector_store.add(nodes[:1]) == ["n00"]


def test_filters_reach_the_search(vector_store: M3VectorStore, nodes: list[BaseNode]) -> None:
    vector_store.add(nodes)
    inner = MetadataFilters(
        filters=[
            MetadataFilter(key="a", value=["t0", "t1"], operator=FilterOperator.ANY),
            MetadataFilter(key="row", value=[1], operator=FilterOperator.IN),
        ],
        condition=FilterCondition.OR,
    )
    nope = MetadataFilters(filters=where("z", 0).filters, condition=FilterCondition.NOT)
    both = MetadataFilters(filters=[inner, nope], condition=FilterCondition.AND)
    query = VectorStoreQuery(query_str="Berlin", similarity_top_k=12, filters=both)
    assert sorted(vector_store.query(query).ids or []) == ["n01", "n05", "n09"]
    query.doc_ids = ["d0", "d1"]
    assert sorted(vector_store.query(query).ids or []) == ["n01", "n09"]
    assert vector_store.query(query, where={"row": 9}).ids == ["n09"]
    query.node_ids = ["n01", "n02", "n05"]
    assert vector_store.query(query).ids == ["n01"]


def test_named_nodes_are_scored_exactly(
    vector_store: M3VectorStore, store: Store, encoder: M3Encoder, nodes: list[BaseNode]
) -> None:
    vector_store.add(nodes)
    names = ["n01", "n07", "n11", "n11", "missing"]
    query = VectorStoreQuery(query_str="Berlin", similarity_top_k=12, node_ids=names)
    found = vector_store.query(query)
    everything = {hit.id: hit.score for hit in Retriever(encoder, store).search("Berlin", 12)}
    assert set(found.ids or []) == {"n01", "n07", "n11"}
    assert found.similarities == pytest.approx([everything[name] for name in found.ids or []], abs=1e-4)
    assert found.similarities == sorted(found.similarities or [], reverse=True)


async def test_the_async_twins(vector_store: M3VectorStore, store: Store, nodes: list[BaseNode]) -> None:
    assert await vector_store.async_add(nodes) == ids(nodes)
    query = VectorStoreQuery(query_str="Berlin", similarity_top_k=3)
    assert (await vector_store.aquery(query)).ids == vector_store.query(query).ids
    assert await vector_store.aget_nodes(["n01"]) == [nodes[1]]
    await vector_store.adelete("d0")
    await vector_store.adelete_nodes(["n01"])
    assert store.count() == 7
    await vector_store.aclear()
    assert store.count() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_in_a_query_engine(
    vector_store: M3VectorStore, encoder: M3Encoder, nodes: list[BaseNode], texts: tuple[str, ...], mode: str
) -> None:
    index = VectorStoreIndex(
        nodes, storage_context=context(vector_store), embed_model=vector_store.embed_model
    )
    engine = index.as_query_engine(
        llm=MockLLM(),
        similarity_top_k=4,
        filters=where("z", 1),
        node_postprocessors=[M3Rerank(encoder, top_n=2)],
    )
    question = "Berlin ist die Hauptstadt von Deutschland"
    response = engine.query(question) if mode == "sync" else await engine.aquery(question)
    assert len(response.source_nodes) == 2
    assert all(item.node.metadata["z"] == 1 for item in response.source_nodes)
    assert response.source_nodes[0].node.ref_doc_id is not None
    assert response.source_nodes[0].node.get_content() in str(response)
    assert "_node_content" not in str(response)
    index.delete_ref_doc("d1")
    assert not [node for node in vector_store.get_nodes() if node.ref_doc_id == "d1"]


def test_in_an_ingestion_pipeline(
    memory: M3VectorStore, texts: tuple[str, ...], forwards: Counter[tuple[int, ...]]
) -> None:
    memory.clear()
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=60, chunk_overlap=0), memory.embed_model],
        vector_store=memory,
    )
    made = pipeline.run(documents=[LlamaDocument(text=" ".join(texts))])
    assert sorted(ids(memory.get_nodes())) == sorted(ids(list(made)))
    assert forwards == once(memory.embed_model.encoder, [encoded_text(node) for node in made])


def test_the_last_of_equal_ids_wins(memory: M3VectorStore) -> None:
    memory.clear()
    memory.add([TextNode(id_="n", text=f"number {n}") for n in range(600)])
    assert [node.get_content() for node in memory.get_nodes()] == ["number 599"]


def test_a_cache_too_small_is_only_slower(
    encoder: M3Encoder, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: Counter[str] = Counter()
    real = encoder._encode

    def encode(some: Any, *args: Any, **kwargs: Any) -> M3Vectors:
        encoded.update(some)
        return real(some, *args, **kwargs)

    monkeypatch.setattr(encoder, "_encode", encode)
    embed_model = M3Embedding(encoder, max_bytes=500_000)
    vector_store = M3VectorStore(embed_model, MemoryStore(encoder.schema()))
    made: list[BaseNode] = [TextNode(id_=f"{n:03}", text=f"{n} {texts[n % 12]}") for n in range(600)]
    VectorStoreIndex(made, storage_context=context(vector_store), embed_model=embed_model)
    assert sorted(ids(vector_store.get_nodes())) == ids(made)
    assert encoded.keys() == {node.get_content() for node in made}
    twice = [text for text, count in encoded.items() if count == 2]
    assert 0 < len(twice) < 600
    assert max(encoded.values()) == 2
    # What was embedded last was still held.
    assert made[-1].get_content() not in twice


def test_modes(memory: M3VectorStore) -> None:
    text = "Berlin ist die Hauptstadt von Deutschland"

    def run(mode: str, **options: Any) -> list[tuple[str, float]]:
        query = VectorStoreQuery(
            query_str=text, similarity_top_k=12, mode=VectorStoreQueryMode(mode), **options
        )
        found = memory.query(query)
        return list(zip(found.ids or [], found.similarities or [], strict=True))

    def search(fusion: Any) -> list[tuple[str, Any]]:
        hits = Retriever(memory.embed_model.encoder, memory.client, fusion=fusion).search(text, 12)
        return [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in hits]

    assert run("default") == run("hybrid") == search(None)
    assert run("sparse") == search(WeightedSum(0, 1, 0))
    assert run("hybrid", alpha=0.25) == search(WeightedSum(0.25, 0.75, 0))
    assert run("hybrid", alpha=1.0) == search(WeightedSum(1, 0, 0))
    assert run("hybrid", hybrid_top_k=3, sparse_top_k=500) == search(None)[:3]
    query = VectorStoreQuery(query_str=text, similarity_top_k=12)
    fused = memory.query(query, fusion=ReciprocalRank())
    assert fused.ids == [name for name, _ in search(ReciprocalRank())]
    own = M3VectorStore(memory.embed_model, memory.client, fusion=ReciprocalRank())
    assert own.query(query).ids == fused.ids


def test_maximal_marginal_relevance(memory: M3VectorStore, nodes: list[BaseNode]) -> None:
    copies: list[BaseNode] = [
        TextNode(id_=f"copy{n}", text=nodes[1].get_content(), metadata=nodes[1].metadata) for n in range(5)
    ]
    memory.add(copies)
    query = VectorStoreQuery(
        query_str=nodes[1].get_content(), similarity_top_k=3, mode=VectorStoreQueryMode.MMR
    )
    alike = memory.query(query, mmr_threshold=1.0).ids or []
    assert len(alike) == 3
    assert set(alike) <= {"n01", *ids(copies)}
    query.similarity_top_k = 2
    different = memory.query(query, mmr_threshold=0.1).ids or []
    assert len(different) == 2
    assert len(set(different) & {"n01", *ids(copies)}) == 1
    query.mmr_threshold = 0.1
    assert memory.query(query).ids == different
    assert set(memory.query(query, mmr_prefetch_k=2).ids or []) <= {"n01", *ids(copies)}
    with pytest.raises(InputError, match="mmr_threshold"):
        memory.query(query, mmr_threshold=2.0)


def test_an_embedding_without_its_text(memory: M3VectorStore) -> None:
    embedding = memory.embed_model.get_query_embedding("Berlin")
    found = memory.query(VectorStoreQuery(query_embedding=embedding, similarity_top_k=4))
    dense = Retriever(memory.embed_model.encoder, memory.client, fusion=WeightedSum(1, 0, 0))
    assert found.ids == [hit.id for hit in dense.search("Berlin", 4)]
    with pytest.raises(InputError, match="'sparse' needs query_str"):
        memory.query(VectorStoreQuery(query_embedding=embedding, mode=VectorStoreQueryMode.SPARSE))
    with pytest.raises(DimensionMismatch):
        memory.query(VectorStoreQuery(query_embedding=[1.0, 0.0], query_str="Berlin"))


def test_hypothetical_answers_stand_for_the_dense_vector(memory: M3VectorStore) -> None:
    encoder = memory.embed_model.encoder
    index = VectorStoreIndex.from_vector_store(memory, embed_model=memory.embed_model)
    strings = ["東京は日本の首都であり", "Berlin liegt an der Spree"]
    bundle = QueryBundle("capital", custom_embedding_strs=strings)
    found = index.as_retriever(similarity_top_k=12).retrieve(bundle)
    dense = encoder.encode_queries(strings).dense
    assert dense is not None
    mean = dense.mean(axis=0)
    mean /= np.linalg.norm(mean)
    vectors = encoder.encode_queries(["capital"])
    scores = {
        kind: dict(zip(names, memory.client.score(vectors, kind, [names])[0].tolist(), strict=True))
        for names in [[item.node_id for item in found]]
        for kind in (SPARSE, MULTI)
    }
    for item in found:
        held = memory.client.get([item.node_id], vectors=[DENSE])[0]
        assert held is not None
        assert held.vectors is not None
        assert held.vectors.dense is not None
        expected = mean @ held.vectors.dense[0] + 0.3 * scores[SPARSE][item.node_id]
        assert item.score == pytest.approx(expected + scores[MULTI][item.node_id], abs=1e-5)


def test_embeddings_of_another_model_are_refused(memory: M3VectorStore, nodes: list[BaseNode]) -> None:
    memory.clear()
    with pytest.raises(InputError, match="embed_model of the vector store"):
        VectorStoreIndex(nodes, storage_context=context(memory), embed_model=MockEmbedding(embed_dim=32))
    (right,) = memory.embed_model.get_text_embedding_batch([encoded_text(nodes[0])])
    memory.add([nodes[0].model_copy(update={"embedding": right})])
    with pytest.raises(InputError, match="node 'n01'"):
        memory.add([nodes[1].model_copy(update={"embedding": right})])
    assert memory.client.count() == 1


def test_what_is_refused(memory: M3VectorStore, nodes: list[BaseNode]) -> None:
    with pytest.raises(InputError, match="clear"):
        memory.delete_nodes()
    with pytest.raises(InputError, match="clear"):
        memory.delete_nodes(filters=MetadataFilters(filters=[]))
    with pytest.raises(InputError, match="ref_doc_id"):
        memory.delete(None)  # type: ignore[arg-type]
    assert memory.client.count() == 12
    for mode in ("svm", "text_search", "semantic_hybrid", "linear_regression"):
        with pytest.raises(Unsupported, match="there are default, hybrid, mmr, sparse"):
            memory.query(VectorStoreQuery(query_str="x", mode=VectorStoreQueryMode(mode)))
    with pytest.raises(Unsupported, match="output_fields"):
        memory.query(VectorStoreQuery(query_str="x", output_fields=["a"]))
    with pytest.raises(InputError, match="neither"):
        memory.query(VectorStoreQuery())
    with pytest.raises(InputError, match="alpha"):
        memory.query(VectorStoreQuery(query_str="x", mode=VectorStoreQueryMode.HYBRID, alpha=2.0))
    with pytest.raises(InputError, match="nodes wanted"):
        memory.query(VectorStoreQuery(query_str="x", similarity_top_k=0))
    calls: list[Callable[..., Any]] = [
        lambda **more: memory.add(nodes, **more),
        lambda **more: memory.delete("d0", **more),
        lambda **more: memory.delete_nodes(["n00"], **more),
        lambda **more: memory.query(VectorStoreQuery(query_str="x"), **more),
    ]
    for call in calls:
        with pytest.raises(InputError, match="'colour'"):
            call(colour=1)
    assert memory.client.count() == 12


def test_nodes_may_be_read_once(memory: M3VectorStore) -> None:
    assert memory.add(TextNode(text=name, id_=name) for name in ("new", "newer")) == ["new", "newer"]
    assert ids(memory.get_nodes(["new", "newer"])) == ["new", "newer"]


def test_what_is_no_model(encoder: M3Encoder, memory: M3VectorStore) -> None:
    store = memory.client
    for make in (M3Embedding, M3Rerank):
        with pytest.raises(InputError, match=r"as M3Encoder\.load\(\.\.\.\) returns it, not 'm3-tiny'"):
            make("m3-tiny")
    for wrong in (encoder, store):
        with pytest.raises(InputError, match=r"the embed_model is an M3Embedding\(encoder\), not"):
            M3VectorStore(wrong, store)
    with pytest.raises(
        InputError, match=r"unknown option 'max_text'; there are max_texts, max_bytes, .*num_workers"
    ):
        M3Embedding(encoder, max_text=3)


def test_an_embedding_goes_to_another_process(embed_model: M3Embedding) -> None:
    """A pipeline with several workers pickles its transformations."""
    embed_model.keep([SPARSE, MULTI])
    copied = pickle.loads(pickle.dumps(embed_model))
    assert copied.get_text_embedding("Berlin") == embed_model.get_text_embedding("Berlin")
    assert copied.kept == {DENSE, SPARSE, MULTI}
    assert copied.model_name == embed_model.model_name


def test_stores_that_do_not_fit(embed_model: M3Embedding) -> None:
    schema = embed_model.encoder.schema()
    with pytest.raises(FingerprintMismatch):
        M3VectorStore(embed_model, MemoryStore(Schema(dense=schema.dense, fingerprint="another")))
    with pytest.raises(StoreError, match="multi"):
        M3VectorStore(embed_model, MemoryStore(schema.only([DENSE])), fusion=WeightedSum())


def test_a_channel_the_store_lacks_from_the_text(
    embed_model: M3Embedding, nodes: list[BaseNode], forwards: Counter[tuple[int, ...]]
) -> None:
    schema = embed_model.encoder.schema([DENSE, SPARSE])
    made = M3VectorStore(embed_model, MemoryStore(schema), fusion=WeightedSum(), rescore="encode")
    made.add(nodes)
    assert MULTI not in embed_model.kept
    found = made.query(VectorStoreQuery(query_str="Berlin", similarity_top_k=3))
    assert len(found.ids or []) == 3
    expected = Retriever(embed_model.encoder, made.client, fusion=WeightedSum(), rescore="encode")
    assert found.ids == [hit.id for hit in expected.search("Berlin", 3)]


def test_documents_that_were_never_nodes(memory: M3VectorStore, texts: tuple[str, ...]) -> None:
    memory.clear()
    encoder = memory.embed_model.encoder
    memory.client.upsert([Document("7", texts[1], {"lang": "de"})], encoder.encode_documents([texts[1]]))
    found = memory.query(VectorStoreQuery(query_str="Berlin")).nodes
    assert found == [TextNode(id_="7", text=texts[1], metadata={"lang": "de"})]


def test_index_nodes_are_followed(memory: M3VectorStore) -> None:
    memory.clear()
    target = TextNode(id_="target", text="what is behind it")
    index = VectorStoreIndex(
        objects=[IndexNode(id_="pointer", text="Berlin", index_id="target", obj=target)],
        storage_context=context(memory),
        embed_model=memory.embed_model,
    )
    found: list[NodeWithScore] = index.as_retriever().retrieve("Berlin")
    assert [item.node_id for item in found] == ["target"]


def test_pages_of_a_large_collection(memory: M3VectorStore) -> None:
    made: list[BaseNode] = [TextNode(id_=f"p{n:03}", text=str(n % 7), metadata={"p": n}) for n in range(300)]
    memory.add(made)
    assert sorted(ids(memory.get_nodes(filters=where("p", 0, ">=")))) == ids(made)
