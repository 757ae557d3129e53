"""Beside `langchain_qdrant` and `langchain_milvus` in hybrid mode, and `langchain_elasticsearch`: the same hits.

They write their collections with the views of `M3Embeddings`; `M3Retriever` searches the very same collections.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch
from langchain_core.documents import Document as LangChainDocument
from langchain_elasticsearch import DenseVectorStrategy
from langchain_elasticsearch import ElasticsearchStore as TheirStore
from langchain_milvus import Milvus
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from qdrant_client import models
from servers.elasticsearch import url_of

from m3_core.encoder import M3Encoder
from m3_core.fusion import ReciprocalRank, WeightedSum
from m3_core.store import Fields
from m3_integrations.elasticsearch import ElasticsearchStore
from m3_integrations.langchain import M3Embeddings, M3Retriever
from m3_integrations.langchain.convert import SCORE
from m3_integrations.milvus import MilvusStore
from m3_integrations.qdrant import QdrantStore

QUERIES = (
    "Die Hauptstadt von Deutschland",
    "the lazy dog near the river",
    "東京は日本の首都",
    "столица России и крупнейший город",
    "la orilla del río Berlin Η Αθήνα",
)


@dataclass
class Page:
    name: str
    text: str
    half: int


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


@pytest.fixture(scope="module")
def pages(texts: tuple[str, ...]) -> list[Page]:
    """The beginning of each sentence with the end of each other: words shared in every way."""
    made = []
    for row, first in enumerate(texts):
        for column, second in enumerate(texts):
            text = first[: len(first) // 2] + " " + second[len(second) // 2 :]
            made.append(Page(str(uuid.uuid5(uuid.NAMESPACE_URL, f"{row}/{column}")), text, row % 2))
    return made


def assert_same_hits(theirs: list[tuple[str, float]], ours: list[LangChainDocument], k: int) -> None:
    """Equal scores place by place, and equal documents; those that tie with the last are interchangeable."""
    assert len(theirs) == len(ours) == k
    mine = [(str(document.id), document.metadata[SCORE]) for document in ours]
    assert [score for _, score in mine] == pytest.approx([score for _, score in theirs], abs=1e-6)
    cut = mine[-1][1] + 1e-6
    assert {name for name, score in mine if score > cut} == {name for name, score in theirs if score > cut}
    known = dict(theirs)
    for name, score in mine:
        if name in known:
            assert score == pytest.approx(known[name], abs=1e-6)


@pytest.fixture(scope="module")
def qdrant(encoder: M3Encoder, pages: list[Page]) -> QdrantVectorStore:
    embeddings = M3Embeddings(encoder)
    return QdrantVectorStore.from_texts(
        [page.text for page in pages],
        embeddings.dense,
        [{"half": page.half} for page in pages],
        [page.name for page in pages],
        collection_name="theirs",
        location=":memory:",
        retrieval_mode=RetrievalMode.HYBRID,
        vector_name="dense",
        sparse_embedding=embeddings.qdrant_sparse,
        sparse_vector_name="sparse",
    )


@pytest.mark.parametrize("k", [3, 10, 40])
@pytest.mark.parametrize("base", [2, 61])
@pytest.mark.parametrize("filtered", [False, True])
def test_qdrant(qdrant: QdrantVectorStore, encoder: M3Encoder, k: int, base: int, filtered: bool) -> None:
    """Qdrant counts ranks from 0, so that its k is one more than the textbook's; its candidates are its k."""
    fields = Fields(multi=None, text="page_content", id=None)
    store = QdrantStore.open(qdrant.client, "theirs", fields=fields)
    ours = M3Retriever(
        encoder=encoder,
        store=store,
        k=k,
        candidates=k,
        fusion=ReciprocalRank(k=base - 1, multi=0.0),
        where={"half": 1} if filtered else None,
    )
    condition = models.FieldCondition(key="metadata.half", match=models.MatchValue(value=1))
    # Their own default is a plain FusionQuery, whose k is 2.
    fusion = None if base == 2 else models.RrfQuery(rrf=models.Rrf(k=base))
    for query in QUERIES:
        theirs = qdrant.similarity_search_with_score(
            query,
            k,
            filter=models.Filter(must=[condition]) if filtered else None,
            hybrid_fusion=fusion,  # type: ignore[arg-type]
        )
        found = [(document.metadata["_id"], score) for document, score in theirs]
        assert_same_hits(found, ours.invoke(query), k)


@pytest.fixture(scope="module")
def milvus(
    encoder: M3Encoder, pages: list[Page], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Milvus, MilvusStore]]:
    embeddings = M3Embeddings(encoder)
    file = tmp_path_factory.mktemp("milvus") / "theirs.db"
    # Their defaults drop the lightest fifth of the lexical weights; Milvus Lite does not know this setting.
    made = Milvus(
        [embeddings.dense, embeddings.milvus_sparse],
        connection_args={"uri": str(file)},
        collection_name="theirs",
        vector_field=["dense", "sparse"],
        index_params=[
            {"index_type": "FLAT", "metric_type": "IP"},
            {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
        ],
        search_params=[{"metric_type": "IP"}, {"metric_type": "IP"}],
        consistency_level="Strong",
    )
    made.add_texts(
        [page.text for page in pages],
        [{"half": page.half} for page in pages],
        ids=[page.name for page in pages],
    )
    # Closing ours ends the Milvus Lite of this process, which theirs needs: so one store for all tests.
    fields = Fields(multi=None, id=None, metadata="")
    with MilvusStore.open(f"milvus+file://{file}/theirs", fields=fields) as store:
        yield made, store


@pytest.mark.filterwarnings("ignore:The 'ranker_type'")  # what they offer instead needs a server
@pytest.mark.parametrize("k", [3, 10])
@pytest.mark.parametrize("candidates", [10, 40])
@pytest.mark.parametrize("filtered", [False, True])
def test_milvus(
    milvus: tuple[Milvus, MilvusStore], encoder: M3Encoder, k: int, candidates: int, filtered: bool
) -> None:
    theirs, store = milvus
    ours = M3Retriever(
        encoder=encoder,
        store=store,
        k=k,
        candidates=candidates,
        fusion=ReciprocalRank(k=60, multi=0.0),
        where={"half": 1} if filtered else None,
    )
    for query in QUERIES:
        found = theirs.similarity_search_with_score(
            query,
            k,
            expr="half == 1" if filtered else None,
            fetch_k=candidates,
            ranker_type="rrf",
            ranker_params={"k": 60},
        )
        named = [(document.metadata["pk"], score) for document, score in found]
        assert_same_hits(named, ours.invoke(query), k)


@pytest.mark.slow
@pytest.mark.parametrize("filtered", [False, True])
def test_elasticsearch(encoder: M3Encoder, pages: list[Page], filtered: bool) -> None:
    """Their dense vectors, searched in the index they made: theirs is the engine's score, (1 + the cosine) / 2."""
    index = f"theirs-{uuid.uuid4().hex}"
    with Elasticsearch(url_of("dense")) as client:
        theirs = TheirStore(
            index, embedding=M3Embeddings(encoder).dense, client=client, strategy=DenseVectorStrategy()
        )
        theirs.add_texts(
            [page.text for page in pages],
            [{"half": page.half} for page in pages],
            ids=[page.name for page in pages],
        )
        fields = Fields(dense="vector", sparse=None, multi=None, id=None)
        try:
            store = ElasticsearchStore.open(client, index, fields=fields)
            where = {"half": 1} if filtered else None
            ours = M3Retriever(
                encoder=encoder, store=store, k=10, fusion=WeightedSum.only("dense"), where=where
            )
            condition = [{"term": {"metadata.half": 1}}] if filtered else []
            for query in QUERIES:
                found = theirs.similarity_search_with_score(
                    query, 10, filter=condition, num_candidates=len(pages)
                )
                named = [(document.page_content, 2 * score - 1) for document, score in found]
                mine = [(document.page_content, document.metadata[SCORE]) for document in ours.invoke(query)]
                assert [score for _, score in mine] == pytest.approx([score for _, score in named], abs=1e-3)
                clear = [text for text, score in named if score > named[-1][1] + 1e-3]
                assert set(clear) <= {text for text, _ in mine}
        finally:
            client.indices.delete(index=index)
