"""Documents by id and page by page, with their vectors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from m3_core.errors import InputError, StoreError
from m3_core.types import check_id
from m3_integrations.elasticsearch.connection import Connection
from m3_integrations.elasticsearch.filters import EVERYTHING, Query
from m3_integrations.elasticsearch.layout import Layout

Found = Mapping[str, Any]
"""A document as a search returns it."""

_IDS, _WITH_VECTORS = 1_000, 200
"""Documents in one answer, without and with vectors: some 20 KB of JSON for 1024 dimensions."""
_KEEP = "10m"


class Reader:
    """Reads documents of an index.

    Pages are in the order of the documents' ids where a keyword field holds them. Where none does, they are in
    that of ``_id`` if the cluster allows that, or else in that of a point in time, whose cursors last 10 minutes.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sorts_by_id = True

    def by_id(
        self, ids: Sequence[str], source: Mapping[str, Any] | bool, *, vectors: bool = False
    ) -> dict[str, Found]:
        """The documents that are there, by id."""
        names = [name for name in dict.fromkeys(ids) if _possible(name)]
        step = _WITH_VECTORS if vectors else _IDS
        found: dict[str, Found] = {}
        for start in range(0, len(names), step):
            some = names[start : start + step]
            while some:
                body = {
                    "query": {"ids": {"values": some}},
                    "size": len(some),
                    "_source": source,
                    "track_total_hits": False,
                }
                hits = self._connection.search(body)["hits"]["hits"]
                found.update((hit["_id"], hit) for hit in hits)
                # One that others have written twice, by different routing, takes the place of another in the answer.
                full = len(hits) == len(some)
                some = [name for name in some if name not in found] if full else []
        return found

    def page(
        self,
        query: Query | None,
        source: Mapping[str, Any] | bool,
        cursor: str | None,
        size: int,
        layout: Layout,
    ) -> tuple[list[Found], str | None]:
        """Up to ``size`` documents after the cursor, and the next cursor."""
        body = {"query": query or EVERYTHING, "size": size, "_source": source, "track_total_hits": False}
        held = _read_cursor(cursor)
        if layout.fields.id is not None or (self._sorts_by_id and "pit" not in held):
            try:
                return self._sorted(body, layout.fields.id or "_id", held, size)
            except StoreError as error:
                if layout.fields.id is not None or "ielddata access on the _id" not in str(error):
                    raise
                self._sorts_by_id = False
        return self._in_time(body, held, size)

    def _sorted(
        self, body: Mapping[str, Any], field: str, held: Mapping[str, Any], size: int
    ) -> tuple[list[Found], str | None]:
        after = {"search_after": [held["after"]]} if held else {}
        hits = self._connection.search({**body, "sort": [{field: "asc"}], **after, "size": size + 1})["hits"][
            "hits"
        ]
        more = len(hits) > size
        return hits[:size], json.dumps({"after": hits[size - 1]["sort"][0]}) if more else None

    def _in_time(
        self, body: Mapping[str, Any], held: Mapping[str, Any], size: int
    ) -> tuple[list[Found], str | None]:
        connection = self._connection
        pit = held.get("pit")
        if pit is None:
            connection.fresh()
            pit = connection.call(
                lambda: connection.client.open_point_in_time(index=connection.index, keep_alive=_KEEP)
            )["id"]
        after = {"search_after": held["after"]} if held else {}
        point = {"id": pit, "keep_alive": _KEEP}
        answer = connection.search({**body, "sort": ["_shard_doc"], "pit": point, **after, "size": size + 1})
        hits = answer["hits"]["hits"]
        if len(hits) > size:
            return hits[:size], json.dumps({"pit": answer["pit_id"], "after": hits[size - 1]["sort"]})
        # Where the answer to a first attempt was lost, it is closed already, and that is a 404.
        client = connection.client.options(ignore_status=404)
        connection.call(lambda: client.close_point_in_time(id=answer["pit_id"]))
        return hits, None

    def ids(self, query: Query | None, layout: Layout) -> Iterator[list[Found]]:
        """Every document that matches, without its content, some at a time."""
        cursor = None
        while True:
            hits, cursor = self.page(query, False, cursor, _IDS, layout)
            yield hits
            if cursor is None:
                return


def _possible(name: str) -> bool:
    """Whether a document can have this id."""
    try:
        check_id(name)
    except InputError:
        return False
    return True


def _read_cursor(cursor: str | None) -> Mapping[str, Any]:
    if cursor is None:
        return {}
    try:
        held = json.loads(cursor)
        if isinstance(held, dict) and "after" in held:
            return held
    except (ValueError, TypeError):
        pass
    raise InputError(f"{cursor!r} is no cursor of a page of this store")
