"""What the README shows: its Python is run, in order, and its command lines are ones that the command understands."""

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from llama_index.core import Document as LlamaDocument
from typer.core import TyperGroup

from m3_core import Document, M3Encoder, MemoryStore, ingest, open_store
from m3_core.cli import app

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = "".join(code for language, code in BLOCKS if language == "console").replace("\\\n", " ")
LINES = [line.removeprefix("$ ") for line in SHELL.splitlines() if re.match(r"\$ (\.venv/bin/)?m3 ", line)]
PAGES = [
    Document("ja", "表を挿入するには、表メニューを使います。", {"lang": "ja"}),
    Document("en", "To insert a table, use the menu Table. Cells can be merged there.", {"lang": "en"}),
    Document("de", "Zellen verbinden Sie im Menü Tabelle.", {"lang": "de"}),
]


def test_there_is_something_to_run() -> None:
    assert len(PYTHON) >= 4
    assert len(LINES) >= 5


def test_the_tree_names_what_the_core_has() -> None:
    tree = README.read_text(encoding="utf-8").partition("## The tree")[2]
    block = tree[tree.index("m3_core/") : tree.index("integrations/")]
    there = {path.name for path in (README.parent / "m3_core").glob("[!_]*.py")}
    assert set(re.findall(r"\w+\.py", block)) == there
    folders = {path.parent.name for path in (README.parent / "m3_core").glob("*/__init__.py")}
    assert folders <= set(re.findall(r"(\w+)/", block))


@pytest.mark.slow
def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = M3Encoder.load("m3-tiny")
    with open_store("qdrant+file://index/demo", schema=encoder.schema()) as demo:
        ingest(PAGES, encoder, demo)
    # What the text around the blocks takes for given.
    names: dict[str, Any] = {
        "documents": [LlamaDocument(text=page.text) for page in PAGES],
        "query": "表を挿入する",
        "store": MemoryStore(encoder.schema()),
    }
    ingest(PAGES, encoder, names["store"])
    for code in PYTHON:
        exec(compile(code, str(README), "exec"), names)
    assert [hit.id for hit in names["hits"]] == ["ja", "en"]
    assert (
        names["vectors"].dense.shape[0]
        == names["vectors"].sparse.shape[0]
        == len(names["vectors"].multi)
        == 2
    )
    found = names["index"].as_retriever(similarity_top_k=1).retrieve("Wie verbinde ich Zellen?")
    assert found[0].text == PAGES[2].text


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_understood(line: str) -> None:
    _, name, *arguments = itertools.takewhile(
        lambda word: word not in "|>#", shlex.split(line, comments=True)
    )
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands[name]
    with command.make_context(name, arguments) as context:
        assert context.params
