"""The filter language: the table of meanings, the laws of logic, and what is refused."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_core.errors import FilterError, InputError
from m3_core.filters import And, Eq, Exists, Filter, In, Not, Or, Range
from m3_core.testing.filter_cases import CASES, METADATA

NAMES = st.sampled_from(["a", "b", "c", "a.b", "a.b.c", "b-1_X"])
SCALARS = st.sampled_from([0, 1, 1.0, 2, -1.5, True, False, "", "1", "a", "true"])
NUMBERS = st.sampled_from([0, 1, 1.0, 2, -1.5, 0.5])

VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b", "c"]), inner, max_size=2)
    ),
    max_leaves=5,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "c", "b-1_X"]), VALUES, max_size=4)

OPERATIONS: st.SearchStrategy[Any] = st.one_of(
    st.builds(lambda name, value: {name: value}, st.sampled_from(["$eq", "$ne"]), SCALARS | st.none()),
    st.builds(
        lambda name, values: {name: values},
        st.sampled_from(["$in", "$nin"]),
        st.lists(SCALARS | st.none(), max_size=3),
    ),
    st.builds(lambda name, value: {name: value}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS),
    st.builds(lambda value: {"$exists": value}, st.booleans()),
)
CONDITIONS = st.one_of(
    SCALARS | st.none(),
    OPERATIONS,
    OPERATIONS.map(lambda inner: {"$not": inner}),
    st.builds(lambda one, other: {**one, **other}, OPERATIONS, OPERATIONS),
)
FILTERS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(NAMES, CONDITIONS, max_size=2),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=4,
)


def matches(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    parsed = Filter.parse(where)
    assert parsed is not None
    return parsed.matches(metadata)


@pytest.mark.parametrize(("where", "expected"), CASES, ids=[repr(where) for where, _ in CASES])
def test_table_of_meanings(where: Mapping[str, Any], expected: frozenset[str]) -> None:
    assert {name for name, metadata in METADATA.items() if matches(where, metadata)} == expected


@given(FILTERS, DOCUMENTS)
def test_not_is_the_complement(where: dict[str, Any], metadata: dict[str, Any]) -> None:
    assert matches({"$not": where}, metadata) is not matches(where, metadata)
    assert matches({"$not": {"$not": where}}, metadata) is matches(where, metadata)


@given(FILTERS, FILTERS, DOCUMENTS)
def test_de_morgan(one: dict[str, Any], other: dict[str, Any], metadata: dict[str, Any]) -> None:
    nots = [{"$not": one}, {"$not": other}]
    assert matches({"$not": {"$and": [one, other]}}, metadata) is matches({"$or": nots}, metadata)
    assert matches({"$not": {"$or": [one, other]}}, metadata) is matches({"$and": nots}, metadata)


@given(FILTERS, FILTERS, DOCUMENTS)
def test_connectives_are_those_of_python(
    one: dict[str, Any], other: dict[str, Any], metadata: dict[str, Any]
) -> None:
    each = [matches(part, metadata) for part in (one, other)]
    assert matches({"$and": [one, other]}, metadata) is all(each)
    assert matches({"$or": [one, other]}, metadata) is any(each)


@given(NAMES, SCALARS | st.none(), st.lists(SCALARS | st.none(), max_size=3), DOCUMENTS)
def test_ne_and_nin_are_complements(
    name: str, value: Any, values: list[Any], metadata: dict[str, Any]
) -> None:
    assert matches({name: {"$ne": value}}, metadata) is not matches({name: value}, metadata)
    assert matches({name: {"$nin": values}}, metadata) is not matches({name: {"$in": values}}, metadata)
    assert matches({name: {"$in": values}}, metadata) is any(
        matches({name: item}, metadata) for item in values
    )


@given(NAMES, DOCUMENTS)
def test_null_is_the_same_as_missing(name: str, metadata: dict[str, Any]) -> None:
    assert matches({name: None}, metadata) is matches({name: {"$exists": False}}, metadata)
    if "." not in name:
        for nothing in (None, [], [None]):
            assert matches({name: None}, {**metadata, name: nothing})


@given(NAMES, NUMBERS, DOCUMENTS)
def test_ranges_together_with_equality(name: str, value: float, metadata: dict[str, Any]) -> None:
    for strict, equal in (("$gt", "$gte"), ("$lt", "$lte")):
        either = matches({name: {strict: value}}, metadata) or matches({name: value}, metadata)
        assert matches({name: {equal: value}}, metadata) is either


@given(FILTERS)
def test_fields_are_those_of_the_dictionary(where: dict[str, Any]) -> None:
    def names(part: Any) -> set[str]:
        if isinstance(part, list):
            return {name for item in part for name in names(item)}
        return {
            name
            for key, value in part.items()
            for name in (names(value) if key in ("$and", "$or", "$not") else {key})
        }

    parsed = Filter.parse(where)
    assert parsed is not None
    assert set(parsed.fields()) == names(where)


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=2)
    | st.sampled_from(["$and", "$or", "$not", "$eq", "$in", "$gt", "$exists", "a", "a.b"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(
            st.sampled_from(
                ["$and", "$or", "$not", "$eq", "$in", "$nin", "$gt", "$exists", "$x", "a", "a.b", ""]
            )
            | st.text(max_size=3)
            | st.integers()
            | st.none(),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@given(ANYTHING, DOCUMENTS)
def test_anything_parses_or_is_refused(where: Any, metadata: dict[str, Any]) -> None:
    try:
        parsed = Filter.parse(where)
    except FilterError:
        return
    if parsed is not None:
        assert isinstance(parsed.matches(metadata), bool)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("lang", "not str: 'lang'"),
        ([{"a": 1}], "not list"),
        ({"$nor": [{"a": 1}]}, r"\$nor.*\$and, \$or, \$not"),
        ({"a": {"$regex": "x"}}, r"\$regex.*'a'.*\$eq"),
        ({"a": {"b": 1}}, "'b' on field 'a'"),
        ({"a": {}}, "'a' is empty"),
        ({"$and": []}, r"\$and takes a non-empty list"),
        ({"$or": {"a": 1}}, r"\$or takes"),
        ({"$and": "ab"}, r"\$and takes"),
        ({"$or": [1]}, "not int: 1"),
        ({"$not": 1}, "not int: 1"),
        ({"a": {"$not": 3}}, r"\$not on 'a'.*\$ne"),
        ({"a": {"$in": "ja"}}, r"\$in on 'a' takes a list"),
        ({"a": {"$in": [["ja"]]}}, "'a' is a list"),
        ({"a": [1, 2]}, r"'a' is a list.*\$in"),
        ({"a": {"$gt": "2020"}}, "compares numbers, not str: '2020'"),
        ({"a": {"$gt": True}}, "compares numbers, not bool"),
        ({"a": {"$gt": None}}, "compares numbers, not NoneType"),
        ({"a": {"$lte": float("nan")}}, "'a' is nan"),
        ({"a": float("inf")}, "'a' is inf"),
        ({"a": {"$exists": 1}}, r"\$exists on 'a' takes true or false, not 1"),
        ({"a": 2**53 + 1}, f"{2**53 + 1} for 'a'.*2\\*\\*53"),
        ({"a": {"$lt": -(2**53) - 1}}, "2\\*\\*53"),
        ({"a": "\ud800"}, "'a' holds a lone surrogate"),
        ({"a": b"bytes"}, "'a' is bytes"),
        ({1: "a"}, "not int: 1"),
        ({"": 1}, "field name ''"),
        ({"a b": 1}, "field name 'a b'"),
        ({"a'] == 1 or ['b": 1}, "cannot be used"),
        ({"a..b": 1}, "'a..b'"),
        ({".a": 1}, "'.a'"),
        ({"a.": 1}, "'a.'"),
        ({"日本": 1}, "'日本'"),
        ({"a\n": 1}, "cannot be used"),
    ],
)
def test_refused_by_name(where: Any, said: str) -> None:
    with pytest.raises(FilterError, match=said):
        Filter.parse(where)
    assert issubclass(FilterError, InputError)


def test_filter_nested_too_deeply_is_refused() -> None:
    where: dict[str, Any] = {"a": 1}
    for _ in range(100_000):
        where = {"$not": where}
    with pytest.raises(FilterError, match="deep"):
        Filter.parse(where)


def test_parsed_nodes_are_seven() -> None:
    assert Filter.parse(None) is None
    assert Filter.parse({}) == And(())
    assert Filter.parse({"a": 1}) == Eq("a", 1)
    assert Filter.parse({"a": None}) == Not(Exists("a"))
    assert Filter.parse({"a": {"$ne": 1}}) == Not(Eq("a", 1))
    assert Filter.parse({"a": {"$nin": [1]}}) == Not(In("a", (1,)))
    assert Filter.parse({"a": {"$in": [1, None]}}) == Or((In("a", (1,)), Not(Exists("a"))))
    assert Filter.parse({"a": {"$gt": 1, "$lt": 2}}) == And((Range("a", "$gt", 1), Range("a", "$lt", 2)))
    parsed = Filter.parse({"a": 1})
    assert Filter.parse(parsed) is parsed
