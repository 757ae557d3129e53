"""Copying between exact stores: what is copied, what is refused, and how a run ends."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_core import IngestInterrupted, IngestStopped, MemoryStore, Schema, copy_store
from m3_core.errors import (
    DimensionMismatch,
    FingerprintMismatch,
    InputError,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    Unsupported,
)
from m3_core.ingestion.copy import PAGE_BYTES
from m3_core.ingestion.copy_checks import schema_of
from m3_core.store import Page
from m3_core.testing import corpus
from m3_core.types import Document, M3Vectors, Ragged, Representation

DENSE, SPARSE, MULTI = Representation
SCHEMA = Schema(dense=8, sparse=50, multi=4, fingerprint="one")
EVERY = tuple(Representation)


class Watched(MemoryStore):
    """The exact store, with hooks before a write and before a page, and the sizes of pages."""

    def __init__(self, schema: Schema = SCHEMA) -> None:
        super().__init__(schema)
        self.before_write: Callable[[Sequence[Document]], None] = lambda documents: None
        self.before_scan: Callable[[], None] = lambda: None
        self.pages: list[int] = []

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        self.before_write(documents)
        super().upsert(documents, vectors)

    def scan(self, **options: Any) -> Page:
        self.before_scan()
        page = super().scan(**options)
        self.pages.append(len(page.records))
        return page


def filled(n: int, schema: Schema = SCHEMA, *, seed: int = 0) -> Watched:
    store = Watched(schema)
    store.upsert(corpus.documents(n, seed=seed), corpus.vectors(schema, n, seed=seed))
    return store


def content(store: MemoryStore, kinds: Sequence[Representation] = EVERY) -> dict[str, Any]:
    """Everything a store holds, to be compared exactly."""
    page = store.scan(vectors=kinds, size=10_000)
    return {record.id: (record.document, numbers(record.vectors)) for record in page.records}


def numbers(vectors: M3Vectors | None) -> list[Any]:
    assert vectors is not None
    return [
        None if vectors.dense is None else vectors.dense.tolist(),
        None if vectors.sparse is None else [part.tolist() for part in vectors.sparse_row(0)],
        None if vectors.multi is None else vectors.multi[0].tolist(),
    ]


def fail(times: int, error: BaseException) -> Callable[..., None]:
    left = iter(range(times))

    def hook(*_: object) -> None:
        if next(left, None) is not None:
            raise error

    return hook


def test_everything_arrives_as_it_was_and_is_found_alike() -> None:
    source, target = filled(300), Watched()
    summary = copy_store(source, target)
    assert (summary.read, summary.written, summary.skipped, summary.rejected) == (300, 300, 0, 0)
    assert content(target) == content(source)
    queries = corpus.vectors(SCHEMA, 5, seed=9)
    asked = dict.fromkeys(Representation, 20)
    assert target.search(queries, asked) == source.search(queries, asked)


def test_a_filter_and_what_is_there_already() -> None:
    source, target = filled(100), filled(200, seed=1)
    other = {name: found for name, found in content(target).items() if int(name.removeprefix("doc-")) >= 100}
    summary = copy_store(source, target, where={"lang": "ja"})
    chosen = {record.id for record in source.scan(where={"lang": "ja"}, size=1000).records}
    assert summary.read == summary.written == len(chosen) > 5
    assert target.count() == 200
    assert {name: content(target)[name] for name in chosen} == {
        name: content(source)[name] for name in chosen
    }
    assert other.items() <= content(target).items()


def test_a_channel_is_lost_only_with_consent() -> None:
    source, target = filled(20), Watched(SCHEMA.only([DENSE, SPARSE]))
    with pytest.raises(Unsupported, match=r"does not hold multi; to copy without, add --drop multi"):
        copy_store(source, target)
    assert target.count() == 0
    copy_store(source, target, drop=[MULTI])
    assert content(target, [DENSE, SPARSE]) == content(source, [DENSE, SPARSE])
    with pytest.raises(Unsupported, match="add --drop dense --drop multi"):
        copy_store(source, Watched(SCHEMA.only([SPARSE])))
    with pytest.raises(Unsupported, match="holds no channel of"):
        copy_store(target, Watched(SCHEMA.only([MULTI])), drop=EVERY)


def test_a_channel_that_the_source_lacks_is_named() -> None:
    with pytest.raises(SchemaMismatch, match=r"holds sparse, multi vectors, and .* has none; .* m3 backfill"):
        copy_store(filled(3, SCHEMA.only([DENSE])), Watched())


def test_models_must_be_the_same() -> None:
    other = Schema(dense=8, sparse=50, multi=4, fingerprint="two")
    unnamed = Schema(dense=8, sparse=50, multi=4)
    with pytest.raises(FingerprintMismatch, match=r"model two, but this model is one"):
        copy_store(filled(3), Watched(other))
    with pytest.raises(FingerprintMismatch, match="does not say whose it holds"):
        copy_store(filled(3, unnamed), Watched())
    with pytest.raises(FingerprintMismatch, match=r"model one, but this model is two"):
        copy_store(filled(3), Watched(unnamed), model=other)
    assert copy_store(filled(3, unnamed), Watched(), model=SCHEMA).written == 3
    assert copy_store(filled(3), Watched(unnamed)).written == 3
    with pytest.raises(IngestStopped) as stopped:
        copy_store(filled(3), Watched(Schema(dense=9, sparse=50, multi=4)))
    assert isinstance(stopped.value.__cause__, DimensionMismatch)


def test_a_store_is_not_copied_onto_itself_and_options_are_checked() -> None:
    source = filled(3)
    with pytest.raises(InputError, match="both the source and the target"):
        copy_store(source, source)
    with pytest.raises(InputError, match="batch_size must be an integer of at least 1"):
        copy_store(source, Watched(), batch_size=0)


def test_the_schema_of_a_store_is_read_off_its_vectors() -> None:
    assert schema_of(filled(3)) == SCHEMA
    assert schema_of(filled(3), [SPARSE]) == SCHEMA.only([SPARSE])
    with pytest.raises(InputError, match=r"no document in .* has dense, sparse, multi vectors to copy"):
        schema_of(Watched())
    vague = Watched(Schema(sparse=2**32))
    vague.upsert([Document("a")], M3Vectors(sparse=corpus.sparse_rows([{3: 0.5}], 2**32)))
    with pytest.raises(InputError, match="does not say over how many tokens"):
        schema_of(vague)
    assert schema_of(vague, model=SCHEMA) == SCHEMA.only([SPARSE])


def test_weights_over_an_unknown_vocabulary_are_taken_for_the_named_models(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Engines whose collection says nothing give rows as wide as their largest token id."""
    source, target = Watched(Schema(sparse=2**32)), Watched(Schema(sparse=50))
    rows = corpus.sparse_rows([{3: 0.5, 49: 0.25}, {}, {50: 1.0}], 2**32)
    source.upsert([Document("fits"), Document("empty"), Document("beyond")], M3Vectors(sparse=rows))
    summary = copy_store(source, target, model=SCHEMA.only([SPARSE]))
    assert (summary.written, summary.rejected) == (2, 1)
    assert "document 'beyond': it has the token id 50, the model has 50" in caplog.text
    assert content(target, [SPARSE]) == {
        name: found for name, found in content(source, [SPARSE]).items() if name != "beyond"
    }


def test_pages_are_as_large_as_their_vectors_allow() -> None:
    schema = Schema(multi=256)
    source, target = Watched(schema), Watched(schema)
    rows = [np.ones((1024, 256), np.float32)] * 40  # a megabyte each
    source.upsert(corpus.documents(40), M3Vectors(multi=Ragged.from_rows(rows, dimension=256)))
    assert copy_store(source, target).written == 40
    assert max(source.pages[2:]) <= PAGE_BYTES // 2**20
    small = filled(1000)
    copy_store(small, Watched(), batch_size=100)
    assert max(small.pages) == 100


def test_a_store_that_is_away_for_a_moment_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    source, target = filled(20), Watched()
    copied_by = iter(range(2))

    def away() -> None:
        if next(copied_by, None) == 1:  # the first page is for the sizes
            raise StoreUnavailable("no page")

    source.before_scan, target.before_write = away, fail(1, StoreUnavailable("no write"))
    assert copy_store(source, target).written == 20
    assert content(target) == content(source)
    assert [text.partition(";")[0] for text in caplog.messages] == ["no page", "no write"]


def test_a_document_that_is_refused_is_named_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = filled(50), Watched()

    def refuse(documents: Sequence[Document]) -> None:
        if any(document.id == "doc-7" for document in documents):
            raise InputError("seven is too much")

    target.before_write = refuse
    summary = copy_store(source, target, rejects=tmp_path / "rejects.jsonl")
    assert (summary.read, summary.written, summary.rejected) == (50, 49, 1)
    expected = content(source)
    del expected["doc-7"]
    assert content(target) == expected
    assert "document 'doc-7': seven is too much" in caplog.text
    kept = json.loads((tmp_path / "rejects.jsonl").read_text())
    assert json.loads(kept["content"])["id"] == "doc-7"


def test_an_error_says_how_far_it_came() -> None:
    source, target = filled(100), Watched()
    count = iter(range(100))

    def full(_: object) -> None:
        if next(count) == 3:
            raise StoreError("the disk is full")

    target.before_write = full
    with pytest.raises(IngestStopped, match="the disk is full") as stopped:
        copy_store(source, target, batch_size=10)
    assert stopped.value.summary.written == target.count() == 30


def test_ctrl_c_leaves_a_summary_and_resume_goes_on() -> None:
    source, target = filled(100), Watched()
    count = iter(range(100))

    def interrupt(_: object) -> None:
        if next(count) == 3:
            raise KeyboardInterrupt

    target.before_write = interrupt
    with pytest.raises(IngestInterrupted) as stopped:
        copy_store(source, target, batch_size=10)
    assert stopped.value.summary.written == target.count() == 30
    again = copy_store(source, target, resume=True)
    assert (again.read, again.skipped, again.written) == (100, 30, 70)
    assert content(target) == content(source)


def test_resume_copies_what_has_changed_since() -> None:
    source, target = filled(30), Watched()
    copy_store(source, target)
    source.upsert([Document("doc-3", "another text")], corpus.vectors(SCHEMA, 1, seed=5))
    source.upsert([Document("new")], corpus.vectors(SCHEMA, 1, seed=6))
    summary = copy_store(source, target, resume=True)
    assert (summary.skipped, summary.written) == (29, 2)
    assert content(target) == content(source)


def test_counts_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    source, target = filled(20), Watched()
    with caplog.at_level(logging.WARNING):
        target.before_write = lambda _: source.delete(["doc-9"])
        copy_store(source, target, batch_size=5)
    assert "20 documents were counted in" in caplog.text
    lossy = Watched()
    lossy.before_write = lambda _: lossy.delete(["doc-0"])
    with pytest.raises(IngestStopped, match=r"holds 19 documents after 20 were copied into it"):
        copy_store(filled(20), lossy, batch_size=5)


@settings(max_examples=40)
@given(
    n=st.integers(1, 40),
    there=st.sets(st.integers(0, 39)),
    stale=st.sets(st.integers(0, 39)),
    stops=st.lists(st.integers(0, 6), max_size=4),
    batch_size=st.integers(1, 12),
)
def test_however_often_it_is_interrupted_the_end_is_the_same(
    n: int, there: set[int], stale: set[int], stops: list[int], batch_size: int
) -> None:
    source, target = filled(n), Watched()
    records = source.scan(vectors=EVERY, size=100).records
    for place in sorted(there | stale):
        if place < n:
            record = records[place]
            assert record.vectors is not None
            document = Document(record.id, "stale") if place in stale else record.document
            target.upsert([document], record.vectors)
    for stop in stops:
        count = iter(range(100))

        def interrupt(_: object, stop: int = stop, count: Any = count) -> None:
            if next(count) == stop:
                raise KeyboardInterrupt

        target.before_write = interrupt
        with suppress(IngestInterrupted):
            copy_store(source, target, resume=True, batch_size=batch_size)
    target.before_write = lambda _: None
    summary = copy_store(source, target, resume=True, batch_size=batch_size)
    assert summary.read == n == summary.written + summary.skipped
    assert content(target) == content(source)
