"""``kill -9`` at ten random moments of a real ``m3 ingest``, the same command each time: nothing lost, nothing twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from m3_core.encoder import M3Encoder
from m3_core.ingestion.chunking import Chunker
from m3_core.store import Store, open_store
from m3_core.types import Document, Record, Representation

KILLS = 10
TOKENS = 16
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]


def rows(count: int, words: list[str], version: int, seed: int) -> list[dict[str, object]]:
    """Documents of one to four chunks; one in ten comes twice, far apart, with two contents.

    In version 2 one in three has another text (often with fewer chunks), and one in twenty is gone.
    """
    draw = random.Random(seed)
    result: list[dict[str, object]] = []
    for i in range(count):
        gone = draw.random() < 0.05
        text = " ".join(draw.choices(words, k=draw.randint(1, 40)))
        other = " ".join(draw.choices(words, k=draw.randint(1, 40)))
        if version == 2 and gone:
            continue
        result.append({"id": f"d{i}", "text": other if version == 2 and i % 3 == 0 else text, "n": i})
        if i % 10 == 9:
            result.append({"id": f"d{i - 9}", "text": f"again {text}", "n": -i})
    return result


def expected(source: list[dict[str, object]], chunker: Chunker) -> dict[str, Document]:
    last = {str(row["id"]): Document(str(row["id"]), str(row["text"]), {"n": row["n"]}) for row in source}
    return {chunk.id: chunk for document in last.values() for chunk in chunker.split(document)}


def everything(store: Store, *vectors: Representation) -> Iterator[Record]:
    cursor = None
    while True:
        page = store.scan(cursor=cursor, vectors=vectors)
        yield from page.records
        cursor = page.cursor
        if cursor is None:
            return


@pytest.mark.parametrize(
    ("url", "module", "count"),
    [("qdrant+file://index/pages", "qdrant_edge", 6000), ("milvus+file://index/pages", "milvus_lite", 3000)],
    ids=["qdrant", "milvus"],
)
def test_nothing_is_lost_and_nothing_twice(
    tiny_model_folder: Path,
    texts: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    module: str,
    count: int,
) -> None:
    pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    source = Path("pages.jsonl")
    words = " ".join(texts).split()
    versions = [rows(count, words, version, seed) for version in (1, 2)]
    command = [sys.executable, "-m", "m3_core.cli", "ingest", str(source), url, "--json"]
    command += ["--model", str(tiny_model_folder), "--chunk-tokens", str(TOKENS), "--batch-size", "16"]
    command += ["--delete-missing", "--yes"]

    killed_at_work = 0
    for kill in range(KILLS):
        version = versions[0 if kill < KILLS // 2 else 1]
        source.write_text("".join(json.dumps(row) + "\n" for row in version))
        with Path("log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            wait_for_work(process)
            time.sleep(draw.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
            killed_at_work += process.wait() == -signal.SIGKILL
        assert "Traceback" not in Path("log").read_text()
    assert killed_at_work >= KILLS // 2  # else they were no kills of an ingest at work

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    distinct = {row["id"] for row in versions[1]}
    assert (again["written"], again["skipped"], again["deleted"]) == (0, len(distinct), 0)

    encoder = M3Encoder.load(tiny_model_folder)
    wanted = expected(versions[1], Chunker(encoder.tokenizer.backend, TOKENS))
    with open_store(url) as store:
        found = list(everything(store))
        assert len(found) == len(wanted) == store.count()
        assert {record.id: record.document for record in found} == wanted
        sample = draw.sample(sorted(wanted), 200)
        dense = encoder.encode_documents([wanted[name].text for name in sample]).dense
        for row, record in enumerate(store.get(sample, vectors=[Representation.DENSE])):
            assert record is not None
            assert record.vectors is not None
            assert record.vectors.dense is not None
            assert dense is not None
            np.testing.assert_allclose(record.vectors.dense[0], dense[row], atol=1e-5)


def wait_for_work(process: subprocess.Popen[bytes]) -> None:
    """Until the journal is open: loading the model takes longer than the rest, and there is nothing to lose in it."""
    while process.poll() is None and not list(Path(".m3").glob("*.sqlite-wal")):
        time.sleep(0.02)
    for left in Path(".m3").glob("*.sqlite-wal"):
        before = left.stat().st_mtime_ns
        while process.poll() is None and left.exists() and left.stat().st_mtime_ns == before:
            time.sleep(0.02)
