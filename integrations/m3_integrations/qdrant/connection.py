"""Where a collection on a server is, and the client that reaches it: credentials and TLS."""

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from qdrant_client import QdrantClient

from m3_core.errors import InputError
from m3_integrations.qdrant import options as opt
from m3_integrations.qdrant.server_engine import is_local
from m3_integrations.qdrant.server_errors import Calls

KEY_VARIABLE = "QDRANT_API_KEY"
_TLS: Mapping[str, opt.Parser] = {
    "ca_certs": str,
    "verify_certs": opt.flag,
    "client_cert": str,
    "client_key": str,
}
CONNECTING: Mapping[str, opt.Parser] = {
    "api_key": str,
    "timeout": int,
    "retries": int,
    "prefer_grpc": opt.flag,
    "grpc_port": int,
    **_TLS,
}
_DEFAULT_PORT = 6333
_TIMEOUT = 60
_RETRIES = 4


@dataclass(frozen=True, slots=True)
class Connection:
    """A client, and whether the store closes it."""

    client: QdrantClient
    owned: bool
    retries: int

    def calls(self, collection: str) -> Calls:
        """What calls the server about a collection."""
        return Calls(self.place(collection), retries=self.retries)

    def exists(self, collection: str) -> bool:
        """Whether there is such a collection."""
        return self.calls(collection)(lambda: self.client.collection_exists(collection))

    def place(self, collection: str) -> str:
        """What errors call the collection; no credentials."""
        made_with = self.client.init_options
        if is_local(self.client):
            return f"qdrant://{made_with.get('path') or ':memory:'}/{collection}"
        host, port = made_with.get("host") or "localhost", made_with.get("port") or _DEFAULT_PORT
        if url := made_with.get("url") or made_with.get("location"):
            parts = urlsplit(url if "//" in url else f"//{url}")
            host, port = parts.hostname or host, parts.port or port
        return f"qdrant://{host}:{port}/{collection}"


@contextmanager
def connected(
    location: str | QdrantClient | Connection,
    *,
    api_key: str | None = None,
    retries: int = _RETRIES,
    **connecting: Any,
) -> Iterator[Connection]:
    """A connection that is closed, if it is ours, when the block fails."""
    match location:
        case Connection():
            connection = location
        case QdrantClient():
            connection = Connection(location, owned=False, retries=retries)
        case ":memory:":
            connection = Connection(QdrantClient(":memory:"), owned=True, retries=retries)
        case _:
            tls = {name: connecting.pop(name) for name in connecting.keys() & _TLS}
            if connecting.get("prefer_grpc") and tls.get("verify_certs") is False:
                raise InputError(
                    "gRPC verifies certificates always; give ca_certs=... or leave prefer_grpc out"
                )
            arguments = {
                "api_key": api_key or os.environ.get(KEY_VARIABLE),
                "timeout": _TIMEOUT,  # the client's own 5 s are too few for a request of 24 MiB
                "check_compatibility": False,
                **_tls_arguments(**tls),
                **connecting,
            }
            connection = Connection(QdrantClient(url=location, **arguments), owned=True, retries=retries)
    try:
        yield connection
    except BaseException:
        if connection.owned:
            connection.client.close()
        raise


def _tls_arguments(
    *,
    ca_certs: str | None = None,
    verify_certs: bool = True,
    client_cert: str | None = None,
    client_key: str | None = None,
) -> dict[str, Any]:
    """How the client is told whom to trust and who it is: a context for HTTP, the certificates for gRPC.

    Raises:
        InputError: a file cannot be used.
    """
    if not (ca_certs or client_cert) and verify_certs:
        return {}
    files = {"root_certificates": ca_certs, "certificate_chain": client_cert, "private_key": client_key}
    try:
        context = ssl.create_default_context(cafile=ca_certs)
        if client_cert is not None:
            context.load_cert_chain(client_cert, client_key)
        held = {name: Path(path).read_bytes() for name, path in files.items() if path is not None}
    except OSError as error:
        named = ", ".join(path for path in files.values() if path is not None)
        raise InputError(f"the certificates of the options cannot be used ({named}): {error}") from error
    if not verify_certs:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return {"verify": context, "grpc_options": held}


def split_place(place: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    """The location and the collection of ``HOST:PORT/[PREFIX/]COLLECTION``.

    TLS is spoken if ``https`` says so; by default if there is an API key or anything about certificates.

    Raises:
        InputError: there is no host or no collection, or there are credentials.
    """
    secret = bool(settings.get("api_key") or os.environ.get(KEY_VARIABLE) or settings.keys() & _TLS)
    scheme = "https" if settings.get("https", secret) else "http"
    host, _, path = place.partition("/")
    prefix, _, collection = path.rpartition("/")
    if "@" in host:
        raise InputError(
            f"a URL of Qdrant holds no credentials; give api_key=... to open_store, or set {KEY_VARIABLE}"
        )
    if not host or not collection:
        raise InputError(f"'qdrant://{place}' names no collection; write qdrant://localhost:6333/pages")
    if host == ":memory:":
        return host, unquote(collection)
    return f"{scheme}://{host}{prefix and '/' + prefix}", unquote(collection)
