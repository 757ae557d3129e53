"""The filter language: the Mongo-style dictionary, parsed once into a handful of nodes.

::

    {"lang": "ja"}                                     equal
    {"year": {"$gte": 2020, "$lt": 2024}}              both
    {"tags": {"$in": ["a", "b"]}}                      any element of a list equals any of these
    {"$or": [{"lang": "ja"}, {"meta.author": {"$exists": false}}]}

The same everywhere, and held to by the contract suite:

- null is the same as missing, and so is an empty list;
- ``$ne``, ``$nin`` and ``$not`` are complements: they match where the field is missing;
- 1 equals 1.0, and true equals neither;
- ranges are for numbers;
- on a list, ``$eq``, ``$in`` and each range ask for any element;
- the path ``a.b`` goes through objects, not through lists of objects.

The parser leaves only seven kinds of node, so that an adapter has seven cases to translate: complements
become `Not`, ``{"f": null}`` becomes ``Not(Exists("f"))``, and the empty filter becomes ``And(())``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from m3_core.errors import FilterError
from m3_core.types import FIELD_NAME, MAX_DEPTH, Json

Scalar: TypeAlias = str | int | float | bool
RangeOperator: TypeAlias = Literal["$gt", "$gte", "$lt", "$lte"]
OPERATORS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$not")
CONNECTIVES = ("$and", "$or", "$not")
_EXACT_INTEGER = 2**53


class Filter:
    """A parsed filter. Build one with `Filter.parse`; every ``where=`` takes the dictionary too."""

    __slots__ = ()

    @staticmethod
    def parse(where: "Filter | Mapping[str, Any] | None") -> "Filter | None":
        """The filter of a dictionary; a filter is returned as it is, None stays None.

        Raises:
            FilterError: naming the field, operator or value that cannot be used.
        """
        if where is None or isinstance(where, Filter):
            return where
        _check_depth(where)
        return _parse_object(where)

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        """Whether a document with this metadata passes."""
        raise NotImplementedError

    def fields(self) -> Iterator[str]:
        """Every field the filter asks about, with repetitions."""
        raise NotImplementedError


Where: TypeAlias = Filter | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Eq(Filter):
    """The value, or an element of the list, equals ``value``; 1 equals 1.0, true does not equal 1."""

    field: str
    value: Scalar

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return any(_same(item, self.value) for item in _values(metadata, self.field))

    def fields(self) -> Iterator[str]:
        yield self.field


@dataclass(frozen=True, slots=True)
class In(Filter):
    """The value, or an element of the list, equals one of ``values``; no values match nothing."""

    field: str
    values: tuple[Scalar, ...]

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return any(_same(item, value) for item in _values(metadata, self.field) for value in self.values)

    def fields(self) -> Iterator[str]:
        yield self.field


@dataclass(frozen=True, slots=True)
class Range(Filter):
    """The number, or a number in the list, compares so with ``value``; strings and booleans never do."""

    field: str
    operator: RangeOperator
    value: int | float

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return any(
            _is_number(item) and _COMPARE[self.operator](item, self.value)
            for item in _values(metadata, self.field)
        )

    def fields(self) -> Iterator[str]:
        yield self.field


@dataclass(frozen=True, slots=True)
class Exists(Filter):
    """The field is there, is not null and is not an empty list."""

    field: str

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return any(True for _ in _values(metadata, self.field))

    def fields(self) -> Iterator[str]:
        yield self.field


@dataclass(frozen=True, slots=True)
class And(Filter):
    """All match; none at all matches everything."""

    filters: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return all(item.matches(metadata) for item in self.filters)

    def fields(self) -> Iterator[str]:
        for item in self.filters:
            yield from item.fields()


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """Any matches; none at all matches nothing."""

    filters: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return any(item.matches(metadata) for item in self.filters)

    def fields(self) -> Iterator[str]:
        for item in self.filters:
            yield from item.fields()


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The complement: also matches where the field is missing."""

    filter: Filter

    def matches(self, metadata: Mapping[str, Json]) -> bool:
        return not self.filter.matches(metadata)

    def fields(self) -> Iterator[str]:
        yield from self.filter.fields()


_COMPARE = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: Json, b: Scalar) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if _is_number(a) and _is_number(b):
        return bool(a == b)
    return isinstance(a, str) and isinstance(b, str) and a == b


def _values(metadata: Mapping[str, Json], path: str) -> Iterator[Json]:
    """The values at the path that count: nothing for missing and null, the elements of a list."""
    value: Json = metadata
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return
        value = value[name]
    for item in value if isinstance(value, list | tuple) else (value,):
        if item is not None:
            yield item


def _check_depth(where: object) -> None:
    """Raise FilterError if the filter has more levels than recursion can follow, here or in an engine."""
    level = {id(where): where}
    for _ in range(MAX_DEPTH):
        inner = [
            child
            for item in level.values()
            if isinstance(item, Mapping | list | tuple)
            for child in (item.values() if isinstance(item, Mapping) else item)
        ]
        level = {id(child): child for child in inner}
        if not level:
            return
    raise FilterError(f"the filter is nested more than {MAX_DEPTH} levels deep")


def _parse_object(where: object) -> Filter:
    if not isinstance(where, Mapping):
        raise FilterError(
            f"a filter is a dictionary like {{'lang': 'ja'}}, not {type(where).__name__}: {where!r}"
        )
    return _all([_parse_entry(key, value) for key, value in where.items()])


def _parse_entry(key: object, value: object) -> Filter:
    match key:
        case "$and":
            return _all(_parse_list("$and", value))
        case "$or":
            return Or(tuple(_parse_list("$or", value)))
        case "$not":
            return Not(_parse_object(value))
        case str() if key.startswith("$"):
            raise FilterError(
                f"unknown operator {key!r}; between conditions there are {', '.join(CONNECTIVES)}"
            )
        case str():
            return _parse_field(check_field(key), value)
        case _:
            raise FilterError(f"a field name must be a string, not {type(key).__name__}: {key!r}")


def _parse_list(operator: str, value: object) -> list[Filter]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise FilterError(f"{operator} takes a non-empty list of filters, not {value!r}")
    return [_parse_object(item) for item in value]


def check_field(name: str) -> str:
    """The name itself, if a filter may use it.

    Raises:
        FilterError: it has other characters than letters, digits, ``_``, ``-`` and dots for nesting.
    """
    if not FIELD_NAME.fullmatch(name):
        raise FilterError(
            f"the field name {name[:60]!r} cannot be used in a filter: letters, digits, '_' and '-' are allowed, with dots for nesting"
        )
    return name


def _parse_field(name: str, condition: object) -> Filter:
    if not isinstance(condition, Mapping):
        return _equal(name, condition)
    if not condition:
        raise FilterError(
            f"the condition on {name!r} is empty; write {{{name!r}: {{'$exists': True}}}} or a value"
        )
    return _all([_parse_operator(name, operator, value) for operator, value in condition.items()])


def _parse_operator(name: str, operator: object, value: object) -> Filter:
    match operator:
        case "$eq":
            return _equal(name, value)
        case "$ne":
            return Not(_equal(name, value))
        case "$in":
            return _one_of(name, "$in", value)
        case "$nin":
            return Not(_one_of(name, "$nin", value))
        case "$gt" | "$gte" | "$lt" | "$lte":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise FilterError(
                    f"{operator} on {name!r} compares numbers, not {type(value).__name__}: {value!r}"
                )
            _check_scalar(name, value)
            return Range(name, operator, value)
        case "$exists":
            if not isinstance(value, bool):
                raise FilterError(f"$exists on {name!r} takes true or false, not {value!r}")
            return Exists(name) if value else Not(Exists(name))
        case "$not":
            if not isinstance(value, Mapping):
                raise FilterError(
                    f"$not on {name!r} takes a condition like {{'$gt': 3}}, not {value!r}; for a value use $ne"
                )
            return Not(_parse_field(name, value))
        case _:
            raise FilterError(
                f"unknown operator {operator!r} on field {name!r}; there are {', '.join(OPERATORS)}"
            )


def _equal(name: str, value: object) -> Filter:
    if value is None:
        return Not(Exists(name))
    return Eq(name, _check_scalar(name, value))


def _one_of(name: str, operator: str, value: object) -> Filter:
    if not isinstance(value, list | tuple | set | frozenset):
        raise FilterError(f"{operator} on {name!r} takes a list of values, not {value!r}")
    found = In(name, tuple(_check_scalar(name, item) for item in value if item is not None))
    return Or((found, Not(Exists(name)))) if any(item is None for item in value) else found


def _check_scalar(name: str, value: object) -> Scalar:
    match value:
        case bool():
            return value
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise FilterError(f"the value for {name!r} holds a lone surrogate: {value!r}") from None
            return value
        case int():
            if abs(value) > _EXACT_INTEGER:
                raise FilterError(
                    f"the integer {value} for {name!r} is beyond 2**53, where stores compare inexactly; keep such values as strings"
                )
            return value
        case float():
            if not math.isfinite(value):
                raise FilterError(f"the value for {name!r} is {value}, which nothing can be compared with")
            return value
        case list() | tuple():
            raise FilterError(
                f"the value for {name!r} is a list; to match any of several values use {{'$in': {value!r}}}"
            )
        case _:
            raise FilterError(
                f"the value for {name!r} is {type(value).__name__}; strings, numbers and booleans can be compared"
            )


def _all(filters: list[Filter]) -> Filter:
    return filters[0] if len(filters) == 1 else And(tuple(filters))
