"""Qdrant: collections of others, what is made and how, folders and locks, a server's errors."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient, models

from m3_core.errors import (
    DimensionMismatch,
    FingerprintMismatch,
    InputError,
    M3Error,
    SchemaMismatch,
    StoreError,
    StoreLocked,
    StoreNotFound,
    StoreUnavailable,
)
from m3_core.memory import MemoryStore
from m3_core.store import Fields, Schema, open_store
from m3_core.testing import corpus
from m3_core.testing.base import scan_ids
from m3_core.types import Document, M3Vectors, Ragged, Representation
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore
from m3_integrations.qdrant.base import QdrantBase

DENSE, SPARSE, MULTI = Representation
SCHEMA = Schema(dense=32, sparse=500, multi=16, fingerprint="ours")


def make(kind: str, folder: Path, **options: Any) -> QdrantBase:
    """A new store of either engine."""
    if kind == "edge":
        return QdrantEdgeStore.create(folder / "store", schema=SCHEMA, **options)
    return QdrantStore.create(":memory:", "store", schema=SCHEMA, **options)


both = pytest.mark.parametrize("kind", ["edge", "memory"])


class TestOthersCollections:
    """Collections that this library did not make."""

    @pytest.fixture
    def client(self) -> Iterator[QdrantClient]:
        client = QdrantClient(":memory:")
        yield client
        client.close()

    def test_one_unnamed_vector_and_ids_of_the_engine(self, client: QdrantClient) -> None:
        """What many programs write: text and metadata in the payload, points with integers or random UUIDs."""
        vectors = corpus.vectors(Schema(dense=32), 4)
        assert vectors.dense is not None
        client.create_collection("theirs", models.VectorParams(size=32, distance=models.Distance.COSINE))
        names: list[int | str] = [7, 18446744073709551615, "550e8400-e29b-41d4-a716-446655440000", 0]
        client.upsert(
            "theirs",
            [
                models.PointStruct(
                    id=name,
                    vector=row.tolist(),
                    payload={"page_content": f"text {name}", "metadata": {"n": place}},
                )
                for place, (name, row) in enumerate(zip(names, vectors.dense, strict=True))
            ],
        )
        with pytest.raises(SchemaMismatch, match=r"no vector named dense.*'' \(32 dimensions"):
            QdrantStore.open(client, "theirs")
        with pytest.raises(SchemaMismatch, match=r"Fields\(id=None\)"):
            QdrantStore.open(client, "theirs", fields={"dense": ""})
        fields = Fields(dense="", sparse=None, multi=None, text="page_content", id=None)
        with QdrantStore.open(client, "theirs", fields=fields) as store:
            assert store.fingerprint is None
            assert store.identity == "qdrant://:memory:/theirs"
            assert sorted(scan_ids(store)) == sorted(map(str, names))
            record = store.get(["7"], vectors=[DENSE])[0]
            assert record is not None
            assert record.document == Document("7", "text 7", {"n": 0})
            assert record.vectors is not None
            assert record.vectors.dense is not None
            np.testing.assert_allclose(record.vectors.dense[0], vectors.dense[0], atol=1e-6)
            hits = store.search(vectors.take([2]), {DENSE: 2}, where={"n": {"$gte": 1}})[DENSE][0]
            assert hits[0].id == names[2]
            assert hits[0].score == pytest.approx(1.0, abs=1e-5)
            assert store.score(vectors.take([1]), DENSE, [["7", "no id", "8"]])[0][
                1:
            ].tolist() == pytest.approx([np.nan] * 2, nan_ok=True)
            store.upsert([Document("12", "new", {"n": 12})], corpus.vectors(Schema(dense=32), 1, seed=9))
            store.update_vectors(["12"], vectors.take([3]))
            store.delete(["7", "not there"])
            assert store.count() == 4
            with pytest.raises(InputError, match="unsigned integer or a UUID"):
                store.upsert([Document("doc-1")], vectors.take([0]))
        assert client.retrieve("theirs", [12], with_payload=True)[0].payload == {
            "page_content": "new",
            "metadata": {"n": 12},
        }

    def test_names_of_vectors(self, client: QdrantClient) -> None:
        client.create_collection(
            "theirs",
            {
                "text-dense": models.VectorParams(size=32, distance=models.Distance.DOT),
                "colbert": models.VectorParams(
                    size=16,
                    distance=models.Distance.COSINE,
                    multivector_config=models.MultiVectorConfig(
                        comparator=models.MultiVectorComparator.MAX_SIM
                    ),
                ),
            },
            sparse_vectors_config={"text-sparse": models.SparseVectorParams()},
        )
        fields = Fields(dense="text-dense", sparse="text-sparse", multi="colbert", metadata="")
        with QdrantStore.open(client, "theirs", fields=fields, schema=SCHEMA) as store:
            documents, vectors = corpus.documents(30), corpus.vectors(SCHEMA, 30)
            plain = [
                Document(document.id, document.text, {"n": row}) for row, document in enumerate(documents)
            ]
            store.upsert(plain, vectors)
            reference = MemoryStore(SCHEMA)
            reference.upsert(plain, vectors)
            k = dict.fromkeys(Representation, 5)
            found, expected = (
                other.search(vectors.take([3]), k, where={"n": {"$gt": 2}}) for other in (store, reference)
            )
            for kind in Representation:
                assert [hit.id for hit in found[kind][0]] == [hit.id for hit in expected[kind][0]]
                for hit, other in zip(found[kind][0], expected[kind][0], strict=True):
                    assert hit.score == pytest.approx(other.score, abs=1e-5)
                    assert hit.document == other.document

    @pytest.mark.parametrize(
        ("config", "sparse", "error", "expected"),
        [
            ({"dense": (33, "Dot")}, {}, DimensionMismatch, "33 dimensions"),
            ({"dense": (32, "Euclid")}, {}, SchemaMismatch, "compares by euclid"),
            ({"dense": (32, "Dot")}, {"sparse": True}, SchemaMismatch, "IDF"),
            ({"dense": (32, "Dot")}, {}, SchemaMismatch, "no sparse index named 'sparse'"),
        ],
    )
    def test_what_does_not_fit_is_said_before_any_write(
        self, client: QdrantClient, config: Any, sparse: Any, error: type[M3Error], expected: str
    ) -> None:
        client.create_collection(
            "theirs",
            {
                name: models.VectorParams(size=size, distance=models.Distance(kind))
                for name, (size, kind) in config.items()
            },
            sparse_vectors_config={
                name: models.SparseVectorParams(modifier=models.Modifier.IDF) for name in sparse
            },
        )
        names = Fields(multi=None) if "sparse" in expected or sparse else Fields(sparse=None, multi=None)
        schema = SCHEMA.only([DENSE, SPARSE] if names.sparse else [DENSE])
        with pytest.raises(error, match=expected):
            QdrantStore.open(client, "theirs", fields=names, schema=schema)

    def test_check_lists_problems_of_an_open_store(self, client: QdrantClient) -> None:
        client.create_collection(
            "theirs", {"dense": models.VectorParams(size=32, distance=models.Distance.DOT)}
        )
        with QdrantStore.open(client, "theirs") as store:
            assert [problem.what[:24] for problem in store.check(SCHEMA)] == [
                "there is no vector for s",
                "there is no vector for m",
            ]
            assert store.check(SCHEMA.only([DENSE])) == []
            client.upsert(
                "theirs", [models.PointStruct(id=3, vector={"dense": [1.0] * 32}, payload={"id": "x"})]
            )
            (problem,) = store.check(SCHEMA.only([DENSE]))
            assert "Fields(id=None)" in problem.remedy
        with pytest.raises(SchemaMismatch, match="no vector for sparse"):
            QdrantStore.open(client, "theirs", schema=SCHEMA)

    def test_a_shard_of_others(self, tmp_path: Path) -> None:
        config = edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(size=32, distance=edge.Distance.Cosine)}
        )
        shard = edge.EdgeShard.create(str(tmp_path / "theirs"), config)
        shard.update(
            edge.UpdateOperation.upsert_points([edge.Point(5, {"dense": [1.0] * 32}, {"text": "five"})])
        )
        shard.close()
        with pytest.raises(SchemaMismatch, match=r"Fields\(id=None\)"):
            QdrantEdgeStore.open(tmp_path / "theirs")
        with QdrantEdgeStore.open(tmp_path / "theirs", fields={"id": None}) as store:
            assert store.identity == f"qdrant+file://{tmp_path / 'theirs'}"
            assert not store.capabilities.exact, "vectors have a graph by default"
            assert store.get(["5"])[0] is not None
        with QdrantEdgeStore.open(tmp_path / "theirs", fields={"id": None}, exact=True) as store:
            assert store.capabilities.exact


class TestMaking:
    """What collections are made like."""

    @both
    def test_names_are_remembered(self, tmp_path: Path, kind: str) -> None:
        own = Fields(dense="d", sparse="s", multi="m", text="body", id="key", metadata="facts")
        store = make(kind, tmp_path, fields=own)
        store.upsert([Document("a", "text", {"n": 1})], corpus.vectors(SCHEMA, 1))
        if isinstance(store, QdrantEdgeStore):
            store.close()
            again: QdrantBase = QdrantEdgeStore.open(tmp_path / "store")
        else:
            again = QdrantStore.open(store._engine._client, "store")  # type: ignore[attr-defined]
        with again:
            assert again.fields == own
            assert scan_ids(again, where={"n": 1}) == ["a"]
            assert again.scan().records[0].document == Document("a", "text", {"n": 1})

    @both
    def test_channels_left_out(self, tmp_path: Path, kind: str) -> None:
        with make(kind, tmp_path, fields=Fields(multi=None)) as store:
            assert store.capabilities.representations == {DENSE, SPARSE}
            assert store.check(SCHEMA) == []
            store.upsert([Document("a")], corpus.vectors(SCHEMA, 1))
            assert store.count() == 1

    def test_half_precision_stays_within_its_tolerance(self, tmp_path: Path) -> None:
        schema = Schema(dense=384, sparse=500, multi=128)
        documents, vectors = corpus.documents(100), corpus.vectors(schema, 100)
        reference = MemoryStore(schema)
        reference.upsert(documents, vectors)
        queries = corpus.vectors(schema, 5, seed=1)
        ids = [[document.id for document in documents]] * 5
        with QdrantEdgeStore.create(tmp_path / "half", schema=schema, datatype="float16") as store:
            store.upsert(documents, vectors)
            tolerance = store.capabilities.score_tolerance
            assert tolerance == 1e-3
            for kind in Representation:
                found, expected = (np.array(other.score(queries, kind, ids)) for other in (store, reference))
                assert np.abs(found - expected).max() < tolerance
                if kind is not SPARSE:
                    assert np.abs(found - expected).max() > 1e-7, "nothing was rounded"

    @pytest.mark.parametrize("quantization", ["int8", "binary"])
    def test_quantized_searches_are_approximate_unless_told(self, tmp_path: Path, quantization: str) -> None:
        documents, vectors = corpus.documents(300), corpus.vectors(SCHEMA, 300)
        queries = corpus.vectors(SCHEMA, 5, seed=1)
        reference = MemoryStore(SCHEMA)
        reference.upsert(documents, vectors)
        ids = [[document.id for document in documents]] * 5
        with QdrantEdgeStore.create(tmp_path / "store", schema=SCHEMA, quantization=quantization) as store:
            store.upsert(documents, vectors)
            store.optimize()
            assert not store.capabilities.exact
            for hit in store.search(queries, {DENSE: 10})[DENSE][0]:
                (score,) = reference.score(queries.take([0]), DENSE, [[hit.id]])[0]
                assert hit.score == pytest.approx(score, abs=1e-5), "the hits are scored by the full vectors"
            for kind in Representation:
                np.testing.assert_allclose(
                    store.score(queries, kind, ids), reference.score(queries, kind, ids), atol=1e-5
                )
        with QdrantEdgeStore.open(tmp_path / "store", exact=True) as store:
            assert store.capabilities.exact
            k = dict.fromkeys(Representation, 10)
            for kind, found in store.search(queries, k).items():
                for hits, expected in zip(found, reference.search(queries, k)[kind], strict=True):
                    assert [hit.id for hit in hits] == [hit.id for hit in expected]

    def test_a_graph_on_request(self, tmp_path: Path) -> None:
        graph = edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000)
        with QdrantEdgeStore.create(tmp_path / "graph", schema=SCHEMA, hnsw=graph) as store:
            assert not store.capabilities.exact
        with QdrantEdgeStore.create(tmp_path / "forced", schema=SCHEMA, hnsw=graph, exact=True) as store:
            assert store.capabilities.exact

    def test_flags_reach_the_engine(self, tmp_path: Path) -> None:
        QdrantEdgeStore.create(
            tmp_path / "s", schema=SCHEMA, on_disk=True, quantization="int8", datatype="float16"
        ).close()
        config = json.loads((tmp_path / "s" / "edge_config.json").read_text())
        for name in ("dense", "multi"):
            assert config["vectors"][name]["datatype"] == "float16"
            assert config["vectors"][name]["on_disk"] is True
            assert config["vectors"][name]["quantization_config"]
            assert config["vectors"][name]["hnsw_config"]["m"] == 0
        client = QdrantClient(":memory:")
        hnsw = models.HnswConfigDiff(m=32)
        QdrantStore.create(
            client, "s", schema=SCHEMA, on_disk=True, quantization="binary", datatype="float16", hnsw=hnsw
        )
        params = client.get_collection("s").config.params
        assert isinstance(params.vectors, dict)
        dense, multi = params.vectors["dense"], params.vectors["multi"]
        for info in (dense, multi):
            assert info.datatype == models.Datatype.FLOAT16
            assert info.on_disk is True
            assert isinstance(info.quantization_config, models.BinaryQuantization)
        assert dense.hnsw_config == hnsw
        assert multi.hnsw_config == models.HnswConfigDiff(m=0)
        client.close()

    @both
    @pytest.mark.parametrize(
        "options", [{"datatype": "uint8"}, {"quantization": "int3"}, {"payload_indexes": {"year": "integer"}}]
    )
    def test_bad_options_make_nothing(self, tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
        with pytest.raises(
            InputError, match=str(next(iter(options.values()))).strip("{}").split(":")[-1].strip()
        ):
            make(kind, tmp_path, **options)
        assert not (tmp_path / "store").exists()

    def test_payload_indexes_are_made(self, tmp_path: Path) -> None:
        indexes = {"lang": "keyword", "year": "float", "flag": "bool"}
        with QdrantEdgeStore.create(tmp_path / "store", schema=SCHEMA, payload_indexes=indexes) as store:
            store.upsert(
                [Document("a", "", {"lang": "ja", "year": 2020, "flag": True})], corpus.vectors(SCHEMA, 1)
            )
            held = store._engine._shard.info().payload_schema  # type: ignore[attr-defined]
            assert {name: info.points for name, info in held.items()} == dict.fromkeys(
                ("metadata.lang", "metadata.year", "metadata.flag"), 1
            )

    @both
    def test_making_it_twice_is_refused(self, tmp_path: Path, kind: str) -> None:
        with make(kind, tmp_path) as store:
            client = getattr(store._engine, "_client", None)
            with pytest.raises(StoreError, match="already"):
                _ = QdrantStore.create(client, "store", schema=SCHEMA) if client else make(kind, tmp_path)

    def test_a_collection_made_again_is_another_one(self, tmp_path: Path) -> None:
        identities = set()
        for _ in range(2):
            with make("edge", tmp_path) as store:
                identities.add(store.identity)
            for path in sorted((tmp_path / "store").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        assert len(identities) == 2

    def test_multi_vectors_beyond_the_servers_limit(self) -> None:
        schema = Schema(dense=4, multi=1024)
        long = Ragged.from_rows(
            [np.full((size, 1024), 0.5, np.float32) for size in (1023, 1024)], dimension=1024
        )
        vectors = M3Vectors(dense=np.ones((2, 4), np.float32), multi=long)
        documents = [Document("short"), Document("long")]
        with QdrantStore.create(":memory:", "c", schema=schema) as store:
            with pytest.raises(InputError, match="'long' has 1024"):
                store.upsert(documents, vectors)
            assert store.count() == 0
        with QdrantStore.create(":memory:", "c", schema=schema, long_multi="cut") as store:
            with pytest.warns(UserWarning, match="the first 1023 are kept"):
                store.upsert(documents, vectors)
            for record in store.get(["short", "long"], vectors=[MULTI]):
                assert record is not None
                assert record.vectors is not None
                assert record.vectors.multi is not None
                assert len(record.vectors.multi[0]) == 1023
        with pytest.raises(InputError, match="long_multi"):
            QdrantStore.create(":memory:", "c", schema=schema, long_multi="trim")  # type: ignore[arg-type]

    def test_embedded_multi_vectors_have_no_limit(self, tmp_path: Path) -> None:
        schema = Schema(multi=64)
        multi = Ragged.from_rows(
            [np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)], dimension=64
        )
        with QdrantEdgeStore.create(tmp_path / "store", schema=schema) as store:
            store.upsert([Document("long")], M3Vectors(multi=multi))
            record = store.get(["long"], vectors=[MULTI])[0]
            assert record is not None
            assert record.vectors is not None
            assert record.vectors.multi is not None
            np.testing.assert_array_equal(record.vectors.multi[0], multi[0])

    def test_vectors_taken_away(self, tmp_path: Path) -> None:
        """An update with an empty multi-vector leaves none."""
        vectors = corpus.vectors(SCHEMA, 2)
        with make("edge", tmp_path) as store:
            store.upsert([Document("a"), Document("b")], vectors)
            assert vectors.multi is not None
            none = Ragged.from_rows([np.zeros((0, 16), np.float32), vectors.multi[0]], dimension=16)
            store.update_vectors(["a", "b"], M3Vectors(multi=none))
            scores = store.score(vectors.take([0]), MULTI, [["a", "b"]])[0]
            assert np.isnan(scores[0])
            assert scores[1] == pytest.approx(1.0, abs=1e-5)


class TestUrls:
    def test_embedded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StoreNotFound, match="no Qdrant collection in index/pages"):
            open_store("qdrant+file://index/pages")
        with open_store(
            "qdrant+file://index/pages?payload_indexes=lang:keyword&multi=none", schema=SCHEMA
        ) as made:
            assert isinstance(made, QdrantEdgeStore)
            assert made.capabilities.representations == {DENSE, SPARSE}
            identity = made.identity
        with open_store(f"qdrant+file://{tmp_path}/index/pages", exact=False) as store:
            assert store.identity == identity
            assert store.fingerprint == "ours"
        with open_store(
            "qdrant+file://index/pages?datatype=float16", schema=SCHEMA.only([DENSE, SPARSE])
        ) as store:
            assert store.capabilities.score_tolerance == 0, "it was there before"
        with pytest.raises(FingerprintMismatch, match=r"ours.*theirs"):
            open_store("qdrant+file://index/pages", fingerprint="theirs")
        with pytest.raises(InputError, match="unknown option 'exakt'"):
            open_store("qdrant+file://index/pages?exakt=true")

    def test_memory(self) -> None:
        with open_store("qdrant://:memory:/pages", schema=SCHEMA, long_multi="cut") as store:
            assert isinstance(store, QdrantStore)
            assert store.identity.startswith("qdrant:pages#")
            assert store.capabilities.exact
        with pytest.raises(StoreNotFound, match="pages"):
            open_store("qdrant://:memory:/pages")

    @pytest.mark.parametrize(
        "url", ["qdrant://", "qdrant://localhost", "qdrant://localhost:6333/", "qdrant+file://"]
    )
    def test_urls_that_name_nothing(self, url: str) -> None:
        with pytest.raises(InputError):
            open_store(url, schema=SCHEMA)

    def test_credentials_in_a_url_are_refused_and_not_repeated(self) -> None:
        with pytest.raises(InputError, match="QDRANT_API_KEY") as caught:
            open_store("qdrant://me:secret@localhost/pages")
        assert "secret" not in str(caught.value)


class TestFolder:
    """Folders, locks and kills, of the embedded engine."""

    def test_a_collection_whose_making_was_interrupted_is_made(self, tmp_path: Path) -> None:
        """On a full disk Edge leaves the beginning of its log."""
        (tmp_path / "wal").mkdir()
        (tmp_path / "wal" / "tmp-open-1").touch()
        (tmp_path / "m3.json").write_text("{}")
        with QdrantEdgeStore.create(tmp_path, schema=SCHEMA) as store:
            assert store.count() == 0
            assert store.fingerprint == SCHEMA.fingerprint
        (tmp_path / "edge_config.json").unlink()
        with pytest.raises(StoreError, match="delete what is there"):
            QdrantEdgeStore.create(tmp_path, schema=SCHEMA)

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(StoreError, match="no empty folder"):
            QdrantEdgeStore.create(tmp_path, schema=SCHEMA)
        with pytest.raises(StoreError, match="no empty folder"):
            QdrantEdgeStore.create(tmp_path / "notes.txt", schema=SCHEMA)
        with pytest.raises(StoreNotFound):
            QdrantEdgeStore.open(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="file"):
            QdrantEdgeStore.create(tmp_path / "file" / "store", schema=SCHEMA)

    @pytest.mark.parametrize("name", ["m3.json", "edge_config.json"])
    def test_damaged_files_are_named(self, tmp_path: Path, name: str) -> None:
        make("edge", tmp_path).close()
        (tmp_path / "store" / name).write_text('{"id": ')
        with pytest.raises(StoreError, match=f"{name} is damaged"):
            QdrantEdgeStore.open(tmp_path / "store")

    def test_a_failed_opening_leaves_no_lock(self, tmp_path: Path) -> None:
        make("edge", tmp_path).close()
        for _ in range(2):
            with pytest.raises(DimensionMismatch):
                QdrantEdgeStore.open(tmp_path / "store", schema=Schema(33, 500, 16))
        QdrantEdgeStore.open(tmp_path / "store").close()

    WRITER = """
import sys
from m3_core.store import Schema
from m3_core.testing import corpus
from m3_integrations.qdrant import QdrantEdgeStore
schema = Schema(dense=32, sparse=500, multi=16)
store = QdrantEdgeStore.create(sys.argv[1], schema=schema)
for batch in range(10_000):
    store.upsert(corpus.documents(20, prefix=f"{batch}-"), corpus.vectors(schema, 20, seed=batch))
    print(batch, flush=True)
"""

    @pytest.mark.parametrize("batches", [1, 4])
    def test_another_process_holds_it_until_it_is_killed_and_nothing_acknowledged_is_lost(
        self, tmp_path: Path, batches: int
    ) -> None:
        command = [sys.executable, "-c", self.WRITER, str(tmp_path / "store")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(batches):
                done = int(process.stdout.readline())
            with pytest.raises(StoreLocked, match="another process"):
                QdrantEdgeStore.open(tmp_path / "store")
            process.send_signal(signal.SIGKILL)
            done = max([done, *map(int, process.stdout.read().split())])
        with QdrantEdgeStore.open(tmp_path / "store") as store:
            names = [f"{batch}-{row}" for batch in range(done + 1) for row in range(20)]
            assert None not in store.get(names)
            assert len(names) <= store.count() <= len(names) + 20

    def test_optimize_frees_what_was_deleted_and_keeps_the_rest(self, tmp_path: Path) -> None:
        documents, vectors = corpus.documents(200), corpus.vectors(SCHEMA, 200)
        with make("edge", tmp_path, payload_indexes={"lang": "keyword"}) as store:
            assert isinstance(store, QdrantEdgeStore)
            store.upsert(documents, vectors)
            where = {"lang": "ja"}
            before = store.search(vectors.take([150]), dict.fromkeys(Representation, 20), where=where)
            matching = sorted(scan_ids(store, where=where))
            store.optimize()
            assert store.optimize() is False, "there is nothing left to do"
            after = store.search(vectors.take([150]), dict.fromkeys(Representation, 20), where=where)
            assert sorted(scan_ids(store, where=where)) == matching
            assert len(matching) > 5
            for kind in Representation:
                assert [hit.id for hit in before[kind][0]] == [hit.id for hit in after[kind][0]]
        with pytest.raises(StoreError, match="closed"):
            store.optimize()


class _Answers(BaseHTTPRequestHandler):
    """A server that always says the same; what real ones say when they do not do as asked."""

    status: ClassVar[int] = 200
    body: ClassVar[str] = ""
    extra: ClassVar[dict[str, str]] = {}
    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.keys.append(self.headers.get("api-key"))
        self.send_response(self.status)
        for name, value in self.extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""


class TestServerErrors:
    """A server that is not there, or refuses; no real one is needed for that."""

    @pytest.fixture
    def port(self) -> Iterator[int]:
        with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            _Answers.keys.clear()
            yield server.server_address[1]
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize(
        ("status", "body", "extra", "error", "expected"),
        [
            (401, "Must provide an API key", {}, StoreError, "401.*QDRANT_API_KEY"),
            (403, '{"status": {"error": "Forbidden: read-only"}}', {}, StoreError, "Forbidden: read-only"),
            (404, '{"status": {"error": "Not found"}}', {}, StoreNotFound, "Not found"),
            (400, '{"status": {"error": "Format error"}}', {}, StoreError, "Format error"),
            (429, "", {"Retry-After": "7"}, StoreUnavailable, "wait 7 s"),
            (429, "", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, StoreUnavailable, "2015"),
            (429, "", {}, StoreUnavailable, "429"),
            (500, '{"status": {"error": "disk full"}}', {}, StoreUnavailable, "disk full"),
            (503, "<html>no</html>", {}, StoreUnavailable, "<html>no"),
            (200, "no JSON", {}, StoreError, "cannot be read"),
        ],
    )
    def test_answers(
        self, port: int, status: int, body: str, extra: dict[str, str], error: type[StoreError], expected: str
    ) -> None:
        _Answers.status, _Answers.body, _Answers.extra = status, body, extra
        with pytest.raises(error, match=expected) as caught:
            open_store(f"qdrant://127.0.0.1:{port}/pages?retries=0")
        assert type(caught.value) is error
        assert f"qdrant://127.0.0.1:{port}/pages" in str(caught.value)

    def test_the_api_key_is_sent_and_not_said(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        _Answers.status, _Answers.body, _Answers.extra = 401, "no", {}
        monkeypatch.setenv("QDRANT_API_KEY", "from-environment")
        cases: list[tuple[dict[str, Any], str]] = [({}, "from-environment"), ({"api_key": "given"}, "given")]
        for options, key in cases:
            with pytest.warns(UserWarning, match="insecure"), pytest.raises(StoreError) as caught:
                open_store(f"qdrant://127.0.0.1:{port}/pages?https=false", **options)
            assert _Answers.keys[-1] == key
            assert key not in str(caught.value)
            assert key not in repr(caught.value.__cause__)

    @pytest.mark.parametrize("options", [{}, {"https": "true"}, {"api_key": "k"}], ids=repr)
    def test_nobody_there(self, options: dict[str, Any]) -> None:
        with pytest.raises(StoreUnavailable, match=r"does not answer.*https"):
            open_store("qdrant://127.0.0.1:9/pages?retries=1", **options)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
    def test_what_will_not_pass_is_asked_once(self, port: int, status: int) -> None:
        _Answers.status, _Answers.body, _Answers.extra = status, '{"status": {"error": "for good"}}', {}
        with pytest.raises(StoreError, match=f"{status} .*for good") as caught:
            open_store(f"qdrant://127.0.0.1:{port}/pages")
        assert not isinstance(caught.value, StoreUnavailable)
        assert len(_Answers.keys) == 1

    @pytest.mark.parametrize("status", [429, 503])
    def test_the_pause_that_is_asked_for_reaches_the_caller(self, port: int, status: int) -> None:
        """It is longer than a store waits by itself, so that there is one request."""
        _Answers.status, _Answers.body, _Answers.extra = status, "", {"Retry-After": "3600"}
        with pytest.raises(StoreUnavailable) as caught:
            open_store(f"qdrant://127.0.0.1:{port}/pages")
        assert caught.value.retry_after == 3600
        assert len(_Answers.keys) == 1


@pytest.mark.parametrize("missing", ["qdrant_client", "qdrant_edge"])
def test_without_the_extra_the_message_is_the_pip_line(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import m3_integrations.qdrant"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        f"MissingExtra: {missing} is not installed; install it with: pip install 'm3-retrieval[qdrant]'"
        in result.stderr
    )


def test_the_embedded_store_does_not_wait_for_the_client() -> None:
    code = "import sys; from m3_integrations.qdrant import QdrantEdgeStore; sys.exit('qdrant_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names() -> None:
    import m3_integrations.qdrant as package

    assert {name: getattr(package, name).__name__ for name in package.__all__} == {
        name: name for name in ("QdrantEdgeStore", "QdrantStore")
    }
    with pytest.raises(AttributeError, match="QdrantStor'"):
        _ = package.QdrantStor
