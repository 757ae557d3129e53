"""Backfilling Qdrant collections that others made: `:memory:` by the client, and Qdrant Edge."""

import json
import shlex
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from m3_core.cli import app
from m3_core.encoder import M3Encoder
from m3_core.errors import (
    DimensionMismatch,
    FingerprintMismatch,
    IngestStopped,
    InputError,
    JournalError,
    SchemaMismatch,
    StoreUnavailable,
    Unsupported,
)
from m3_core.extending import Extensible, open_partial
from m3_core.ingestion.backfill import backfill, plan_backfill
from m3_core.scoring import channel_scores
from m3_core.types import ALL_REPRESENTATIONS, Document, M3Vectors, Representation

pytest.importorskip("qdrant_client")
pytest.importorskip("qdrant_edge")

import qdrant_edge as edge
from qdrant_client import QdrantClient, models
from servers.qdrant_front import ROUTES, QdrantFront

from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore
from m3_integrations.qdrant.base import QdrantBase

DENSE, SPARSE, MULTI = Representation
NAMES = {"text": "body", "dense": "m3_dense", "sparse": "m3_sparse", "multi": "m3_multi"}
UUID = "0b9a1b8e-3c0e-4a3e-9c8f-1d2e3f405162"
PAYLOADS: dict[int | str, dict[str, Any]] = {
    0: {
        "body": "Merge the cells of a table.",
        "n": {"x": [1, None, {"y": [True, {}]}], "": 1.5e-9},
        "a.b": [],
    },
    2**64 - 1: {"body": "Print a page.", "größe": 2**53 + 1, "id": "not the point's id"},
    UUID: {"body": "表を挿入する", "metadata": {"deep": [[], [None]]}},
    5: {"body": None, "n": 5},
    6: {"body": 7},
    7: {"title": "only a title"},
    8: {},
}
WITH_TEXT = ["0", str(2**64 - 1), UUID]


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder)


class Theirs:
    """Somebody's collection, read and written with the engine's own means."""

    def __init__(self, url: str | None = None) -> None:
        """url: of a server; in memory without."""
        self.client = (
            QdrantClient(":memory:") if url is None else QdrantClient(url, check_compatibility=False)
        )
        size = models.VectorParams(size=2, distance=models.Distance.COSINE)
        self.client.create_collection("shop", vectors_config=size)
        self.client.upsert(
            "shop",
            [models.PointStruct(id=key, vector=[1, 2], payload=value) for key, value in PAYLOADS.items()],
        )

    def open(self, **names: str) -> QdrantBase:
        return QdrantStore.open(self.client, "shop", fields={**NAMES, **names}, partial=True)

    def open_plainly(self) -> QdrantBase:
        return QdrantStore.open(self.client, "shop")

    def payloads(self, collection: str = "shop") -> dict[str, str]:
        points = self.client.scroll(collection, limit=100)[0]
        return {str(point.id): json.dumps(point.payload, ensure_ascii=False) for point in points}

    def change(self, key: int, body: str) -> None:
        self.client.set_payload("shop", {"body": body}, [key])

    def write_whole(self, key: int) -> None:
        """As a program does that knows nothing of the new vectors."""
        self.client.upsert("shop", [models.PointStruct(id=key, vector={"": [2, 1]}, payload=PAYLOADS[key])])

    def close(self) -> None:
        self.client.close()


class TheirFolder(Theirs):
    """The same in a folder of Qdrant Edge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "shop"
        self.folder.mkdir()
        size = edge.EdgeVectorParams(size=2, distance=edge.Distance.Cosine)
        shard = edge.EdgeShard.create(str(self.folder), edge.EdgeConfig(vectors={"old": size}))
        points = [edge.Point(key, {"old": [1, 2]}, value) for key, value in PAYLOADS.items()]
        shard.update(edge.UpdateOperation.upsert_points(points))
        shard.flush()
        shard.close()

    def open(self, **names: str) -> QdrantBase:
        return QdrantEdgeStore.open(self.folder, fields={**NAMES, **names}, partial=True)

    def open_plainly(self) -> QdrantBase:
        return QdrantEdgeStore.open(self.folder)

    def payloads(self, collection: str = "shop") -> dict[str, str]:
        shard = edge.EdgeShard.load(str(self.folder))
        points = shard.scroll(edge.ScrollRequest(limit=100, with_payload=True))[0]
        found = {
            str(point.id): json.dumps(point.payload, ensure_ascii=False, sort_keys=True) for point in points
        }
        shard.close()
        return found

    def change(self, key: int, body: str) -> None:
        shard = edge.EdgeShard.load(str(self.folder))
        shard.update(edge.UpdateOperation.set_payload([key], {"body": body}))
        shard.flush()
        shard.close()

    def write_whole(self, key: int) -> None:
        shard = edge.EdgeShard.load(str(self.folder))
        shard.update(edge.UpdateOperation.upsert_points([edge.Point(key, {"old": [2, 1]}, PAYLOADS[key])]))
        shard.flush()
        shard.close()

    def close(self) -> None:
        pass


@pytest.fixture(params=["memory", "http", "edge"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Theirs]:
    with ExitStack() as stack:
        match request.param:
            case "memory":
                found = Theirs()
            case "http":
                found = Theirs(stack.enter_context(QdrantFront()).url)
            case _:
                found = TheirFolder(tmp_path)
        yield found
        found.close()


def test_vectors_are_added_and_nothing_else_changes(
    theirs: Theirs, encoder: M3Encoder, tmp_path: Path
) -> None:
    before, journal = theirs.payloads(), tmp_path / "journal.sqlite"
    with theirs.open() as store:
        assert isinstance(store, Extensible)
        assert store.capabilities.representations == frozenset()
        plan = plan_backfill(store, encoder, page_size=3)
        assert (plan.documents, plan.without_text) == (7, 4)
        assert plan.adds == plan.fills == {DENSE: "m3_dense", SPARSE: "m3_sparse", MULTI: "m3_multi"}
        assert store.lacking(encoder.schema()) == plan.adds  # nothing was written
        done = backfill(store, encoder, journal=journal, page_size=2, batch_size=2)
        assert (done.read, done.written, done.without_text, done.rejected) == (7, 3, 4, 0)
    assert theirs.payloads() == before
    with theirs.open() as store:
        again = backfill(store, encoder, journal=journal)
        assert (again.written, again.skipped) == (0, 3)
    theirs.change(0, "Something else")
    with theirs.open() as store:
        changed = backfill(store, encoder, journal=journal)
        assert (changed.written, changed.changed, changed.skipped) == (1, 1, 2)

    # Its own metadata say what it is now: opened plainly, it is a store like any other.
    with theirs.open_plainly() as plain:
        assert plain.fingerprint == encoder.fingerprint
        assert plain.check(encoder.schema()) == []
        texts = ["Something else", "Print a page.", "表を挿入する"]
        records = plain.get(WITH_TEXT, vectors=ALL_REPRESENTATIONS)
        assert [record.document.text for record in records if record] == texts
        held = M3Vectors.concat([record.vectors for record in records if record and record.vectors])
        fresh = encoder.encode_documents(texts)
        for kind in ALL_REPRESENTATIONS:
            np.testing.assert_allclose(
                channel_scores(fresh, 0, held, kind), channel_scores(fresh, 0, fresh, kind), rtol=1e-5
            )
        assert len(plain.get(["5"], vectors=[])) == 1
        (without,) = plain.score(fresh.take([0]), DENSE, [["5"]])
        assert np.isnan(without[0])
        new = plain.get([str(2**64 - 1)])[0]
        assert new is not None
        assert new.document.metadata == {"größe": 2**53 + 1, "id": "not the point's id"}


def test_a_document_that_lost_its_vectors_is_encoded_again(
    theirs: Theirs, encoder: M3Encoder, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.sqlite"
    with theirs.open() as store:
        backfill(store, encoder, journal=journal)
        assert store.count_bare(ALL_REPRESENTATIONS) == 4
    theirs.write_whole(0)
    with theirs.open() as store:
        assert store.count_bare(ALL_REPRESENTATIONS) == 5
        assert store.bare(["0", UUID, "5", "99"], [DENSE]) == ["0", "5"]
        again = backfill(store, encoder, journal=journal)
        assert (again.written, again.skipped) == (1, 2)
        assert store.count_bare(ALL_REPRESENTATIONS) == 4


def test_a_second_run_may_find_nothing(theirs: Theirs, encoder: M3Encoder, tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    with theirs.open() as store:
        assert backfill(store, encoder, journal=journal).written == 3
        assert backfill(store, encoder, journal=journal, where={"n": {"$gt": 99}}).read == 0
        assert isinstance(store, Extensible)
        assert store.bare([], [DENSE]) == store.bare(["no point has this id"], [DENSE]) == []


def test_some_documents_some_channels_and_a_template(theirs: Theirs, encoder: M3Encoder) -> None:
    names = {"text": "body", "sparse": "m3_sparse"}
    with open_names(theirs, names) as store:
        done = backfill(store, encoder, where={"n": 5}, encode="{n} {body}")
        assert (done.read, done.written, done.without_text) == (1, 1, 0)  # the template makes a text of it
        assert store.capabilities.representations == {SPARSE}
    with open_names(theirs, {"text": "body", "dense": "m3_dense"}) as store:
        backfill(store, encoder)
    with theirs.open_plainly() as plain:  # the second backfill has not forgotten the first
        assert plain.capabilities.representations == {DENSE, SPARSE}


@pytest.mark.parametrize("field", ["text", "body"])
def test_a_template_knows_the_text_by_both_names(theirs: Theirs, encoder: M3Encoder, field: str) -> None:
    with open_names(theirs, {"text": "body", "dense": "m3_dense"}) as store:
        pattern = f"Shop: {{{field}}}"
        assert plan_backfill(store, encoder, encode=pattern).documents == len(PAYLOADS)
        backfill(store, encoder, encode=pattern)
        (record,) = store.get(["0"], vectors=[DENSE])
    expected = encoder.encode_documents([f"Shop: {PAYLOADS[0]['body']}"]).dense
    assert record is not None
    assert record.vectors is not None
    np.testing.assert_allclose(record.vectors.dense, expected, atol=1e-5)


def open_names(theirs: Theirs, names: dict[str, str]) -> QdrantBase:
    if isinstance(theirs, TheirFolder):
        return QdrantEdgeStore.open(theirs.folder, fields=names, partial=True)
    return QdrantStore.open(theirs.client, "shop", fields=names, partial=True)


def test_what_does_not_fit_is_named_before_anything_is_written(theirs: Theirs, encoder: M3Encoder) -> None:
    before = theirs.payloads()
    with (
        theirs.open(text="bdy") as store,
        pytest.raises(InputError, match=r"none of 7 documents .* 'bdy'.*'body'"),
    ):
        backfill(store, encoder)
    old = "old" if isinstance(theirs, TheirFolder) else ""
    if old:
        with theirs.open(dense=old) as store, pytest.raises(DimensionMismatch, match="2 dimensions"):
            backfill(store, encoder)
        with pytest.raises(SchemaMismatch, match="no sparse index named 'old'"):
            theirs.open(sparse=old)
    with theirs.open() as store:
        for wrong in ({"rate": 0}, {"rate": float("nan")}, {"batch_size": 0}, {"switch_alias": "x"}):
            with pytest.raises(InputError):
                backfill(store, encoder, **wrong)  # type: ignore[arg-type]
        assert len(store.lacking(encoder.schema())) == 3
    with open_names(theirs, {"text": "body"}) as store, pytest.raises(InputError, match="no vector field"):
        backfill(store, encoder)
    assert theirs.payloads() == before
    with theirs.open() as store:
        schema = encoder.schema()
        store.extend(type(schema)(schema.dense, schema.sparse, schema.multi, "another model"))
    with theirs.open() as store, pytest.raises(FingerprintMismatch, match="another model"):
        backfill(store, encoder)


def test_edge_needs_no_copy_and_has_no_aliases(tmp_path: Path, encoder: M3Encoder) -> None:
    with TheirFolder(tmp_path).open() as store:
        with pytest.raises(Unsupported, match="in place"):
            store.twin("qdrant+file://other", encoder.schema())  # type: ignore[attr-defined]
        with pytest.raises(Unsupported, match="no aliases"):
            store.switch_alias("shop", store)  # type: ignore[attr-defined]


class TestCopy:
    @pytest.fixture
    def theirs(self) -> Iterator[Theirs]:
        found = Theirs()
        found.client.update_collection("shop", metadata={"owner": "the shop"})
        alias = models.CreateAlias(collection_name="shop", alias_name="live")
        found.client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        yield found
        found.close()

    def open(self, theirs: Theirs) -> QdrantStore:
        return QdrantStore.open(theirs.client, "shop", fields=NAMES, partial=True)

    def test_it_has_everything_and_takes_over_the_alias(
        self, theirs: Theirs, encoder: M3Encoder, tmp_path: Path
    ) -> None:
        before, journal = theirs.payloads(), tmp_path / "journal.sqlite"
        store = self.open(theirs)
        twin = store.twin("qdrant://:memory:/copy", encoder.schema())
        done = backfill(store, encoder, to=twin, switch_alias="live", journal=journal)
        assert (done.read, done.written, done.without_text) == (7, 7, 4)
        assert theirs.payloads() == theirs.payloads("copy") == theirs.payloads("live") == before
        assert theirs.client.get_collection("shop").config.metadata == {"owner": "the shop"}
        assert (theirs.client.get_collection("copy").config.metadata or {})["owner"] == "the shop"
        points = theirs.client.scroll("copy", limit=100, with_vectors=True)[0]
        for point in points:
            has_new = isinstance(point.vector, dict)
            assert has_new == (str(point.id) in WITH_TEXT)
            old = point.vector[""] if isinstance(point.vector, dict) else point.vector
            np.testing.assert_allclose(np.array(old), [5**-0.5, 2 * 5**-0.5], rtol=1e-6)

        theirs.client.delete("shop", models.PointIdsList(points=[8]))
        theirs.client.set_payload("shop", {"n": 50}, [5])
        again = backfill(self.open(theirs), encoder, to=twin, switch_alias="live", journal=journal)
        assert (again.written, again.skipped, again.missing) == (1, 5, 1)
        assert json.loads(theirs.payloads("copy")["5"]) == {"body": None, "n": 50}

        # Somebody loses one document of the copy, and then all of it.
        theirs.client.delete("copy", models.PointIdsList(points=[0]))
        again = backfill(self.open(theirs), encoder, to=twin, journal=journal)
        assert (again.written, again.skipped) == (1, 5)
        theirs.client.delete_collection("copy")
        twin = store.twin("qdrant://:memory:/copy", encoder.schema())
        again = backfill(self.open(theirs), encoder, to=twin, journal=journal)
        assert (again.written, again.skipped) == (6, 0)
        assert theirs.payloads("copy") == theirs.payloads()

    def test_an_alias_that_is_not_there_or_leads_elsewhere(self, theirs: Theirs, encoder: M3Encoder) -> None:
        store = self.open(theirs)
        twin = store.twin("qdrant://:memory:/copy", encoder.schema())
        with pytest.raises(InputError, match=r"no alias 'dead' .* there are live"):
            backfill(store, encoder, to=twin, switch_alias="dead")
        theirs.client.create_collection("other", vectors_config={})
        alias = models.CreateAlias(collection_name="other", alias_name="elsewhere")
        theirs.client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        with pytest.raises(InputError, match="leads to 'other', not to 'shop'"):
            backfill(store, encoder, to=twin, switch_alias="elsewhere")
        with pytest.raises(InputError, match="leave the filter out"):
            backfill(store, encoder, to=twin, switch_alias="live", where={"n": 5})
        assert twin.count() == 0
        with pytest.raises(Unsupported, match="not 'milvus://db/copy'"):
            store.twin("milvus://db/copy", encoder.schema())

    def test_an_alias_stays_while_the_copy_lacks_something(
        self,
        theirs: Theirs,
        encoder: M3Encoder,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store = self.open(theirs)
        twin = store.twin("qdrant://:memory:/copy", encoder.schema())
        carry = twin.carry

        def losing(source: Any, ids: Any, vectors: Any) -> None:
            if "0" in ids:
                raise InputError("refused")
            carry(source, ids, vectors)

        monkeypatch.setattr(twin, "carry", losing)
        assert backfill(store, encoder, to=twin, switch_alias="live").rejected == 1
        assert "6 of 7 documents, so live stays" in caplog.text
        assert theirs.client.get_aliases().aliases[0].collection_name == "shop"


def test_what_vanishes_meanwhile_is_rejected_and_a_passing_fault_tried_again(
    encoder: M3Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Theirs()
    store = theirs.open()
    update, scan, calls = store.update_vectors, store.scan, {"update": 0, "scan": 0}

    def faulty_update(ids: Any, vectors: M3Vectors) -> None:
        calls["update"] += 1
        if calls["update"] == 1:
            theirs.client.delete("shop", models.PointIdsList(points=[0]))
            raise StoreUnavailable("asleep")
        update(ids, vectors)

    def faulty_scan(**arguments: Any) -> Any:
        calls["scan"] += 1
        if calls["scan"] == 3:
            raise StoreUnavailable("asleep")
        return scan(**arguments)

    monkeypatch.setattr(store, "update_vectors", faulty_update)
    monkeypatch.setattr(store, "scan", faulty_scan)
    rejects = tmp_path / "rejects.jsonl"
    done = backfill(store, encoder, rejects=rejects, page_size=3)
    assert (done.written, done.rejected, done.without_text) == (2, 1, 4)
    assert "no document with the id '0'" in rejects.read_text()
    assert calls["scan"] == 5  # one page to look at, three pages, one of them twice

    monkeypatch.setattr(store, "update_vectors", lambda *_: (_ for _ in ()).throw(StoreUnavailable("dead")))
    with pytest.raises(IngestStopped, match="dead") as stopped:
        backfill(store, encoder, patience=0.1)
    assert stopped.value.summary.written == 0


def test_a_journal_is_of_one_collection_and_its_fields(encoder: M3Encoder, tmp_path: Path) -> None:
    theirs, journal = Theirs(), tmp_path / "journal.sqlite"
    backfill(theirs.open(), encoder, journal=journal)
    with pytest.raises(JournalError, match="m3_dense"):
        backfill(open_names(theirs, {"text": "body", "dense": "other"}), encoder, journal=journal)
    # The collection is deleted and made again: what the journal says is about another one.
    again = Theirs()
    done = backfill(again.open(), encoder, journal=journal)
    assert (done.written, done.skipped) == (3, 0)


def test_a_collection_of_our_own_gets_another_channel(tmp_path: Path, encoder: M3Encoder) -> None:
    url = f"qdrant+file://{tmp_path}/ours"
    with QdrantEdgeStore.from_url(url, schema=encoder.schema([DENSE])) as store:
        ids = [f"page {uuid.uuid4()}" for _ in range(3)]
        documents = [Document(one, f"text {n}", {"n": n}) for n, one in enumerate(ids)]
        store.upsert(documents, encoder.encode_documents([document.text for document in documents]))
        identity = store.identity
    with open_partial(url, sparse="sparse") as store:
        assert backfill(store, encoder).written == 3
    with QdrantEdgeStore.from_url(url, schema=encoder.schema([DENSE, SPARSE])) as store:
        assert store.identity == identity
        assert store.capabilities.representations == {DENSE, SPARSE}
        assert [record.document for record in store.get(ids) if record] == documents


def test_the_rate_is_kept(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it asks to sleep, on a clock that only sleeping moves."""
    clock, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("m3_core.ingestion.pipeline.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("m3_core.ingestion.pipeline.time.sleep", sleep)
    theirs = Theirs()
    assert backfill(theirs.open(), encoder, rate=0.5).written == 3
    assert sum(slept) == pytest.approx(4.0)  # the third document is begun 4 s after the first


class TestCommands:
    """As it is typed, over HTTP to a front of the tests', which stands in for a server."""

    @pytest.fixture
    def shop(
        self, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[tuple[Theirs, str]]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("M3_MODEL", str(tiny_model_folder))
        with QdrantFront() as front:
            theirs = Theirs(front.url)
            alias = models.CreateAlias(collection_name="shop", alias_name="live")
            theirs.client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
            yield theirs, f"qdrant://127.0.0.1:{front.server_port}/shop"
            theirs.close()

    def advised(self, url: str) -> list[str]:
        done = CliRunner().invoke(app, ["check", url, "--json"])
        assert done.exit_code == 1
        messages = [json.loads(line)["message"] for line in done.stdout.splitlines()]
        (said,) = [message for message in messages if ": m3 backfill" in message]
        return shlex.split(said[said.index(": m3 ") + 2 :])[1:]

    def test_the_line_that_check_prints_makes_check_pass(self, shop: tuple[Theirs, str]) -> None:
        theirs, url = shop
        before = theirs.payloads()
        arguments = self.advised(url)
        assert arguments[1:6] == [url, "--text-field", "body", "--into", "dense=dense,sparse=sparse"]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert CliRunner().invoke(app, ["check", url]).exit_code == 0
        assert theirs.payloads() == before

    def test_a_server_that_cannot_add_vectors(
        self, shop: tuple[Theirs, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Servers before 1.18 do not know the endpoint: the error says the line that makes a copy."""
        theirs, url = shop
        monkeypatch.delitem(ROUTES, ("PUT", r"/collections/([^/]+)/vectors/([^/]+)"))  # type: ignore[misc]
        before = theirs.payloads()
        done = CliRunner().invoke(app, self.advised(url))
        assert done.exit_code == 1
        assert "1.18 and later can" in done.stderr
        line = shlex.split(done.stderr[done.stderr.index(": m3 backfill") + 2 :])
        assert line[-2:] == ["--to", f"{url}_m3"]
        assert theirs.client.get_collection("shop").config.params.sparse_vectors is None
        copied = CliRunner().invoke(app, [*line[1:], "--switch-alias", "live"])
        assert copied.exit_code == 0, copied.output
        assert theirs.payloads("live") == theirs.payloads("shop_m3") == before
        assert theirs.client.get_aliases().aliases[0].collection_name == "shop_m3"
        assert CliRunner().invoke(app, ["check", f"{url}_m3"]).exit_code == 0
