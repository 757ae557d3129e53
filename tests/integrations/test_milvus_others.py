"""Collections that others made: opened under their own field names, checked, searched, and written where that can be exact."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from m3_core.errors import (
    DimensionMismatch,
    FingerprintMismatch,
    InputError,
    SchemaMismatch,
    StoreNotFound,
    Unsupported,
)
from m3_core.filters import Filter
from m3_core.store import Fields, Schema
from m3_core.testing import corpus
from m3_core.testing.base import scan_ids
from m3_core.types import Document, M3Vectors, Representation
from m3_integrations.milvus import MilvusStore
from m3_integrations.milvus.address import parse_url, pymilvus
from m3_integrations.milvus.connection import Connection

DENSE, SPARSE = Representation.DENSE, Representation.SPARSE
SCHEMA = Schema(dense=8, sparse=500, fingerprint="theirs")
KINDS = pymilvus.DataType
Column: TypeAlias = tuple[str, Any, dict[str, Any]]


def vectors(n: int, *, seed: int = 0) -> M3Vectors:
    return corpus.vectors(SCHEMA, n, seed=seed)


class Foreign:
    """A folder in which collections are made with pymilvus alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "others.db"
        self.connection = Connection(parse_url(self.url("none"), {})[0], create=True)
        self.client = self.connection.client

    def url(self, name: str) -> str:
        return f"milvus+file://{self.folder}/{name}"

    def make(
        self,
        name: str,
        fields: list[Column],
        indexes: dict[str, str],
        **options: Any,
    ) -> None:
        schema = pymilvus.MilvusClient.create_schema(auto_id=False, **options)
        for field, kind, params in fields:
            schema.add_field(field, kind, **params)
        self.client.create_collection(name, schema=schema)
        wanted = pymilvus.MilvusClient.prepare_index_params()
        for field, metric in indexes.items():
            kind = "SPARSE_INVERTED_INDEX" if field == "lexical" else "FLAT"
            wanted.add_index(field_name=field, index_type=kind, metric_type=metric)
        if indexes:
            self.client.create_index(name, wanted, sync=False)
            self.client.load_collection(name)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    found = Foreign(tmp_path_factory.mktemp("foreign"))
    yield found
    found.connection.close()


KEY = ("pk", KINDS.VARCHAR, {"is_primary": True, "max_length": 100})
NUMBER_KEY = ("pk", KINDS.INT64, {"is_primary": True})
BODY = ("body", KINDS.VARCHAR, {"max_length": 1000})
VECTOR = ("vector", KINDS.FLOAT_VECTOR, {"dim": 8})
LEXICAL: Column = ("lexical", KINDS.SPARSE_FLOAT_VECTOR, {})
META: Column = ("meta", KINDS.JSON, {})
BOTH = {"vector": "COSINE", "lexical": "IP"}
FIELDS = Fields(dense="vector", sparse="lexical", multi=None, text="body", id=None, metadata="")


def test_of_a_collection_that_is_not_there_those_that_are_are_said(foreign: Foreign, tmp_path: Path) -> None:
    foreign.make("said", [KEY, BODY, VECTOR], {"vector": "COSINE"})
    with pytest.raises(StoreNotFound, match=rf"holds .*: write milvus\+file://{foreign.folder}/\w+$"):
        MilvusStore.open(foreign.url("unsaid"))
    MilvusStore.create(f"milvus+file://{tmp_path}/new.db/first", schema=SCHEMA).close()
    with pytest.raises(StoreNotFound, match=r"holds first: write milvus\+file://.*/new\.db/first$"):
        MilvusStore.from_url(f"milvus+file://{tmp_path}/new")


class TestUndeclaredFields:
    """Metadata at the top level: a few columns, the rest undeclared, as frameworks write it."""

    @pytest.fixture
    def store(self, foreign: Foreign, request: pytest.FixtureRequest) -> Iterator[MilvusStore]:
        name = request.node.name
        lang = ("lang", KINDS.VARCHAR, {"max_length": 10, "nullable": True})
        foreign.make(name, [KEY, BODY, VECTOR, LEXICAL, lang], BOTH, enable_dynamic_field=True)
        rows: list[dict[str, Any]] = [
            {"pk": "a'", "body": "first", "lang": "ja", "page": 1, "tags": ["x", "y"], "deep": {"k": "v"}},
            {"pk": 'b"', "body": "second", "lang": None, "page": 2, "tags": "x"},
            {"pk": "c\\", "body": "third", "lang": "en", "source": '["x"]'},
        ]
        both = vectors(3)
        for row, cells in enumerate(rows):
            tokens, weights = both.sparse_row(row)
            assert both.dense is not None
            cells |= {
                "vector": both.dense[row],
                "lexical": dict(zip(tokens.tolist(), weights.tolist(), strict=True)),
            }
        foreign.client.upsert(name, rows)
        with MilvusStore.open(foreign.url(name), fields=FIELDS, fingerprint="theirs") as store:
            yield store

    def test_reads(self, store: MilvusStore) -> None:
        assert store.fingerprint == "theirs"
        assert store.capabilities.representations == {DENSE, SPARSE}
        assert store.check(SCHEMA) == []
        (a, b, none) = store.get(["a'", 'b"', "a"], vectors=[DENSE, SPARSE])
        assert a is not None
        assert b is not None
        assert none is None
        assert a.document == Document(
            "a'", "first", {"lang": "ja", "page": 1, "tags": ["x", "y"], "deep": {"k": "v"}}
        )
        assert b.document == Document('b"', "second", {"page": 2, "tags": "x"})
        assert a.vectors is not None
        assert a.vectors.sparse_row(0)[0].tolist() == vectors(3).sparse_row(0)[0].tolist()
        assert sorted(scan_ids(store, size=1)) == ["a'", 'b"', "c\\"]

    def test_searches_and_scores(self, store: MilvusStore) -> None:
        queries = vectors(3)
        for kind in (DENSE, SPARSE):
            hits = store.search(queries, {kind: 1})[kind]
            assert [found[0].id for found in hits] == ["a'", 'b"', "c\\"]
            scores = store.score(queries, kind, [["c\\", "nowhere"]] * 3)
            assert scores[2][0] == pytest.approx(hits[2][0].score, abs=1e-6)

    def test_filters(self, store: MilvusStore) -> None:
        assert scan_ids(store, where={"lang": {"$ne": "ja"}}) == ['b"', "c\\"]
        assert scan_ids(store, where={"lang": None}) == ['b"']
        assert scan_ids(store, where={"tags": "x"}) == ["a'", 'b"']
        assert scan_ids(store, where={"tags": {"$in": ["y", "z"]}}) == ["a'"]
        assert scan_ids(store, where={"deep.k": "v"}) == ["a'"]
        assert scan_ids(store, where={"source": "x"}) == [], "a string that looks like a list is a string"
        assert scan_ids(store, where={"body": "first"}) == [], "the text is no metadata"
        with pytest.raises(Unsupported, match="page"):
            store.count(where={"page": {"$gt": 1}})
        assert "$gt" in store.capabilities.unsupported_filters

    def test_upsert_replaces_whole_documents(self, store: MilvusStore) -> None:
        store.upsert([Document("a'", "new", {"page": 9}), Document("d")], vectors(2, seed=7))
        (a, d) = store.get(["a'", "d"])
        assert a is not None
        assert d is not None
        assert a.document == Document("a'", "new", {"page": 9})
        assert d.document == Document("d")
        assert store.count() == 4

    def test_update_of_vectors_leaves_the_rest(self, store: MilvusStore) -> None:
        before = store.get(["a'"])[0]
        new = vectors(1, seed=8)
        store.update_vectors(["a'"], new.only([DENSE]))
        after = store.get(["a'"], vectors=[SPARSE])[0]
        assert before is not None
        assert after is not None
        assert after.vectors is not None
        assert after.document == before.document
        assert after.vectors.sparse_row(0)[0].tolist() == vectors(3).sparse_row(0)[0].tolist()
        assert store.score(new, DENSE, [["a'"]])[0][0] == pytest.approx(1, abs=1e-6)

    def test_odd_ids_touch_only_their_own_document(self, store: MilvusStore) -> None:
        store.delete(["x'] or pk in ['a'"])
        store.delete(['x"] or pk != ""'])
        assert store.count() == 3
        store.delete(["a'", "c\\"])
        assert scan_ids(store) == ['b"']
        store.delete(where={})
        assert store.count() == 0

    def test_what_a_field_cannot_hold_is_refused(self, store: MilvusStore) -> None:
        with pytest.raises(InputError, match=r"'pk'.*101"):
            store.upsert([Document("i" * 101)], vectors(1))
        with pytest.raises(InputError, match=r"'body'.*1,001"):
            store.upsert([Document("a", "é" * 500 + "x")], vectors(1))
        with pytest.raises(InputError, match="'vector'"):
            store.upsert([Document("a", "", {"vector": 1})], vectors(1))
        assert store.count() == 3


class TestColumns:
    """Metadata in declared columns: every filter is exact."""

    DOCUMENTS = (
        Document("1", "one", {"lang": "ja", "year": 2020, "price": 1.5, "free": True, "tags": ["x", "y"]}),
        Document("2", "two", {"lang": "en", "year": 2021, "price": 2.0, "free": False, "tags": []}),
        Document("-3", "three", {"year": 1, "price": -1.0, "free": True, "tags": ["y"]}),
    )

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, foreign: Foreign) -> Iterator[MilvusStore]:
        declared = [
            ("lang", KINDS.VARCHAR, {"max_length": 10, "nullable": True}),
            ("year", KINDS.INT64, {}),
            ("price", KINDS.DOUBLE, {}),
            ("free", KINDS.BOOL, {}),
            ("tags", KINDS.ARRAY, {"element_type": KINDS.VARCHAR, "max_capacity": 10, "max_length": 10}),
        ]
        foreign.make("columns", [NUMBER_KEY, BODY, VECTOR, LEXICAL, *declared], BOTH)
        with MilvusStore.open(foreign.url("columns"), fields=FIELDS) as store:
            store.upsert(cls.DOCUMENTS, vectors(3))
            yield store

    @pytest.mark.parametrize(
        "where",
        [
            {"lang": "ja"},
            {"lang": {"$ne": "ja"}},
            {"lang": None},
            {"lang": {"$exists": True}},
            {"lang": 1},
            {"year": 2020.0},
            {"year": True},
            {"year": {"$gt": 2020}},
            {"year": {"$gte": 2020.5}},
            {"year": {"$not": {"$lt": 2020.5}}},
            {"year": {"$lt": 1e300}},
            {"price": {"$lte": 1.5}},
            {"price": 2},
            {"price": {"$nin": [2, -1]}},
            {"free": True},
            {"free": {"$ne": True}},
            {"free": 1},
            {"free": {"$in": [True, False]}},
            {"tags": "y"},
            {"tags": {"$ne": "y"}},
            {"tags": None},
            {"tags": {"$in": ["x", "z", 3]}},
            {"nowhere": {"$exists": False}},
            {"$or": [{"lang": "en"}, {"$and": [{"free": True}, {"year": {"$lt": 5}}]}]},
            {},
        ],
        ids=repr,
    )
    def test_filters_are_exact(self, store: MilvusStore, where: dict[str, Any]) -> None:
        condition = Filter.parse(where)
        assert condition is not None
        expected = {document.id for document in self.DOCUMENTS if condition.matches(document.metadata)}
        assert set(scan_ids(store, where=where)) == expected
        assert store.count(where=where) == len(expected)
        assert store.capabilities.unsupported_filters == frozenset()

    def test_numbers_as_ids(self, store: MilvusStore) -> None:
        found = store.get(["1", "-3", "01", "x", "1.0", "", "9" * 30])
        assert [record and record.id for record in found] == ["1", "-3", None, None, None, None, None]
        assert scan_ids(store, size=1) == ["-3", "1", "2"]
        with pytest.raises(InputError, match="INT64"):
            store.upsert([Document("x", "", self.DOCUMENTS[0].metadata)], vectors(1))
        with pytest.raises(InputError, match="cursor"):
            store.scan(cursor="x")

    def test_metadata_that_has_no_column_is_refused(self, store: MilvusStore) -> None:
        with pytest.raises(InputError, match="'other'"):
            store.upsert([Document("4", "", {**self.DOCUMENTS[0].metadata, "other": 1})], vectors(1))
        assert store.count() == 3


class TestJsonField:
    """Metadata in one JSON field."""

    def test_round_trip_and_filters(self, foreign: Foreign) -> None:
        foreign.make("json", [KEY, BODY, VECTOR, LEXICAL, META], BOTH)
        fields = Fields(dense="vector", sparse="lexical", multi=None, text="body", id="pk", metadata="meta")
        with MilvusStore.open(foreign.url("json"), fields=fields) as store:
            documents = [Document("a", "", {"s": "x", "n": [1, None]}), Document("b", "", {"s": ["x"]})]
            store.upsert(documents, vectors(2))
            assert [record.document for record in store.scan().records] == documents
            assert scan_ids(store, where={"s": "x"}) == ["a", "b"]
            for where in ({"n": 1}, {"s": {"$ne": "x"}}, {"s": {"$exists": True}}):
                with pytest.raises(Unsupported, match=r"MilvusStore\.create"):
                    store.count(where=where)


class TestChecks:
    """What does not fit is said before anything is written."""

    def test_metric_index_type_and_missing_fields(self, foreign: Foreign) -> None:
        fields = Fields(dense="vector", sparse="lexical", multi=None, text="body", id=None, metadata="meta")
        foreign.make("metric", [KEY, BODY, VECTOR, LEXICAL, META], {"vector": "L2"})
        with MilvusStore.open(foreign.url("metric"), fields=fields) as store:
            (metric, index) = [problem.what for problem in store.check(SCHEMA)]
            assert "L2" in metric
            assert "'lexical' has no index" in index
            assert store.capabilities.representations == frozenset()
            with pytest.raises(SchemaMismatch, match="L2"):
                store.search(vectors(1), {DENSE: 1})
            with pytest.raises(SchemaMismatch, match="L2"):
                store.upsert([Document("a")], vectors(1))
        with pytest.raises(SchemaMismatch, match=r"L2.*no index"):
            MilvusStore.from_url(foreign.url("metric"), schema=SCHEMA, fields=fields)

    def test_a_channel_that_is_not_there(self, foreign: Foreign) -> None:
        foreign.make("plain", [KEY, BODY, VECTOR], {"vector": "IP"}, enable_dynamic_field=True)
        with MilvusStore.open(foreign.url("plain"), fields=FIELDS) as store:
            assert store.capabilities.representations == {DENSE}
            (problem,) = store.check(SCHEMA)
            assert "no sparse field 'lexical'" in problem.what
            assert "SplitStore" in problem.remedy
            assert store.check(Schema(dense=8, multi=4)) == [], "multi-vectors are never held"
            store.upsert([Document("a")], vectors(1))
            with pytest.raises(Unsupported, match="sparse"):
                store.search(vectors(1), {SPARSE: 1})

    def test_dimension_and_model(self, foreign: Foreign) -> None:
        foreign.make("sizes", [KEY, BODY, VECTOR, LEXICAL], BOTH, enable_dynamic_field=True)
        with MilvusStore.open(foreign.url("sizes"), fields=FIELDS, fingerprint="theirs") as store:
            found = [problem.what for problem in store.check(Schema(dense=9, sparse=7, fingerprint="ours"))]
        assert len(found) == 2, "the vocabulary of their lexical weights is not known"
        assert "theirs" in found[0]
        assert "ours" in found[0]
        assert "8 dimensions, this model makes 9" in found[1]
        with pytest.raises(DimensionMismatch, match="8 dimensions"):
            MilvusStore.from_url(foreign.url("sizes"), schema=Schema(dense=9), fields=FIELDS)

    def test_wrong_type_is_named(self, foreign: Foreign) -> None:
        foreign.make("types", [KEY, BODY, VECTOR], {"vector": "IP"}, enable_dynamic_field=True)
        with MilvusStore.open(
            foreign.url("types"), fields=Fields(dense="body", sparse=None, text="body", id=None, metadata="")
        ) as store:
            assert [problem.what for problem in store.check(Schema())] == [
                "the field 'body' for dense vectors is VARCHAR, not FLOAT_VECTOR"
            ]

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            (Fields(), r"'text' for the text, 'id' for the id.*body, pk, vector"),
            (Fields(text="body", id="body", metadata=""), "primary key 'pk'"),
            (Fields(text="body", id=None), "'metadata' for the metadata"),
        ],
    )
    def test_fields_that_every_document_needs(self, foreign: Foreign, fields: Fields, named: str) -> None:
        if not foreign.client.has_collection("needs"):
            foreign.make("needs", [KEY, BODY, VECTOR], {"vector": "IP"}, enable_dynamic_field=True)
        with pytest.raises(SchemaMismatch, match=named):
            MilvusStore.open(foreign.url("needs"), fields=fields)

    def test_keys_that_milvus_assigns_cannot_be_written(self, foreign: Foreign) -> None:
        key = ("pk", KINDS.INT64, {"is_primary": True, "auto_id": True})
        foreign.make("auto", [key, BODY, VECTOR], {"vector": "IP"}, enable_dynamic_field=True)
        dense = vectors(2).dense
        assert dense is not None
        foreign.client.insert("auto", [{"body": f"text {row}", "vector": dense[row]} for row in range(2)])
        with MilvusStore.open(foreign.url("auto"), fields=FIELDS) as store:
            names = scan_ids(store)
            assert [record and record.document.text for record in store.get(names)] == ["text 0", "text 1"]
            assert store.search(vectors(2), {DENSE: 1})[DENSE][1][0].id == names[1]
            with pytest.raises(Unsupported, match="assigned by Milvus"):
                store.upsert([Document("1")], vectors(1))

    def test_fingerprint_given_for_a_collection_of_ours(self, tmp_path: Path) -> None:
        url = f"milvus+file://{tmp_path}/own"
        MilvusStore.create(url, schema=SCHEMA).close()
        with pytest.raises(FingerprintMismatch, match=r"theirs.*mine"):
            MilvusStore.open(url, fingerprint="mine")
        MilvusStore.open(url, fingerprint="theirs").close()
