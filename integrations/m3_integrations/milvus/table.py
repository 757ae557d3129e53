"""Rows of one Milvus collection: the calls, in pieces that a request can hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from m3_core.errors import InputError
from m3_integrations.milvus.connection import Connection
from m3_integrations.milvus.convert import Row, batches
from m3_integrations.milvus.documents import primary_key
from m3_integrations.milvus.filters import Expression, literal
from m3_integrations.milvus.layout import Layout

REQUEST_BYTES = 16 * 2**20
"""Of one write; servers take 64 MB at most."""
KEYS_AT_ONCE = 1000
ROWS_AT_ONCE = 256
"""Of one read by id: documents are up to 64 kB and more, and servers answer with 64 MB at most."""
HITS_AT_ONCE = 2048
MOST_ROWS = 16_384
"""The most rows or hits that Milvus returns at once."""
UNFLUSHED = 128
"""Rows that Milvus Lite may hold in its log before a read: it indexes them anew for every search."""
_STRONG = {"consistency_level": "Strong"}

Key = str | int


class Table:
    """The rows of a collection. Every method is to be called inside ``connection.calling()``.

    After a write, reads ask for strong consistency, so that they see it; before, for the collection's own
    level, which is the same in the collections that we make.
    """

    def __init__(self, connection: Connection, layout: Layout, search_params: Mapping[str, Any]) -> None:
        self._connection = connection
        self._layout = layout
        self._search_params = dict(search_params)
        self._consistency: dict[str, Any] = {}
        self._unseen = False
        self._unflushed = 0
        self._name = layout.key.name

    def upsert(self, rows: Iterable[Row]) -> None:
        """Write whole rows; each request is written or refused as one."""
        self.strong()
        for batch in batches(rows, REQUEST_BYTES):
            self._call("upsert", data=batch)
            self._unflushed += len(batch)

    def delete(self, expressions: Iterable[str]) -> None:
        """Delete the rows that any of the expressions matches."""
        self.strong()
        for expression in expressions:
            self._call("delete", filter=expression)

    def count(self, condition: Expression) -> int:
        """How many rows match."""
        if condition is False:
            return 0
        found = self._query(condition if isinstance(condition, str) else "", ["count(*)"])
        return int(found[0]["count(*)"])

    def rows(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Row]:
        """The rows of the documents that are there, by id."""
        names = {key: name for name in ids if (key := primary_key(self._layout, name)) is not None}
        found: dict[str, Row] = {}
        for expression, keys in self.among(list(names), ROWS_AT_ONCE):
            rows = {row[self._name]: row for row in self._query(expression, [*fields, self._name])}
            found |= {names[key]: rows[key] for key in keys if key in rows}
        return found

    def after(self, key: Key | None, condition: Expression, fields: Sequence[str], size: int) -> list[Row]:
        """The first ``size`` matching rows after a key, in the order of the keys."""
        if self._unseen:
            # What follows is answered at the collection's own level, whatever is asked for. This waits for the
            # nodes to have seen all writes, so that the next answer has them too.
            self._query(self.everything(), [self._name], limit=1)
            self._unseen = False
        rows: list[Row] = []
        while condition is not False and len(rows) < size:
            parts = [condition] if isinstance(condition, str) else []
            parts += [] if key is None else [f"{self._name} > {literal(key)}"]
            # The last two arguments are what a query iterator sends, so that rows come in the order of the keys.
            found = self._query(
                " and ".join(parts) or self.everything(),
                fields,
                limit=size - len(rows),
                iterator="True",
                reduce_stop_for_best="True",
            )
            rows += found
            if not found or self._layout.lite:  # a server may return fewer than there are: none is the end
                break
            key = rows[-1][self._name]
        return rows

    def search(
        self, queries: Sequence[Any], field: str, k: int, condition: Expression
    ) -> Iterator[list[tuple[Row, float]]]:
        """The k best rows of every query with their scores, in the engine's order.

        Raises:
            InputError: ``k`` is more than Milvus returns.
        """
        if k > MOST_ROWS:
            raise InputError(f"k is {k:,}; Milvus returns at most {MOST_ROWS:,} hits")
        if condition is False:
            yield from ([] for _ in queries)
            return
        dense = self._layout.columns[field].type == "FLOAT_VECTOR"
        params = {"params": self._search_params} if dense and self._search_params else {}
        at_once = max(1, HITS_AT_ONCE // k)
        for start in range(0, len(queries), at_once):
            self._settle()
            found = self._call(
                "search",
                data=list(queries[start : start + at_once]),
                anns_field=field,
                limit=k,
                filter=condition if isinstance(condition, str) else "",
                output_fields=self._layout.payload,
                search_params={"metric_type": self._layout.indexes[field].metric, **params},
                **self._consistency,
            )
            for hits in found:
                yield [({**hit["entity"], self._name: hit.id}, float(hit["distance"])) for hit in hits]

    def among(self, keys: Sequence[Key], size: int = KEYS_AT_ONCE) -> Iterator[tuple[str, Sequence[Key]]]:
        """Expressions for the rows with these keys, each for a part of them, and the part."""
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            yield f"{self._name} in [{', '.join(map(literal, part))}]", part

    def everything(self) -> str:
        """An expression for all rows."""
        if self._layout.key.type == "VARCHAR":
            return f'{self._name} != ""'
        return f"({self._name} >= 0 or {self._name} < 0)"

    def strong(self) -> None:
        """From now on, read what has been written."""
        self._consistency = _STRONG
        self._unseen = not self._layout.strong

    def _query(self, expression: str, fields: Sequence[str], **arguments: Any) -> list[Row]:
        self._settle()
        arguments |= self._consistency
        return list(self._call("query", filter=expression, output_fields=list(fields), **arguments))

    def _settle(self) -> None:
        if self._layout.lite and self._unflushed >= UNFLUSHED:
            self._unflushed = 0
            self._call("flush")

    def _call(self, method: str, **arguments: Any) -> Any:
        address = self._connection.address
        call = getattr(self._connection.client, method)
        return call(collection_name=address.collection, timeout=address.timeout, **arguments)
