"""The command line by itself: help, exit codes, what goes where; no store on disk is needed."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner, Result

from m3_core.cli import app
from m3_core.cli.check import _EXTRAS
from m3_core.cli.output import FusionName, make_fusion, read_where
from m3_core.cli.search import excerpt
from m3_core.errors import InputError
from m3_core.fusion import ReciprocalRank, WeightedSum
from m3_core.text import printable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3_MODEL", str(tiny_model_folder))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def m3(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_help_teaches_and_needs_no_heavy_import() -> None:
    code = (
        "import sys; sys.argv = ['m3', '--help']\n"
        "from m3_core.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'scipy', 'pyarrow', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for word in ("encode", "ingest", "search", "check", "Exit codes", "130"):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["encode", "ingest", "search", "check", "copy"])
def test_help_of_every_command_has_examples(command: str) -> None:
    done = m3(command, "--help")
    assert done.exit_code == 0
    assert f"m3 {command} " in done.stdout.split("Examples")[1]


def test_every_option_has_a_help() -> None:
    group = typer.main.get_command(app)
    for command in group.commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            assert parameter.help, (command.name, parameter.name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["search"],
        ["search", "memory://", "q", "--bogus"],
        ["search", "memory://", "q", "-k", "many"],
        ["search", "memory://", "q", "--fusion", "best"],
        ["encode", "-r", "lexical"],
        ["ingest", "a.jsonl", "memory://", "--format", "docx"],
    ],
)
def test_wrong_use_is_exit_code_2(arguments: list[str]) -> None:
    done = m3(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "none.txt"], "none.txt: there is no such file"),
        (["encode", "latin.txt"], "latin.txt, line 2: not UTF-8"),
        (["encode", "text.txt", "--max-length", "1"], "max_length must be 3 to"),
        (["encode", "text.txt", "--device", "abacus"], "the device 'abacus' cannot be used"),
        (["encode", "text.txt", "--model", "nowhere"], "nowhere"),
        (["ingest", "none.jsonl", "memory://"], "none.jsonl: there is no such file or folder"),
        (["ingest", "pages.docx", "memory://"], "cannot tell the format from the name"),
        (["ingest", "pages.jsonl", "abacus://x"], "URL starts with one of: "),
        (["ingest", "pages.jsonl", "pages"], "URL starts with one of: "),
        (["ingest", "pages.jsonl", "memory://", "--chunk-tokens", "0"], "at least 1 token, not 0"),
        (["ingest", "pages.jsonl", "memory://", "--batch-size", "0"], "batch_size must be at least 1"),
        (["ingest", "pages.jsonl", "memory://", "--encode", "{title!r}"], "only the name of a field"),
        (["ingest", "pages.jsonl", "memory://", "--rejects", "pages.jsonl"], "is the source"),
        (["ingest", "pages.jsonl", "memory://", "--journal", "text.txt"], "is not an ingest journal"),
        (["ingest", "pages.jsonl", "memory://", "--strict"], "pages.jsonl:2: not JSON"),
        (["ingest", "rows.csv", "memory://"], "no column 'text'; the columns are: id, body"),
        (["search", "memory://", "q"], "always new and empty"),
        (["search", "memory://", "q", "--where", "{lang"], "--where is not JSON"),
        (["search", "memory://", "q", "--where", "[]"], "--where is not a JSON object"),
        (["search", "memory://", "q", "--dense", "-1"], "must be a number of at least 0"),
        (["check", "abacus://x"], None),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(here: Path, arguments: list[str], said: str | None) -> None:
    (here / "text.txt").write_text("one\ntwo\n" * 100)
    (here / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    (here / "pages.docx").write_text("x")
    (here / "pages.jsonl").write_text('{"id": "a", "text": "x"}\n{bad\n')
    (here / "rows.csv").write_text("id,body\n1,x\n")
    done = m3(*arguments)
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    if said is not None:
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("m3: ")
        assert said in last


def test_the_version() -> None:
    done = m3("--version")
    assert (done.exit_code, done.stdout) == (0, f"m3-retrieval {version('m3-retrieval')}\n")


def test_debug_shows_the_traceback(here: Path) -> None:
    done = m3("--debug", "encode", "none.txt")
    assert isinstance(done.exception, InputError)


def test_a_folder_where_a_file_is_wanted(here: Path) -> None:
    done = m3("encode", str(here))
    assert done.exit_code == 1
    assert "there is no such file" in done.stderr


def test_encode_for_machines(here: Path) -> None:
    done = m3("encode", "-", "--json", stdin="The quick brown fox\n\n東京\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    import os

    from m3_core.encoder import M3Encoder

    encoder = M3Encoder.load(os.environ["M3_MODEL"])
    vectors = encoder.encode_documents(["The quick brown fox", "", "東京"])
    assert vectors.dense is not None
    assert vectors.multi is not None
    for i, row in enumerate(rows):
        assert row["dense"] == pytest.approx(vectors.dense[i].tolist(), abs=1e-6)
        ids, weights = vectors.sparse_row(i)
        assert [int(token) for token in row["sparse"]] == ids.tolist()
        assert list(row["sparse"].values()) == pytest.approx(weights.tolist(), abs=1e-6)
        assert len(row["multi"]) == len(vectors.multi[i])
        assert row["truncated"] is False


def test_encode_only_what_is_asked(here: Path) -> None:
    done = m3("encode", "--json", "-r", "dense", "--max-length", "4", stdin="The quick brown fox jumps\n")
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert row.keys() == {"dense", "truncated"}
    assert row["truncated"] is True
    assert "cut" in done.stderr


def test_encode_for_people(here: Path) -> None:
    done = m3("encode", stdin="The quick brown fox\n")
    assert "dense   32 numbers" in done.stdout
    assert "vectors of 24" in done.stdout


def test_ingest_reads_standard_input_and_keeps_results_apart_from_notes(here: Path) -> None:
    done = m3("ingest", "-", "memory://", "--json", stdin='{"text": "x"}\nbad\n{"text": "y"}\n')
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert (summary["read"], summary["written"], summary["rejected"]) == (3, 2, 1)
    assert summary["stopped"] is None
    assert "m3: rejected -:2: not JSON" in done.stderr
    (rejected,) = Path(summary["rejects"]).read_text().splitlines()
    assert json.loads(rejected)["content"] == "bad"
    assert Path(summary["journal"]).parent == Path(".m3")


def test_ingest_of_nothing_usable_is_a_failure(here: Path) -> None:
    done = m3("ingest", "-", "memory://", "--text-field", "body", stdin='{"text": "x"}\n{"text": "y"}\n')
    assert done.exit_code == 1
    assert "there is no field 'body' with the text; the fields are: text" in done.stderr
    assert "2 read, 0 written, 2 rejected" in done.stdout


def test_ingest_stopped_by_strict_still_reports(here: Path) -> None:
    done = m3("ingest", "-", "memory://", "--strict", "--json", stdin='{"text": "x"}\nbad\n')
    assert done.exit_code == 1
    assert "-:2: not JSON" in json.loads(done.stdout)["stopped"]


def test_check(here: Path) -> None:
    done = m3("check", "--json")
    assert done.exit_code == 0
    findings = {row["subject"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert findings["model"]["ok"] is True
    assert "dense, multi, sparse" in findings["model"]["message"]
    assert {"python", "torch", *_EXTRAS} <= findings.keys()


def test_check_of_a_model_that_is_not_there(here: Path) -> None:
    done = m3("check", "--model", "nowhere", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is False


def test_check_knows_the_extras_of_the_distribution() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra, packages in _EXTRAS.items():
        wanted = " ".join(project["optional-dependencies"][extra]).lower()
        assert all(package in wanted for package in packages), extra
    assert set(_EXTRAS) == set(project["optional-dependencies"]) - {"all", "dev"}


def test_fusion_options() -> None:
    assert make_fusion(None, None, None, None) is None
    assert make_fusion(None, 1.0, 0.3, None) == WeightedSum(1.0, 0.3, 0.0)
    assert make_fusion(FusionName.WEIGHTED, None, 0.5, None) == WeightedSum(1.0, 0.5, 1.0)
    assert make_fusion(FusionName.LONG_DOCUMENTS, None, None, None) == WeightedSum(0.15, 0.5, 0.35)
    assert make_fusion(FusionName.RRF, None, None, 0.0) == ReciprocalRank(multi=0.0)


def test_where_option() -> None:
    assert read_where(None) is None
    assert read_where('{"lang": "ja"}') == {"lang": "ja"}
    with pytest.raises(InputError, match="write it like"):
        read_where("lang=ja")


def test_a_document_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07c\nd\te\x9b") == "a\ufffd[2Jb\ufffdc\nd\te\ufffd"
    assert printable("a\u202egnp.exe \u2067שלום\u2069") == "a\ufffdgnp.exe \u2067שלום\u2069"
    assert "\x1b" not in Text(printable("\x1b[31m")).plain


@pytest.mark.parametrize(
    ("length", "spans", "wanted"),
    [
        (100, [], (0, 100)),
        (100, [(90, 95)], (0, 100)),
        (2000, [], (0, 500)),
        (2000, [(10, 15)], (0, 500)),
        (2000, [(1990, 2000)], (1500, 2000)),
        (2000, [(10, 15), (1000, 1005), (1100, 1105), (1200, 1205)], (875, 1375)),
    ],
)
def test_excerpt(length: int, spans: list[tuple[int, int]], wanted: tuple[int, int]) -> None:
    assert excerpt(length, spans) == wanted
