"""LangChain's own standard tests, for every store."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from elasticsearch import Elasticsearch
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests
from servers.elasticsearch import VARIABLE, Kind, is_complete, url_of

from m3_core.compose import SplitStore, UnionStore
from m3_core.encoder import M3Encoder
from m3_core.memory import MemoryStore
from m3_core.store import Schema, Store
from m3_core.types import Document, Representation
from m3_integrations.elasticsearch import ElasticsearchStore
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


class Nodes(StoreMaker):
    """Elasticsearch nodes, with an index for each channel on the node that can hold it."""

    kinds: ClassVar[dict[Representation, Kind]] = {DENSE: "dense", SPARSE: "lexical"}
    clients: ClassVar[dict[Representation, Elasticsearch]]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def own_clients(cls) -> Iterator[None]:
        cls.clients = {
            channel: Elasticsearch(url_of(kind), request_timeout=120) for channel, kind in cls.kinds.items()
        }
        yield
        for client in cls.clients.values():
            for name in client.indices.get(index="m3-langchain-*"):
                client.indices.delete(index=name)
            client.close()

    def index(self, schema: Schema, folder: Path, *channels: Representation) -> Store:
        """A new index for these channels, on the node of the first."""
        name = f"m3-langchain-{zlib.crc32(str(folder).encode()):08x}-{channels[0].value}"
        return ElasticsearchStore.create(
            self.clients[channels[0]],
            name,
            schema=schema.only(channels),
            dense_index="flat",
            shards=1,
            replicas=0,
        )


class Lexical(Nodes):
    """Lexical weights alone, on 7.17."""

    kinds: ClassVar[dict[Representation, Kind]] = {SPARSE: "lexical"}

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return self.index(schema, folder, SPARSE)


class Dense(Nodes):
    """Dense vectors alone, on 8.19."""

    kinds: ClassVar[dict[Representation, Kind]] = {DENSE: "dense"}

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return self.index(schema, folder, DENSE)


class Apart(Nodes):
    """Dense vectors on 8.19 and lexical weights on 7.17."""

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return SplitStore(dense=self.index(schema, folder, DENSE), sparse=self.index(schema, folder, SPARSE))


class Together(Nodes):
    """Both in one index, on a complete server."""

    def make_store(self, schema: Schema, folder: Path) -> Store:
        return self.index(schema, folder, DENSE, SPARSE)


WANT_THE_UNRELATED = frozenset(
    {
        "test_add_documents",
        "test_add_documents_with_ids_is_idempotent",
        "test_add_documents_by_id_with_mutation",
        "test_deleting_documents",
        "test_deleting_bulk_documents",
    }
)
node = pytest.mark.slow  # it starts in 5 to 10 s
complete = pytest.mark.skipif(not is_complete(), reason=f"no node of the tests holds both; set {VARIABLE}")


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


@node
class TestLexicalVectorStore(Lexical, VectorStoreStandard):
    @pytest.fixture(autouse=True)
    def expect(self, request: pytest.FixtureRequest) -> None:
        if request.node.originalname.removesuffix("_async") in WANT_THE_UNRELATED:
            reason = "a text that shares no token with the query is no hit of lexical weights; this wants it as the last"
            request.applymarker(pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True))


@node
class TestDenseVectorStore(Dense, VectorStoreStandard):
    pass


@node
class TestApartVectorStore(Apart, VectorStoreStandard):
    pass


@node
@complete
class TestTogetherVectorStore(Together, VectorStoreStandard):
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


@node
class TestLexicalRetriever(Lexical, RetrieverStandard):
    pass


@node
class TestDenseRetriever(Dense, RetrieverStandard):
    pass


@node
class TestApartRetriever(Apart, RetrieverStandard):
    pass


@node
@complete
class TestTogetherRetriever(Together, RetrieverStandard):
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
