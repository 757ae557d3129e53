"""Where a Milvus collection is, by URL or by a client of the caller's: a server, or the folder of Milvus Lite."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from m3_core.errors import InputError
from m3_core.extras import require
from m3_core.urls import url_options

pymilvus = require("pymilvus", extra="milvus")

Location: TypeAlias = Any
"""A URL, or a `pymilvus.MilvusClient` of the caller's, which stays open."""

TOKEN_VARIABLE = "MILVUS_TOKEN"
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_DEFAULT_COLLECTION = "documents"
_FORMS = (
    "milvus://host:19530/collection for a server; for Milvus Lite milvus+file://folder/name, which is the "
    f"collection {_DEFAULT_COLLECTION!r} in folder/name.db, or milvus+file://folder/name.db/collection"
)
_TLS = ("ca_certs", "client_cert", "client_key")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a collection is. path: the folder of Milvus Lite, None for a server. client: the caller's.

    tls: arguments of the client about certificates.
    """

    collection: str
    identity: str
    path: Path | None = None
    uri: str = ""
    database: str = ""
    token: str = field(default="", repr=False)
    timeout: float = 60.0
    tls: Mapping[str, str] = field(default_factory=dict)
    client: Any = field(default=None, repr=False)


def parse_url(location: Location, options: Mapping[str, Any]) -> tuple[Address, dict[str, Any]]:
    """The address a location and options name, and the options that are not about the connection.

    Options are taken from a URL's query too: ``token`` (or ``user`` and ``password``, or the environment's
    MILVUS_TOKEN, all for servers only), ``database``, ``secure`` (TLS), ``ca_certs``, ``client_cert`` and
    ``client_key`` (files), ``timeout`` in seconds. Credentials may also stand before the host. Of a client the
    ``collection`` has to be named.

    Raises:
        InputError: not one of the forms.
    """
    if not isinstance(location, str):
        return _of_client(location, dict(options))
    scheme, separator, rest = location.partition("://")
    place, _, query = rest.partition("?")
    given = {**url_options(query), **options}
    timeout = _seconds(given.pop("timeout", 60.0))
    if scheme == "milvus+file" and separator:
        path, collection = _lite_place(unquote(place))
        identity = f"milvus+file://{path}/{collection}"
        return Address(collection, identity, path, timeout=timeout), given
    if scheme != "milvus" or not separator:
        raise InputError(f"{scheme}:// is not a Milvus URL; there are {_FORMS}")
    return _server(place, given, timeout), given


def beside(url: str, address: Address) -> Address:
    """The address of a URL; on the same server as another one, with the client or the credentials of that."""
    other, given = parse_url(url, {})
    if given:
        raise InputError(f"the URL of a copy has no option {', '.join(map(repr, sorted(given)))}")
    same = other.identity.rpartition("/")[0] == address.identity.rpartition("/")[0]
    if other.path is not None or not same:
        return other
    database = other.database or address.database
    return replace(address, collection=other.collection, identity=other.identity, database=database)


def _of_client(client: Any, given: dict[str, Any]) -> tuple[Address, dict[str, Any]]:
    if not isinstance(client, pymilvus.MilvusClient):
        raise InputError(f"a URL or a MilvusClient is wanted, not {type(client).__name__}")
    collection = _checked(str(given.pop("collection", "")))
    timeout = _seconds(given.pop("timeout", 60.0))
    config = client._config  # the only place that has the address
    return Address(
        collection,
        _identity(config.address, collection, config.db_name),
        database=config.db_name,
        timeout=timeout,
        client=client,
    ), given


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"timeout is a number of seconds above 0, not {value!r}")
    return seconds


def _lite_place(place: str) -> tuple[Path, str]:
    path = Path(place)
    if not path.name:
        raise InputError(f"the URL names no folder; there are {_FORMS}")
    if path.suffix == ".db":
        return path.resolve(), _DEFAULT_COLLECTION
    if path.parent.suffix == ".db":
        return path.parent.resolve(), _checked(path.name)
    return path.with_name(path.name + ".db").resolve(), _DEFAULT_COLLECTION


def _server(place: str, given: dict[str, Any], timeout: float) -> Address:
    try:
        parts = urlsplit(f"milvus://{place}")
        port = parts.port or 19530
    except ValueError:
        parts, port = urlsplit(""), 0
    collection = unquote(parts.path.strip("/"))
    if not parts.hostname or not collection:
        raise InputError(f"the URL names no host and collection; there are {_FORMS}")
    user, password = given.pop("user", parts.username or ""), given.pop("password", parts.password or "")
    pair = ":".join(unquote(part) for part in (user, password) if part)
    token = given.pop("token", "") or pair or os.environ.get(TOKEN_VARIABLE, "")
    database = str(given.pop("database", ""))
    tls = _certificates({name: str(given.pop(name)) for name in _TLS if name in given})
    secure = str(given.pop("secure", bool(tls))).lower() in ("true", "1", "yes")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    uri = f"{'https' if secure else 'http'}://{host}:{port}"
    identity = _identity(f"{host}:{port}", _checked(collection), database)
    return Address(collection, identity, None, uri, database, str(token), timeout, tls)


def _identity(address: str, collection: str, database: str) -> str:
    return f"milvus://{address}/{collection}" + (f"?database={database}" if database else "")


def _certificates(given: Mapping[str, str]) -> dict[str, str]:
    """The client's arguments for files of certificates; it has two ways, with and without one of its own."""
    for name, path in given.items():
        if not Path(path).is_file():
            raise InputError(f"{name} is the path of a file, and there is none at {path!r}")
    if not given:
        return {}
    if set(given) == {"ca_certs"}:
        return {"server_pem_path": given["ca_certs"]}
    if set(given) != set(_TLS):
        raise InputError("client_cert goes with client_key and ca_certs; give all three, or ca_certs alone")
    return {
        "ca_pem_path": given["ca_certs"],
        "client_pem_path": given["client_cert"],
        "client_key_path": given["client_key"],
    }


def _checked(collection: str) -> str:
    if not _COLLECTION.fullmatch(collection):
        raise InputError(
            f"{collection!r} cannot be the name of a Milvus collection: letters, digits and '_', at most 255, "
            "and no digit first"
        )
    return collection
