"""``m3 check`` and ``m3 backfill`` over collections that others made, as a person types them; and killed."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from m3_core.cli import app
from m3_core.encoder import M3Encoder
from m3_core.store import open_store
from m3_core.types import Representation

pytest.importorskip("qdrant_edge")
pytest.importorskip("milvus_lite")

import qdrant_edge as edge

from m3_integrations.milvus.address import parse_url, pymilvus
from m3_integrations.milvus.connection import Connection

DENSE, SPARSE, MULTI = Representation
QDRANT = "qdrant+file://theirs/shop"
MILVUS = "milvus+file://theirs/shop.db/shop"
COPY = "milvus+file://theirs/shop.db/copy"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3_MODEL", str(tiny_model_folder))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def m3(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def backfill(*arguments: str) -> dict[str, Any]:
    done = m3("backfill", *arguments, "--json")
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def findings(url: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
    done = m3("check", url, "--json", *options)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def advised(url: str, *options: str) -> list[str]:
    """The command that ``m3 check`` prints for a collection that lacks vectors, as a shell would split it."""
    code, found = findings(url, *options)
    assert code == 1
    (message,) = [one["message"] for one in found if one["subject"] == "vectors" and one["ok"] is False]
    command, *arguments = shlex.split(message[message.index(": m3 ") + 2 :])
    assert command == "m3"
    return arguments


def their_edge(texts: list[str], size: int = 3) -> None:
    """A collection of Qdrant Edge with a vector of another model, which even has the name ``dense``."""
    Path("theirs/shop").mkdir(parents=True)
    config = edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create("theirs/shop", edge.EdgeConfig(vectors={"dense": config}))
    points = [
        edge.Point(n, {"dense": [1.0] * size}, {"body": text, "n": n, "lang": "en"})
        for n, text in enumerate(texts)
    ]
    for start in range(0, len(points), 1000):
        shard.update(edge.UpdateOperation.upsert_points(points[start : start + 1000]))
    shard.flush()
    shard.close()


def their_lite(texts: list[str]) -> None:
    """A collection of Milvus Lite with keys that Milvus assigned, and an alias that leads to it."""
    connection = Connection(parse_url(MILVUS, {})[0], create=True)
    client, kinds = connection.client, pymilvus.DataType
    schema = client.create_schema(auto_id=True)
    schema.add_field("pk", kinds.INT64, is_primary=True)
    schema.add_field("body", kinds.VARCHAR, max_length=1000)
    schema.add_field("n", kinds.INT64)
    schema.add_field("old", kinds.FLOAT_VECTOR, dim=3)
    index = client.prepare_index_params()
    index.add_index(field_name="old", index_type="FLAT", metric_type="IP")
    client.create_collection("shop", schema=schema, index_params=index)
    client.insert("shop", [{"body": text, "n": n, "old": [1.0, 0, 0]} for n, text in enumerate(texts)])
    client.create_alias("shop", "live")
    connection.close()


def test_the_line_that_check_prints_makes_check_pass(texts: tuple[str, ...]) -> None:
    their_edge(list(texts))
    arguments = advised(QDRANT)
    assert arguments[:2] == ["backfill", QDRANT]
    assert arguments[2:6] == ["--text-field", "body", "--into", "dense=m3_dense,sparse=sparse"]
    assert m3(*arguments).exit_code == 0
    code, found = findings(QDRANT)
    assert code == 0
    assert [one["message"] for one in found if one["subject"] == "schema"] == ["fits the model"]
    (multi,) = [one for one in found if one["subject"] == "vectors"]
    assert (multi["ok"], "--into multi=multi" in multi["message"]) == (None, True)
    done = m3("search", QDRANT, texts[3], "-k", "1", "--json")
    assert json.loads(done.stdout)["id"] == "3"


def test_the_line_for_an_engine_that_cannot_add_fields_makes_a_copy(texts: tuple[str, ...]) -> None:
    their_lite(list(texts))
    arguments = advised(MILVUS)
    target = arguments[arguments.index("--to") + 1]
    assert target.endswith("/theirs/shop.db/shop_m3")
    assert m3(*arguments).exit_code == 0
    assert findings(target)[0] == 0
    # Without --to, the error says the same line.
    done = m3("backfill", MILVUS, "--text-field", "body", "--into", "dense,sparse")
    assert done.exit_code == 1
    line = done.stderr[done.stderr.index(": m3 backfill") + 2 :].strip()
    assert shlex.split(line)[-2:] == ["--to", target]
    assert m3(*shlex.split(line)[1:], "--switch-alias", "live").exit_code == 0
    with open_store("milvus+file://theirs/shop.db/live") as live:
        assert live.capabilities.representations == {DENSE, SPARSE}
        assert live.count() == len(texts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--text-field", "bdy", "--into", "dense"], "none of 12 documents"),
        (["--text-field", "body", "--into", "dense,multi"], "cannot hold multi vectors (--into)"),
    ],
)
def test_what_cannot_be_filled_leaves_no_empty_copy(
    here: Path, texts: tuple[str, ...], options: list[str], said: str
) -> None:
    their_lite(list(texts))
    done = m3("backfill", MILVUS, *options, "--to", "milvus+file://copy/shop")
    assert done.exit_code == 1
    assert said in done.stderr
    assert not (here / "copy").exists()


def test_only_the_named_channels_and_names_in_the_url(texts: tuple[str, ...]) -> None:
    their_edge(list(texts))
    arguments = advised(f"{QDRANT}?text=body&dense=none&multi=none")
    assert arguments[arguments.index("--into") + 1] == "sparse=sparse"
    assert m3(*arguments).exit_code == 0
    assert findings(f"{QDRANT}?text=body&dense=none&multi=none")[0] == 0
    assert findings(QDRANT)[0] == 0
    arguments = advised(f"{QDRANT}?text=body&dense=other")
    assert arguments[arguments.index("--into") + 1] == "dense=other"
    assert m3(*arguments).exit_code == 0
    with open_store(QDRANT) as store:
        assert store.capabilities.representations == {DENSE, SPARSE}


def test_a_dry_run_writes_nothing_and_says_what_it_would(texts: tuple[str, ...]) -> None:
    their_edge([*texts, "", "  "])
    done = m3("backfill", QDRANT, "--text-field", "body", "--into", "sparse=s,multi", "--dry-run")
    assert done.exit_code == 0
    assert "14 documents, 2 of them without text" in done.stdout
    assert "'s', which is added" in done.stdout
    assert "'multi', which is added" in done.stdout
    plan = backfill(QDRANT, "--text-field", "body", "--into", "sparse=s", "--dry-run", "--where", '{"n": 13}')
    assert plan == {"documents": 1, "without_text": 1, "adds": {"sparse": "s"}, "fills": {"sparse": "s"}}
    config = json.loads(Path("theirs/shop/edge_config.json").read_text())
    assert (list(config["vectors"]), config["sparse_vectors"]) == (["dense"], {})
    assert not Path("theirs/shop/m3.json").exists()
    assert not Path(".m3").exists()


def test_a_second_run_skips_and_a_template_encodes_what_it_says(texts: tuple[str, ...]) -> None:
    their_edge(list(texts))
    wanted = [QDRANT, "--text-field", "body", "--into", "dense=d"]
    assert backfill(*wanted)["written"] == 12
    assert backfill(*wanted)["skipped"] == 12
    assert backfill(QDRANT)["skipped"] == 12  # the collection knows the names now
    assert backfill(*wanted, "--fresh")["written"] == 12
    assert backfill(*wanted, "--encode", "{lang}: {body}")["changed"] == 12
    encoder = M3Encoder.load(os.environ["M3_MODEL"])
    with open_store(QDRANT) as store:
        (record,) = store.get(["0"], vectors=[DENSE])
    assert record is not None
    assert record.vectors is not None
    assert record.vectors.dense is not None
    (dense,) = encoder.encode_documents([f"en: {texts[0]}"]).dense  # type: ignore[misc]
    np.testing.assert_allclose(record.vectors.dense[0], dense, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([QDRANT, "--text-field", "bdy", "--into", "dense=d"], "none of 12 documents"),
        ([QDRANT, "--text-field", "body"], "does not fit"),
        ([QDRANT, "--text-field", "body", "--into", "dense"], "'dense' has 3 dimensions"),
        ([QDRANT, "--text-field", "body", "--into", "dens=d"], "--into names each of dense, sparse, multi"),
        ([QDRANT, "--text-field", "body", "--into", "dense=d,dense=e"], "once at most"),
        ([QDRANT, "--into", "dense=d", "--text-field", "body", "--rate", "0"], "the rate is"),
        ([QDRANT, "--into", "dense=d", "--where", "{"], "--where is not JSON"),
        ([QDRANT, "--into", "dense=d", "--switch-alias", "live"], "say where that is with --to"),
        ([QDRANT, "--text-field", "body", "--into", "dense=d", "--to", "qdrant+file://copy"], "in place"),
        (["qdrant+file://nowhere", "--into", "dense=d"], "there is no Qdrant collection"),
        (["qdrant://127.0.0.1:1/shop?retries=0", "--into", "dense=d"], "does not answer"),
        (["memory://", "--into", "dense=d"], "memory"),
    ],
)
def test_wrong_input_is_one_line(texts: tuple[str, ...], arguments: list[str], said: str) -> None:
    their_edge(list(texts))
    done = m3("backfill", *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.startswith("m3: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_ends_with_a_summary_and_130() -> None:
    their_edge([f"document {n}" for n in range(60)])
    command = [QDRANT, "--text-field", "body", "--into", "sparse=s", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "m3_core.cli", "backfill", *command, "--rate", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and a test run may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600
    while not list(Path(".m3").glob("*.sqlite-wal")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    counts = json.loads(out)
    assert 0 < counts["written"] < 60
    again = backfill(*command[:-1])
    assert (again["skipped"], again["written"]) == (counts["written"], 60 - counts["written"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("engine", ["qdrant", "milvus"])
def test_kills_lose_nothing(texts: tuple[str, ...], engine: str) -> None:
    """``kill -9`` at random moments, in place and into a copy; the same command each time."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    words = " ".join(texts).split()
    theirs = [" ".join(draw.choices(words, k=draw.randint(0, 40))) for _ in range(3000)]
    if engine == "qdrant":
        their_edge(theirs)
        store, arguments = QDRANT, [QDRANT, "--text-field", "body", "--into", "dense=d,sparse=s,multi=m"]
    else:
        their_lite(theirs)
        store, arguments = COPY, [MILVUS, "--text-field", "body", "--into", "dense=d,sparse=s", "--to", COPY]
    arguments += ["--batch-size", "16", "--json"]
    command = [sys.executable, "-m", "m3_core.cli", "backfill", *arguments]
    killed_at_work = 0
    for _ in range(6):
        with Path("log").open("w") as log:
            # At that rate there is work for 10 s, which the kills leave some of.
            process = subprocess.Popen([*command, "--rate", "300"], stdout=log, stderr=log)
            while process.poll() is None and not list(Path(".m3").glob("*.sqlite-wal")):
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 1.5))
            process.send_signal(signal.SIGKILL)
            killed_at_work += process.wait() == -signal.SIGKILL
        assert "Traceback" not in Path("log").read_text()
    assert killed_at_work >= 3  # else they were no kills of a backfill at work
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with_text = [n for n, text in enumerate(theirs) if text]
    assert again["written"] == 0
    assert again["without_text"] == len(theirs) - len(with_text)

    encoder = M3Encoder.load(os.environ["M3_MODEL"])
    with open_store(store, schema=encoder.schema([DENSE, SPARSE] if engine == "milvus" else None)) as opened:
        assert opened.count() == len(theirs)
        cursor, held = None, {}
        while True:
            page = opened.scan(vectors=[DENSE], cursor=cursor)
            held |= {record.document.metadata["n"]: record for record in page.records}
            cursor = page.cursor
            if cursor is None:
                break
    assert {n: record.document.text for n, record in held.items()} == dict(enumerate(theirs))
    sample = draw.sample(with_text, 200)
    dense = encoder.encode_documents([theirs[n] for n in sample]).dense
    assert dense is not None
    for row, n in enumerate(sample):
        vectors = held[n].vectors
        assert vectors is not None
        assert vectors.dense is not None, n
        np.testing.assert_allclose(vectors.dense[0], dense[row], atol=1e-5)
