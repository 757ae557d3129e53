"""Qdrant: filters mean what they mean, over odd values, floats of every length, and every kind of payload index."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import models

from m3_core.errors import InputError
from m3_core.filters import And, Eq, Exists, Filter, In, Not, Or, Range
from m3_core.store import Fields, Schema
from m3_core.testing import corpus
from m3_core.testing.base import scan_ids
from m3_core.types import Document, Json
from m3_integrations.qdrant import QdrantEdgeStore, QdrantStore, convert
from m3_integrations.qdrant.base import QdrantBase
from m3_integrations.qdrant.edge_engine import EdgeDialect
from m3_integrations.qdrant.filters import survives, translate
from m3_integrations.qdrant.options import INDEX_KINDS
from m3_integrations.qdrant.server_engine import ClientDialect

SCHEMA = Schema(dense=4)
VALUES: Sequence[Json] = (
    *(1, 1.0, 2, 2.5, -1, 0, -0.0, 0.1, 1e-9, 10**15, True, False, None, "", "a", "b", "1", "true", "1.0"),
    *([], [[]], [None], [None, []], [None, 1], [None, ""], [None, 0], [0], [""], [True], [1, "a", False]),
    *([1, 5], [[1], 3], {}, {"b": 1}, {"b": None}, {"b": [1, "x"]}, [{"b": 1}], {"b": {"c": "x"}}, [{}]),
)
LONG = (
    0.1 + 0.2,
    1 / 7,
    -0.9753186429753187,
    1732233600.1234567,
    1e300,
    5e-324,
    1.7976931348623157e308,
    -2.2e-308,
)
"""Floats that the engine's JSON parser does not promise to give back to the last bit."""


class TestTranslation:
    """The conditions themselves, where their form matters."""

    def test_every_filter_is_wrapped(self) -> None:
        """Qdrant mixes the ``should`` of a query with that of its prefetches, if they are not inside ``must``."""
        either = Or((Eq("a", "x"), Eq("b", "y")))
        translated = translate(either, ClientDialect(), "metadata")
        assert translated.should is None
        assert [condition.key for condition in translated.must[0].should[0].should] == ["metadata.a"]

    def test_paths(self) -> None:
        def key(metadata: str) -> str:
            translated = translate(Range("a.b-c", "$gt", 1), ClientDialect(), metadata)
            return str(translated.must[0].key)

        assert key("metadata") == "metadata.a.b-c"
        assert key("") == "a.b-c"
        assert key("my data") == '"my data".a.b-c'

    def test_ranges(self) -> None:
        def bounds(node: Filter) -> dict[str, float]:
            found = translate(node, ClientDialect(), "").must[0]
            return dict(found.range.model_dump(exclude_none=True))

        assert bounds(Range("a", "$lt", 3)) == {"lt": 3.0}
        assert bounds(Range("a", "$gte", 0.1)) == {"gte": 0.1}
        long, ulp = 0.1 + 0.2, math.ulp(0.1 + 0.2)
        assert bounds(Range("a", "$lt", long)) == {"lt": long - 4 * ulp}
        assert bounds(Range("a", "$gt", long)) == {"gt": long + 4 * ulp}
        assert bounds(Range("a", "$lte", 1.7976931348623157e308)) == {"lte": 1.7976931348623157e308}

    def test_foreign_nodes_are_refused(self) -> None:
        with pytest.raises(TypeError, match="not a node"):
            translate(Filter(), ClientDialect(), "")

    @pytest.mark.parametrize("dialect", [ClientDialect(), EdgeDialect()], ids=["client", "edge"])
    def test_every_node_has_a_condition(self, dialect: Any) -> None:
        inner = In("a", ("x", 1, 2.5, True))
        node = And((Or((inner, Or(()))), Not(Exists("b")), And(()), In("c", ()), Range("d", "$lt", 1)))
        assert isinstance(translate(node, dialect, "metadata"), models.Filter | edge.Filter)


@pytest.fixture(scope="module", params=["edge", "memory"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantBase]:
    made: QdrantBase
    if request.param == "edge":
        made = QdrantEdgeStore.create(tmp_path_factory.mktemp("filters") / "store", schema=SCHEMA)
    else:
        made = QdrantStore.create(":memory:", "filters", schema=SCHEMA)
    with made:
        yield made


def fill(store: QdrantBase, values: Sequence[Json]) -> list[Document]:
    """One document per value, in a field; the last one lacks it."""
    documents = [Document(str(row), "", {"f": value}) for row, value in enumerate(values)]
    documents.append(Document("missing"))
    store.delete(where={})
    store.upsert(documents, corpus.vectors(SCHEMA, len(documents)))
    return documents


def matching(documents: Sequence[Document], where: Filter) -> list[str]:
    return sorted(document.id for document in documents if where.matches(document.metadata))


conditions: list[Filter] = [
    *(
        Eq(field, value)
        for field in ("f", "f.b")
        for value in (1, 0, 2.5, 0.1, 1e-9, "", "a", "1", "x", True, False)
    ),
    In("f", (1, "a", True)),
    In("f", (0, "", False, 2.5)),
    In("f", ()),
    Or(()),
    And(()),
    *(Exists(field) for field in ("f", "f.b", "f.b.c", "nowhere")),
    *(
        Range("f", operator, value)
        for operator in ("$gt", "$gte", "$lt", "$lte")
        for value in (0, 1, 2.5, 0.1)
    ),
    *(Range("f.b", "$gte", value) for value in (0.5, 1)),
]


@pytest.mark.parametrize("kind", [None, *INDEX_KINDS])
def test_odd_values_with_every_index(tmp_path: Path, kind: str | None) -> None:
    indexes = {} if kind is None else {"f": kind, "f.b": kind}
    with QdrantEdgeStore.create(tmp_path / "store", schema=SCHEMA, payload_indexes=indexes) as store:
        for optimized in (False, True):
            documents = fill(store, VALUES)
            if optimized:
                store.optimize()
            for condition in conditions:
                for where in (condition, Not(condition)):
                    assert sorted(scan_ids(store, where=where)) == matching(documents, where), where
                    assert store.count(where=where) == len(matching(documents, where)), where


def test_odd_values(store: QdrantBase) -> None:
    documents = fill(store, VALUES)
    for condition in conditions:
        for where in (condition, Not(condition)):
            assert sorted(scan_ids(store, where=where)) == matching(documents, where), where


def test_long_floats_are_found_and_come_back(store: QdrantBase) -> None:
    assert not any(survives(value) for value in LONG)
    documents = fill(store, [*LONG, [LONG[0], {"deep": LONG[1]}]])
    for document, record in zip(documents, store.get([document.id for document in documents]), strict=True):
        assert record is not None
        assert record.document.metadata == document.metadata
    for row, value in enumerate(LONG):
        found = scan_ids(store, where={"f": value})
        assert str(row) in found
        assert set(found) <= {str(row), str(len(LONG))}
        assert str(row) in scan_ids(store, where={"f": {"$gte": value}})
        assert str(row) not in scan_ids(store, where={"f": {"$gt": value}})
        assert str(row) in scan_ids(store, where={"f": {"$lte": value}})
        assert str(row) not in scan_ids(store, where={"f": {"$lt": value}})


short = st.floats(allow_nan=False, allow_infinity=False).filter(survives) | st.integers(
    -(2**53) + 1, 2**53 - 1
)


@settings(max_examples=60)
@given(st.lists(short, min_size=1, max_size=8), short)
def test_numbers_are_compared_exactly(store: QdrantBase, numbers: list[float], other: float) -> None:
    documents = fill(store, [*numbers, numbers])
    for value in (numbers[0], other):
        wheres = [Eq("f", value), In("f", (value, other))]
        wheres += [Range("f", operator, value) for operator in ("$gt", "$gte", "$lt", "$lte")]
        for where in wheres:
            assert sorted(scan_ids(store, where=where)) == matching(documents, where), where


@settings(max_examples=40)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_comes_back(store: QdrantBase, value: float) -> None:
    """And if we say that it survives, it does so without help."""
    fill(store, [value])
    record = store.get(["0"])[0]
    assert record is not None
    assert repr(record.document.metadata["f"]) == repr(value)
    if survives(value):
        assert convert.LAST_DIGITS not in convert.to_payload(Document("0", "", {"f": value}), Fields())
    assert scan_ids(store, where={"f": value}) == ["0"]


@pytest.mark.parametrize("name", ["page content", "a.b", "日本語", "[]", "'", "metadata[0]"])
def test_metadata_fields_with_odd_names(tmp_path: Path, name: str) -> None:
    for store in (
        QdrantEdgeStore.create(tmp_path / "store", schema=SCHEMA, fields=Fields(metadata=name)),
        QdrantStore.create(":memory:", "odd", schema=SCHEMA, fields=Fields(metadata=name)),
    ):
        with store:
            documents: Mapping[str, Any] = {"one": {"a": 1, "deep": {"b": "x"}}, "two": {"a": 2}}
            store.upsert(
                [Document(key, "", value) for key, value in documents.items()], corpus.vectors(SCHEMA, 2)
            )
            assert scan_ids(store, where={"a": 1}) == ["one"]
            assert scan_ids(store, where={"deep.b": {"$exists": False}}) == ["two"]


def test_metadata_field_with_a_quote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="double quote"):
        QdrantEdgeStore.create(tmp_path / "store", schema=SCHEMA, fields=Fields(metadata='a"b'))
    assert not (tmp_path / "store").exists()


def test_metadata_at_the_top_level() -> None:
    flat = QdrantStore.create(":memory:", "flat", schema=SCHEMA, fields=Fields(metadata=""))
    with flat:
        flat.upsert(
            [Document("a", "t", {"n": 1, "x": 1 / 7}), Document("b", "u", {})], corpus.vectors(SCHEMA, 2)
        )
        assert scan_ids(flat, where={"n": 1}) == ["a"]
        record = flat.get(["a"])[0]
        assert record is not None
        assert record.document == Document("a", "t", {"n": 1, "x": 1 / 7})
