"""The journal by itself: what it is bound to, who may use it, and what survives a process that dies."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from m3_core.errors import JournalError
from m3_core.ingestion.journal import Fate, Journal, default_path
from m3_core.types import Document


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal.sqlite"


def opened(path: Path | None, *, store: str = "s", fingerprint: str = "m", source: str = "one") -> Journal:
    return Journal(path, store=store, fingerprint=fingerprint, source=source)


def see(journal: Journal, name: str, digest: bytes) -> tuple[Fate, bool]:
    (sighting,) = journal.sight([(Document(name, "text"), digest)])
    return sighting.fate, sighting.write


def put(journal: Journal, name: str, digest: bytes, chunks: int = 0) -> None:
    journal.acknowledge([(name, chunks, digest, journal.intend([(name, chunks)]))])


def test_only_what_was_acknowledged_is_known(path: Path) -> None:
    with opened(path) as journal:
        assert see(journal, "a", b"1") == (Fate.WRITE, True)
        assert see(journal, "b", b"1") == (Fate.WRITE, True)
        put(journal, "a", b"1")
        journal.intend([("b", 0)])
    with opened(path) as journal:
        assert see(journal, "a", b"1") == (Fate.UNCHANGED, False)
        assert see(journal, "b", b"1") == (Fate.WRITE, True)
        assert journal.expected() == 1


def test_a_write_that_was_begun_is_in_doubt_even_if_the_old_content_comes_again(path: Path) -> None:
    with opened(path) as journal:
        put(journal, "a", b"1")
        journal.intend([("a", 0)])  # another content: the store may hold the old or the new one
    with opened(path) as journal:
        assert see(journal, "a", b"1") == (Fate.WRITE, True)


def test_the_acknowledgement_of_an_older_version_says_nothing(path: Path) -> None:
    with opened(path) as journal:
        first = journal.intend([("a", 2)])
        second = journal.intend([("a", 5)])
        journal.acknowledge([("a", 2, b"1", first)])
        assert journal.leftovers("a", 2) == ["a#2", "a#3", "a#4"]
        assert journal.expected() == 0
        journal.acknowledge([("a", 5, b"2", second)])
        assert journal.expected() == 5
        assert journal.leftovers("a", 5) == []


def test_leftovers(path: Path) -> None:
    with opened(path) as journal:
        put(journal, "a", b"1")
        journal.intend([("a", 3)])
        assert journal.leftovers("a", 3) == ["a"]
        journal.intend([("a", 0)])
        assert journal.leftovers("a", 0) == ["a#0", "a#1", "a#2"]


def test_missing_goes_page_by_page(path: Path) -> None:
    with opened(path) as journal:
        for i in range(25):
            see(journal, f"{i:02}", b"1")
            put(journal, f"{i:02}", b"1", chunks=i % 2)
    with opened(path) as journal:
        assert journal.known() == 25
        see(journal, "03", b"1")
        assert journal.missing() == 24
        pages = list(journal.missing_parts(10))
        assert [len(page) for page in pages] == [10, 10, 4]
        assert pages[0]["00"] == ["00"]
        assert pages[0]["01"] == ["01#0"]
        assert not any("03" in page for page in pages)


def test_it_belongs_to_a_store_and_a_model(path: Path) -> None:
    opened(path).close()
    opened(path, source="two").close()
    with pytest.raises(JournalError, match="belongs to the store s, not to t"):
        opened(path, store="t")
    with pytest.raises(JournalError, match="belongs to the model m, not to n"):
        opened(path, fingerprint="n")
    opened(path).close()  # a refusal leaves it usable


def test_one_run_at_a_time(path: Path) -> None:
    with opened(path), pytest.raises(JournalError, match="in use by another ingest run"):
        opened(path)
    opened(path).close()


def test_files_that_are_no_journals(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all " * 100)
    with pytest.raises(JournalError, match="is not an ingest journal"):
        opened(text)
    assert text.read_text().startswith("not a database")
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE documents (x)")
    with pytest.raises(JournalError, match=r"is not an ingest journal|cannot be used"):
        opened(foreign).intend([("a", 0)])
    with pytest.raises(JournalError, match="cannot open the journal"):
        opened(tmp_path)
    with pytest.raises(JournalError, match="cannot open the journal"):
        opened(text / "journal.sqlite")


def test_after_closing(path: Path) -> None:
    journal = opened(path)
    journal.close()
    with pytest.raises(JournalError):
        journal.expected()


def test_without_a_path_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(None) as journal:
        put(journal, "a", b"1")
        assert journal.expected() == 1
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_what_it_acknowledged_and_no_lock(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from m3_core.ingestion.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]), store='s', fingerprint='m', source='one')\n"
        "j.acknowledge([('a', 0, b'1', j.intend([('a', 0)]))]); j.intend([('b', 0)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with opened(path) as journal:
        assert see(journal, "a", b"1") == (Fate.UNCHANGED, False)
        assert see(journal, "b", b"1") == (Fate.WRITE, True)


def test_default_path_is_per_store_and_model() -> None:
    paths = {default_path(store, model) for store in ("a", "b") for model in ("m", "n")}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {Path(".m3")}
