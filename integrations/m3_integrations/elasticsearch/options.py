"""The URLs of the store, its options as text or as values, and the client they make."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import elasticsearch as es

from m3_core.errors import InputError
from m3_core.store import Fields
from m3_core.types import Representation
from m3_core.urls import url_options
from m3_integrations.elasticsearch.layout import Names

Parser: TypeAlias = Callable[[str], Any]

DEFAULT_PORT = 9200
_FORM = "elasticsearch://localhost:9200/pages"
_FIELDS = tuple(Fields.__dataclass_fields__)


def flag(text: str) -> bool:
    """True or false, as people write it in a URL."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise ValueError("it is true or false")
    return values[text.lower()]


CONNECTING: Mapping[str, Parser] = {
    "api_key": str,
    "username": str,
    "password": str,
    "timeout": float,
    "retries": int,
    "ca_certs": str,
    "verify_certs": flag,
    "ssl_assert_fingerprint": str,
    "client_cert": str,
    "client_key": str,
}
OPENING: Mapping[str, Parser] = {"fingerprint": str, "refresh": str, "candidates": int}
_NO_INDEX = re.compile(r"""[\s*?,:#/\\"<>|]""")
CREATING: Mapping[str, Parser] = {"dense_index": str, "metadata_mapping": str, "shards": int, "replicas": int}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a URL: names of fields, and the others by what they are for."""

    fields: Fields | Names | None
    connecting: Mapping[str, Any]
    opening: Mapping[str, Any]
    creating: Mapping[str, Any]


def split_url(url: str, options: Mapping[str, Any]) -> tuple[str, str, Options]:
    """The address of the server, the index and the options of ``elasticsearch://HOST:PORT/[PREFIX/]INDEX?...``.

    Raises:
        InputError: there is no host or no index, there are credentials, or an option is not known or cannot be read.
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    try:
        parts = urlsplit(f"//{place}")
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise InputError(f"the address of an Elasticsearch server is HOST:PORT, as in {_FORM}") from None
    if "@" in parts.netloc:
        raise InputError(
            "a URL of Elasticsearch holds no credentials; give api_key=... or username=... and password=..., or set "
            "ELASTICSEARCH_API_KEY, or ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD"
        )
    prefix, _, index = parts.path.strip("/").rpartition("/")
    if not parts.hostname or not index:
        raise InputError(f"the URL names no server and index; write {_FORM}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    secure = "https" if scheme.endswith("+https") else "http"
    address = f"{secure}://{host}:{port}" + (f"/{prefix}" if prefix else "")
    return address, unquote(index), _read({**url_options(query), **options})


def _read(options: Mapping[str, Any]) -> Options:
    known = {**CONNECTING, **OPENING, **CREATING}
    every = {*known, *_FIELDS, "fields", "settings", "dense_index"}
    unknown = sorted(options.keys() - every)
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}; there are {', '.join(sorted(every))}")
    names = {
        name: None if options[name] in (None, "none") else str(options[name])
        for name in _FIELDS
        if name in options
    }
    values = {}
    for name in options.keys() & known.keys():
        try:
            value = options[name]
            values[name] = known[name](value) if isinstance(value, str) else value
        except ValueError as error:
            shown = "" if name in ("api_key", "password") else f"={options[name]!r}"
            raise InputError(f"the option {name}{shown} cannot be read: {error}") from error
    if "settings" in options:
        values["settings"] = options["settings"]

    def group(parsers: Mapping[str, Parser], *more: str) -> dict[str, Any]:
        return {name: values[name] for name in values.keys() & {*parsers, *more}}

    return Options(
        options.get("fields") or names or None, group(CONNECTING), group(OPENING), group(CREATING, "settings")
    )


def left_out(fields: Fields | Names | None) -> frozenset[Representation]:
    """The channels that are named None: whoever opens the index goes without them."""
    if isinstance(fields, Fields):
        return frozenset(Representation) - fields.representations
    names = fields or {}
    return frozenset(kind for kind in Representation if kind.value in names and names.get(kind.value) is None)


def make_client(
    address: str,
    *,
    api_key: str | None = None,
    username: str | None = None,
    password: str | None = None,
    timeout: float = 60.0,
    **tls: Any,
) -> es.Elasticsearch:
    """A client that does not retry by itself, with credentials from the arguments or from the environment.

    Raises:
        InputError: the address or the TLS options cannot be used.
    """
    given = api_key or username
    key = api_key or (None if given else os.environ.get("ELASTICSEARCH_API_KEY"))
    name = username or (None if given or key else os.environ.get("ELASTICSEARCH_USERNAME"))
    secret = password or os.environ.get("ELASTICSEARCH_PASSWORD", "")
    unknown = sorted(tls.keys() - CONNECTING.keys())
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}; a connection takes {', '.join(sorted(CONNECTING))}")
    try:
        return es.Elasticsearch(
            [address],
            api_key=key,
            basic_auth=None if name is None else (name, secret),
            request_timeout=timeout,
            max_retries=0,
            retry_on_status=(),
            **tls,
        )
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"no client can be made for {urlsplit(address).netloc.rpartition('@')[2]}: {error}"
        ) from error


def check_index(name: str) -> None:
    """Raise InputError for what is no name of one index or alias: a pattern or a list would reach others too."""
    if not name or _NO_INDEX.search(name) or name.startswith(("-", "_", "+")) or name in (".", ".."):
        raise InputError(
            f"{name!r} is not the name of one index or alias: it cannot be a pattern or a list, start with '-', '_' or "
            "'+', or hold a space or one of * ? , : # / \\ \" < > |"
        )


def place_of(client: es.Elasticsearch, index: str) -> str:
    """What errors call the index: the first server's address and the name; no credentials."""
    config = next(iter(client.transport.node_pool.all())).config
    scheme = "elasticsearch+https" if config.scheme == "https" else "elasticsearch"
    host = f"[{config.host}]" if ":" in config.host else config.host
    prefix = config.path_prefix.strip("/")
    return f"{scheme}://{host}:{config.port}/{prefix + '/' if prefix else ''}{index}"
