"""Where a Milvus collection is, and the connection to it: a server, or Milvus Lite in this process."""

import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Lock, RLock
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from m3_core.errors import InputError, StoreError, StoreLocked, StoreNotFound, StoreUnavailable
from m3_core.extras import require

pymilvus = require("pymilvus", extra="milvus")
_grpc = require("grpc", extra="milvus")

_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_DEFAULT_COLLECTION = "documents"
_FORMS = (
    "milvus://host:19530/collection for a server; for Milvus Lite milvus+file://folder/name, which is the "
    f"collection {_DEFAULT_COLLECTION!r} in folder/name.db, or milvus+file://folder/name.db/collection"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a collection is. path: the folder of Milvus Lite, None for a server."""

    collection: str
    identity: str
    path: Path | None = None
    uri: str = ""
    database: str = ""
    token: str = field(default="", repr=False)
    timeout: float = 60.0


def parse_url(url: str, options: Mapping[str, Any]) -> tuple[Address, dict[str, Any]]:
    """The address a URL and options name, and the options that are not about the connection.

    Options are taken from the URL's query too: ``token`` (or ``user`` and ``password``), ``database``,
    ``secure`` (TLS), ``timeout`` in seconds. Credentials may also stand before the host.

    Raises:
        InputError: not one of the forms.
    """
    scheme, separator, rest = url.partition("://")
    place, _, query = rest.partition("?")
    given = {**dict(parse_qsl(query, keep_blank_values=True)), **options}
    timeout = _seconds(given.pop("timeout", 60.0))
    if scheme == "milvus+file" and separator:
        path, collection = _lite_place(unquote(place))
        identity = f"milvus+file://{path}/{collection}"
        return Address(collection, identity, path, timeout=timeout), given
    if scheme != "milvus" or not separator:
        raise InputError(f"{scheme}:// is not a Milvus URL; there are {_FORMS}")
    return _server(place, given, timeout), given


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
    token = given.pop("token", "") or ":".join(unquote(part) for part in (user, password) if part)
    database = str(given.pop("database", ""))
    secure = str(given.pop("secure", "")).lower() in ("true", "1", "yes")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    identity = f"milvus://{host}:{port}/{_checked(collection)}" + (
        f"?database={database}" if database else ""
    )
    uri = f"{'https' if secure else 'http'}://{host}:{port}"
    return Address(collection, identity, None, uri, database, str(token), timeout)


def _checked(collection: str) -> str:
    if not _COLLECTION.fullmatch(collection):
        raise InputError(
            f"{collection!r} cannot be the name of a Milvus collection: letters, digits and '_', at most 255, "
            "and no digit first"
        )
    return collection


class Connection:
    """A client of one collection. Milvus Lite is held by one object at a time and called by one thread at a time."""

    def __init__(self, address: Address, *, create: bool = False) -> None:
        """Connect. create: make the folder of Milvus Lite if it is not there.

        Raises:
            StoreNotFound: there is no such folder.
            StoreLocked: another process or object holds it.
            StoreUnavailable: the server does not answer.
        """
        self.address = address
        self._lock: AbstractContextManager[Any] = nullcontext() if address.path is None else RLock()
        uri = address.uri if address.path is None else _hold(address.path, address.collection, create=create)
        try:
            with self.calling():
                self.client = pymilvus.MilvusClient(
                    uri=uri,
                    token=address.token,
                    db_name=address.database,
                    timeout=address.timeout,
                    dedicated=True,  # a shared connection would outlive the client, and Milvus Lite
                    grpc_options=_LOCAL if self.lite else {},
                )
        except BaseException:
            self._release()
            raise

    @property
    def lite(self) -> bool:
        return self.address.path is not None

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Around every use of the client: one thread at a time where needed, and errors of our own."""
        with self._lock, _quietly():
            try:
                yield
            except pymilvus.MilvusException as error:
                raise self._error(error.code, str(error.message)) from error
            except _grpc.RpcError as error:
                code = error.code() if isinstance(error, _grpc.Call) else None
                raise self._error(
                    code, str(error.details() if isinstance(error, _grpc.Call) else error)
                ) from error

    def _error(self, code: Any, message: str) -> StoreError:
        if self.address.token:
            for secret in {self.address.token, *self.address.token.split(":")[1:]}:
                message = message.replace(secret, "***")
        where = self.address.identity
        name = getattr(code, "name", "")
        if name in ("UNAVAILABLE", "DEADLINE_EXCEEDED") or code in _BUSY or "not ready" in message:
            return StoreUnavailable(f"{where} does not answer: {message}")
        return StoreError(f"Milvus refused a request to {where}: {message}")

    def close(self) -> None:
        """Close the client; Milvus Lite lets go of its folder."""
        with self._lock, _quietly():
            self.client.close()
            self._release()

    def _release(self) -> None:
        if self.address.path is not None:
            _let_go(self.address.path, self.address.collection)


_LOCAL = {"grpc.enable_http_proxy": 0}
_BUSY = frozenset({2, 8, 9})
"""Milvus's own codes for a server that is not there, a rate limit, and a quota."""

# What pymilvus has to say about a failed call is in the error that we raise; it would print it, with a
# traceback, besides. Other users of pymilvus in this process keep their messages.

_inside: ContextVar[bool] = ContextVar("inside an m3 call", default=False)


class _NotInside(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _inside.get()


for _name in ("pymilvus", "pymilvus.milvus_client"):
    for _handler in logging.getLogger(_name).handlers:
        _handler.addFilter(_NotInside())


@contextmanager
def _quietly() -> Iterator[None]:
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


# Milvus Lite serves a folder on a local port, from threads of this process; its log would go to stderr.

logging.getLogger("milvus_lite").addHandler(logging.NullHandler())
_LITE = (3, 2, 2)
_held: dict[Path, set[str]] = {}
_holding = Lock()


class _Failure(logging.Filter):
    """Milvus Lite writes to its log why it could not start, and returns None."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        self.error = record.exc_info[1] if record.exc_info else None
        return self.error is None


def _hold(path: Path, collection: str, *, create: bool) -> str:
    """Start Milvus Lite on a folder, or use the one that is running; returns its address."""
    manager = require("milvus_lite.server_manager", extra="milvus").server_manager_instance
    held = version("milvus-lite")
    if tuple(map(int, re.findall(r"\d+", held)[:3])) < _LITE:
        raise StoreError(
            f"Milvus Lite {held} orders rows and weighs lexical scores in ways of its own, which "
            f"{'.'.join(map(str, _LITE))} mended: pip install -U 'm3-retrieval[milvus]'"
        )
    with _holding:
        if collection in _held.get(path, ()):
            raise StoreLocked(
                f"the collection {collection!r} in {path} is open already in this process; close it"
            )
        if not path.exists() and not create:
            raise StoreNotFound(f"there is no Milvus Lite folder {path}")
        if path.is_file():
            raise StoreError(
                f"{path} is a file, as Milvus Lite 2 wrote it; version 3 keeps folders: write into a new one"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        log, failure = logging.getLogger("milvus_lite.server_manager"), _Failure()
        log.addFilter(failure)
        try:
            uri = manager.start_and_get_uri(str(path))
        finally:
            log.removeFilter(failure)
        if uri is None:
            if type(failure.error).__name__ == "DataDirLockedError":
                raise StoreLocked(f"another process has opened {path}; wait for it or stop it")
            raise StoreError(f"Milvus Lite cannot open {path}: {failure.error}")
        _held.setdefault(path, set()).add(collection)
        _remove_unfinished(path, collection)
        return str(uri)


def _let_go(path: Path, collection: str) -> None:
    manager = require("milvus_lite.server_manager", extra="milvus").server_manager_instance
    with _holding:
        others = _held.get(path, set())
        others.discard(collection)
        if not others:
            _held.pop(path, None)
            manager.release_server(str(path))


def _remove_unfinished(path: Path, collection: str) -> None:
    """Remove what a process left that was killed while it made the collection, and Lite would stumble over."""
    folder = path / "collections" / collection
    if folder.is_dir() and {item.name for item in folder.iterdir()} <= {"schema.json.tmp"}:
        shutil.rmtree(folder)
