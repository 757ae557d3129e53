"""The filter language over other people's collections: declared columns, and strings inside JSON. Pure functions.

What cannot be asked exactly is refused by name; `m3_integrations.milvus.filters` says why, and what a
collection of `MilvusStore`'s own has instead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from m3_core.errors import Unsupported
from m3_core.filters import Eq, Exists, In, Range, RangeOperator, Scalar
from m3_integrations.milvus.filters import INT64, SYMBOL, Expression, Leaf, join, literal


@dataclass(frozen=True, slots=True)
class Column:
    """A declared field: its Milvus type (``VARCHAR``, ``INT64``, ...), and that of an array's elements."""

    name: str
    type: str
    element: str | None = None
    nullable: bool = False
    primary: bool = False
    automatic: bool = False
    max_length: int | None = None
    dimension: int | None = None


_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64"})
_EXACT = _INTEGERS | {"VARCHAR", "DOUBLE", "BOOL"}
_UNDECLARED = "$meta"
_WORDS = frozenset(
    ["and", "or", "not", "in", "like", "is", "null", "exists", "true", "false", "iso", "interval"]
)
"""What is no name in an expression of Milvus Lite."""
_REMEDY = "copy the documents into a collection made by MilvusStore.create, where every filter is exact"


@dataclass(frozen=True, slots=True)
class ColumnDialect:
    """Expressions over declared columns, and over strings inside JSON.

    columns: the declared fields that are metadata. taken: the names of the others, which no undeclared
    field can have. metadata: the JSON field that holds the metadata; "" where the fields lie at the top level, as columns
    or, if ``dynamic``, as undeclared ones. lite: Milvus Lite, which takes a string that is itself a JSON
    list for that list.
    """

    columns: Mapping[str, Column] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    metadata: str = ""
    dynamic: bool = False
    lite: bool = False

    @property
    def unsupported(self) -> frozenset[str]:
        """The operators that are refused for what lies inside JSON."""
        if not (self.metadata or self.dynamic or any(item.type == "JSON" for item in self.columns.values())):
            return frozenset()
        return frozenset({"$ne", "$nin", "$not", "$gt", "$gte", "$lt", "$lte", "$exists"})

    def leaf(self, node: Leaf, negated: bool) -> Expression:
        """The expression of one condition.

        Raises:
            Unsupported: it cannot be asked exactly; names the condition.
        """
        first, *rest = node.field.split(".")
        column = None if self.metadata else self.columns.get(first)
        if self.metadata:
            return self._inside_json(self.metadata, [first, *rest], node, negated)
        if column is None:
            if not self.dynamic or first in self.taken:
                return negated  # no document has it
            return self._inside_json(_UNDECLARED, [first, *rest], node, negated)
        if column.type == "JSON":
            return self._inside_json(first, rest, node, negated)
        if rest:
            return negated  # there is nothing inside a string or a number
        found = _column(column, node)
        if isinstance(found, bool):
            return found != negated
        if not negated:
            return f"({found})"
        return f"({first} is null or not ({found}))" if column.nullable else f"not ({found})"

    def _inside_json(self, name: str, path: Sequence[str], node: Leaf, negated: bool) -> Expression:
        match node:
            case Eq(value=str() as value) if path and not negated:
                return self._string(name, path, value)
            case In(values=values) if path and not negated and all(isinstance(item, str) for item in values):
                return join((self._string(name, path, str(value)) for value in values), False)
            case _:
                raise Unsupported(
                    f"{'the complement of ' if negated else ''}{node} cannot be asked of Milvus exactly where the "
                    f"field lies inside JSON, only whether a string is equal; {_REMEDY}"
                )

    def _string(self, name: str, path: Sequence[str], value: str) -> str:
        place = name + _steps(path)
        among = f"json_contains({self._bare(path) if self.lite and name == _UNDECLARED else place}, {literal(value)})"
        if self.lite:
            among = f'({among} and not ({place} like "%"))'
        return f"({place} == {literal(value)} or {among})"

    def _bare(self, path: Sequence[str]) -> str:
        """An undeclared field as Milvus Lite wants it in ``json_contains``: by its name alone."""
        first, *rest = path
        if not first.isidentifier() or first.lower() in _WORDS:
            raise Unsupported(
                f"Milvus Lite cannot look for a value in the undeclared field {first!r}; {_REMEDY}"
            )
        return first + _steps(rest)


def _steps(path: Sequence[str]) -> str:
    return "".join(f"[{literal(part)}]" for part in path)


def _column(column: Column, node: Leaf) -> Expression:
    """Whether the value of a column that is not null matches."""
    array = column.type == "ARRAY"
    kind = (column.element if array else column.type) or ""
    match node:
        case Exists():
            return f"array_length({column.name}) != 0" if array else _there(column)
        case _ if kind not in _EXACT or (array and isinstance(node, Range)):
            raise Unsupported(
                f"{node} cannot be asked exactly of the Milvus column {column.name!r}, which is "
                f"{f'an array of {kind}' if array else f'a {kind}'}; {_REMEDY}"
            )
        case Eq(_, value):
            return _among(column.name, kind, array, [value])
        case In(_, values):
            return _among(column.name, kind, array, values)
        case Range(_, operator, value):
            return _range(column, kind, operator, value)


def _there(column: Column) -> Expression:
    return f"{column.name} is not null" if column.nullable else True


def _among(name: str, kind: str, array: bool, values: Sequence[Scalar]) -> Expression:
    fitting = [item for value in values if (item := _fit(kind, value)) is not None]
    if not fitting:
        return False
    listed = ", ".join(map(literal, fitting))
    if array:
        return f"array_contains_any({name}, [{listed}])"
    if kind == "BOOL":
        return " or ".join(f"{name} == {literal(item)}" for item in fitting)
    return f"{name} in [{listed}]"


def _fit(kind: str, value: Scalar) -> Scalar | None:
    """The value in the column's type, None if no value of that type equals it."""
    if isinstance(value, str):
        return value if kind == "VARCHAR" else None
    if isinstance(value, bool):
        return value if kind == "BOOL" else None
    if kind == "DOUBLE":
        return float(value)
    return int(value) if kind in _INTEGERS and value == math.floor(value) and abs(value) <= INT64 else None


def _range(column: Column, kind: str, operator: RangeOperator, value: float) -> Expression:
    if kind not in _INTEGERS | {"DOUBLE"}:
        return False
    if kind == "DOUBLE":
        return f"{column.name} {SYMBOL[operator]} {literal(float(value))}"
    bound = math.floor(value) if operator in ("$gt", "$lte") else math.ceil(value)
    if abs(bound) > INT64:  # beyond every integer of the column: all of them are on one side of it
        return _there(column) if (bound < 0) == (operator in ("$gt", "$gte")) else False
    return f"{column.name} {SYMBOL[operator]} {bound}"
