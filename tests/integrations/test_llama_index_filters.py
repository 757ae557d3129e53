"""LlamaIndex's filters as ours: every operator, nesting, and LlamaIndex's own in-memory meaning beside it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from m3_core.errors import FilterError
from m3_core.filters import Eq
from m3_core.types import Json
from m3_integrations.llama_index.filters import both, to_filter

ROWS: dict[str, dict[str, Json]] = {
    "ja": {"lang": "ja", "year": 2020, "tags": ["a", "b"]},
    "en": {"lang": "en", "year": 2021.5, "tags": ["b"]},
    "none": {"lang": None, "tags": []},
    "bare": {},
    "text": {"lang": "japan", "year": "2020", "tags": "a"},
}


def one(operator: str, value: Any = None, key: str = "lang") -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


def group(*parts: MetadataFilter | MetadataFilters, condition: str | None = "and") -> MetadataFilters:
    return MetadataFilters(
        filters=list(parts), condition=None if condition is None else FilterCondition(condition)
    )


def matching(filters: MetadataFilters) -> set[str]:
    parsed = to_filter(filters)
    return {name for name, row in ROWS.items() if parsed is None or parsed.matches(row)}


EACH = [
    (one("==", "ja"), {"ja"}),
    (one("==", 2020, "year"), {"ja"}),
    (one("==", "b", "tags"), {"ja", "en"}),
    (one("!=", "ja"), {"en", "none", "bare", "text"}),
    (one(">", 2020, "year"), {"en"}),
    (one(">=", 2020, "year"), {"ja", "en"}),
    (one("<", 2021, "year"), {"ja"}),
    (one("<=", 2021.5, "year"), {"ja", "en"}),
    (one("in", ["ja", "en"]), {"ja", "en"}),
    (one("in", []), set()),
    (one("nin", ["ja", "en"]), {"none", "bare", "text"}),
    (one("any", ["a", "x"], "tags"), {"ja", "text"}),
    (one("all", ["a", "b"], "tags"), {"ja"}),
    (one("all", [], "tags"), {"ja", "en", "text"}),
    (one("contains", "b", "tags"), {"ja", "en"}),
    (one("is_empty", None, "tags"), {"none", "bare"}),
]
REFUSED = ["text_match", "text_match_insensitive"]


@pytest.mark.parametrize(("item", "expected"), EACH, ids=lambda value: str(getattr(value, "operator", "")))
def test_each_operator(item: MetadataFilter, expected: set[str]) -> None:
    assert matching(group(item)) == expected
    assert matching(group(item, condition="not")) == ROWS.keys() - expected


@pytest.mark.parametrize("operator", REFUSED)
def test_text_matching_is_refused_by_name(operator: str) -> None:
    with pytest.raises(FilterError, match=f"'{operator}' on 'lang'"):
        to_filter(group(one(operator, "ja")))


def test_no_operator_is_forgotten() -> None:
    seen = {item.operator.value for item, _ in EACH} | set(REFUSED)
    assert seen == {operator.value for operator in FilterOperator}


@pytest.mark.parametrize(
    "item",
    [
        one("==", None),
        one("==", ["ja"]),
        one("!=", None),
        one("contains", ["ja"]),
        one(">", "2020-01-01", "year"),
        one("<=", None, "year"),
        one("in", "ja"),
        one("nin", 3),
        one("any", "a"),
        one("all", None),
        one("==", "ja", "lang' or 1"),
        one("==", "ja", "$or"),
        one("==", 2**60, "year"),
        one("==", "\ud800"),
        one("==", float("nan"), "year"),
    ],
)
def test_values_and_names_that_cannot_be_used(item: MetadataFilter) -> None:
    with pytest.raises(FilterError, match=r"(year|lang|or)"):
        to_filter(group(item))


def test_groups() -> None:
    old, japanese, tagged = one("<", 2021, "year"), one("==", "ja"), one("any", ["b"], "tags")
    assert matching(group(japanese, tagged, condition=None)) == {"ja"}
    assert matching(group(japanese, one("==", "en"), condition="or")) == {"ja", "en"}
    assert matching(group(japanese, one("==", "en"), condition="not")) == {"none", "bare", "text"}
    nested = group(tagged, group(group(old, condition="not"), group(japanese, old), condition="or"))
    assert matching(nested) == {"ja", "en"}
    assert matching(group(tagged, group(nested, condition="not"))) == set()


def test_nothing_to_ask() -> None:
    for condition in ("and", "or", "not"):
        assert to_filter(group(condition=condition)) is None
    assert to_filter(None) is None
    with pytest.raises(FilterError, match=r"a group of filters inside another \(or\) is empty"):
        to_filter(group(one("==", "ja"), group(condition="or")))


def test_deep_nesting_is_refused_and_not_a_recursion_error() -> None:
    deep = group(one("==", "ja"))
    for _ in range(300):
        deep = MetadataFilters.model_construct(filters=[deep], condition=FilterCondition.AND)
    with pytest.raises(FilterError, match="nested more than"):
        to_filter(deep)


def test_our_own_filters_are_taken_too() -> None:
    assert to_filter({"draft": True}) == Eq("draft", True)
    assert to_filter(Eq("draft", True)) == Eq("draft", True)


def test_both() -> None:
    first, second = Eq("a", 1), Eq("b", 2)
    assert both(None, None) is None
    assert both(None, first) is first
    joined = both(first, None, second)
    assert joined is not None
    assert joined.matches({"a": 1, "b": 2})
    assert not joined.matches({"a": 1})


words = st.sampled_from(["a", "b", "c"])
numbers = st.integers(-2, 2)
comparable = st.one_of(
    st.builds(one, st.sampled_from(["==", "!="]), words, st.just("word")),
    st.builds(one, st.sampled_from(["in", "nin"]), st.lists(words, max_size=2), st.just("word")),
    st.builds(one, st.sampled_from([">", ">=", "<", "<=", "==", "!="]), numbers, st.just("number")),
    st.builds(one, st.just("contains"), words, st.just("tags")),
    st.builds(one, st.sampled_from(["any", "all"]), st.lists(words, min_size=1, max_size=2), st.just("tags")),
    st.builds(one, st.just("is_empty"), st.none(), st.sampled_from(["word", "number", "tags"])),
)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "word": st.one_of(st.none(), words),
        "number": st.one_of(st.none(), numbers),
        "tags": st.one_of(st.none(), st.lists(words, max_size=3)),
    },
)


@given(st.lists(comparable, min_size=1, max_size=4), st.sampled_from([None, "and", "or", "not"]), metadata)
def test_the_same_as_in_llama_index_itself(
    items: list[MetadataFilter], condition: str | None, row: dict[str, Json]
) -> None:
    filters = group(*items, condition=condition)
    theirs = build_metadata_filter_fn(lambda _: row, filters)
    ours = to_filter(filters)
    assert ours is not None
    assert ours.matches(row) == theirs("node")
