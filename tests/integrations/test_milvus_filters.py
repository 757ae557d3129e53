"""Milvus expressions, without an engine: what they say, and that a small evaluator agrees with the filter language."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_core.errors import Unsupported
from m3_core.filters import Filter, Scalar
from m3_core.testing import hostile
from m3_core.testing.filter_cases import CASES, METADATA
from m3_integrations.milvus.columns import Column, ColumnDialect
from m3_integrations.milvus.filters import Expression, IndexDialect, filter_index, literal, translate

ARRAY = IndexDialect("terms", "bounds", "array")
TEXT = IndexDialect("terms", "bounds", "text")


def expression(where: dict[str, Any], dialect: IndexDialect | ColumnDialect) -> Expression:
    condition = Filter.parse(where)
    assert condition is not None
    return translate(condition, dialect.leaf)


def holds(found: Expression, metadata: Mapping[str, Any]) -> bool:
    """Evaluate an expression of the index dialect on a document, in Python."""
    if isinstance(found, bool):
        return found
    terms, bounds = filter_index(metadata)
    source = re.sub(r'array_contains\(terms, ("\w+")\)', r"(\1 in terms)", found)
    source = re.sub(r"array_contains_any\(terms, (\[[^]]*\])\)", r"any(term in terms for term in \1)", source)
    source = re.sub(r'terms like "%(\w+)%"', r"('\1' in ' '.join(terms))", source)
    source = re.sub(r'bounds\["(\w+)"\]\[(\d)\] (\S+) ([^\s)]+)', r"bound('\1', \2, '\3', \4)", source)

    def bound(field: str, place: int, operator: str, value: float) -> bool:
        if field not in bounds:
            return False
        number = bounds[field][place]
        return {">": number > value, ">=": number >= value, "<": number < value, "<=": number <= value}[
            operator
        ]

    return bool(eval(source, {"terms": terms, "bound": bound, "any": any}))


@pytest.mark.parametrize("dialect", [ARRAY, TEXT], ids=["array", "text"])
@pytest.mark.parametrize(("where", "expected"), CASES, ids=[repr(where) for where, _ in CASES])
def test_index_expressions_mean_what_the_table_says(
    where: dict[str, Any], expected: frozenset[str], dialect: IndexDialect
) -> None:
    found = expression(where, dialect)
    assert {name for name, metadata in METADATA.items() if holds(found, metadata)} == expected


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.sampled_from([0, 1, 1.0, 0.5, -0.0, 2**53, 2.0**60, 1e300, -1e300, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(['"', "'", "\\", "\n", "\0", "%", "_", "] or true", "1", "true"]),
)
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
FIELDS = st.sampled_from(["a", "b", "a.b", "a.b.c", "b-c_9"])
VALUES = st.recursive(
    st.one_of(st.none(), SCALARS, st.integers(-(2**63), 2**63 - 1)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["b", "c", "b-c_9"]), inner, max_size=2)
    ),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "b-c_9", "not a field"]), VALUES, max_size=3)
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"$eq": SCALARS}),
    st.fixed_dictionaries({"$ne": SCALARS}),
    st.fixed_dictionaries({"$in": st.lists(st.one_of(st.none(), SCALARS), max_size=3)}),
    st.fixed_dictionaries({"$nin": st.lists(SCALARS, max_size=3)}),
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS, min_size=1, max_size=2),
    st.fixed_dictionaries({"$exists": st.booleans()}),
)
WHERES = st.recursive(
    st.dictionaries(FIELDS, CONDITIONS, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)


@given(where=WHERES, metadata=DOCUMENTS)
@settings(max_examples=200, deadline=None)
def test_index_expressions_mean_the_filter(where: dict[str, Any], metadata: dict[str, Any]) -> None:
    condition = Filter.parse(where)
    assert condition is not None
    for dialect in (ARRAY, TEXT):
        assert holds(translate(condition, dialect.leaf), metadata) == condition.matches(metadata)


@given(where=WHERES)
@settings(max_examples=200, deadline=None)
def test_nothing_from_a_filter_stands_in_an_index_expression(where: dict[str, Any]) -> None:
    found = expression(where, ARRAY)
    words = r'terms|bounds|array_contains(_any)?|and|or|not|"[0-9a-f]{24}"|[-+.\de]+|[<>]=?|[\s()\[\],]'
    assert isinstance(found, bool) or re.fullmatch(f"({words})+", found), found


def test_index_holds_every_field_that_a_filter_can_name() -> None:
    terms, bounds = filter_index({"n": [3, 1.5, True, None, "x"], "o": {"p": {"q": "deep"}}, "bad key": 1})
    # n exists, has numbers, and 3, 1.5, true, "x"; o, o.p and o.p.q exist; o.p.q is "deep"
    assert len(terms) == 6 + 3 + 1
    assert list(bounds.values()) == [[1.5, 3]]
    assert filter_index({}) == ([], {})
    assert filter_index({"n": None, "list": [], "nones": [None]}) == ([], {})


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_string_literals_are_one_token_that_reads_back(value: str) -> None:
    written = literal(value)
    inner = written[1:-1]
    assert written[0] == written[-1] == '"'
    assert not set(inner) & {"\n", "\r", "\t"}
    assert re.fullmatch(r'(?:[^"\\]|\\[\\"nrt])*', inner, re.DOTALL)
    names = {"n": "\n", "r": "\r", "t": "\t"}
    assert re.sub(r"\\(.)", lambda found: names.get(found[1], found[1]), inner) == value


def test_literals_of_milvus_lite_read_back() -> None:
    tokens = pytest.importorskip("milvus_lite.search.filter.tokens")
    strings: list[Scalar] = list(hostile.STRINGS)
    numbers: list[Scalar] = [0, 7, 2**63 - 1, 0.1, 1e300, 5e-324, 1e22]
    for value in strings + numbers:
        (token, end) = tokens.tokenize(literal(value))
        assert token.value == value
        assert type(token.value) is type(value)
        assert end.kind is tokens.TokenKind.EOF


COLUMNS = {
    column.name: column
    for column in (
        Column("s", "VARCHAR"),
        Column("maybe", "VARCHAR", nullable=True),
        Column("n", "INT64"),
        Column("tiny", "INT8", nullable=True),
        Column("x", "DOUBLE"),
        Column("f", "FLOAT"),
        Column("b", "BOOL"),
        Column("tags", "ARRAY", element="VARCHAR"),
        Column("years", "ARRAY", element="INT32", nullable=True),
        Column("j", "JSON"),
    )
}
TYPED = ColumnDialect(COLUMNS)
DYNAMIC = ColumnDialect(COLUMNS, dynamic=True, lite=True)
JSON_FIELD = ColumnDialect({}, metadata="meta")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"s": "a\"b'c\\"}, '(s in ["a\\"b\'c\\\\"])'),
        ({"s": 1}, False),
        ({"s": {"$ne": 1}}, True),
        ({"s": {"$ne": "a"}}, 'not (s in ["a"])'),
        ({"maybe": {"$ne": "a"}}, '(maybe is null or not (maybe in ["a"]))'),
        ({"maybe": None}, "(maybe is null or not (maybe is not null))"),
        ({"s": {"$exists": True}}, True),
        ({"s": None}, False),
        ({"n": 1.0}, "(n in [1])"),
        ({"n": 1.5}, False),
        ({"n": True}, False),
        ({"n": {"$in": [1, 2.0, "3", 2.5]}}, "(n in [1, 2])"),
        ({"n": {"$gt": 1.5}}, "(n > 1)"),
        ({"n": {"$gte": 1.5}}, "(n >= 2)"),
        ({"n": {"$lt": 1.5}}, "(n < 2)"),
        ({"n": {"$lte": -1.5}}, "(n <= -2)"),
        ({"n": {"$lte": 1e300}}, True),
        ({"tiny": {"$gt": -1e300}}, "(tiny is not null)"),
        ({"n": {"$gte": 1e300}}, False),
        ({"x": 1}, "(x in [1.0])"),
        ({"x": {"$lt": 3}}, "(x < 3.0)"),
        ({"b": True}, "(b == true)"),
        ({"b": 1}, False),
        ({"b": {"$gt": 0}}, False),
        ({"tags": "a"}, '(array_contains_any(tags, ["a"]))'),
        ({"years": {"$nin": [1, 2]}}, "(years is null or not (array_contains_any(years, [1, 2])))"),
        ({"tags": {"$exists": False}}, "not (array_length(tags) != 0)"),
        ({"s.inside": 1}, False),
        ({"nowhere": 1}, False),
        ({"nowhere": {"$ne": 1}}, True),
        ({"j.k": "v"}, '(j["k"] == "v" or json_contains(j["k"], "v"))'),
        ({"f": {"$exists": True}}, True),
        ({"s": "a", "n": 1.5}, False),
        ({"$or": [{"s": "a"}, {"n": 1.5}]}, '(s in ["a"])'),
    ],
    ids=repr,
)
def test_columns(where: dict[str, Any], expected: Expression) -> None:
    assert expression(where, TYPED) == expected


def test_strings_inside_json() -> None:
    assert expression({"a.b-c": {"$in": ["v", '"']}}, JSON_FIELD) == (
        '((meta["a"]["b-c"] == "v" or json_contains(meta["a"]["b-c"], "v"))'
        ' or (meta["a"]["b-c"] == "\\"" or json_contains(meta["a"]["b-c"], "\\"")))'
    )
    assert expression({"other": "v"}, DYNAMIC) == (
        '($meta["other"] == "v" or (json_contains(other, "v") and not ($meta["other"] like "%")))'
    )


@pytest.mark.parametrize(
    ("where", "dialect", "named"),
    [
        ({"f": 0.1}, TYPED, "'f'"),
        ({"years": {"$gt": 3}}, TYPED, "'years'"),
        ({"j": "v"}, TYPED, "'j'"),
        ({"j.k": 1}, TYPED, "j.k"),
        ({"year": {"$gte": 2020}}, JSON_FIELD, "year"),
        ({"lang": {"$ne": "ja"}}, JSON_FIELD, "complement"),
        ({"lang": {"$in": ["ja", 1]}}, JSON_FIELD, "lang"),
        ({"lang": {"$exists": True}}, DYNAMIC, "lang"),
        ({"$not": {"lang": "ja"}}, DYNAMIC, "lang"),
        ({"Like": "ja"}, DYNAMIC, "Like"),
        ({"not-a-name": "ja"}, DYNAMIC, "not-a-name"),
    ],
    ids=repr,
)
def test_what_is_not_exact_is_refused_by_name(
    where: dict[str, Any], dialect: ColumnDialect, named: str
) -> None:
    with pytest.raises(Unsupported, match=named):
        expression(where, dialect)
