"""LangChain's own standard tests, for every store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from m3_core.compose import SplitStore, UnionStore
from m3_core.encoder import M3Encoder
from m3_core.memory import MemoryStore
from m3_core.store import Schema, Store
from m3_core.types import Document, Representation
from m3_integrations.langchain import M3Embeddings, M3Retriever, M3VectorStore
from m3_integrations.milvus import MilvusStore
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore

DENSE, SPARSE, MULTI = Representation


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


class StoreMaker:
    """One store of the project; a class of standard tests says which."""

    def make_store(self, schema: Schema, folder: Path) -> Store:
        raise NotImplementedError


class Memory(StoreMaker):
    def make_store(self, schema: Schema, folder: Path) -> Store:
        return MemoryStore(schema)


class Qdrant(StoreMaker):
    def make_store(self, schema: Schema, folder: Path) -> Store:
        return QdrantStore.create(":memory:", "pages", schema=schema)


class QdrantEdge(StoreMaker):
    def make_store(self, schema: Schema, folder: Path) -> Store:
        return QdrantEdgeStore.create(folder / "pages", schema=schema)


class Milvus(StoreMaker):
    def make_store(self, schema: Schema, folder: Path) -> Store:
        return MilvusStore.create(f"milvus+file://{folder}/pages", schema=schema.only([DENSE, SPARSE]))


class Split(StoreMaker):
    """The channels in two stores."""

    def make_store(self, schema: Schema, folder: Path) -> Store:
        rest = MemoryStore(schema.only([SPARSE, MULTI]))
        return SplitStore(dense=MemoryStore(schema.only([DENSE])), sparse=rest, multi=rest)


class Union(StoreMaker):
    """The documents in two stores."""

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return UnionStore([MemoryStore(schema), MemoryStore(schema)])


class VectorStoreStandard(StoreMaker, VectorStoreIntegrationTests):
    """LangChain's tests of a vector store. Its fake embeddings have one representation; ours are a model's."""

    @pytest.fixture
    def vectorstore(self, encoder: M3Encoder, tmp_path: Path) -> Iterator[VectorStore]:
        with self.make_store(encoder.schema(), tmp_path) as store:
            yield M3VectorStore(encoder, store)


class RetrieverStandard(StoreMaker, RetrieversIntegrationTests):
    """LangChain's tests of a retriever, over twelve sentences."""

    @pytest.fixture(autouse=True)
    def filled(self, encoder: M3Encoder, texts: tuple[str, ...], tmp_path: Path) -> Iterator[None]:
        with self.make_store(encoder.schema(), tmp_path) as store:
            documents = [Document(str(row), text) for row, text in enumerate(texts)]
            held = store.capabilities.representations
            store.upsert(documents, encoder.encode_documents(texts, representations=held))
            self.params = {"encoder": encoder, "store": store}
            yield

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return M3Retriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return self.params

    @property
    def retriever_query_example(self) -> str:
        return "the capital of Japan"


class TestMemoryVectorStore(Memory, VectorStoreStandard):
    pass


class TestQdrantVectorStore(Qdrant, VectorStoreStandard):
    pass


class TestQdrantEdgeVectorStore(QdrantEdge, VectorStoreStandard):
    pass


class TestMilvusVectorStore(Milvus, VectorStoreStandard):
    pass


class TestSplitVectorStore(Split, VectorStoreStandard):
    pass


class TestUnionVectorStore(Union, VectorStoreStandard):
    pass


class TestMemoryRetriever(Memory, RetrieverStandard):
    pass


class TestQdrantRetriever(Qdrant, RetrieverStandard):
    pass


class TestQdrantEdgeRetriever(QdrantEdge, RetrieverStandard):
    pass


class TestMilvusRetriever(Milvus, RetrieverStandard):
    pass


class TestSplitRetriever(Split, RetrieverStandard):
    pass


class TestUnionRetriever(Union, RetrieverStandard):
    pass


class WithEncoder:
    """The parameters of `M3Embeddings`."""

    @pytest.fixture(autouse=True)
    def own_encoder(self, encoder: M3Encoder) -> None:
        self.encoder = encoder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return M3Embeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"encoder": self.encoder}


class TestEmbeddingsUnit(WithEncoder, EmbeddingsUnitTests):
    pass


class TestEmbeddings(WithEncoder, EmbeddingsIntegrationTests):
    pass
