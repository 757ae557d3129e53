"""The connection to a Milvus collection: on a server, or in Milvus Lite in this process."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from m3_core.errors import StoreError, StoreLocked, StoreNotFound
from m3_core.extras import require
from m3_integrations.milvus.address import Address, pymilvus
from m3_integrations.milvus.errors import named_errors


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
        self.lite = address.path is not None
        self._lock: AbstractContextManager[Any] = RLock() if self.lite else nullcontext()
        uri = address.uri if address.path is None else _hold(address.path, address.collection, create=create)
        try:
            with self.calling():
                self.client = address.client or pymilvus.MilvusClient(
                    uri=uri,
                    token=address.token,
                    db_name=address.database,
                    timeout=address.timeout,
                    dedicated=True,  # a shared connection would outlive the client, and Milvus Lite
                    grpc_options=_LOCAL if self.lite else {},
                    **address.tls,
                )
                # A client of the caller's may be one of Milvus Lite too.
                if address.client is not None and "milvus_lite" in self.client.get_server_version():
                    self.lite, self._lock = True, RLock()
        except BaseException:
            self._release()
            raise

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Around every use of the client: one thread at a time where needed, and errors of our own."""
        with self._lock, _quietly(), named_errors(self.address.identity, self._secrets):
            yield

    @property
    def _secrets(self) -> set[str]:
        token = self.address.token
        return {token, *token.split(":")[1:]} - {""}

    def close(self) -> None:
        """Close the client, unless it is the caller's; Milvus Lite lets go of its folder."""
        with self._lock, _quietly():
            if self.address.client is None:
                self.client.close()
            self._release()

    def _release(self) -> None:
        if self.address.path is not None:
            _let_go(self.address.path, self.address.collection)


_LOCAL = {"grpc.enable_http_proxy": 0}

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
