"""Filters as Qdrant conditions, for either engine. Pure.

Where the meanings differ from `m3_core.filters`:

- ``match`` takes no floats and does not find 1.0 for 1, so numbers are compared by range;
- "is empty" is false for ``[null]``, so existence is "some value is other than x"; a keyword index answers that for
  strings only, an integer index for integers only, so it is asked once with a string and once with an integer;
- an empty ``should`` matches everything, so a filter that nothing passes is the complement of one without
  conditions; and the ``should`` of a query and of its prefetches are mixed, so each goes into a filter of its own.
"""

import math
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol, TypeAlias, assert_never

from m3_core.errors import InputError
from m3_core.filters import And, Eq, Exists, Filter, In, Not, Or, Range, Scalar

Condition: TypeAlias = Any
"""A condition or filter, in the classes of one of the two engines' packages."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BOUNDS = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


class Dialect(Protocol):
    """How an engine's Python package writes conditions."""

    def equals(self, key: str, value: str | bool) -> Condition: ...
    def any_of(self, key: str, values: Sequence[str]) -> Condition: ...
    def other_than(self, key: str, value: str | int) -> Condition:
        """Some value there is neither null nor this one."""

    def between(self, key: str, **bounds: float) -> Condition: ...
    def has_id(self, ids: Sequence[int | str]) -> Condition: ...
    def has_vector(self, name: str) -> Condition: ...
    def filter(
        self,
        *,
        must: Sequence[Condition] = (),
        should: Sequence[Condition] = (),
        must_not: Sequence[Condition] = (),
    ) -> Condition: ...


def translate(where: Filter, dialect: Dialect, metadata: str) -> Condition:
    """A filter of the engine. ``metadata``: the payload field that holds the metadata, "" for the top level."""
    return dialect.filter(must=[_condition(where, dialect, f"{quoted(metadata)}." if metadata else "")])


def quoted(key: str) -> str:
    """The key of a payload as a step of a JSON path.

    Raises:
        InputError: it holds a double quote, which such a path cannot express.
    """
    if _PLAIN_KEY.fullmatch(key):
        return key
    if '"' in key:
        raise InputError(
            f"the payload field {key!r} holds a double quote, which Qdrant's paths cannot express"
        )
    return f'"{key}"'


def survives(value: float) -> bool:
    """Whether the engine's JSON parser gives this number back to the last bit.

    It does where significand and power of ten are exact floats, so that one rounding gives the result
    (Clinger, How to Read Floating Point Numbers Accurately, 1990); otherwise it may be off by a unit or two.
    """
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    return int("".join(map(str, digits))) <= 2**53 and isinstance(exponent, int) and abs(exponent) <= 22


def slack(value: float) -> float:
    """How far a number may be from this one and count as the same: 0, or 4 units in the last place."""
    return 0.0 if isinstance(value, int) or survives(value) else 4 * math.ulp(value)


def _condition(node: Filter, dialect: Dialect, prefix: str) -> Condition:
    match node:
        case And(filters):
            return dialect.filter(must=[_condition(item, dialect, prefix) for item in filters])
        case Or(filters):
            return _any([_condition(item, dialect, prefix) for item in filters], dialect)
        case Not(inner):
            return dialect.filter(must_not=[_condition(inner, dialect, prefix)])
        case Eq(field, value):
            return _one_of(prefix + field, (value,), dialect)
        case In(field, values):
            return _one_of(prefix + field, values, dialect)
        case Range(field, operator, value):
            # The window of "the same" belongs to $gte and $lte, and not to $gt and $lt.
            outwards = -slack(value) if operator in ("$gte", "$lt") else slack(value)
            return dialect.between(prefix + field, **{_BOUNDS[operator]: _finite(value + outwards)})
        case Exists(field):
            return _exists(prefix + field, dialect)
        case _:
            raise TypeError(f"not a node of a parsed filter: {node!r}")


def _any(conditions: Sequence[Condition], dialect: Dialect) -> Condition:
    if not conditions:
        return dialect.filter(must_not=[dialect.filter()])
    return dialect.filter(should=conditions)


def _one_of(key: str, values: Sequence[Scalar], dialect: Dialect) -> Condition:
    strings: list[str] = []
    conditions: list[Condition] = []
    for value in values:
        match value:
            case bool():
                conditions.append(dialect.equals(key, value))
            case int() | float():
                conditions.append(_equal_number(key, value, dialect))
            case str():
                strings.append(value)
            case _:
                assert_never(value)
    if strings:
        conditions.append(dialect.any_of(key, strings))
    return _any(conditions, dialect)


def _equal_number(key: str, value: int | float, dialect: Dialect) -> Condition:
    return dialect.between(key, gte=_finite(value - slack(value)), lte=_finite(value + slack(value)))


def _finite(value: float) -> float:
    return max(-sys.float_info.max, min(sys.float_info.max, float(value)))


def _exists(key: str, dialect: Dialect) -> Condition:
    """Every value but "" is other than "", every one but 0 other than 0; an index leaves out at most one kind."""
    return _any(
        [
            dialect.other_than(key, ""),
            dialect.other_than(key, 0),
            dialect.equals(key, ""),
            _equal_number(key, 0, dialect),
        ],
        dialect,
    )
