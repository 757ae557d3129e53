"""The notebooks run from their beginning, and what is stored in them is what they show, and fit to be seen."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from run_notebooks import METADATA, NODE, execute
from servers.elasticsearch import url_of

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
ABOUT_ELASTICSEARCH = "5_elasticsearch.ipynb"
NOWHERE = "http://127.0.0.1:1"

PATH = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|var|usr|opt|work|private|Users|mnt)/\w|[A-Z]:\\\\\w")
"""An absolute path of somebody's machine."""
NUMBER = re.compile(r"-?\d+\.\d+")


def read(name: str) -> NotebookNode:
    return nbformat.read(EXAMPLES / name, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook: NotebookNode) -> Iterator[str]:
    """The text of every output, in order."""
    for cell in code(notebook):
        for output in cell.outputs:
            if output.output_type == "stream":
                yield output.text
            elif "data" in output:
                yield from (text for kind, text in sorted(output.data.items()) if kind.startswith("text/"))


def pictures(notebook: NotebookNode) -> list[bytes]:
    outputs: list[Any] = [output for cell in code(notebook) for output in cell.outputs]
    return [
        base64.b64decode(output.data["image/png"])
        for output in outputs
        if "image/png" in output.get("data", {})
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the corpus, as beside the notebooks; they write nothing into the repository."""
    shutil.copytree(EXAMPLES / "corpus", tmp_path / "corpus")
    return tmp_path


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 6
    assert ABOUT_ELASTICSEARCH in NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_stored_outputs_are_fit_to_be_seen(name: str) -> None:
    notebook, size = read(name), (EXAMPLES / name).stat().st_size
    nbformat.validate(notebook)
    assert size < 500_000
    assert notebook.metadata == METADATA
    assert all(not cell.metadata for cell in notebook.cells)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "run it: make notebooks"
    )
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert len(outputs) > len(cells) / 2
    texts = list(shown(notebook))
    for text in texts:
        assert not PATH.search(text), text
        assert " at 0x" not in text
        assert "\x1b" not in text
        assert "\r" not in text
    assert all(len(picture) < 150_000 for picture in pictures(notebook))
    assert "No node answers" not in "".join(texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_shows_what_is_stored(name: str, folder: Path) -> None:
    stored = read(name)
    node = {NODE: url_of("lexical")} if name == ABOUT_ELASTICSEARCH else {}
    done = execute(read(name), folder, **node)
    assert {path.name for path in folder.iterdir()} == {"corpus"}
    before, now = list(shown(stored)), list(shown(done))
    assert len(now) == len(before)
    for old, new in zip(before, now, strict=True):
        # The same words; numbers as near as another processor computes them.
        assert NUMBER.sub("#", _blank(new)) == NUMBER.sub("#", _blank(old))
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (new, old)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.02)
    assert len(pictures(done)) == len(pictures(stored))


@pytest.mark.slow
def test_without_a_node_it_says_how_to_start_one(folder: Path) -> None:
    done = execute(read(ABOUT_ELASTICSEARCH), folder, **{NODE: NOWHERE})
    text = "".join(shown(done))
    assert f"No node answers at {NOWHERE}" in text
    prose = "".join(cell.source for cell in done.cells if cell.cell_type == "markdown")
    assert "docker compose up" in prose
    assert NODE in prose


def _blank(text: str) -> str:
    """Runs of spaces and rules as one: tables are as wide as their numbers."""
    return re.sub(r"[ ─━]+", " ", text)
