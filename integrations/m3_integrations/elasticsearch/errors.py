"""What goes wrong with a cluster, as this library's errors. No message holds a header, and with it a credential."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import elasticsearch as es

from m3_core.errors import StoreError, StoreNotFound, StoreUnavailable
from m3_core.retrying import seconds_asked
from m3_integrations._certificates import distrusted

_BUSY = {408, 425, 429}
_BLOCK = re.compile(r"/(\d+)/")
_CREDENTIALS = (
    "give api_key=..., or username=... and password=..., or set ELASTICSEARCH_API_KEY, or ELASTICSEARCH_USERNAME "
    "and ELASTICSEARCH_PASSWORD"
)


@contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Our errors instead of the client's."""
    try:
        yield
    except es.UnsupportedProductError as error:
        raise stranger(place) from error
    except es.ApiError as error:
        raise _api_error(error, place) from error
    except es.TransportError as error:
        raise _transport_error(error, place) from error


def stranger(place: str) -> StoreError:
    """The error for an answer without the header that Elasticsearch gives every answer since 7.14."""
    return StoreError(f"{place}: the server does not say that it is Elasticsearch; is this its address?")


def _transport_error(error: es.TransportError, place: str) -> StoreError:
    if isinstance(error, es.SerializationError):
        return StoreError(
            f"{place}: the answer cannot be read; is this an Elasticsearch server? ({error.message})"
        )
    if isinstance(error, es.SSLError):
        return distrusted(place, error.message) or StoreUnavailable(
            f"{place}: no TLS connection ({error.message}); does the server speak TLS (elasticsearch+https://), and is "
            "its certificate signed by ca_certs=...?"
        )
    what = "does not answer in time" if isinstance(error, es.ConnectionTimeout) else "does not answer"
    return StoreUnavailable(
        f"{place}: the server {what} ({error.message}); is it running, is this its address, and is it right to "
        "speak TLS with it (elasticsearch+https://) or not (elasticsearch://)?"
    )


def _api_error(error: es.ApiError, place: str) -> StoreError:
    kind, reason = cause(error.body)
    refused = refusal(error.status_code, kind, reason, place)
    if isinstance(refused, StoreUnavailable):
        refused.retry_after = seconds_asked(error.meta.headers.get("retry-after"))
    return refused


def cause(body: Any) -> tuple[str, str]:
    """The type and the reason of the first cause in the body of an error; "" where it has none."""
    if isinstance(body, bytes | str):  # what the client could not take for JSON, a proxy's page for one
        try:
            body = json.loads(body)
        except ValueError:
            return "", str(body)[:200]
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return "", str(error or "")
    first = next(iter(error.get("root_cause") or ()), error)
    kind, reason = str(first.get("type", "")), str(first.get("reason", ""))
    deepest = error
    while isinstance(deepest.get("caused_by"), Mapping):
        deepest = deepest["caused_by"]
    deeper = "" if deepest is error else str(deepest.get("reason") or "")
    return kind, reason if not deeper or deeper in reason else f"{reason}: {deeper}"


def refusal(status: int, kind: str, reason: str, place: str) -> StoreError:
    """The error for a request, or an item of a bulk request, that the cluster refused; with the remedy."""
    said = f"{place}: {reason or kind or 'refused'} ({status})"
    index = place.partition("#")[0].rpartition("/")[2]
    match kind:
        case "index_not_found_exception":
            return StoreNotFound(f"there is no index {place}; make one by ingesting into it")
        case "index_closed_exception":
            return StoreError(f"{place} is closed; open it: client.indices.open(index={index!r})")
        case "cluster_block_exception":
            return _blocked(reason, said, index)
        case "es_rejected_execution_exception" | "circuit_breaking_exception":
            return StoreUnavailable(said)
        case "too_many_clauses" | "too_many_nested_clauses":
            return StoreError(said)  # 500 in some releases, and yet the query's fault
    if status in (401, 403):
        return StoreError(f"{said}; the cluster refuses the credentials or their rights: {_CREDENTIALS}")
    if status == 404 and not kind:
        return StoreError(f"{said}; is this the address of an Elasticsearch server?")
    return StoreUnavailable(said) if status in _BUSY or status >= 500 else StoreError(said)


def _blocked(reason: str, said: str, index: str) -> StoreError:
    number = next(iter(_BLOCK.findall(reason)), "")
    settings = {"5": "read_only", "7": "read", "8": "write", "9": "metadata", "12": "read_only_allow_delete"}
    if number not in settings:  # the cluster has no master yet, or has not read its state
        return StoreUnavailable(said)
    first = "free disk space, then " if number == "12" else ""
    setting = f"index.blocks.{settings[number]}"
    return StoreError(
        f"{said}; {first}remove the block: client.indices.put_settings(index={index!r}, settings={ {setting: None} })"
    )
