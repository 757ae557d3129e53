"""The calls of one index: retried where that may help, with errors of our own, seen by the next call."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar

import elasticsearch as es

from m3_core.errors import M3Error, StoreError, StoreNotFound, StoreUnavailable
from m3_core.retrying import retrying
from m3_integrations.elasticsearch.bulk import Item, batches, failure, read_items
from m3_integrations.elasticsearch.errors import cause, named_errors, refusal, stranger
from m3_integrations.elasticsearch.options import place_of

T = TypeVar("T")
Refresh = Literal["read", "write", "wait", "never"]
"""When what was written is made visible to searches: by the next read of this store, with each write, by the
index's own interval with the write waiting for it, or by that interval and nothing waits."""

REFRESH: Mapping[str, Literal["wait_for"] | bool] = {
    "read": False,
    "write": True,
    "wait": "wait_for",
    "never": False,
}
SEARCHES = 50
"""In one request."""


class Connection:
    """A client and the name of an index. Safe to use from several threads."""

    def __init__(
        self,
        client: es.Elasticsearch,
        index: str,
        *,
        owned: bool,
        retries: int = 4,
        refresh: Refresh = "read",
    ) -> None:
        """owned: whether `close` closes the client. retries: of a request that failed for a passing reason."""
        self.client, self.index, self.place = client, index, place_of(client, index)
        self._owned, self._refresh = owned, refresh
        self._dirty, self._lock = False, threading.Lock()
        self._knows_exclude_vectors = True
        self._closed = False
        self._retrying = retrying(retries)

    def close(self) -> None:
        """Make visible what was written, and close the client, if it is ours."""
        if not self._closed:
            if self._dirty and self._refresh == "read":
                # Where that fails, the index's own interval will do: closing is no place for an error.
                with suppress(StoreError), self._calling():
                    self.client.indices.refresh(index=self.index)
            self._closed = True
            if self._owned:
                self.client.close()

    @contextmanager
    def _calling(self) -> Iterator[None]:
        if self._closed:
            raise StoreError(f"the store {self.place} is closed")
        with named_errors(self.place):
            yield

    def call(self, request: Callable[[], T]) -> T:
        """The answer to a request that may be made twice."""

        def once() -> T:
            with self._calling():
                return request()

        return self._retrying(once)

    def exists(self) -> bool:
        """Whether there is such an index or alias.

        Raises:
            StoreError: the answer is no, but not Elasticsearch's.
        """
        answer = self.call(lambda: self.client.indices.exists(index=self.index))
        if not answer and "x-elastic-product" not in answer.meta.headers:  # the client looks only at a yes
            raise stranger(self.place)
        return bool(answer)

    def describe(self) -> Mapping[str, Any]:
        """Mappings and settings of the index, or of those behind an alias, by name.

        Raises:
            StoreNotFound: there is none.
        """
        answer: Mapping[str, Any] = self.call(lambda: self.client.indices.get(index=self.index)).body
        if not answer:
            raise StoreNotFound(f"there is no index {self.place}; make one by ingesting into it")
        return answer

    def notes(self) -> list[Any]:
        """The ``_meta`` of every index there is by this name, None for one that has none."""
        return [one.get("mappings", {}).get("_meta") for one in self.describe().values()]

    def fresh(self) -> None:
        """Make what this store has written visible to its next search, if it is not yet."""
        if self._refresh == "read":
            with self._lock:
                if self._dirty:
                    # Before the request: what another thread writes meanwhile needs a refresh of its own.
                    self._dirty = False
                    try:
                        self.call(lambda: self.client.indices.refresh(index=self.index))
                    except BaseException:
                        self._dirty = True
                        raise

    def search(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one search."""
        self.fresh()
        source = body.get("_source") or {}
        if not self._knows_exclude_vectors and "exclude_vectors" in source:
            body = {
                **body,
                "_source": {key: value for key, value in source.items() if key != "exclude_vectors"},
            }

        def request() -> Mapping[str, Any]:
            index = None if "pit" in body else self.index
            answer: Mapping[str, Any] = self.client.search(index=index, body=dict(body)).body
            self._check_shards(answer)
            return answer

        def learning() -> Mapping[str, Any]:
            try:
                return request()
            except es.BadRequestError as error:
                if "exclude_vectors" not in str(error.body) or "exclude_vectors" not in source:
                    raise
                # A server before 9: it leaves nothing out, and does not know the option.
                self._knows_exclude_vectors = False
                return {}

        answer = self.call(learning)
        return answer or self.search(body)

    def msearch(self, bodies: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The answers to several searches, in one request as far as they go into one; an answer may be an error."""
        self.fresh()
        answers: list[Mapping[str, Any]] = []
        for start in range(0, len(bodies), SEARCHES):
            lines = [line for body in bodies[start : start + SEARCHES] for line in ({}, body)]

            def request(lines: Sequence[Mapping[str, Any]] = lines) -> list[Mapping[str, Any]]:
                found: list[Mapping[str, Any]] = self.client.msearch(index=self.index, searches=lines).body[
                    "responses"
                ]
                for answer in found:
                    if "error" not in answer:
                        self._check_shards(answer)
                    elif isinstance(error := self.error_of(answer), StoreUnavailable):
                        raise error
                return found

            answers += self.call(request)
        return answers

    def error_of(self, answer: Mapping[str, Any]) -> StoreError:
        """The error for a search that failed among others."""
        kind, reason = cause(answer)
        return refusal(int(answer.get("status", 500)), kind, reason, self.place)

    def _check_shards(self, answer: Mapping[str, Any]) -> None:
        """A search in which a shard failed or ran out of time has found only part."""
        failed = answer.get("_shards", {}).get("failed", 0)
        if failed or answer.get("timed_out"):
            reasons = [
                str(one.get("reason", {}).get("reason", "")) for one in answer["_shards"].get("failures", ())
            ]
            raise StoreUnavailable(
                f"{self.place}: {failed} shards did not answer{': ' if reasons else ''}{'; '.join(reasons[:3])}"
            )

    def count(self, query: Mapping[str, Any] | None) -> int:
        """How many documents match."""
        self.fresh()

        def request() -> int:
            answer = self.client.count(index=self.index, query=query).body
            self._check_shards(answer)
            return int(answer["count"])

        return self.call(request)

    def write(self, items: Iterable[Item]) -> None:
        """Carry out every item, and then say which were refused.

        Raises:
            InputError, StoreError: some were refused, each with its id and reason; the others are written.
            StoreUnavailable: some were refused for a passing reason until patience ran out.
        """
        refused: dict[str, M3Error] = {}
        sent = 0
        try:
            for batch in batches(items):
                sent += len(batch)
                self._write(batch, refused)
        finally:
            self._dirty = True
        if refused:
            raise failure(refused, sent, self.place)

    def _write(self, batch: Sequence[Item], refused: dict[str, M3Error]) -> None:
        pending = list(batch)

        def once() -> None:
            nonlocal pending
            with self._calling():
                answer = self._send(pending)
            again, now = read_items(pending, answer, self.place)
            for item in pending:
                refused.pop(item.id, None)
            refused.update(now)
            pending = again
            if pending:
                raise _StillPending(str(now[pending[0].id]))

        try:
            self._retrying(once)
        except _StillPending:
            return  # they are among the refused

    def _send(self, items: Sequence[Item]) -> Mapping[str, Any]:
        """Send a batch; in halves where a server or a proxy before it finds it too large.

        A document that is too large by itself is an item that was refused.
        """
        lines: list[Any] = [line for item in items for line in item.lines]
        try:
            refresh = REFRESH[self._refresh]
            answer: Mapping[str, Any] = self.client.bulk(
                index=self.index, operations=lines, refresh=refresh
            ).body
            return answer
        except es.ApiError as error:
            if error.status_code != 413:
                raise
            if len(items) == 1:
                reason = f"its {items[0].size} bytes are more than a request may have (413)"
                return {"items": [{"index": {"status": 413, "error": {"reason": reason}}}]}
        half = len(items) // 2
        parts = [self._send(items[:half]), self._send(items[half:])]
        return {"items": [item for part in parts for item in part["items"]]}


class _StillPending(StoreUnavailable):
    """Some items of a batch are to be sent again."""
