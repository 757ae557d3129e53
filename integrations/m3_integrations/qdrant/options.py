"""The URLs of the two stores and their options, as text or as values. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import unquote

from m3_core.errors import InputError
from m3_core.filters import check_field
from m3_core.store import Fields
from m3_core.urls import url_options
from m3_integrations.qdrant.filters import quoted
from m3_integrations.qdrant.layout import Names

PayloadIndexes: TypeAlias = Mapping[str, str]
"""Metadata field, as in a filter, -> what its index is for: ``keyword`` (strings), ``float`` (numbers), ``bool``."""

Parser: TypeAlias = Callable[[str], Any]
"""An option's value from its text; raises ValueError."""

INDEX_KINDS = ("keyword", "float", "bool")
DATATYPES = ("float32", "float16")
_FIELDS = ("dense", "sparse", "multi", "text", "id", "metadata")


def split_url(url: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What stands between ``://`` and ``?``, still quoted, and the options of the URL under those given beside it."""
    place, _, query = url.partition("://")[2].partition("?")
    return place, {**url_options(query), **options}


def read_options(
    options: Mapping[str, Any], known: Mapping[str, Parser]
) -> tuple[Fields | Names | None, dict[str, Any]]:
    """The fields that the options name (``text=page_content``, ``multi=none``), and the other options as values.

    Raises:
        InputError: an option that is not known, or whose text cannot be read.
    """
    unknown = sorted(options.keys() - {*_FIELDS, "fields", *known})
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}; there are {', '.join(sorted({*_FIELDS, *known}))}")
    names = {
        name: None if options[name] in (None, "none") else str(options[name])
        for name in _FIELDS
        if name in options
    }
    settings = {}
    for name in options.keys() & known.keys():
        value = options[name]
        try:
            settings[name] = known[name](value) if isinstance(value, str) else value
        except ValueError as error:
            raise InputError(f"the option {name}={value!r} cannot be read: {error}") from error
    return options.get("fields") or names or None, settings


def new_fields(wanted: Fields | Names | None) -> Fields:
    """The fields of a new collection: the usual ones, but for those that are named."""
    return wanted if isinstance(wanted, Fields) else replace(Fields(), **(wanted or {}))  # type: ignore[arg-type]


def flag(text: str) -> bool:
    """True or false, as people write it in a URL."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise ValueError("it is true or false")
    return values[text.lower()]


def indexes(text: str) -> PayloadIndexes:
    """Payload indexes as in ``lang:keyword,year:float``."""
    pairs = [part.partition(":")[::2] for part in text.split(",") if part]
    return {name: kind or "keyword" for name, kind in pairs}


def index_paths(wanted: PayloadIndexes | None, fields: Fields) -> dict[str, str]:
    """The JSON path in the payload of each metadata field that gets an index, and the kind of index.

    Raises:
        InputError: a kind that would make filters answer differently: an integer index does not find 1.5.
    """
    for name, kind in (wanted or {}).items():
        check_field(name)
        if kind not in INDEX_KINDS:
            raise InputError(
                f"there is no payload index {kind!r} for {name!r}: the kinds that leave filters exact are "
                f"{', '.join(INDEX_KINDS)} ('float' is for every number; an integer index does not find 1.5)"
            )
    prefix = f"{quoted(fields.metadata)}." if fields.metadata else ""
    return {prefix + name: kind for name, kind in (wanted or {}).items()}


def check_datatype(datatype: str) -> str:
    """The datatype itself.

    Raises:
        InputError: vectors of M3 models cannot be kept in it.
    """
    if datatype not in DATATYPES:
        raise InputError(f"the datatype is {' or '.join(DATATYPES)}, not {datatype!r}")
    return datatype


def folder_of(place: str) -> str:
    """The folder of ``qdrant+file://PLACE``: relative, or absolute where the place starts with a slash.

    Raises:
        InputError: it is empty.
    """
    if not place:
        raise InputError(
            "the URL names no folder; write qdrant+file://index/pages or qdrant+file:///path/pages"
        )
    return unquote(place)
