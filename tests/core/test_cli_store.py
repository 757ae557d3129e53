"""The commands one after the other, over an embedded store: what a person does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from m3_core.cli import app

pytest.importorskip("qdrant_edge")

STORE = "qdrant+file://index/pages"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3_MODEL", str(tiny_model_folder))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def pages(here: Path, texts: tuple[str, ...]) -> Path:
    path = here / "pages.jsonl"
    write(path, texts)
    return path


def write(path: Path, texts: tuple[str, ...]) -> None:
    languages = ("en", "de", "es", "ru", "ja", "zh", "ko", "ar", "he", "hi", "th", "el")
    rows = [
        {"id": f"p{i}", "text": text, "lang": lang, "title": f"Page {i}"}
        for i, (text, lang) in enumerate(zip(texts, languages, strict=False))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def m3(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def summary(*arguments: str) -> dict[str, Any]:
    done = m3("ingest", *arguments, "--json")
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_ingest_search_check(pages: Path, texts: tuple[str, ...]) -> None:
    assert summary("pages.jsonl", STORE, "--encode", "{title}\\n{text}")["written"] == 12
    assert summary("pages.jsonl", STORE, "--encode", "{title}\\n{text}")["skipped"] == 12

    shown = m3("search", STORE, texts[4], "-k", "1", "--encode", "{title}\\n{text}", "--full").stdout
    assert "Page 4 " + texts[4] in " ".join(
        shown.split()
    )  # what was encoded, where the title is not said apart

    done = m3("search", STORE, texts[4], "-k", "3", "--json")
    assert done.exit_code == 0
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0].keys() == {"rank", "score", "scores", "id", "text", "metadata"}
    for hit in hits:
        scores = hit["scores"]
        assert hit["score"] == pytest.approx(
            scores["dense"] + 0.3 * scores["sparse"] + scores["multi"], abs=1e-5
        )
    found = json.loads(m3("search", STORE, "x", "--where", '{"lang": "ja"}', "--json").stdout)
    assert found["text"] == texts[4]

    done = m3("check", STORE)
    assert done.exit_code == 0
    assert "12 documents" in done.stdout
    assert "fits the model" in done.stdout


def test_a_channel_that_is_left_out_stays_left_out(pages: Path) -> None:
    store = f"{STORE}?multi=none"
    assert summary("pages.jsonl", store)["written"] == 12
    assert summary("pages.jsonl", store)["skipped"] == 12
    hit = json.loads(m3("search", store, "x", "-k", "1", "--json").stdout)
    assert hit["scores"].keys() == {"dense", "sparse"}


def test_search_for_people_shows_scores_and_matches_in_bold(
    pages: Path, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary("pages.jsonl", STORE)
    done = m3("search", STORE, texts[0], "-k", "2")
    assert done.exit_code == 0
    assert "dense " in done.stdout
    assert "multi " in done.stdout
    assert texts[0] in done.stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    from rich.console import Console

    from m3_core.cli import search

    monkeypatch.setattr(search, "out", Console(force_terminal=True, color_system="standard"))
    coloured = m3("search", STORE, texts[0], "-k", "2")
    assert "\x1b[1m" in coloured.stdout


def test_check_finds_what_does_not_fit(pages: Path, xlmr_folder: Path) -> None:
    done = m3("check", STORE)
    assert done.exit_code == 1
    assert "there is no Qdrant collection" in done.stdout
    summary("pages.jsonl", STORE)
    done = m3("check", STORE, "--model", str(xlmr_folder), "--json")
    assert done.exit_code == 1
    assert any(row["ok"] is False for row in map(json.loads, done.stdout.splitlines()))
    done = m3("search", STORE, "x", "--model", str(xlmr_folder))
    assert done.exit_code == 1
    assert done.stderr.startswith("m3: ")


def test_delete_missing_asks_and_takes_yes(pages: Path, texts: tuple[str, ...]) -> None:
    summary("pages.jsonl", STORE)
    write(pages, texts[:9])
    done = m3("ingest", "pages.jsonl", STORE, "--delete-missing")
    assert done.exit_code == 1
    assert "--yes" in done.stderr
    assert "12 documents" in m3("check", STORE).stdout
    counts = summary("pages.jsonl", STORE, "--delete-missing", "--yes")
    assert (counts["missing"], counts["deleted"]) == (3, 3)
    assert "9 documents" in m3("check", STORE).stdout


def test_folder_in_chunks_and_grouped(here: Path, texts: tuple[str, ...]) -> None:
    for i, text in enumerate(texts):
        (here / "docs").mkdir(exist_ok=True)
        (here / "docs" / f"{i:02}.md").write_text(f"# Page {i}\n\n{text}\n\n{text}\n")
    assert summary("docs", STORE, "--chunk-tokens", "20")["written"] == 12
    hits = [
        json.loads(line)
        for line in m3(
            "search", STORE, texts[2], "-k", "12", "--group-by", "parent_id", "--json"
        ).stdout.splitlines()
    ]
    parents = [hit["metadata"]["parent_id"] for hit in hits]
    assert sorted(parents) == [f"{i:02}.md" for i in range(12)]
    assert {hit["metadata"]["title"] for hit in hits} == {f"Page {i}" for i in range(12)}


def test_an_emptied_folder_is_filled_again(pages: Path) -> None:
    import shutil

    summary("pages.jsonl", STORE)
    shutil.rmtree("index")
    assert summary("pages.jsonl", STORE)["written"] == 12


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_ends_with_a_summary_and_130(here: Path) -> None:
    """A real process, reading from a pipe that stays open; the same command afterwards goes on."""
    command = [sys.executable, "-m", "m3_core.cli", "ingest", "-", STORE, "--batch-size", "5", "--json"]
    lines = "".join(f'{{"id": "{i}", "text": "document {i}"}}\n' for i in range(23))
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and a test run may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None
    process.stdin.write(lines)
    process.stdin.flush()
    deadline = time.monotonic() + 600
    while not list(Path(".m3").glob("*.sqlite-wal")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    counts = json.loads(out)
    assert counts["stopped"] == "the ingest was interrupted"
    again = json.loads(m3("ingest", "-", STORE, "--json", stdin=lines).stdout)
    assert again["skipped"] == counts["written"]
    assert again["written"] == 23 - counts["written"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a shell pipe")
def test_a_closed_pipe_is_no_traceback(pages: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "m3_core.cli", "encode", "pages.jsonl", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.wait(timeout=600)


@pytest.mark.parametrize(("threshold", "merges"), [(12, 1), (13, 0)])
def test_a_large_ingest_is_merged_afterwards(
    pages: Path, monkeypatch: pytest.MonkeyPatch, threshold: int, merges: int
) -> None:
    from m3_integrations.qdrant import QdrantEdgeStore

    merged: list[int] = []
    real = QdrantEdgeStore.optimize

    def optimize(store: QdrantEdgeStore) -> bool:
        merged.append(store.count())
        return real(store)

    monkeypatch.setattr(QdrantEdgeStore, "optimize", optimize)
    monkeypatch.setattr(sys.modules["m3_core.cli.ingest"], "_OPTIMIZE_FROM", threshold)
    assert summary("pages.jsonl", STORE)["written"] == 12
    assert merged == [12] * merges
