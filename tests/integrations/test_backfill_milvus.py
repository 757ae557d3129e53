"""Backfilling Milvus collections that others made, in Milvus Lite: in place where the fields are there, else in a copy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3_core.encoder import M3Encoder
from m3_core.errors import DimensionMismatch, FingerprintMismatch, InputError, SchemaMismatch, Unsupported
from m3_core.extending import Extensible, open_partial
from m3_core.ingestion.backfill import backfill, plan_backfill
from m3_core.retriever import Retriever
from m3_core.store import open_store
from m3_core.types import Representation

pytest.importorskip("milvus_lite")

from m3_integrations.milvus import MilvusStore
from m3_integrations.milvus.address import parse_url, pymilvus
from m3_integrations.milvus.connection import Connection

DENSE, SPARSE, MULTI = Representation
KINDS = pymilvus.DataType
NAMES = {"text": "body", "dense": "m3_dense", "sparse": "m3_sparse"}
ROWS: list[dict[str, Any]] = [
    {
        "pk": -5,
        "body": "Merge the cells of a table.",
        "tags": ["a", "'\"\\"],
        "j": {"x": [1, None, {"y": True}]},
    },
    {
        "pk": 2**63 - 1,
        "body": "Print a page.",
        "tags": [],
        "j": {},
        "loose": {"deep": [[], 1.5]},
        "größe": 2**53 + 1,
    },
    {"pk": 0, "body": "表を挿入する", "tags": ["表"], "j": {"": 1e-9}, "id": "not the key"},
    {"pk": 7, "body": None, "tags": [], "j": {"only": "metadata"}},
    {"pk": 8, "body": " ", "tags": [], "j": {}},
]


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder)


class Theirs:
    """A folder of Milvus Lite in which collections are made with pymilvus alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "theirs.db"
        self.connection = Connection(parse_url(self.url("none"), {})[0], create=True)
        self.client = self.connection.client

    def url(self, name: str) -> str:
        return f"milvus+file://{self.folder}/{name}"

    def make(self, name: str, *, automatic: bool = False, lexical: bool = False) -> None:
        schema = self.client.create_schema(auto_id=automatic, enable_dynamic_field=True)
        schema.add_field("pk", KINDS.INT64, is_primary=True)
        schema.add_field("body", KINDS.VARCHAR, max_length=1000, nullable=True)
        schema.add_field("tags", KINDS.ARRAY, element_type=KINDS.VARCHAR, max_length=20, max_capacity=5)
        schema.add_field("j", KINDS.JSON)
        schema.add_field("old", KINDS.FLOAT_VECTOR, dim=3)
        index = self.client.prepare_index_params()
        index.add_index(field_name="old", index_type="FLAT", metric_type="COSINE")
        if lexical:
            schema.add_field("m3_sparse", KINDS.SPARSE_FLOAT_VECTOR)
            index.add_index(field_name="m3_sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self.client.create_collection(name, schema=schema)
        self.client.create_index(name, index, sync=False)
        self.client.load_collection(name)
        rows = [{**row, "old": [1.0, 2.0, float(n)]} for n, row in enumerate(ROWS)]
        if lexical:
            rows = [{**row, "m3_sparse": {1: 0.5}} for row in rows]
        if automatic:
            rows = [{key: value for key, value in row.items() if key != "pk"} for row in rows]
        self.client.insert(name, rows)

    def rows(self, name: str) -> list[str]:
        """Every row as JSON, but for the new vectors."""
        found = self.client.query(name, filter="pk >= 0 or pk < 0", output_fields=["*"])
        rows = [{key: value for key, value in row.items() if not key.startswith("m3_")} for row in found]
        return sorted(json.dumps(row, ensure_ascii=False, sort_keys=True, default=list) for row in rows)


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Theirs]:
    found = Theirs(tmp_path)
    yield found
    found.connection.close()


@pytest.mark.parametrize("automatic", [False, True], ids=["own keys", "automatic keys"])
def test_a_copy_has_everything_and_takes_over_the_alias(
    theirs: Theirs, encoder: M3Encoder, tmp_path: Path, automatic: bool
) -> None:
    theirs.make("shop", automatic=automatic)
    theirs.client.create_alias("shop", "live")
    before, journal = theirs.rows("shop"), tmp_path / "journal.sqlite"
    with open_partial(theirs.url("shop"), **NAMES) as store:
        assert isinstance(store, Extensible)
        assert not store.in_place
        plan = plan_backfill(store, encoder, page_size=2)
        assert (plan.documents, plan.without_text) == (5, 2)
        assert plan.adds == {DENSE: "m3_dense", SPARSE: "m3_sparse"}
        with pytest.raises(Unsupported, match=r"cannot add fields|assigned by Milvus"):
            backfill(store, encoder)
        with store.twin(theirs.url("copy"), encoder.schema()) as twin:
            done = backfill(store, encoder, to=twin, switch_alias="live", journal=journal, page_size=2)
            assert (done.read, done.written, done.without_text, done.rejected) == (5, 5, 2, 0)
        ids = [record.id for record in store.scan().records]
    assert theirs.rows("shop") == theirs.rows("copy") == theirs.rows("live") == before
    assert theirs.client.describe_alias("live")["collection_name"] == "copy"
    assert theirs.client.describe_index("copy", "old")["metric_type"] == "COSINE"

    # The copy's properties say what it is: opened plainly, it is a store like any other.
    with open_store(theirs.url("copy"), schema=encoder.schema([DENSE, SPARSE])) as plain:
        assert plain.fingerprint == encoder.fingerprint
        assert [record.id for record in plain.scan().records] == ids
        found = Retriever(encoder, plain).search("Print a page.", k=5)
        assert found[0].document.text == "Print a page."
        assert found[0].scores[DENSE] == pytest.approx(1.0, abs=1e-5)
        assert found[0].document.metadata["loose"] == {"deep": [[], 1.5]}
        texts = ["Merge the cells of a table.", "Print a page.", "表を挿入する"]
        fresh = encoder.encode_documents(texts, representations=[DENSE, SPARSE])
        held = {record.document.text: record for record in plain.scan(vectors=[DENSE, SPARSE]).records}
        for row, text in enumerate(texts):
            vectors = held[text].vectors
            assert vectors is not None
            assert vectors.dense is not None
            assert fresh.dense is not None
            np.testing.assert_allclose(vectors.dense[0], fresh.dense[row], rtol=1e-6)
            np.testing.assert_array_equal(vectors.sparse_row(0)[0], fresh.sparse_row(row)[0])
        assert not [hit for hit in found if hit.document.text == "" and hit.score > 0]

    theirs.client.upsert(
        "shop", [{**ROWS[0], "old": [0.0, 0.0, 1.0], "j": {"new": 1}}]
    ) if not automatic else None
    with (
        open_partial(theirs.url("shop"), **NAMES) as store,
        store.twin(theirs.url("copy"), encoder.schema()) as twin,  # type: ignore[attr-defined]
    ):
        again = backfill(store, encoder, to=twin, switch_alias="live", journal=journal)
        assert (again.written, again.skipped) == ((0, 5) if automatic else (1, 4))
    assert theirs.rows("copy") == theirs.rows("shop")


def test_fields_that_are_there_are_filled_in_place(
    theirs: Theirs, encoder: M3Encoder, tmp_path: Path
) -> None:
    theirs.make("shop", lexical=True)
    before, journal = theirs.rows("shop"), tmp_path / "journal.sqlite"
    names = {"text": "body", "sparse": "m3_sparse"}
    with open_partial(theirs.url("shop"), **names) as store:
        done = backfill(store, encoder, journal=journal)
        assert (done.read, done.written, done.without_text) == (5, 3, 2)
    assert theirs.rows("shop") == before
    with open_partial(theirs.url("shop"), **names) as store:
        again = backfill(store, encoder, journal=journal)
        assert (again.written, again.skipped) == (0, 3)
    with open_store(theirs.url("shop")) as plain:
        assert plain.fingerprint == encoder.fingerprint
        (held,) = plain.get([str(2**63 - 1)], vectors=[SPARSE])
        assert held is not None
        assert held.vectors is not None
        fresh = encoder.encode_documents(["Print a page."], representations=[SPARSE])
        np.testing.assert_array_equal(held.vectors.sparse_row(0)[0], fresh.sparse_row(0)[0])
        assert plain.get(["-5"])[0] is not None


def test_names_in_the_url_open_collections_of_others(theirs: Theirs) -> None:
    theirs.make("shop", lexical=True)
    url = theirs.url("shop") + "?text=body&id=none&metadata=&dense=old&sparse=none&multi=none"
    with open_store(url) as store:
        assert store.capabilities.representations == {DENSE}
        (record,) = store.get(["0"])
        assert record is not None
        assert (record.document.text, record.document.metadata["id"]) == ("表を挿入する", "not the key")
    with pytest.raises(InputError, match="'txt'"):
        open_store(theirs.url("shop") + "?txt=body")


def test_what_does_not_fit_is_named(theirs: Theirs, encoder: M3Encoder) -> None:
    theirs.make("shop", lexical=True)
    before = theirs.rows("shop")
    with (
        open_partial(theirs.url("shop"), **{**NAMES, "text": "bdy"}) as store,
        pytest.raises(InputError, match=r"none of 5 documents .* 'bdy'.*'body'"),
    ):
        backfill(store, encoder)
    with (
        open_partial(theirs.url("shop"), text="body", dense="old") as store,
        pytest.raises((DimensionMismatch, SchemaMismatch), match="3 dimensions"),
    ):
        backfill(store, encoder)
    with (
        open_partial(theirs.url("shop"), text="body", sparse="tags") as store,
        pytest.raises(SchemaMismatch, match="'tags' for sparse vectors is ARRAY"),
    ):
        backfill(store, encoder)
    with (
        open_partial(theirs.url("shop"), text="body", multi="many") as store,
        pytest.raises(InputError, match="cannot hold multi"),
    ):
        backfill(store, encoder)
    with open_partial(theirs.url("shop"), **NAMES) as store:
        assert isinstance(store, MilvusStore)
        with store.twin(theirs.url("copy"), encoder.schema()) as twin:
            with pytest.raises(InputError, match=r"there is no alias 'live'.* there are none"):
                backfill(store, encoder, to=twin, switch_alias="live")
            theirs.make("other")
            theirs.client.create_alias("other", "live")
            with pytest.raises(InputError, match="leads to 'other', not to 'shop'"):
                backfill(store, encoder, to=twin, switch_alias="live")
            assert twin.count() == 0
        with pytest.raises(Unsupported, match="not 'qdrant://db/copy'"):
            store.twin("qdrant://db/copy", encoder.schema())
    assert theirs.rows("shop") == before
    schema = encoder.schema([SPARSE])
    with open_partial(theirs.url("shop"), text="body", sparse="m3_sparse") as store:
        store.extend(type(schema)(None, schema.sparse, None, "another model"))  # type: ignore[attr-defined]
    with (
        open_partial(theirs.url("shop"), text="body", sparse="m3_sparse") as store,
        pytest.raises(FingerprintMismatch, match="another model"),
    ):
        backfill(store, encoder)
