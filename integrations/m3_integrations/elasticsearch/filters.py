"""The filter language as Elasticsearch queries: exact, or refused by name. Pure functions.

A field of an index has one type, but a field of metadata may be a number here, a string there and an object
elsewhere; and a list of objects is flattened by the engine, so that its inner values look like those of an
object. So an index that `ElasticsearchStore` makes keeps the metadata as it is, unindexed, and beside it one
keyword field, the *terms*, written for filtering only (`filter_terms`):

- ``path`` for every field that exists;
- ``path="text`` for every string, ``path=true`` and ``path=false`` for booleans;
- ``path:key`` for every number, where keys sort as the numbers do, so that a range of numbers is a range of terms.

Characters of a path are letters, digits, ``_``, ``-`` and dots, so no two terms can be confused, and nothing
from a filter is ever read as query language. There is one field however many fields the metadata has, no
limit of fields is met, and no two documents can be in conflict.

Where the metadata is mapped field by field, `m3_integrations.elasticsearch.mapped` asks for those fields.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeAlias

from m3_core.errors import Unsupported
from m3_core.filters import And, Eq, Exists, Filter, In, Not, Or, Range, RangeOperator, Scalar
from m3_core.types import FIELD_NAME, Json

Leaf: TypeAlias = Eq | In | Range | Exists
Query: TypeAlias = dict[str, Any]

EVERYTHING: Query = {"match_all": {}}
NOTHING: Query = {"match_none": {}}
_LONGEST = 8_000
"""Bytes of a string or path that stand in a term as they are; Lucene takes terms of up to 32,766 bytes."""
_BOUND: Mapping[RangeOperator, str] = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


def translate(condition: Filter, leaf: Callable[[Leaf], Query], *, negated: bool = False) -> Query:
    """The query for a filter. Complements are pushed down to the leaves, so that queries nest little.

    Raises:
        Unsupported: a kind of filter that is not known here, or that ``leaf`` refuses.
    """
    match condition:
        case Not(inner):
            return translate(inner, leaf, negated=not negated)
        case And(parts) | Or(parts):
            return _join(
                [translate(part, leaf, negated=negated) for part in parts],
                isinstance(condition, And) != negated,
            )
        case Eq() | In() | Range() | Exists():
            found = leaf(condition)
            return {"bool": {"must_not": [found]}} if negated else found
        case _:
            raise Unsupported(f"Elasticsearch cannot be asked for a {type(condition).__name__} filter")


def _join(parts: list[Query], conjunction: bool) -> Query:
    if not parts:
        return EVERYTHING if conjunction else NOTHING
    if len(parts) == 1:
        return parts[0]
    return (
        {"bool": {"filter": parts}} if conjunction else {"bool": {"should": parts, "minimum_should_match": 1}}
    )


def clauses(query: Query) -> int:
    """How many clauses the cluster counts in a query."""
    held = query.get("bool")
    if held is None:
        return 1
    return 1 + sum(clauses(part) for kind in ("filter", "should", "must_not") for part in held.get(kind, ()))


# The terms.


def number_key(value: int | float) -> str:
    """19 hexadecimal digits that sort as the numbers do; equal numbers have equal keys, 1 and 1.0 alike.

    The bits of the nearest double in an order that is that of the numbers, and what an integer beyond 2**53
    differs from it.

    >>> number_key(1) == number_key(1.0), number_key(-2) < number_key(-1.5) < number_key(0) < number_key(2**63 - 1)
    (True, True)
    """
    nearest = float(value) + 0.0  # and -0.0 is 0.0
    (bits,) = struct.unpack(">Q", struct.pack(">d", nearest))
    ordered = bits ^ 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else bits | 1 << 63
    rest = value - int(nearest) if isinstance(value, int) else 0
    return f"{ordered:016x}{rest + 0x800:03x}"


def filter_terms(metadata: Mapping[str, Json]) -> list[str]:
    """Every term of a document's metadata, sorted."""
    terms: set[str] = set()
    for path, values in _fields(metadata, ""):
        terms.add(_path(path))
        terms.update(_value_term(path, value) for value in values if isinstance(value, str | int | float))
    return sorted(terms)


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


def _short(text: str) -> str | None:
    """The digest of a text that is too long for a term; None if it is not."""
    data = text.encode()
    return sha256(data).hexdigest() if len(data) > _LONGEST else None


def _path(path: str) -> str:
    digest = _short(path)
    return path if digest is None else f"#{digest}"


def _value_term(path: str, value: Scalar) -> str:
    match value:
        case bool():
            return f"{_path(path)}={'true' if value else 'false'}"
        case str():
            digest = _short(value)
            return f'{_path(path)}="{value}' if digest is None else f"{_path(path)}=#{digest}"
        case _:
            return f"{_path(path)}:{number_key(value)}"


def terms_leaf(field: str) -> Callable[[Leaf], Query]:
    """Queries for the terms in a keyword field."""

    def leaf(node: Leaf) -> Query:
        match node:
            case Eq(path, value):
                return {"term": {field: {"value": _value_term(path, value)}}}
            case In(path, values):
                if not values:
                    return NOTHING
                return {"terms": {field: sorted({_value_term(path, value) for value in values})}}
            case Exists(path):
                return {"term": {field: {"value": _path(path)}}}
            case Range(path, operator, value):
                # The numbers of a field are the terms from "path:" to "path;", the next character.
                bounds = {"gte": f"{_path(path)}:", "lt": f"{_path(path)};"}
                if operator in ("$gt", "$gte"):
                    del bounds["gte"]
                else:
                    del bounds["lt"]
                return {"range": {field: {**bounds, _BOUND[operator]: f"{_path(path)}:{number_key(value)}"}}}

    return leaf
