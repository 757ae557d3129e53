"""Copying between the engines that run in this process, and the command: what a person does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers.flaky import Fault, FlakyProxy, Plan
from servers.qdrant_front import QdrantFront
from typer.testing import CliRunner, Result

from m3_core import Document, M3Vectors, MemoryStore, Representation, Retriever, Schema, Store, copy_store
from m3_core.cli import app
from m3_core.encoder import M3Encoder
from m3_core.fusion import WeightedSum
from m3_core.ingestion.copy_checks import schema_of
from m3_core.testing import corpus

pytest.importorskip("qdrant_edge")
pytest.importorskip("pymilvus")

from qdrant_client import QdrantClient, models

from m3_integrations.milvus import MilvusStore
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore

DENSE, SPARSE, MULTI = Representation
SCHEMA = Schema(dense=16, sparse=500, multi=8, fingerprint="one")
ENGINES = ("memory", "edge", "qdrant", "milvus")


def make(engine: str, schema: Schema, folder: Path) -> Store:
    match engine:
        case "edge":
            return QdrantEdgeStore.create(folder / "edge", schema=schema)
        case "qdrant":
            return QdrantStore.create(":memory:", "pages", schema=schema)
        case "milvus":
            return MilvusStore.create(f"milvus+file://{folder / 'milvus'}", schema=schema)
    return MemoryStore(schema)


def documents() -> tuple[list[Document], M3Vectors]:
    """Texts, metadata of every kind, ids of every kind, and documents without lexical weights or multi-vectors."""
    some = corpus.documents(40)
    odd = [Document(f"odd '{n}' \\ 文", "", metadata) for n, metadata in enumerate(corpus.ODD_METADATA)]
    every = [*some, *odd, Document("x" * 512, "text " * 5000)]
    vectors = corpus.vectors(SCHEMA, len(every))
    assert vectors.sparse is not None
    assert vectors.multi is not None
    rows = [
        dict(zip(*(part.tolist() for part in vectors.sparse_row(n)), strict=True)) for n in range(len(every))
    ]
    multi = list(vectors.multi)
    rows[3], multi[4] = {}, multi[4][:0]
    ragged = type(vectors.multi).from_rows(multi, dimension=8)
    return every, replace(vectors, sparse=corpus.sparse_rows(rows, 500), multi=ragged)


def records(store: Store, kinds: frozenset[Representation]) -> dict[str, Any]:
    return {record.id: record for record in store.scan(vectors=kinds, size=1000).records}


def assert_same(source: Store, target: Store) -> None:
    """Documents are equal; vectors to a float32; and both find the same."""
    kinds = target.capabilities.representations
    ours, theirs = records(source, kinds), records(target, kinds)
    assert ours.keys() == theirs.keys()
    for name, record in ours.items():
        assert theirs[name].document == record.document
        assert json.dumps(theirs[name].document.metadata, sort_keys=True) == json.dumps(
            record.document.metadata, sort_keys=True
        )
        for kind in kinds:
            assert np.array_equal(flat(theirs[name].vectors, kind), flat(record.vectors, kind)), (name, kind)
    queries, asked = corpus.vectors(SCHEMA, 5, seed=9), dict.fromkeys(kinds, 10)
    found, again = source.search(queries, asked), target.search(queries, asked)
    for kind in kinds:
        for hits, others in zip(found[kind], again[kind], strict=True):
            assert [hit.id for hit in others] == [hit.id for hit in hits]
            assert [hit.score for hit in others] == pytest.approx([hit.score for hit in hits], abs=1e-5)


def flat(vectors: M3Vectors | None, kind: Representation) -> Any:
    """All numbers of a channel; none for a channel that is not there, or is empty."""
    held = None if vectors is None else getattr(vectors, kind.value)
    if vectors is None or held is None:
        return np.zeros(0)
    if kind is SPARSE:
        return np.concatenate(vectors.sparse_row(0))
    return held.values.ravel() if kind is MULTI else held[0]


@pytest.mark.parametrize("end", ENGINES)
@pytest.mark.parametrize("start", ENGINES)
def test_between_engines(start: str, end: str, tmp_path: Path) -> None:
    with ExitStack() as opened:
        schema = SCHEMA.only([DENSE, SPARSE]) if "milvus" in (start, end) else SCHEMA
        source = opened.enter_context(make(start, schema, tmp_path / "from"))
        source.upsert(*documents())
        target = opened.enter_context(make(end, schema_of(source), tmp_path / "to"))
        assert target.fingerprint == source.fingerprint == "one"
        summary = copy_store(source, target, batch_size=20)
        assert (summary.read, summary.written, summary.rejected) == (51, 51, 0)
        assert_same(source, target)


def test_documents_that_lack_a_channel_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A collection of somebody's, half of it backfilled; without multi-vectors is as with an empty one."""
    client = QdrantClient(":memory:")
    client.create_collection(
        "theirs",
        vectors_config={
            "dense": models.VectorParams(size=4, distance=models.Distance.DOT),
            "multi": models.VectorParams(
                size=2,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        },
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )
    whole = {
        "dense": [1.0, 0, 0, 0],
        "multi": [[1.0, 0]],
        "sparse": models.SparseVector(indices=[7], values=[1]),
    }
    for number, names in enumerate((["dense", "sparse", "multi"], ["dense", "sparse"], ["dense", "multi"])):
        vector: Any = {name: whole[name] for name in names}
        client.upsert(
            "theirs", [models.PointStruct(id=number, vector=vector, payload={"text": "t", "n": number})]
        )
    options: Any = {"id": None, "metadata": ""}
    model = Schema(dense=4, sparse=10, multi=2, fingerprint="theirs")
    with QdrantStore.open(client, "theirs", fields=options) as source, MemoryStore(model) as target:
        with caplog.at_level("WARNING"):
            summary = copy_store(source, target, model=model)
        assert (summary.written, summary.rejected) == (2, 1)
        assert "document '2': it has no sparse vectors" in caplog.text
        first, second = target.get(["0", "1"], vectors=Representation)
        assert first is not None
        assert first.document == Document("0", "t", {"n": 0})
        assert second is not None
        assert second.vectors is not None
        assert second.vectors.multi is not None
        assert len(second.vectors.multi[0]) == 0
        assert second.vectors.sparse is not None
        assert second.vectors.sparse.shape == (1, 10)
        dense = MemoryStore(model.only([DENSE]))
        assert copy_store(source, dense, drop=[SPARSE, MULTI], model=model).written == 3
    client.close()


@pytest.mark.slow  # pauses of half a second and more
def test_out_of_and_into_a_server_that_fails_every_second_request() -> None:
    faults = (Fault.ERROR, Fault.ERROR_AFTER, Fault.UNSENT, Fault.LOST, Fault.CUT)
    source, back = MemoryStore(SCHEMA), MemoryStore(SCHEMA)
    source.upsert(*documents())
    with (
        QdrantFront() as front,
        FlakyProxy(front.url, Plan()) as proxy,
        QdrantStore.create(proxy.url, "pages", schema=SCHEMA, retries=0) as server,
    ):
        for start, end in ((source, server), (server, back)):
            proxy.plan = Plan(first=[step for fault in faults * 20 for step in (fault, None)])
            assert copy_store(start, end, batch_size=10).written == 51
        proxy.heal()
        assert proxy.faults().total() >= 12
        assert server.count() == 51
        assert_same(source, server)
    assert_same(source, back)


# The command.

PAGES = "qdrant+file://index/pages"
LITE = "milvus+file://index/lite"


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path, texts: tuple[str, ...]
) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3_MODEL", str(tiny_model_folder))
    monkeypatch.setenv("COLUMNS", "300")
    encoder = M3Encoder.load(tiny_model_folder)
    with QdrantEdgeStore.create("index/pages", schema=encoder.schema()) as store:
        named = [Document(f"p{n}", text, {"even": n % 2 == 0}) for n, text in enumerate(texts)]
        store.upsert(named, encoder.encode_documents(texts))
    return tmp_path


def m3(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_command_says_first_what_is_lost_and_needs_consent(here: Path) -> None:
    done = m3("copy", PAGES, LITE)
    assert done.exit_code == 1
    assert re.fullmatch(
        r"m3: qdrant\+file:pages#\S+ holds dense, sparse, multi, but milvus\+file://index/lite does not hold multi; "
        r"to copy without, add --drop multi\n",
        done.stderr,
    )
    planned = m3("copy", PAGES, LITE, "--drop", "multi", "--dry-run", "--where", '{"even": true}', "--json")
    plan = json.loads(planned.stdout)
    assert plan["from"].startswith("qdrant+file:pages#")
    assert plan["to"] == LITE
    assert (plan["documents"], plan["channels"], plan["dropped"], plan["new"]) == (
        6,
        ["dense", "sparse"],
        ["multi"],
        True,
    )
    assert not (here / "index" / "lite.db").exists()
    people = m3("copy", PAGES, LITE, "--drop", "multi", "--dry-run")
    assert people.stdout.endswith(f" to {LITE} (new): dense, sparse; without multi\n")

    done = m3("copy", PAGES, LITE, "--drop", "multi")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith("12 documents from qdrant+file:pages#")
    assert re.fullmatch(r"12 read, 12 written in \S+ s\nmilvus\+file://\S+ holds 12 documents\n", done.stdout)


def test_searching_the_copy_is_searching_the_source(
    here: Path, tiny_model_folder: Path, texts: tuple[str, ...]
) -> None:
    assert m3("copy", PAGES, LITE, "--drop", "multi").exit_code == 0
    assert m3("copy", LITE, "qdrant+file://index/back").exit_code == 0
    encoder, fusion = M3Encoder.load(tiny_model_folder), WeightedSum(1, 0.3, 0)
    found = []
    for url in (PAGES, LITE, "qdrant+file://index/back"):
        done = m3("search", url, texts[4], "-k", "12", "--dense", "1", "--sparse", "0.3", "--json")
        found.append([json.loads(line) for line in done.stdout.splitlines()])
    for other in found[1:]:
        assert [hit["id"] for hit in other] == [hit["id"] for hit in found[0]]
        assert [hit["score"] for hit in other] == pytest.approx([hit["score"] for hit in found[0]], abs=1e-5)
    with QdrantEdgeStore.open("index/back") as back:
        assert back.fingerprint == encoder.fingerprint
        assert Retriever(encoder, back, fusion=fusion).search(texts[0], k=1)[0].id == "p0"


def test_a_copy_is_resumed_and_counted(here: Path) -> None:
    done = m3("copy", PAGES, "qdrant+file://index/copy", "--where", '{"even": true}', "--json")
    first = json.loads(done.stdout)
    assert (first["read"], first["written"], first["held"], first["stopped"]) == (6, 6, 6, None)
    again = json.loads(m3("copy", PAGES, "qdrant+file://index/copy", "--resume", "--json").stdout)
    assert (again["new"], again["read"], again["skipped"], again["written"], again["held"]) == (
        False,
        12,
        6,
        6,
        12,
    )


def test_a_channel_that_is_not_wanted_need_not_be_copied(here: Path) -> None:
    assert m3("copy", PAGES, "qdrant+file://index/copy", "--drop", "multi", "--drop", "dense").exit_code == 0
    with QdrantEdgeStore.open("index/copy") as store:
        assert store.capabilities.representations == {SPARSE}


def test_what_cannot_be_copied_is_one_line(here: Path, xlmr_folder: Path) -> None:
    with QdrantEdgeStore.create("index/other", schema=M3Encoder.load(xlmr_folder).schema()):
        pass
    lines = {
        ("copy", PAGES, PAGES): "FROM and TO are the same store",
        ("copy", PAGES, "qdrant+file://./index/pages"): "is open in another process or another object",
        ("copy", "qdrant+file://index/nothing", PAGES): "there is no Qdrant collection",
        (
            "copy",
            PAGES,
            "abacus://me:secret@host/x?key=secret",
        ): "no store is installed for 'abacus://host/x'",
        ("copy", PAGES, "qdrant+file://index/other"): "holds vectors of the model",
        ("copy", PAGES, LITE, "--where", "{"): "--where is not JSON",
        ("copy", PAGES, "qdrant+file://index/new", "--batch-size", "0"): "batch_size must be",
    }
    for command, message in lines.items():
        done = m3(*command)
        assert done.exit_code == 1, command
        assert message in done.stderr, command
        assert done.stderr.splitlines()[-1].startswith("m3: ")
        assert "secret" not in done.stderr


def test_a_document_that_the_target_refuses_is_named_and_the_others_written(here: Path) -> None:
    """Milvus holds 64 KB of metadata, Qdrant any."""
    schema = Schema(dense=4, fingerprint="one")
    with QdrantEdgeStore.create("index/large", schema=schema) as store:
        odd = Document("large", "t", {"long": "x" * 70_000})
        store.upsert([*corpus.documents(30), odd], corpus.vectors(schema, 31))
    done = m3("copy", "qdrant+file://index/large", LITE, "--rejects", "rejects.jsonl")
    assert done.exit_code == 1
    assert re.search(
        r"m3: rejected qdrant\+file:large#\S+: document 'large': the metadata .* 70,", done.stderr
    )
    assert done.stdout.startswith("31 read, 30 written, 1 rejected in ")
    assert done.stdout.endswith(" holds 30 documents\n")
    assert json.loads(json.loads(Path("rejects.jsonl").read_text())["content"])["id"] == "large"


def test_a_collection_of_others_is_copied_for_the_model_that_is_named(
    here: Path, texts: tuple[str, ...]
) -> None:
    """It has neither fingerprint nor vocabulary, and ids and fields of its own."""
    encoder = M3Encoder.load(os.environ["M3_MODEL"])
    vectors = encoder.encode_documents(texts)
    assert vectors.dense is not None
    with QdrantFront() as front:
        client = QdrantClient(url=front.url)
        client.create_collection(
            "theirs",
            vectors_config={"d": models.VectorParams(size=32, distance=models.Distance.COSINE)},
            sparse_vectors_config={"s": models.SparseVectorParams()},
        )
        points = []
        for number, text in enumerate(texts):
            tokens, weights = (part.tolist() for part in vectors.sparse_row(number))
            vector: Any = {
                "d": vectors.dense[number].tolist(),
                "s": models.SparseVector(indices=tokens, values=weights),
            }
            points.append(models.PointStruct(id=number, vector=vector, payload={"body": text, "n": number}))
        client.upsert("theirs", points)
        client.close()
        theirs = f"{front.url.replace('http', 'qdrant')}/theirs?dense=d&sparse=s&text=body&id=none&metadata="
        done = m3("copy", theirs, "qdrant+file://index/ours")
        assert done.exit_code == 1
        assert "does not say over how many tokens its lexical weights are" in done.stderr
        assert not Path("index/ours").exists()
        done = m3("copy", theirs, "qdrant+file://index/ours", "--model", os.environ["M3_MODEL"])
        assert done.exit_code == 0, done.stderr
    (line,) = m3("search", "qdrant+file://index/ours", texts[4], "-k", "1", "--json").stdout.splitlines()
    hit = json.loads(line)
    assert (hit["id"], hit["text"], hit["metadata"]) == ("4", texts[4], {"n": 4})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize("killed", [False, True], ids=["interrupted", "killed"])
def test_what_was_stopped_goes_on_with_resume(killed: bool, here: Path) -> None:
    """A real process, stopped while it writes. Ctrl-C ends with a summary and 130."""
    schema = Schema(dense=16, sparse=500, multi=8, fingerprint="one")
    with QdrantEdgeStore.create("index/many", schema=schema) as store:
        store.upsert(corpus.documents(3000), corpus.vectors(schema, 3000))
    command = ["copy", "qdrant+file://index/many", "qdrant+file://index/copy", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "m3_core.cli", *command, "--batch-size", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and a test run may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600
    while not Path("index/copy/edge_config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    process.send_signal(signal.SIGKILL if killed else signal.SIGINT)
    stdout, stderr = process.communicate(timeout=600)
    assert "Traceback" not in stderr
    written = 1
    if not killed:
        assert process.returncode == 130, stderr
        counts = json.loads(stdout)
        assert counts["stopped"] == "the copy was interrupted"
        written = counts["written"]
    again = json.loads(m3(*command, "--resume").stdout)
    assert 0 < written <= again["skipped"] < 3000
    assert again["skipped"] + again["written"] == again["held"] == 3000
