"""The ingestion scripts, run as they are on a slice of the corpus: twice, since the second run writes nothing."""

import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch
from servers.elasticsearch import Kind, url_of
from servers.qdrant_front import QdrantFront

EXAMPLES = Path(__file__).parents[2] / "examples"
HIT = re.compile(r"(\S+)  ((?:\w+ \S+  )+)(\S+)  '")


class Runs:
    """Runs a script in a folder of its own; the output of each run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, name: str, *arguments: str) -> tuple[str, list[dict[str, float]]]:
        """What it says of the ingestion, and the scores of each hit."""
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        first, *hits = self._capsys.readouterr().out.splitlines()
        scores = []
        for line in hits:
            found = HIT.match(line)
            assert found, line
            pairs = [pair.split() for pair in found[2].strip().split("  ")]
            scores.append({"fused": float(found[1]), **{channel: float(score) for channel, score in pairs}})
        return first, scores


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runs:
    monkeypatch.chdir(tmp_path)
    for variable in ("QDRANT_API_KEY", "MILVUS_TOKEN", "ELASTICSEARCH_API_KEY", "M3_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    return Runs(monkeypatch, capsys)


def ingested_and_found(run: Runs, script: str, url: str, channels: set[str], *more: str) -> None:
    command = (script, "--url", url, "--limit", "40", "--query", "Unterprogramm in LibreOffice Basic", *more)
    first, hits = run(*command)
    assert first.startswith("40 written, 0 unchanged, 40 in ")
    assert len(hits) == 5
    assert set().union(*hits) == {"fused", *channels}
    assert [hit["fused"] for hit in hits] == sorted((hit["fused"] for hit in hits), reverse=True)
    again, same = run(*command)
    assert again.startswith("0 written, 40 unchanged, 40 in ")
    assert same == hits
    _, none = run(*command, "--lang", "xx")
    assert none == []


def test_qdrant_embedded(run: Runs) -> None:
    url = "qdrant+file://index/pages"
    ingested_and_found(run, "ingest_qdrant.py", url, {"dense", "sparse", "multi"})


@pytest.mark.slow
def test_qdrant_over_http(run: Runs) -> None:
    with QdrantFront() as front:
        url = f"{front.url.replace('http', 'qdrant')}/pages"
        ingested_and_found(run, "ingest_qdrant.py", url, {"dense", "sparse", "multi"})


def test_milvus_lite(run: Runs) -> None:
    url = "milvus+file://index/pages"
    ingested_and_found(run, "ingest_milvus.py", url, {"dense", "sparse", "multi"})


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "channel"), [("lexical", "sparse"), ("dense", "dense")])
def test_elasticsearch(run: Runs, kind: Kind, channel: str) -> None:
    node, index = url_of(kind), f"m3-script-{channel}-{os.getpid()}"
    url = f"{node.replace('http', 'elasticsearch')}/{index}"
    try:
        ingested_and_found(run, "ingest_elasticsearch.py", url, {channel}, "--channels", channel)
    finally:
        with Elasticsearch(node) as client:
            client.indices.delete(index=index, ignore_unavailable=True)


def test_a_file_of_ones_own(run: Runs, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"id": "a", "title": "A", "text": "a table", "lang": "en"}\n')
    first, (hit,) = run("ingest_qdrant.py", "mine.jsonl", "--url", "qdrant://:memory:/pages", "--lang", "en")
    assert first.startswith("1 written, 0 unchanged, 1 in qdrant:")
    assert hit["dense"] < 1
