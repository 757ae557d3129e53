"""Filters as queries, without a node: a small evaluator of the queries agrees with the filter language."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from m3_core.errors import InputError, Unsupported
from m3_core.filters import Filter
from m3_core.testing import corpus
from m3_core.testing.filter_cases import CASES, METADATA
from m3_core.types import Document
from m3_integrations.elasticsearch.filters import (
    EVERYTHING,
    NOTHING,
    Query,
    clauses,
    filter_terms,
    number_key,
    terms_leaf,
    translate,
)
from m3_integrations.elasticsearch.mapped import check_types, mapped_fields, mapped_leaf


def parsed(where: Mapping[str, Any]) -> Filter:
    condition = Filter.parse(where)
    assert condition is not None
    return condition


def holds(query: Query, terms: list[str]) -> bool:
    """What a node does with a query over a keyword field of these terms."""
    ((kind, spec),) = query.items()
    match kind:
        case "match_all" | "match_none":
            return kind == "match_all"
        case "bool":
            any_of = spec.get("should", [])
            return (
                all(holds(part, terms) for part in spec.get("filter", []))
                and not any(holds(part, terms) for part in spec.get("must_not", []))
                and (not any_of or any(holds(part, terms) for part in any_of))
            )
        case "term":
            return spec["t"]["value"] in terms
        case "terms":
            return bool(set(spec["t"]) & set(terms))
        case "range":
            tests = {
                "gt": lambda a, b: a > b,
                "gte": lambda a, b: a >= b,
                "lt": lambda a, b: a < b,
                "lte": lambda a, b: a <= b,
            }
            # Lucene compares bytes of UTF-8.
            return any(
                all(tests[name](term.encode(), bound.encode()) for name, bound in spec["t"].items())
                for term in terms
            )
    raise AssertionError(f"an unknown query: {query}")


def query_of(where: Mapping[str, Any]) -> Query:
    return translate(parsed(where), terms_leaf("t"))


@pytest.mark.parametrize(("where", "expected"), CASES, ids=[repr(where) for where, _ in CASES])
def test_queries_mean_what_the_table_says(where: Mapping[str, Any], expected: frozenset[str]) -> None:
    query = query_of(where)
    assert {name for name, metadata in METADATA.items() if holds(query, filter_terms(metadata))} == expected


@pytest.mark.parametrize("where", corpus.random_filters(300, seed=5), ids=lambda where: repr(where)[:60])
def test_random_filters(where: Mapping[str, Any]) -> None:
    condition, query = parsed(where), query_of(where)
    for document in corpus.documents(40, seed=6):
        found = holds(query, filter_terms(document.metadata))
        assert found == condition.matches(document.metadata), document.metadata


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63) // 1024, 2**63 // 1024 - 1).map(lambda n: n * 1024),  # where doubles lie close by
    st.integers(-600, 600).map(lambda n: 2**60 + n),
)


@given(NUMBERS, NUMBERS)
@example(2**53, 2**53 + 1)
@example(2**63 - 1, 2.0**63)
@example(0, -0.0)
@example(-1, 5e-324)
def test_keys_sort_as_numbers_do(a: float, b: float) -> None:
    assert (number_key(a) < number_key(b)) == (a < b)
    assert (number_key(a) == number_key(b)) == (a == b)
    assert len(number_key(a)) == 19


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = st.one_of(
    st.booleans(), TEXT, st.sampled_from(["", "1", "true", '"', ":", "=", "a;", "é" * 5000]), NUMBERS
)
FIELDS = st.sampled_from(["a", "b", "a.b", "a-b", "b_9"])


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "a-b", "b_9"]), st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
    ),
    FIELDS,
    st.one_of(
        st.booleans(), TEXT, st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)
    ),
)
def test_any_value_is_found_where_it_is_equal(metadata: dict[str, Any], field: str, value: Any) -> None:
    wheres: list[dict[str, Any]] = [{field: value}, {field: {"$nin": [value, None]}}]
    if not isinstance(value, bool | str):
        wheres += [{field: {operator: value}} for operator in ("$gt", "$gte", "$lt", "$lte")]
    for where in wheres:
        assert holds(query_of(where), filter_terms(metadata)) == parsed(where).matches(metadata), where


def test_long_strings_are_told_apart_by_their_digests() -> None:
    long, other = "x" * 20_000, "x" * 19_999 + "y"
    assert all(len(term) < 200 for term in filter_terms({"a": long}))
    assert holds(query_of({"a": long}), filter_terms({"a": long}))
    assert not holds(query_of({"a": other}), filter_terms({"a": long}))
    digest = next(term for term in filter_terms({"a": long}) if "#" in term).partition("#")[2]
    assert not holds(query_of({"a": f"#{digest}"}), filter_terms({"a": long}))


def test_empty_connectives_and_the_number_of_clauses() -> None:
    assert query_of({}) == EVERYTHING
    assert query_of({"$not": {}}) == NOTHING
    assert query_of({"a": {"$in": []}}) == NOTHING
    query = query_of({"a": 1, "$or": [{"b": 2}, {"c": {"$ne": 3}}]})
    assert clauses(query) == 6  # two bools of two, a term, a term, and a bool around a term


# Metadata that is mapped field by field.

MAPPING = {
    "lang": {"type": "keyword"},
    "short": {"type": "keyword", "ignore_above": 10},
    "lower": {"type": "keyword", "normalizer": "lowercase"},
    "title": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}},
    "body": {"type": "text"},
    "year": {"type": "long"},
    "price": {"type": "double"},
    "flag": {"type": "boolean"},
    "when": {"type": "date"},
    "silent": {"type": "keyword", "index": False},
    "author": {"properties": {"name": {"type": "keyword"}}},
    "raw": {"type": "object", "enabled": False},
}


def mapped(where: Mapping[str, Any], *, dynamic: bool = True) -> Query:
    return translate(parsed(where), mapped_leaf(dict(mapped_fields(MAPPING)), "", dynamic=dynamic))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"lang": "ja"}, {"terms": {"lang": ["ja"]}}),
        ({"lang": 1}, NOTHING),
        ({"lang": True}, NOTHING),
        ({"lang": {"$gt": 1}}, NOTHING),
        ({"lang": {"$in": ["a", 1, "b"]}}, {"terms": {"lang": ["a", "b"]}}),
        ({"title": "t"}, {"terms": {"title.keyword": ["t"]}}),
        ({"year": 2020.0}, {"terms": {"year": [2020.0]}}),
        ({"year": 2020.5}, NOTHING),
        ({"year": "2020"}, NOTHING),
        ({"year": True}, NOTHING),
        ({"year": {"$gte": 2019.5}}, {"range": {"year": {"gte": 2019.5}}}),
        ({"price": {"$lt": 3}}, {"range": {"price": {"lt": 3}}}),
        ({"flag": True}, {"terms": {"flag": [True]}}),
        ({"flag": 1}, NOTHING),
        ({"flag": "true"}, NOTHING),
        ({"author.name": {"$ne": "Ann"}}, {"bool": {"must_not": [{"terms": {"author.name": ["Ann"]}}]}}),
        ({"author": "Ann"}, NOTHING),
        ({"nowhere": 1}, NOTHING),
        ({"nowhere": None}, {"bool": {"must_not": [NOTHING]}}),
        (
            {"lang": {"$exists": True}},
            {"bool": {"should": [{"exists": {"field": "lang"}}], "minimum_should_match": 1}},
        ),
    ],
    ids=repr,
)
def test_mapped_fields_are_asked_for_by_their_type(where: Mapping[str, Any], expected: Query) -> None:
    assert mapped(where) == expected


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ({"body": "word"}, "body"),
        ({"lower": "ja"}, "lower"),
        ({"short": "longer than ten"}, "short"),
        ({"when": "2026-11-22"}, "when"),
        ({"silent": "x"}, "silent"),
        ({"raw.inside": 1}, "raw.inside"),
        ({"author": {"$exists": True}}, "author"),
        ({"author": None}, "author"),
    ],
    ids=repr,
)
def test_what_a_mapping_cannot_say_is_refused_by_name(where: Mapping[str, Any], name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        mapped(where)


def test_a_field_that_is_not_mapped_is_refused_where_new_ones_are_not_mapped() -> None:
    with pytest.raises(Unsupported, match="nowhere"):
        mapped({"nowhere": 1}, dynamic=False)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"year": "2020"}, "'m.year'.*'x' is a string, but a number"),
        ({"flag": 1}, "'m.flag'.*'x' is a number, but a boolean"),
        ({"lang": [None, True]}, "'m.lang'.*'x' is a boolean, but a string"),
        ({"author": "Ann"}, "'m.author'.*'x' is a string, but an object"),
        ({"lang": {"code": "ja"}}, "'m.lang'.*'x' is an object, but a string"),
        ({"new": [{"a": 1}]}, "'m.new'.*'x' is a list of objects"),
        ({"new": ["a", 1]}, "'m.new'.*'x' is a number, but a string"),
    ],
    ids=repr,
)
def test_a_conflict_of_types_names_the_field_and_the_document(metadata: dict[str, Any], named: str) -> None:
    fields = dict(mapped_fields({"m": {"properties": MAPPING}}))
    check_types(
        [Document("fine", "", {"year": 1, "new": None, "title": "t", "author": {"name": ["a"]}})],
        fields,
        "m.",
    )
    with pytest.raises(InputError, match=named):
        check_types([Document("fine"), Document("x", "", metadata)], fields, "m.")


def test_a_conflict_between_two_new_documents_is_named() -> None:
    with pytest.raises(InputError, match="'v' of document 'b' is a string, but a number"):
        check_types([Document("a", "", {"v": 1}), Document("b", "", {"v": "1"})], {}, "")
