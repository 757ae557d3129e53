"""Ingest against an exact store, with an encoder of our own that implements the protocol: words hashed to vectors."""

import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from tokenizers import Tokenizer, models, pre_tokenizers

from m3_core import IngestInterrupted, IngestStopped, IngestSummary, ingest
from m3_core.errors import (
    FingerprintMismatch,
    IngestError,
    InputError,
    JournalError,
    StoreError,
    StoreUnavailable,
)
from m3_core.ingestion.sources import Rejected
from m3_core.memory import MemoryStore
from m3_core.retriever import Retriever
from m3_core.store import Schema
from m3_core.types import Document, FloatArray, M3Vectors, Representation

DIMENSION, VOCABULARY = 16, 997


class WordEncoder:
    """Dense: the sum of a fixed random vector per word; sparse: word counts."""

    fingerprint = "word-encoder"
    max_length = 50

    def __init__(self) -> None:
        backend = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = SimpleNamespace(backend=backend)
        self.encoded = 0

    def schema(self) -> Schema:
        return Schema(dense=DIMENSION, sparse=VOCABULARY, fingerprint=self.fingerprint)

    def encode_documents(
        self, texts: Sequence[str], *, representations: Collection[Representation] | None = None
    ) -> M3Vectors:
        self.encoded += len(texts)
        dense = np.zeros((len(texts), DIMENSION), np.float32)
        sparse = np.zeros((len(texts), VOCABULARY), np.float32)
        for row, text in enumerate(texts):
            for word in text.split()[: self.max_length]:
                seed = int.from_bytes(blake2b(word.encode(), digest_size=4).digest())
                dense[row] += np.random.default_rng(seed).normal(size=DIMENSION)
                sparse[row, seed % VOCABULARY] += 1
            dense[row] /= np.linalg.norm(dense[row]) or 1
        cut = np.array([len(text.split()) > self.max_length for text in texts])
        return M3Vectors(dense, csr_array(sparse), None, cut)


class WatchedStore(MemoryStore):
    """The exact store, with a stable identity, counted calls, and a hook before and after each write."""

    def __init__(self, schema: Schema, name: str = "pages") -> None:
        super().__init__(schema)
        self.name = name
        self.upserted: list[list[str]] = []
        self.deleted: list[list[str]] = []
        self.before: Callable[[Sequence[Document]], None] = lambda documents: None
        self.after: Callable[[Sequence[Document]], None] = lambda documents: None

    @property
    def identity(self) -> str:
        return f"memory:{self.name}"

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        self.before(documents)
        super().upsert(documents, vectors)
        self.upserted.append([document.id for document in documents])
        self.after(documents)

    def delete(self, ids: Sequence[str] = (), *, where: Any = None) -> None:
        self.before([])
        super().delete(ids, where=where)
        self.deleted.append(list(ids))
        self.after([])

    def texts(self) -> dict[str, str]:
        return {record.id: record.document.text for record in _everything(self)}


def _everything(store: MemoryStore) -> Iterator[Any]:
    cursor = None
    while True:
        page = store.scan(cursor=cursor)
        yield from page.records
        cursor = page.cursor
        if cursor is None:
            return


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def store(encoder: WordEncoder) -> WatchedStore:
    return WatchedStore(encoder.schema())


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def documents(count: int, word: str = "text") -> list[Document]:
    return [Document(f"d{i:04}", f"{word} {i}", {"n": i}) for i in range(count)]


def dense(encoder: WordEncoder, text: str) -> FloatArray:
    vectors = encoder.encode_documents([text]).dense
    assert vectors is not None
    row: FloatArray = vectors[0]
    return row


def dense_of(store: WatchedStore, name: str) -> tuple[Document, FloatArray]:
    (record,) = store.get([name], vectors=[Representation.DENSE])
    assert record is not None
    assert record.vectors is not None
    assert record.vectors.dense is not None
    row: FloatArray = record.vectors.dense[0]
    return record.document, row


def balanced(summary: IngestSummary) -> bool:
    """Every document that was read had exactly one fate."""
    return summary.read == summary.written + summary.skipped + summary.duplicates + summary.rejected


def test_writes_text_metadata_and_vectors(encoder: WordEncoder, store: WatchedStore) -> None:
    summary = ingest(documents(300), encoder, store)
    assert (summary.read, summary.written, summary.skipped) == (300, 300, 0)
    assert balanced(summary)
    assert store.texts() == {f"d{i:04}": f"text {i}" for i in range(300)}
    document, vector = dense_of(store, "d0123")
    assert document == Document("d0123", "text 123", {"n": 123})
    np.testing.assert_allclose(vector, dense(encoder, "text 123"), atol=1e-6)


def test_second_run_encodes_nothing(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    ingest(documents(300), encoder, store, journal=journal)
    encoder.encoded = 0
    summary = ingest(documents(300), encoder, store, journal=journal)
    assert (summary.written, summary.skipped, encoder.encoded) == (0, 300, 0)


@pytest.mark.parametrize(
    "change",
    [Document("d0007", "another text", {"n": 7}), Document("d0007", "text 7", {"n": 8})],
    ids=["text", "metadata"],
)
def test_only_what_changed_is_encoded(
    encoder: WordEncoder, store: WatchedStore, journal: Path, change: Document
) -> None:
    ingest(documents(300), encoder, store, journal=journal)
    encoder.encoded = 0
    stream = documents(301)
    stream[7] = change
    summary = ingest(stream, encoder, store, journal=journal)
    assert (summary.written, summary.changed, summary.skipped, encoder.encoded) == (2, 1, 299, 2)
    (record,) = store.get(["d0007"])
    assert record is not None
    assert record.document == change


def test_settings_that_change_the_vectors_write_again(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    ingest(documents(5), encoder, store, journal=journal)
    assert ingest(documents(5), encoder, store, journal=journal, encode="{n} {text}").changed == 5
    assert ingest(documents(5), encoder, store, journal=journal, encode="{n} {text}").written == 0
    encoder.max_length = 40
    assert ingest(documents(5), encoder, store, journal=journal, encode="{n} {text}").changed == 5


def test_fresh_writes_everything_again(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    ingest(documents(5), encoder, store, journal=journal)
    assert ingest(documents(5), encoder, store, journal=journal, fresh=True).written == 5
    assert store.count() == 5


def test_template_decides_what_is_encoded_not_what_is_stored(
    encoder: WordEncoder, store: WatchedStore
) -> None:
    ingest([Document("a", "body", {"title": "Head"})], encoder, store, encode="{title}\n{text}")
    document, vector = dense_of(store, "a")
    assert document.text == "body"
    np.testing.assert_allclose(vector, dense(encoder, "Head\nbody"), atol=1e-6)


def test_template_field_that_never_occurs_is_reported(
    encoder: WordEncoder, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(documents(3), encoder, store, encode="{titel}\n{text}")
    assert "no document had the fields titel" in caplog.text


# The same id twice.


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_of_equal_ids_the_last_wins(
    encoder: WordEncoder, store: WatchedStore, journal: Path, batch_size: int
) -> None:
    stream = [Document("a", "one"), Document("b", "x"), Document("a", "two"), Document("a", "three")]
    summary = ingest(stream, encoder, store, journal=journal, batch_size=batch_size)
    assert (summary.read, summary.written, summary.duplicates, summary.changed) == (4, 2, 2, 0)
    assert store.texts() == {"a": "three", "b": "x"}


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("texts", [["1", "2"], ["1", "2", "1"], ["1", "2", "3", "2"], ["1", "1"]])
def test_second_run_over_equal_ids_writes_nothing(
    encoder: WordEncoder, store: WatchedStore, journal: Path, batch_size: int, texts: list[str]
) -> None:
    stream = [Document("a", text) for text in texts]
    ingest(stream, encoder, store, journal=journal, batch_size=batch_size)
    encoder.encoded = 0
    summary = ingest(stream, encoder, store, journal=journal, batch_size=batch_size)
    assert (summary.written, summary.skipped, summary.duplicates) == (0, 1, len(texts) - 1)
    assert encoder.encoded == 0
    assert store.texts() == {"a": texts[-1]}


def test_an_earlier_version_comes_back_when_the_later_one_goes(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    ingest([Document("a", "one"), Document("a", "two")], encoder, store, journal=journal)
    summary = ingest([Document("a", "one"), Document("b", "x")], encoder, store, journal=journal)
    assert (summary.written, summary.changed, summary.skipped) == (2, 1, 0)
    assert store.texts() == {"a": "one", "b": "x"}


def test_a_version_in_flight_counts_not_the_one_in_the_store(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    """The journal still says "one" when the second document is looked up; it must not be skipped for that."""
    ingest([Document("a", "one")], encoder, store, journal=journal)
    gate = threading.Event()

    def wait(documents: Sequence[Document]) -> None:
        assert gate.wait(10)

    store.before = wait

    def stream() -> Iterator[Document]:
        yield Document("a", "two")
        yield Document("a", "one")
        gate.set()

    ingest(stream(), encoder, store, journal=journal, batch_size=1)
    assert store.texts() == {"a": "one"}


# What cannot be used.


def test_rejected_documents_are_counted_and_written_down(
    encoder: WordEncoder, store: WatchedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream: list[Any] = [
        Document("a", "fine"),
        Rejected("pages.jsonl", 2, "not JSON", "{"),
        Document("", "no id"),
        Document("b", "lone \ud800"),
        Document("c", "x", {"n": float("nan")}),
        "a string",
        Document("d", "fine"),
    ]
    rejects = tmp_path / "deep" / "rejects.jsonl"
    summary = ingest(stream, encoder, store, rejects=rejects)
    assert (summary.read, summary.written, summary.rejected) == (7, 2, 5)
    assert set(store.texts()) == {"a", "d"}
    rows = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [row["line"] for row in rows] == [2, 3, 4, 5, 6]
    assert rows[0] == {"source": "pages.jsonl", "line": 2, "reason": "not JSON", "content": "{"}
    assert "pages.jsonl:2: not JSON" in caplog.text
    assert all(row["reason"] for row in rows)
    ingest([Document("a", "fine")], encoder, store, rejects=rejects)
    assert not rejects.exists()  # it tells of the last run


def test_strict_stops_at_the_first(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    stream: list[Document | Rejected] = [
        *documents(10),
        Rejected("pages.jsonl", 11, "not JSON"),
        *documents(20),
    ]
    with pytest.raises(IngestStopped, match=r"pages\.jsonl:11: not JSON") as stopped:
        ingest(stream, encoder, store, journal=journal, batch_size=4, strict=True)
    assert stopped.value.summary.rejected == 1
    assert stopped.value.summary.written == store.count() == 8
    assert ingest(documents(20), encoder, store, journal=journal).skipped == 8


def test_a_document_the_store_refuses_does_not_stop_the_others(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    def refuse(documents: Sequence[Document]) -> None:
        if bad := [document.id for document in documents if document.metadata.get("n") in (3, 150, 151)]:
            raise InputError(f"cannot keep {bad[0]}")

    store.before = refuse
    summary = ingest(documents(200), encoder, store, journal=journal)
    assert (summary.written, summary.rejected) == (197, 3)
    assert store.count() == 197
    assert balanced(summary)
    store.before = lambda documents: None
    assert ingest(documents(200), encoder, store, journal=journal).written == 3


# Chunks.


def test_chunks_are_stored_with_their_parent(encoder: WordEncoder, store: WatchedStore) -> None:
    text = " ".join(f"w{i}" for i in range(25))
    summary = ingest([Document("a", text, {"lang": "en"})], encoder, store, chunk_tokens=10)
    assert summary.written == 1
    assert store.texts().keys() == {"a#0", "a#1", "a#2"}
    assert " ".join(store.texts()[f"a#{i}"] for i in range(3)) == text
    (record,) = store.get(["a#1"])
    assert record is not None
    assert record.document.metadata == {"lang": "en", "parent_id": "a", "chunk": 1}


def test_fewer_chunks_leave_none_behind(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    def run(words: int, tokens: int | None) -> set[str]:
        ingest([Document("a", "w " * words)], encoder, store, journal=journal, chunk_tokens=tokens)
        return set(store.texts())

    assert run(50, 10) == {"a#0", "a#1", "a#2", "a#3", "a#4"}
    assert run(20, 10) == {"a#0", "a#1"}
    assert run(20, None) == {"a"}
    assert run(30, 10) == {"a#0", "a#1", "a#2"}
    assert run(30, 30) == {"a#0"}


def test_chunks_that_a_stopped_run_wrote_do_not_stay(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    def stop(documents: Sequence[Document]) -> None:
        raise StoreError("disk full")

    store.after = stop  # written, but never acknowledged
    with pytest.raises(IngestStopped):
        ingest([Document("a", "w " * 50)], encoder, store, journal=journal, chunk_tokens=10)
    assert store.count() == 5
    store.after = lambda documents: None
    ingest([Document("a", "v " * 20)], encoder, store, journal=journal, chunk_tokens=10)
    assert set(store.texts()) == {"a#0", "a#1"}


def test_a_document_longer_than_a_piece_is_written_in_several(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    text = " ".join(f"{'w' * 60}{i:06}" for i in range(3_000))
    summary = ingest([Document("a", text)], encoder, store, journal=journal, chunk_tokens=40)
    assert summary.written == 1
    assert len(store.upserted) > 3
    assert " ".join(store.texts()[f"a#{i}"] for i in range(store.count())) == text
    assert ingest([Document("a", text)], encoder, store, journal=journal, chunk_tokens=40).skipped == 1


def test_a_template_with_fields_that_only_chunks_have_writes_again(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    def run(template: str) -> int:
        stream = [Document("d", "a b c")]
        return ingest(stream, encoder, store, journal=journal, chunk_tokens=2, encode=template).written

    assert run("{text}") == 1
    assert run("{parent_id} {text}") == 1
    assert np.allclose(dense_of(store, "d#1")[1], dense(encoder, "d c"))
    assert run("{parent_id} {text}") == 0


def test_a_chunk_is_not_written_over_a_document_of_its_id(
    encoder: WordEncoder, store: WatchedStore, journal: Path, tmp_path: Path
) -> None:
    """Nor a document over a chunk: one of the two would be lost, and both taken for written."""

    def run(source: str, name: str, tokens: int | None) -> IngestSummary:
        stream = [Document(name, f"{source} text")]
        return ingest(
            stream,
            encoder,
            store,
            journal=journal,
            source=source,
            chunk_tokens=tokens,
            rejects=tmp_path / "rejects",
        )

    assert run("whole", "a#1", None).written == 1
    assert run("split", "a", 1).rejected == 1
    assert "would be stored as 'a#1', where 'a#1' is" in (tmp_path / "rejects").read_text()
    assert store.texts() == {"a#1": "whole text"}
    assert run("split", "b", 1).written == 1
    assert run("whole", "b#1", None).rejected == 1
    assert "would be stored as 'b#1', where 'b' is" in (tmp_path / "rejects").read_text()
    assert run("whole", "b#2", None).written == 1
    assert run("split", "b#1", 1).written == 1
    assert set(store.texts()) == {"a#1", "b#0", "b#1", "b#2", "b#1#0", "b#1#1"}


def test_ids_like_those_of_chunks_survive_that_texts_are_split(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    def run(tokens: int | None) -> IngestSummary:
        stream = [Document("a", "one"), Document("a#0", "two")]
        return ingest(stream, encoder, store, journal=journal, chunk_tokens=tokens)

    assert run(None).written == 2
    assert (run(4).rejected, run(4).rejected) == (1, 0)  # once the one has moved, there is room for the other
    assert store.texts() == {"a#0": "one", "a#0#0": "two"}


def test_metadata_that_chunks_need_is_refused(encoder: WordEncoder, store: WatchedStore) -> None:
    summary = ingest([Document("a", "x", {"parent_id": "p"})], encoder, store, chunk_tokens=10)
    assert (summary.written, summary.rejected, store.count()) == (0, 1, 0)


def test_truncated_texts_are_counted(
    encoder: WordEncoder, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    summary = ingest([Document("a", "w " * 51), Document("b", "w " * 50)], encoder, store)
    assert summary.truncated == 1
    assert "1 texts were longer than 50 tokens" in caplog.text


# What went away.


def test_delete_missing(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    ingest(documents(100), encoder, store, journal=journal)
    summary = ingest(documents(95), encoder, store, journal=journal, delete_missing=True)
    assert (summary.missing, summary.deleted, store.count()) == (5, 5, 95)
    assert ingest(documents(95), encoder, store, journal=journal, delete_missing=True).missing == 0
    assert ingest(documents(100), encoder, store, journal=journal).written == 5


def test_delete_missing_takes_all_chunks(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    stream = [Document("a", "w " * 30), *(Document(f"b{i}", "x") for i in range(20))]
    ingest(stream, encoder, store, journal=journal, chunk_tokens=10)
    assert store.count() == 23
    ingest(stream[1:], encoder, store, journal=journal, chunk_tokens=10, delete_missing=True)
    assert set(store.texts()) == {f"b{i}#0" for i in range(20)}


@pytest.mark.parametrize("answer", [True, False, None])
def test_above_a_tenth_it_asks(
    encoder: WordEncoder, store: WatchedStore, journal: Path, answer: bool | None
) -> None:
    asked: list[tuple[int, int]] = []

    def confirm(missing: int, known: int) -> bool:
        asked.append((missing, known))
        return bool(answer)

    ingest(documents(100), encoder, store, journal=journal)
    summary = ingest(
        [*documents(89), *(Document(f"new{i}", "x") for i in range(500))],  # new ones do not dilute the share
        encoder,
        store,
        journal=journal,
        delete_missing=True,
        confirm=None if answer is None else confirm,
    )
    assert asked == ([] if answer is None else [(11, 100)])
    assert (summary.missing, summary.deleted) == (11, 11 if answer else 0)
    assert store.count() == 589 + (0 if answer else 11)


def test_nothing_is_deleted_after_a_partly_rejected_read(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    ingest(documents(100), encoder, store, journal=journal)
    stream: list[Document | Rejected] = [*documents(98), Rejected("pages.jsonl", 99, "not JSON")]
    summary = ingest(stream, encoder, store, journal=journal, delete_missing=True, confirm=lambda *_: True)
    assert (summary.missing, summary.deleted, store.count()) == (2, 0, 100)


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("cannot be read to the end"), OSError])
def test_nothing_is_deleted_after_an_incomplete_read(
    encoder: WordEncoder, store: WatchedStore, journal: Path, error: Any
) -> None:
    ingest(documents(100), encoder, store, journal=journal)

    def stream() -> Iterator[Document]:
        yield from documents(98)
        raise error

    with pytest.raises((KeyboardInterrupt, IngestStopped, OSError)):
        ingest(stream(), encoder, store, journal=journal, delete_missing=True, confirm=lambda *_: True)
    assert store.count() == 100


def test_delete_missing_knows_sources_apart(
    encoder: WordEncoder, store: WatchedStore, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(source: str, names: str) -> IngestSummary:
        stream = [Document(name, f"{source} {name}") for name in names]
        return ingest(
            stream,
            encoder,
            store,
            journal=journal,
            source=source,
            delete_missing=True,
            confirm=lambda *_: True,
        )

    run("one", "abc")
    run("two", "cde")
    assert "1 ids are also in other sources" in caplog.text
    assert store.texts()["c"] == "two c"
    assert run("one", "a").deleted == 1  # b; c is still in the other source
    assert set(store.texts()) == set("acde")
    assert run("two", "d").deleted == 2
    assert set(store.texts()) == set("ad")
    assert run("one", "ac").written == 1  # the store holds what is true of the source that wrote last
    assert run("two", "dc").changed == 1
    assert store.texts()["c"] == "two c"
    assert run("one", "ac").changed == 1


def test_what_all_sources_have_dropped_is_deleted(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    """Each drops the shared document while the other still seems to have it."""

    def run(source: str, names: str) -> IngestSummary:
        stream = [Document(name, name) for name in names]
        return ingest(
            stream,
            encoder,
            store,
            journal=journal,
            source=source,
            delete_missing=True,
            confirm=lambda *_: True,
        )

    run("one", "ax")
    run("two", "bx")
    assert run("one", "a").missing == 0
    assert set(store.texts()) == set("abx")
    assert run("two", "b").deleted == 1
    assert set(store.texts()) == set("ab")


def test_delete_missing_needs_a_journal(encoder: WordEncoder, store: WatchedStore) -> None:
    with pytest.raises(InputError, match="needs a journal"):
        ingest([], encoder, store, delete_missing=True)


# Whose journal it is.


def test_journal_of_another_store(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    ingest(documents(3), encoder, store, journal=journal)
    with pytest.raises(JournalError, match="belongs to the store memory:pages, not to memory:other"):
        ingest(documents(3), encoder, WatchedStore(encoder.schema(), "other"), journal=journal)


def test_journal_of_another_model(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    ingest(documents(3), encoder, store, journal=journal)
    encoder.fingerprint = "another"
    with pytest.raises(JournalError, match="belongs to the model word-encoder, not to another"):
        ingest(documents(3), encoder, WatchedStore(encoder.schema()), journal=journal)


def test_store_of_another_model(encoder: WordEncoder, store: WatchedStore) -> None:
    encoder.fingerprint = "another"
    with pytest.raises(FingerprintMismatch):
        ingest(documents(3), encoder, store)


def test_an_emptied_store_is_filled_again(encoder: WordEncoder, journal: Path) -> None:
    ingest(documents(30), encoder, WatchedStore(encoder.schema()), journal=journal)
    new = WatchedStore(encoder.schema())
    assert ingest(documents(30), encoder, new, journal=journal).written == 30
    assert new.count() == 30


def test_a_store_that_lost_some_is_reported(
    encoder: WordEncoder, store: WatchedStore, journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(documents(30), encoder, store, journal=journal)
    store.delete(["d0003"])
    ingest(documents(30), encoder, store, journal=journal)
    assert "knows of 30 entries in the store, which holds 29" in caplog.text


# When the store fails, and when a person does.


def test_a_transient_error_is_tried_again(
    encoder: WordEncoder, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([True, True])

    def fail(documents: Sequence[Document]) -> None:
        if next(failures, False):
            raise StoreUnavailable("no answer")

    store.before = fail
    assert ingest(documents(10), encoder, store).written == 10
    assert caplog.text.count("no answer; trying again") == 2


def test_the_pause_that_a_store_asks_for_is_kept_as_far_as_patience_goes(
    encoder: WordEncoder, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    asked = iter([1.75, 3600.0])

    def fail(documents: Sequence[Document]) -> None:
        if seconds := next(asked, None):
            raise StoreUnavailable("busy", retry_after=seconds)

    store.before = fail
    with pytest.raises(IngestStopped, match="busy"):
        ingest(documents(10), encoder, store, patience=600)
    assert [record.getMessage() for record in caplog.records] == ["busy; trying again in 1.8 s"]


def test_a_store_that_stays_away_stops_the_run(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    ingest(documents(10), encoder, store, journal=journal)

    def fail(documents: Sequence[Document]) -> None:
        raise StoreUnavailable("no answer")

    store.before = fail
    with pytest.raises(IngestStopped, match="no answer") as stopped:
        ingest(documents(20), encoder, store, journal=journal, patience=0.1)
    assert isinstance(stopped.value.__cause__, StoreUnavailable)
    assert isinstance(stopped.value, IngestError)
    store.before = lambda documents: None
    assert ingest(documents(20), encoder, store, journal=journal).skipped == 10


def test_a_permanent_error_keeps_what_was_acknowledged(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    def fail(documents: Sequence[Document]) -> None:
        if any(document.id == "d0055" for document in documents):
            raise StoreError("disk full")

    store.before = fail
    with pytest.raises(IngestStopped, match="disk full") as stopped:
        ingest(documents(100), encoder, store, journal=journal, batch_size=10)
    assert stopped.value.summary.written == store.count() == 50
    store.before = lambda documents: None
    summary = ingest(documents(100), encoder, store, journal=journal)
    assert (summary.written, summary.skipped, store.count()) == (50, 50, 100)


def test_ctrl_c_finishes_what_is_on_its_way(encoder: WordEncoder, store: WatchedStore, journal: Path) -> None:
    def stream() -> Iterator[Document]:
        yield from documents(50)
        raise KeyboardInterrupt

    with pytest.raises(IngestInterrupted) as interrupted:
        ingest(stream(), encoder, store, journal=journal, batch_size=10)
    assert interrupted.value.summary.written == store.count() == 50
    assert ingest(documents(60), encoder, store, journal=journal).skipped == 50


def test_an_error_of_the_callers_own_comes_out_as_it_is(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    def stream() -> Iterator[Document]:
        yield from documents(50)
        raise LookupError("their own")

    with pytest.raises(LookupError, match="their own"):
        ingest(stream(), encoder, store, journal=journal, batch_size=10)
    assert ingest(documents(50), encoder, store, journal=journal).skipped == 50


def test_encoding_overlaps_with_writing(store: WatchedStore) -> None:
    """The first write does not end before the second batch is encoded: only a run that overlaps can finish."""
    second = threading.Event()

    class Signalling(WordEncoder):
        def encode_documents(self, texts: Sequence[str], **options: Any) -> M3Vectors:
            if "text 10" in texts:
                second.set()
            return super().encode_documents(texts, **options)

    overlapped: list[bool] = []
    store.before = lambda documents: overlapped.append(second.wait(10))
    ingest(documents(20), Signalling(), store, batch_size=10)
    assert overlapped == [True, True]


def test_an_empty_source_says_so(
    encoder: WordEncoder, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert ingest([], encoder, store).read == 0
    assert "the source is empty" in caplog.text


def test_progress_goes_to_standard_error(
    encoder: WordEncoder, store: WatchedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(documents(3), encoder, store, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "ingesting" in err


def test_with_a_model(tiny_model_folder: Path, texts: tuple[str, ...], journal: Path) -> None:
    """The real encoder fits the protocol, truncation is counted once, and search groups chunks by parent."""
    from m3_core.encoder import M3Encoder

    real = M3Encoder.load(tiny_model_folder)
    store = WatchedStore(real.schema())
    stream = [Document(f"t{i}", f"{text} {text}") for i, text in enumerate(texts)]
    summary = ingest(stream, real, store, journal=journal, chunk_tokens=20)
    assert summary.written == len(texts)
    assert store.count() > len(texts)
    hits = Retriever(real, store, group_by="parent_id").search(texts[3], k=len(texts))
    parents = [hit.document.metadata["parent_id"] for hit in hits]
    assert len(parents) == len(set(parents)) == len(texts)


class Killed(BaseException):
    """Stands for a kill: nothing after it runs."""


CONTENT = st.sampled_from(["", "a", "b c d e", "a b c d e f g h i"])
STREAM = st.lists(st.tuples(st.sampled_from("xyz"), CONTENT), max_size=12)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_whatever_happens_the_store_ends_with_the_stream(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_history(data, tmp_path_factory.mktemp("run") / "journal.sqlite")


def test_a_kill_between_a_deletion_and_its_note_loses_nothing(
    encoder: WordEncoder, store: WatchedStore, journal: Path
) -> None:
    """The document that the killed run had deleted comes back: it is written again, whatever it was before."""
    old, new = Document("x", "a"), Document("y", "b")
    ingest([old], encoder, store, journal=journal)

    def kill(documents: Sequence[Document]) -> None:
        if not documents:
            raise Killed

    store.after = kill
    with pytest.raises(Killed):
        ingest([new], encoder, store, journal=journal, delete_missing=True, confirm=lambda *_: True)
    assert store.texts() == {"y": "b"}
    store.after = lambda documents: None
    assert ingest([old, new], encoder, store, journal=journal).written == 1
    assert store.texts() == {"x": "a", "y": "b"}


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_whatever_happens_many_times(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_history(data, tmp_path_factory.mktemp("run") / "journal.sqlite")


def check_history(data: st.DataObject, path: Path) -> None:
    """Random streams with repeated ids, chunked or not, killed at random store calls; then a run that completes."""
    encoder = WordEncoder()
    store = WatchedStore(encoder.schema())
    stream: list[Document] = []
    tokens: int | None = None

    def run(batch_size: int) -> IngestSummary:
        return ingest(
            stream,
            encoder,
            store,
            journal=path,
            batch_size=batch_size,
            chunk_tokens=tokens,
            delete_missing=True,
            confirm=lambda *_: True,
        )

    for _ in range(data.draw(st.integers(0, 3), "kills")):
        stream = [Document(name, text) for name, text in data.draw(STREAM, "stream")]
        tokens = data.draw(st.sampled_from([None, 2, 4]), "tokens")
        calls = iter(range(data.draw(st.integers(0, 6), "calls before the kill")))

        def kill(documents: Sequence[Document], calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise Killed

        store.before = kill if data.draw(st.booleans(), "before the write") else lambda documents: None
        store.after = kill
        with suppress(Killed):
            run(data.draw(st.integers(1, 5), "batch size"))

    store.before = store.after = lambda documents: None
    stream = [Document(name, text) for name, text in data.draw(STREAM, "last stream")]
    size = data.draw(st.integers(1, 5), "last batch size")
    summary = run(size)
    wanted = {document.id: document.text for document in stream}
    joined: dict[str, str] = {}
    for record in sorted(_everything(store), key=lambda record: record.document.metadata.get("chunk", 0)):
        parent = record.document.metadata.get("parent_id", record.id)
        joined[parent] = f"{joined.get(parent, '')} {record.document.text}".strip()
    assert joined == wanted
    assert store.count() == sum(
        1 if tokens is None else max(1, -(-len(text.split()) // tokens)) for text in wanted.values()
    )
    assert balanced(summary)
    again = run(size)
    assert (again.written, again.skipped) == (0, len(wanted))
    assert balanced(again)
