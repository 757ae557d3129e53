"""Bulk requests: packed by bytes, and what the cluster answered for each item. Pure functions."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3_core.errors import InputError, M3Error, StoreError, StoreUnavailable
from m3_integrations.elasticsearch.errors import refusal

BYTES = 8 << 20
"""Of one request: a node takes 100 MB by default, and does best well below."""
ITEMS = 1_000
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Item:
    """One action of a bulk request: the id it is for, and its lines of JSON."""

    id: str
    lines: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.lines)) + len(self.lines)


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def index_item(
    name: str, source: Mapping[str, Any], routing: str | None = None, index: str | None = None
) -> Item:
    """Write a document whole. index: of those behind an alias, the one that it is in."""
    place = {"routing": routing, "_index": index}
    action = {"_id": name, **{key: value for key, value in place.items() if value is not None}}
    return Item(name, (_line({"index": action}), _line(source)))


def update_item(hit: Mapping[str, Any], cells: Mapping[str, Any]) -> Item:
    """Replace fields of a document that was found; where others route their documents, to the same place."""
    name = str(hit["_id"])
    action = {"_id": name, "_index": hit["_index"], "retry_on_conflict": 5}
    if "_routing" in hit:
        action["routing"] = hit["_routing"]
    return Item(name, (_line({"update": action}), _line({"doc": cells})))


def delete_item(name: str, hit: Mapping[str, Any] | None = None) -> Item:
    """Delete a document; ``hit`` is where it was found."""
    action = {"_id": name}
    if hit is not None:
        action["_index"] = hit["_index"]
        if "_routing" in hit:
            action["routing"] = hit["_routing"]
    return Item(name, (_line({"delete": action}),))


def batches(items: Iterable[Item], limit: int = BYTES) -> Iterator[list[Item]]:
    """The items in order, at most ``limit`` bytes and a thousand at a time; a larger one comes alone."""
    batch: list[Item] = []
    held = 0
    for item in items:
        if batch and (held + item.size > limit or len(batch) >= ITEMS):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += item.size
    if batch:
        yield batch


def read_items(
    items: Sequence[Item], answer: Mapping[str, Any], place: str
) -> tuple[list[Item], dict[str, M3Error]]:
    """The items to send again, and the error for each that was refused, by id.

    Raises:
        StoreError: the answer is not about these items.
    """
    results = [next(iter(result.items())) for result in answer.get("items", ())]
    if len(results) != len(items):
        raise StoreError(f"{place}: {len(items)} items were sent, the answer is about {len(results)}")
    refused: dict[str, M3Error] = {}
    for item, (action, result) in zip(items, results, strict=True):
        status = int(result["status"])
        if status >= 300 and not (action == "delete" and status == 404 and "error" not in result):
            refused[item.id] = _refused(status, result.get("error"), place)
    again = [item for item in items if isinstance(refused.get(item.id), StoreUnavailable)]
    return again, refused


def _refused(status: int, error: Any, place: str) -> M3Error:
    error = error if isinstance(error, Mapping) else {"reason": str(error or "")}
    kind, reason = str(error.get("type", "")), str(error.get("reason", ""))
    inner = error.get("caused_by")
    if isinstance(inner, Mapping) and str(inner.get("reason")) not in reason:
        reason = f"{reason}: {inner.get('reason')}"
    if status in (400, 413) and kind != "index_closed_exception":
        return InputError(reason)  # the document's fault, not the index's
    if kind == "document_missing_exception":
        return InputError("there is no such document any more")
    return refusal(status, kind, reason, place)


def failure(refused: Mapping[str, M3Error], sent: int, place: str) -> M3Error:
    """One error for all items that were refused: the reasons, each with the ids, as far as a message can hold them.

    It is an InputError if a document is at fault, StoreUnavailable if trying again may help with all of them.
    """
    errors = list(refused.values())
    first = next((error for error in errors if isinstance(error, InputError)), None) or next(
        (error for error in errors if not isinstance(error, StoreUnavailable)), errors[0]
    )
    reasons: dict[str, list[str]] = {}
    for name, said in refused.items():
        reasons.setdefault(str(said), []).append(name)
    shown = "; ".join(f"{_listed(names)}: {reason}" for reason, names in list(reasons.items())[:_SHOWN])
    more = f"; and {len(reasons) - _SHOWN} more reasons" if len(reasons) > _SHOWN else ""
    others = ", the others are written" if len(refused) < sent else ""
    error = type(first)(f"{place}: {len(refused)} of {sent} documents were refused{others}: {shown}{more}")
    error.__cause__ = first
    return error


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
