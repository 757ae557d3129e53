"""What goes wrong with Milvus, as this library's errors."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from m3_core.errors import StoreError, StoreUnavailable
from m3_core.extras import require
from m3_integrations._certificates import distrusted

pymilvus = require("pymilvus", extra="milvus")
_grpc = require("grpc", extra="milvus")

_NO_CONNECTION = 2
_BUSY = frozenset({_NO_CONNECTION, 8, 9})
"""Milvus's own codes for a server that is not there, a rate limit, and a quota."""
_DENIED = frozenset({1400, 1401, 1800})
"""Those for a user who is not known, who may not do this, and who gave no credentials."""
_UNAVAILABLE = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
_REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_ADDRESS = (
    "is it running, is this the address of its gRPC port, and is it right to speak TLS with it (secure=true) "
    "or not?"
)
_CREDENTIALS = (
    "the server refuses the credentials or their rights: give token=..., or user=... and password=..., or set "
    "MILVUS_TOKEN"
)


@contextmanager
def named_errors(place: str, secrets: Collection[str] = ()) -> Iterator[None]:
    """Our errors instead of the client's. secrets: what no message may hold."""
    try:
        yield
    except (pymilvus.MilvusException, _grpc.RpcError) as error:
        raise _named(error, place, secrets) from error


def _named(error: Exception, place: str, secrets: Collection[str]) -> StoreError:
    code, message = _told(error)
    for secret in secrets:
        message = message.replace(secret, "***")
    if code in _REFUSED or code in _DENIED:
        return StoreError(f"{place}: {message}; {_CREDENTIALS}")
    if code == _NO_CONNECTION or code in _UNAVAILABLE:
        return distrusted(place, message) or StoreUnavailable(
            f"{place} does not answer: {message}; {_ADDRESS}"
        )
    if code in _BUSY or "not ready" in message:
        return StoreUnavailable(f"{place} does not answer: {message}")
    return StoreError(f"Milvus refused a request to {place}: {message}")


def _told(error: BaseException) -> tuple[int | str, str]:
    """The code and the message: Milvus's, or the name and the details of a call that did not get so far."""
    if isinstance(error, _grpc.Call):
        return error.code().name, str(error.details())
    if not isinstance(error, pymilvus.MilvusException):
        return "", str(error)
    if error.code == _NO_CONNECTION and isinstance(error.__cause__, _grpc.Call):
        return _told(
            error.__cause__
        )  # pymilvus says the same of a wrong key and of a server that is not there
    code = error.code
    return getattr(code, "name", code), str(error.message)
