"""Calls of a server: again where that may help, and what goes wrong as this library's errors."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from m3_core.errors import StoreError, StoreNotFound, StoreUnavailable
from m3_core.retrying import retrying, seconds_asked
from m3_integrations._certificates import distrusted
from m3_integrations.qdrant.engine import RequestTooLarge

T = TypeVar("T")
_KEY_REFUSED = "the server refuses the API key; give api_key=... or set QDRANT_API_KEY"
_STRANGER = "is this the address of a Qdrant server?"
_BUSY = {408, 425, 429}
_TOO_LARGE = "larger than allowed"
"""In what the server says, with the status 400, of a request above its ``max_request_size_mb``."""
_GRPC_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
_GRPC_REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class Calls:
    """Calls the server about one collection; safe to use from several threads."""

    def __init__(self, place: str, *, retries: int) -> None:
        """place: what errors call the collection. retries: of a call that failed for a passing reason."""
        self.place, self._retrying = place, retrying(retries)

    def __call__(self, request: Callable[[], T]) -> T:
        """The answer to a request that may be made twice."""

        def once() -> T:
            with named_errors(self.place):
                return request()

        return self._retrying(once)


@contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Our errors instead of the client's. No message holds a header, and with it the API key."""
    try:
        yield
    except UnexpectedResponse as error:
        raise _http_error(error, place) from error
    except ResourceExhaustedResponse as error:
        raise StoreUnavailable(
            f"{place}: the server asks to wait {error.retry_after_s} s: {error.message}",
            retry_after=error.retry_after_s,
        ) from error
    except QdrantException as error:  # a 429 whose Retry-After is a date, which the client cannot read
        raise StoreUnavailable(
            f"{place}: the server asks to wait: {error}",
            retry_after=seconds_asked(str(error).partition(": ")[2]),
        ) from error
    except ResponseHandlingException as error:
        if not isinstance(error.source, httpx.TransportError):
            raise StoreError(f"{place}: the answer cannot be read; {_STRANGER} ({error.source})") from error
        raise distrusted(place, _cause(error.source)) or StoreUnavailable(
            f"{place}: the server does not answer ({_cause(error.source)}); is it running, is this its "
            "address, and is it right to speak TLS with it (https=true) or not (https=false)?"
        ) from error
    except grpc.RpcError as error:
        raise _grpc_error(error, place) from error
    except (json.JSONDecodeError, AssertionError) as error:  # the client asserts that an answer has a result
        raise StoreError(f"{place}: the answer cannot be read; {_STRANGER} ({error})") from error
    except (ValueError, KeyError) as error:  # what the stand-in in memory raises
        raise StoreError(f"{place}: {error}") from error


def _cause(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _http_error(error: UnexpectedResponse, place: str) -> StoreError:
    code, known = error.status_code or 0, True
    try:
        message = str(error.structured()["status"]["error"])
    except (ValueError, KeyError, TypeError):  # an answer that is not Qdrant's: a proxy's
        message, known = error.content[:200].decode(errors="replace"), False
    said = f"{place}: {code} {error.reason_phrase}: {message}"
    if code in (401, 403):
        return StoreError(f"{said}; {_KEY_REFUSED}")
    if code == 404:
        return StoreNotFound(said) if known else StoreError(f"{said}; {_STRANGER}")
    if code == 413 or (code == 400 and _TOO_LARGE in message):
        return RequestTooLarge(said)
    if code in _BUSY or code >= 500:
        return StoreUnavailable(said, retry_after=seconds_asked(error.headers.get("retry-after")))
    return StoreError(said)


def _grpc_error(error: grpc.RpcError, place: str) -> StoreError:
    code = error.code() if isinstance(error, grpc.Call) else None
    said = f"{place}: {error.details() if isinstance(error, grpc.Call) else error}"
    if code in _GRPC_REFUSED:
        return StoreError(f"{said}; {_KEY_REFUSED}")
    if code is grpc.StatusCode.NOT_FOUND:
        return StoreNotFound(said)
    if code in _GRPC_UNAVAILABLE:
        return distrusted(place, said.removeprefix(f"{place}: ")) or StoreUnavailable(said)
    return StoreError(said)
