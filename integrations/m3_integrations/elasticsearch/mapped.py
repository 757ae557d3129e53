"""The filter language over metadata that is mapped field by field: other people's indices. Pure functions.

A field is asked for as its mapping indexes it: keywords (also the keyword below a text), numbers and booleans
are exact; what the mapping does not index, or indexes in another way, is refused by name. The index decides
what a value is: a string "1" in a numeric field counts as the number there, and the objects of a list are
flattened into their fields.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3_core.errors import InputError, Unsupported
from m3_core.filters import Eq, Exists, In, Range, Scalar
from m3_core.types import Document, Json
from m3_integrations.elasticsearch.filters import NOTHING, Leaf, Query

INTEGERS = frozenset({"byte", "short", "integer", "long", "unsigned_long"})
NUMBERS = INTEGERS | {"double", "float", "half_float", "scaled_float"}
KEYWORD_LIMIT = 8_191
"""Characters of a string that a mapped keyword indexes: 32,766 bytes, Lucene's limit, hold any of them."""
_BOUND = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}
_REMEDY = "index the field so, or copy the documents into an index made by ElasticsearchStore.create"


@dataclass(frozen=True, slots=True)
class MappedField:
    """A field of a mapping. name: as queries ask for it. parent: a text whose keyword this is."""

    name: str
    type: str
    ignore_above: int | None = None
    searchable: bool = True
    parent: str | None = None


def mapped_fields(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, MappedField]]:
    """Every field of a mapping with its path; a text is given as the keyword below it, if it has one."""
    for key, spec in properties.items():
        path = f"{prefix}{key}"
        kind = spec.get("type", "object")
        yield path, _field(path, kind, spec)
        yield from mapped_fields(spec.get("properties", {}), f"{path}.")


def _field(path: str, kind: str, spec: Mapping[str, Any]) -> MappedField:
    if kind == "text":
        for name, below in spec.get("fields", {}).items():
            if below.get("type") == "keyword" and "normalizer" not in below:
                limit = below.get("ignore_above")
                return MappedField(f"{path}.{name}", "keyword", limit, _searchable(below), parent=path)
    if kind == "object" and spec.get("enabled") is False:
        return MappedField(path, "disabled", searchable=False)
    if kind == "keyword" and "normalizer" in spec:
        return MappedField(path, "normalized keyword")
    return MappedField(path, kind, spec.get("ignore_above"), _searchable(spec))


def _searchable(spec: Mapping[str, Any]) -> bool:
    return spec.get("index") is not False


def mapped_leaf(fields: Mapping[str, MappedField], prefix: str, *, dynamic: bool) -> Callable[[Leaf], Query]:
    """Queries for mapped fields.

    fields: the mapping. prefix: what stands before a metadata field's name (``metadata.`` or nothing).
    dynamic: whether fields that come new are mapped, so that what is not mapped is nowhere.
    """

    def leaf(node: Leaf) -> Query:
        path = prefix + node.field
        field = fields.get(path)
        if field is None:
            parents = [
                fields[path[:at]] for at in range(len(path)) if path[at] == "." and path[:at] in fields
            ]
            if not dynamic or any(parent.type == "disabled" for parent in parents):
                raise Unsupported(
                    f"the field {path!r} is not in the mapping, so it is not indexed; {_REMEDY}"
                )
            return NOTHING
        if isinstance(node, Exists):
            return _exists(path, field)
        if field.type == "object":
            return NOTHING  # a string or number is nowhere in this field
        if not field.searchable or field.type not in NUMBERS | {"keyword", "boolean"}:
            kind = field.type if field.searchable else f"{field.type} that is not indexed"
            raise Unsupported(f"{node} cannot be asked exactly of {path!r}, which is a {kind}; {_REMEDY}")
        match node:
            case Eq(_, value):
                return _among(path, field, (value,))
            case In(_, values):
                return _among(path, field, values)
            case Range(_, operator, value):
                if field.type not in NUMBERS:
                    return NOTHING
                return {"range": {field.name: {_BOUND[operator]: value}}}

    return leaf


def _exists(path: str, field: MappedField) -> Query:
    if field.type in ("object", "disabled", "nested"):
        raise Unsupported(
            f"whether the object {path!r} exists cannot be asked of a mapping exactly; ask for a field in it"
        )
    found: list[Query] = [{"exists": {"field": field.name}}]
    if field.parent is not None:
        found.append({"exists": {"field": field.parent}})
    if field.ignore_above is not None:  # a string that was too long to index is named here
        found.append({"term": {"_ignored": {"value": field.name}}})
    return {"bool": {"should": found, "minimum_should_match": 1}}


def _among(path: str, field: MappedField, values: tuple[Scalar, ...]) -> Query:
    fitting = sorted({value for value in values if _fits(field, value)}, key=str)
    for value in fitting:
        if isinstance(value, str) and field.ignore_above is not None and len(value) > field.ignore_above:
            raise Unsupported(
                f"{path!r} indexes strings of up to {field.ignore_above} characters, the filter's has "
                f"{len(value)}; {_REMEDY}"
            )
    return {"terms": {field.name: fitting}} if fitting else NOTHING


def _fits(field: MappedField, value: Scalar) -> bool:
    """Whether a value of the field's type can equal this one."""
    match value:
        case bool():
            return field.type == "boolean"
        case str():
            return field.type == "keyword"
        case _:
            whole = field.type not in INTEGERS or float(value).is_integer()
            return field.type in NUMBERS and whole and abs(value) < 2**63


# Writing: what a mapping cannot hold is named before it is sent, and with the document it stands in.

_KINDS = {"keyword": "a string", "double": "a number", "boolean": "a boolean", "object": "an object"}


def check_types(documents: Sequence[Document], fields: Mapping[str, MappedField], prefix: str) -> None:
    """Raise InputError, naming the document and the field, for metadata whose types contradict the mapping.

    Fields that are not mapped yet get the type of the first document that has them.
    """
    known = {path: _kind_of(field) for path, field in fields.items()}
    for document in documents:
        for path, value in _values(document.metadata, prefix):
            kind = _kind(value)
            if kind is None:
                raise InputError(
                    f"the metadata field {path!r} of document {document.id!r} is a list of objects, whose fields "
                    f"a mapping would mix up; {_TERMS_REMEDY}"
                )
            held = known.setdefault(path, kind)
            if held != kind and held is not None:
                raise InputError(
                    f"the metadata field {path!r} of document {document.id!r} is {_KINDS[kind]}, but {_KINDS[held]} "
                    f"in the index or in a document before; {_TERMS_REMEDY}"
                )


_TERMS_REMEDY = (
    "make it the same everywhere, or use an index made with metadata='any', which takes every JSON value"
)


def _kind_of(field: MappedField) -> str | None:
    """The kind of value that a field of the mapping takes, None where the engine decides."""
    if field.type in NUMBERS:
        return "double"
    return field.type if field.type in _KINDS else None


def _values(metadata: Mapping[str, Json], prefix: str) -> Iterator[tuple[str, Json]]:
    for key, value in metadata.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield path, {}
            yield from _values(value, f"{path}.")
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                if item is not None:
                    yield path, [item] if isinstance(item, Mapping | list | tuple) else item


def _kind(value: Json) -> str | None:
    match value:
        case bool():
            return "boolean"
        case str():
            return "keyword"
        case int() | float():
            return "double"
        case Mapping():
            return "object"
        case _:
            return None
