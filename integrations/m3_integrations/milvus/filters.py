"""The filter language as Milvus expressions: exact, or refused by name. Pure functions.

Expressions on a JSON field cannot say what the filter language means: Milvus Lite takes true for 1, no
engine compares "any element of the list" with a range, and what a complement does where the field is
missing differs between versions. So a collection that `MilvusStore` makes keeps, beside the metadata, two
fields written for filtering only:

- the *terms*: a digest for every (field, value), every field that exists, and every field with a number.
  Equality, ``$in`` and ``$exists`` ask whether a digest is among them, and complements negate that;
- the *bounds*: for every field with numbers the smallest and the largest. Any element is above x exactly
  if the largest is, and none is exactly if the largest is not.

Digests also mean that nothing from a filter ever stands in the expression as it was written.

Other people's collections have no such fields; there, declared columns have a type and are exact, and of
the values inside JSON only strings can be asked for (`ColumnDialect`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, TypeAlias

from m3_core.errors import Unsupported
from m3_core.filters import And, Eq, Exists, Filter, In, Not, Or, Range, RangeOperator, Scalar
from m3_core.types import FIELD_NAME, Json

Leaf: TypeAlias = Eq | In | Range | Exists
Expression: TypeAlias = str | bool
"""An expression, or its value where it is the same for every document."""

SYMBOL: Mapping[RangeOperator, str] = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COMPLEMENT: Mapping[RangeOperator, RangeOperator] = {
    "$gt": "$lte",
    "$gte": "$lt",
    "$lt": "$gte",
    "$lte": "$gt",
}
INT64 = 2**63 - 1
TERM_LENGTH = 24


def translate(
    condition: Filter, leaf: Callable[[Leaf, bool], Expression], *, negated: bool = False
) -> Expression:
    """The expression for a filter. Complements are pushed down to the leaves: ``leaf(node, negated)``."""
    match condition:
        case Not(inner):
            return translate(inner, leaf, negated=not negated)
        case And(parts) | Or(parts):
            conjunction = isinstance(condition, And) != negated
            return join((translate(part, leaf, negated=negated) for part in parts), conjunction)
        case Eq() | In() | Range() | Exists():
            return leaf(condition, negated)
        case _:
            raise Unsupported(f"Milvus cannot be asked for a {type(condition).__name__} filter")


def join(parts: Iterable[Expression], conjunction: bool) -> Expression:
    kept = []
    for part in parts:
        if isinstance(part, str):
            kept.append(part)
        elif part is not conjunction:  # one false decides an and, one true an or
            return part
    if not kept:
        return conjunction
    return kept[0] if len(kept) == 1 else "(" + (" and " if conjunction else " or ").join(kept) + ")"


def literal(value: Scalar) -> str:
    """A value as it stands in an expression. The one place where a value enters the query language.

    Milvus knows the escapes ``\\\\``, ``\\"``, ``\\n``, ``\\r`` and ``\\t`` in a string; any other character
    stands for itself.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'
        case _:
            return repr(value)


# The fields for filtering, in the collections that MilvusStore makes.


def _digest(*parts: str) -> str:
    """24 hexadecimal digits: of a thousand million different terms, two are equal with a chance of 1e-11."""
    return blake2b("\0".join(parts).encode(), digest_size=TERM_LENGTH // 2).hexdigest()


def _value_term(path: str, value: Scalar) -> str:
    match value:
        case bool():
            return _digest("value", path, "b", str(value))
        case str():
            return _digest("value", path, "s", value)
        case _:  # 1 and 1.0 are the same number, and so are 2**60 and 2.0**60
            return _digest("value", path, "n", repr(int(value) if value == math.floor(value) else value))


def filter_index(metadata: Mapping[str, Json]) -> tuple[list[str], dict[str, list[int | float]]]:
    """The terms of a document's metadata, sorted, and its bounds: digest of the field -> [smallest, largest]."""
    terms: set[str] = set()
    bounds: dict[str, list[int | float]] = {}
    for path, values in _fields(metadata, ""):
        terms.add(_digest("exists", path))
        terms.update(_value_term(path, value) for value in values if isinstance(value, str | int | float))
        numbers = [
            value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if numbers:
            terms.add(_digest("number", path))
            bounds[_digest(path)] = [min(numbers), max(numbers)]
    return sorted(terms), bounds


def _fields(metadata: Mapping[str, Json], prefix: str) -> Iterator[tuple[str, Sequence[Json]]]:
    """Every field that a filter can name and that has a value, with its values: the elements of a list."""
    for key, value in metadata.items():
        if not FIELD_NAME.fullmatch(key):
            continue
        items = [item for item in (value if isinstance(value, list | tuple) else [value]) if item is not None]
        if items:
            yield prefix + key, items
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{key}.")


@dataclass(frozen=True, slots=True)
class IndexDialect:
    """Expressions over the terms and the bounds.

    kind: the terms are an array of digests, or one string of them. A server answers `array_contains_any`
    for any number of values; Milvus Lite reads every row into Python for it, and not for `like`.
    """

    terms: str
    bounds: str
    kind: Literal["array", "text"]

    def leaf(self, node: Leaf, negated: bool) -> Expression:
        """The expression of one condition."""
        match node:
            case Eq(path, value):
                return self._has([_value_term(path, value)], negated)
            case In(path, values):
                return self._has(sorted({_value_term(path, value) for value in values}), negated)
            case Exists(path):
                return self._has([_digest("exists", path)], negated)
            case Range(path, operator, value):
                if not negated:
                    return self._bound(path, operator, value, operator)
                none = self._has([_digest("number", path)], True)
                return f"({none} or {self._bound(path, _COMPLEMENT[operator], value, operator)})"

    def _has(self, terms: Sequence[str], negated: bool) -> Expression:
        if not terms:
            return negated
        if self.kind == "text":
            found = " or ".join(f'{self.terms} like "%{term}%"' for term in terms)
        elif len(terms) == 1:
            found = f"array_contains({self.terms}, {literal(terms[0])})"
        else:
            found = f"array_contains_any({self.terms}, [{', '.join(map(literal, terms))}])"
        return f"not ({found})" if negated else f"({found})"

    def _bound(self, path: str, operator: RangeOperator, value: float, original: RangeOperator) -> str:
        largest = original in ("$gt", "$gte")
        return f'{self.bounds}["{_digest(path)}"][{int(largest)}] {SYMBOL[operator]} {_number(value)}'


def _number(value: float) -> str:
    """An integer where the number is one that Milvus can hold, so that it is compared with integers exactly."""
    return repr(int(value) if value == math.floor(value) and abs(value) <= INT64 else value)
