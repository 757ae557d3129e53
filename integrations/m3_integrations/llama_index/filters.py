"""LlamaIndex's `MetadataFilters` as our filters. Pure."""

from typing import Any

from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from m3_core.errors import FilterError
from m3_core.filters import And, Filter, Where
from m3_core.types import MAX_DEPTH

_VALUES = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.CONTAINS: "$eq",
}
"""Operators that take one value. On a list ours ask for any element, which is what "contains" says."""
_NUMBERS = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}
_LISTS = {FilterOperator.IN: "$in", FilterOperator.NIN: "$nin", FilterOperator.ANY: "$in"}


def to_filter(filters: MetadataFilters | Where) -> Filter | None:
    """The filter of LlamaIndex's; ours, parsed or not, may be given instead. No conditions at all are no filter.

    Of the operators, ``text_match`` and ``text_match_insensitive`` are refused: no store here looks inside strings.
    The others mean what they mean in `m3_core.filters`: ``in`` and ``any`` both ask whether the value, or an
    element of the list, is among the given ones; ``all`` whether each is there; ``contains`` for one;
    ``!=`` and ``nin`` match where the field is missing; ``is_empty`` means missing, null or an empty list; a
    condition of ``not`` matches where none of its filters does.

    Raises:
        FilterError: an operator or a value that cannot be used, named.
    """
    if not isinstance(filters, MetadataFilters):
        return Filter.parse(filters)
    return Filter.parse(_group(filters, 1)) if filters.filters else None


def both(*filters: Filter | None) -> Filter | None:
    """The conjunction; None where there is nothing to ask."""
    given = tuple(item for item in filters if item is not None)
    return And(given) if len(given) > 1 else given[0] if given else None


def _group(group: MetadataFilters, level: int) -> dict[str, Any]:
    if level > MAX_DEPTH:
        raise FilterError(f"the filters are nested more than {MAX_DEPTH} levels deep")
    if not group.filters:
        raise FilterError(f"a group of filters inside another ({_name(group)}) is empty; leave it out")
    parts = [
        _group(item, level + 1) if isinstance(item, MetadataFilters) else _one(item) for item in group.filters
    ]
    match group.condition:
        case None | FilterCondition.AND:
            return {"$and": parts}
        case FilterCondition.OR:
            return {"$or": parts}
        case FilterCondition.NOT:
            return {"$not": {"$or": parts}}
    raise FilterError(f"the condition {group.condition!r} is not known; there are and, or and not")


def _name(group: MetadataFilters) -> str:
    return (group.condition or FilterCondition.AND).value


def _one(item: MetadataFilter) -> dict[str, Any]:
    key, value, operator = item.key, item.value, FilterOperator(item.operator)
    if operator is FilterOperator.IS_EMPTY:
        return {key: {"$exists": False}}
    if operator in _VALUES:
        if value is None or isinstance(value, list):
            raise FilterError(
                f"'{operator.value}' on {key!r} takes a string or a number, not {value!r}; "
                "for several values there are in, nin, any and all, for a missing field is_empty"
            )
        return {key: {_VALUES[operator]: value}}
    if operator in _NUMBERS:
        if not isinstance(value, int | float):
            raise FilterError(
                f"'{operator.value}' on {key!r} compares numbers, not {value!r}; keep dates as numbers too"
            )
        return {key: {_NUMBERS[operator]: value}}
    if operator in _LISTS or operator is FilterOperator.ALL:
        if not isinstance(value, list):
            raise FilterError(f"'{operator.value}' on {key!r} takes a list of values, not {value!r}")
        if operator is FilterOperator.ALL:
            return {"$and": [{key: {"$eq": one}} for one in value] or [{key: {"$exists": True}}]}
        return {key: {_LISTS[operator]: value}}
    raise FilterError(
        f"'{operator.value}' on {key!r} is not supported: no store here looks inside strings. "
        "Search for the words (the lexical weights find them), or keep what you filter by in a field of its own"
    )
