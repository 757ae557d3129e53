"""`M3Embeddings`: three views, and each text through the model once."""

import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.vectorstores import VectorStore
from langchain_milvus import Milvus
from langchain_qdrant import QdrantVectorStore, RetrievalMode

from m3_core.encoder import M3Encoder
from m3_core.errors import InputError, MissingExtra, RepresentationMissing
from m3_core.types import M3Vectors
from m3_integrations.langchain import M3Embeddings


class Forwards:
    """Which texts, by their tokens, went through the model since the last look; seen by the model itself."""

    def __init__(self, encoder: M3Encoder) -> None:
        self.encoder = encoder
        self.seen: Counter[tuple[int, ...]] = Counter()
        self.hook = encoder.model.register_forward_pre_hook(self._count)

    def _count(self, model: Any, arguments: tuple[Any, ...]) -> None:
        batch = arguments[0]
        tokens = batch.ids.tolist()
        start = 0
        for length in batch.lengths:
            self.seen[tuple(tokens[start : start + length])] += 1
            start += length

    def take(self) -> Counter[tuple[int, ...]]:
        seen, self.seen = self.seen, Counter()
        return seen

    def once(self, *texts: str) -> Counter[tuple[int, ...]]:
        """What `take` gives if each of these distinct texts went through once."""
        tokens, _ = self.encoder.tokenizer.encode(list(dict.fromkeys(texts)), self.encoder.max_length)
        return Counter(tuple(map(int, row)) for row in tokens)


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


@pytest.fixture
def forwards(loaded: M3Encoder) -> Iterator[Forwards]:
    counter = Forwards(loaded)
    yield counter
    counter.hook.remove()


@pytest.fixture
def encoder(forwards: Forwards) -> M3Encoder:
    return forwards.encoder


@pytest.fixture(scope="module")
def vectors(loaded: M3Encoder, texts: tuple[str, ...]) -> M3Vectors:
    return loaded.encode_documents(texts)


def test_the_views_give_the_models_vectors(
    encoder: M3Encoder, vectors: M3Vectors, texts: tuple[str, ...]
) -> None:
    embeddings = M3Embeddings(encoder)
    dense = embeddings.dense.embed_documents(list(texts))
    assert vectors.dense is not None
    assert np.abs(np.array(dense) - vectors.dense).max() < 1e-6
    assert all(type(number) is float for row in dense for number in row)
    assert dense == embeddings.embed_documents(list(texts))
    qdrant = embeddings.qdrant_sparse.embed_documents(list(texts))
    milvus = embeddings.milvus_sparse.embed_documents(list(texts))
    for row, text in enumerate(texts):
        tokens, weights = vectors.sparse_row(row)
        assert len(tokens)
        assert qdrant[row].indices == tokens.tolist()
        assert qdrant[row].values == pytest.approx(weights.tolist(), abs=1e-6)
        assert milvus[row] == dict(zip(qdrant[row].indices, qdrant[row].values, strict=True))
        assert embeddings.dense.embed_query(text) == dense[row]
        assert embeddings.qdrant_sparse.embed_query(text) == qdrant[row]
        assert embeddings.milvus_sparse.embed_query(text) == milvus[row]


async def test_the_async_twins(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    embeddings = M3Embeddings(encoder)
    views: list[Any] = [embeddings.dense, embeddings.qdrant_sparse, embeddings.milvus_sparse]
    for view in views:
        assert await view.aembed_documents(list(texts)) == view.embed_documents(list(texts))
        assert await view.aembed_query(texts[0]) == view.embed_query(texts[0])


def test_each_text_goes_through_the_model_once(
    encoder: M3Encoder, forwards: Forwards, texts: tuple[str, ...]
) -> None:
    embeddings = M3Embeddings(encoder)
    views: list[Any] = [embeddings.dense, embeddings.qdrant_sparse, embeddings.milvus_sparse]
    for view in views:
        view.embed_documents([*texts, *texts])
        view.embed_query(texts[3])
    assert forwards.take() == forwards.once(*texts)
    views[0].embed_documents(["another", texts[0]])
    assert forwards.take() == forwards.once("another")
    assert views[1].embed_documents([]) == []
    assert not forwards.take()


def test_once_from_several_threads(encoder: M3Encoder, forwards: Forwards, texts: tuple[str, ...]) -> None:
    embeddings = M3Embeddings(encoder)
    views: list[Any] = [embeddings.dense, embeddings.qdrant_sparse, embeddings.milvus_sparse] * 4
    with ThreadPoolExecutor(len(views)) as pool:
        # Overlapping parts, so that calls wait for what other calls encode.
        starts = [place % 6 for place in range(len(views))]
        answers = list(pool.map(lambda view, start: view.embed_documents(list(texts[start:])), views, starts))
    assert forwards.take() == forwards.once(*texts)
    for view, start, answer in zip(views, starts, answers, strict=True):
        assert answer == view.embed_documents(list(texts[start:]))


def test_the_cache_holds_a_whole_call(encoder: M3Encoder, forwards: Forwards, texts: tuple[str, ...]) -> None:
    embeddings = M3Embeddings(encoder, max_texts=1)
    embeddings.dense.embed_documents(list(texts))
    embeddings.dense.embed_query("somebody else's query")
    embeddings.milvus_sparse.embed_documents(list(texts))
    assert forwards.take() == forwards.once(*texts, "somebody else's query")


def test_the_cache_forgets_what_was_not_used_for_longest(encoder: M3Encoder, forwards: Forwards) -> None:
    embeddings = M3Embeddings(encoder, max_texts=2)
    for text in ("one", "two", "three", "one", "four"):  # holds two, and the one of the largest call
        embeddings.embed_query(text)
    forwards.take()
    for text in ("one", "three", "four"):
        embeddings.embed_query(text)
    assert not forwards.take()
    embeddings.embed_query("two")
    assert forwards.take() == forwards.once("two")
    embeddings.clear()
    embeddings.embed_query("two")
    assert forwards.take() == forwards.once("two")


def test_the_cache_stays_below_its_bytes(
    encoder: M3Encoder, forwards: Forwards, texts: tuple[str, ...]
) -> None:
    embeddings = M3Embeddings(encoder, max_bytes=0)
    dense = embeddings.dense.embed_documents(list(texts))
    assert len(embeddings.qdrant_sparse.embed_documents(list(texts))) == len(dense) == len(texts)
    twice = forwards.once(*texts) + forwards.once(*texts)
    assert forwards.take() == twice


def test_a_failed_call_leaves_nothing_behind(encoder: M3Encoder, forwards: Forwards) -> None:
    embeddings = M3Embeddings(encoder)
    with pytest.raises(InputError, match="the text at index 1 is int, not a string"):
        embeddings.embed_documents(["good", 7])  # type: ignore[list-item]
    with pytest.raises(InputError, match="a list of texts, not one str"):
        embeddings.embed_documents("good")  # type: ignore[arg-type]

    def fail(*_: object) -> None:
        raise MemoryError("no memory")

    with encoder.model.register_forward_pre_hook(fail), pytest.raises(MemoryError):
        embeddings.embed_documents(["good"])
    forwards.take()
    assert len(embeddings.embed_documents(["good"])) == 1
    assert forwards.take() == forwards.once("good")


def test_a_text_without_words(encoder: M3Encoder) -> None:
    embeddings = M3Embeddings(encoder)
    assert len(embeddings.embed_query("")) == 32
    assert embeddings.qdrant_sparse.embed_query("").indices == []
    (token,) = embeddings.milvus_sparse.embed_query("")
    assert token >= encoder.model.config.vocab_size


def test_a_model_without_lexical_weights(tiny_model_folder: Path) -> None:
    encoder = M3Encoder.load(tiny_model_folder, device="cpu")
    encoder.model.sparse_linear = None
    embeddings = M3Embeddings(encoder)
    assert len(embeddings.embed_query("one")) == 32
    for view in ("qdrant_sparse", "milvus_sparse"):
        with pytest.raises(RepresentationMissing, match="sparse"):
            getattr(embeddings, view)


def test_a_copy_for_another_process(loaded: M3Encoder, texts: tuple[str, ...]) -> None:
    embeddings = M3Embeddings(loaded)
    wanted = embeddings.embed_documents(list(texts))
    assert pickle.loads(pickle.dumps(embeddings)).embed_documents(list(texts)) == wanted


def test_texts_may_be_read_once(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    embeddings = M3Embeddings(encoder)
    wanted = embeddings.embed_documents(list(texts))
    assert embeddings.embed_documents(text for text in texts) == wanted  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give a list of texts, not NoneType"):
        embeddings.embed_documents(None)  # type: ignore[arg-type]


def test_what_is_no_encoder() -> None:
    with pytest.raises(InputError, match=r"as M3Encoder\.load\(\.\.\.\) returns it, not 'm3-tiny'"):
        M3Embeddings("m3-tiny")  # type: ignore[arg-type]


def test_wrong_size(encoder: M3Encoder) -> None:
    with pytest.raises(InputError, match="max_texts must be at least 0, not -1"):
        M3Embeddings(encoder, max_texts=-1)


def in_qdrant(embeddings: M3Embeddings, texts: list[str], folder: Path) -> VectorStore:
    return QdrantVectorStore.from_texts(
        texts,
        embeddings.dense,
        location=":memory:",
        retrieval_mode=RetrievalMode.HYBRID,
        sparse_embedding=embeddings.qdrant_sparse,
        batch_size=5,
    )


def in_milvus(embeddings: M3Embeddings, texts: list[str], folder: Path) -> VectorStore:
    made = Milvus(
        [embeddings.dense, embeddings.milvus_sparse],
        connection_args={"uri": str(folder / "theirs.db")},
        vector_field=["dense", "sparse"],
        index_params=[
            {"index_type": "FLAT", "metric_type": "IP"},
            {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
        ],
        search_params=[{"metric_type": "IP"}, {"metric_type": "IP"}],
    )
    made.add_texts(texts, ids=[str(row) for row in range(len(texts))])
    return made


@pytest.mark.filterwarnings("ignore:The 'ranker_type'")  # their own default is what they warn of
@pytest.mark.parametrize("fill", [in_qdrant, in_milvus])
def test_once_in_the_official_stores(
    encoder: M3Encoder,
    forwards: Forwards,
    texts: tuple[str, ...],
    fill: Callable[[M3Embeddings, list[str], Path], VectorStore],
    tmp_path: Path,
) -> None:
    """They embed every text twice, dense and sparse; `langchain_qdrant` asks for its own probe text besides."""
    embeddings = M3Embeddings(encoder, max_texts=0)
    everything = [*texts, "...", ""]  # two have no words
    store = fill(embeddings, everything, tmp_path)
    probe = ["dummy_text"] if fill is in_qdrant else []
    assert forwards.take() == forwards.once(*everything, *probe)
    assert len(store.similarity_search("the query", k=3)) == 3
    assert forwards.take() == forwards.once("the query")


@pytest.mark.parametrize(
    ("package", "view"), [("langchain_qdrant", "qdrant_sparse"), ("langchain_milvus", "milvus_sparse")]
)
def test_without_the_package_the_pip_line_is_shown(
    package: str, view: str, encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"m3_integrations.langchain.{view}", raising=False)
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(MissingExtra, match=f"{package}.* pip install {package.replace('_', '-')}$"):
        getattr(M3Embeddings(encoder), view)


def test_without_langchain_the_pip_line_is_shown() -> None:
    code = """
import sys
sys.modules["langchain_core"] = None
try:
    import m3_integrations.langchain
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'm3-retrieval[langchain]'" in done.stdout
