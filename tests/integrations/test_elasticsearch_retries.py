"""What an overloaded cluster answers, which no idle node can be made to: a scripted server over a real socket."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from m3_core.errors import InputError, StoreError, StoreUnavailable
from m3_core.store import Fields, Schema
from m3_core.testing import corpus
from m3_core.types import Document, M3Vectors
from m3_integrations.elasticsearch import ElasticsearchStore
from m3_integrations.elasticsearch.creation import new_mappings

SCHEMA = Schema(sparse=500)
Answer = tuple[int, dict[str, Any] | None, dict[str, str]]
"""Status, body (None closes the connection without an answer), and headers."""

BUSY = {"type": "es_rejected_execution_exception", "reason": "queue is full"}
BAD = {"type": "mapper_parsing_exception", "reason": "this is no number"}


class Scripted(ThreadingHTTPServer):
    """A server with one index. bulk: what it answers to a bulk request for these ids. while_refreshing: a hook.

    visible: how many documents the last refresh has made so.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.batches: list[list[str]] = []
        self.bulk: Callable[[int, Sequence[str]], Answer] = lambda turn, ids: items(dict.fromkeys(ids))
        self.while_refreshing: Callable[[], Answer] = lambda: (200, {"_shards": {"failed": 0}}, {})
        self.visible = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_GET(self) -> None:
        mappings = new_mappings(SCHEMA, Fields(), index="flat", metadata="any")
        self._answer((200, {"pages": {"mappings": mappings, "settings": {"index": {"uuid": "u"}}}}, {}))

    def do_HEAD(self) -> None:
        self._answer((200, {}, {}))

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers.get("content-length", 0))).splitlines()
        if "_refresh" in self.path:
            written = sum(map(len, self.server.batches))
            answer = self.server.while_refreshing()
            if answer[0] == 200:
                self.server.visible = written
            self._answer(answer)
            return
        if "_count" in self.path:
            self._answer((200, {"count": self.server.visible, "_shards": {"failed": 0}}, {}))
            return
        ids = [json.loads(line)["index"]["_id"] for line in lines[::2]]
        self.server.batches.append(ids)
        self._answer(self.server.bulk(len(self.server.batches), ids))

    do_PUT = do_POST

    def _answer(self, answer: Answer) -> None:
        status, body, headers = answer
        if body is None:
            self.close_connection = True
            return
        data = b"" if self.command == "HEAD" else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "X-Elastic-Product": "Elasticsearch",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


def items(results: dict[str, tuple[int, dict[str, str]] | None]) -> Answer:
    """The answer to a bulk request: per id None where it was written, or the status and the error."""
    answers = [
        {
            "index": {"_id": name, "status": 201}
            if result is None
            else {"_id": name, "status": result[0], "error": result[1]}
        }
        for name, result in results.items()
    ]
    return 200, {"errors": any(results.values()), "items": answers}, {}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store(server: Scripted) -> Iterator[ElasticsearchStore]:
    url = f"elasticsearch://127.0.0.1:{server.server_port}/pages"
    with ElasticsearchStore.from_url(url, retries=2) as store:
        yield store


def upsert(store: ElasticsearchStore, names: str) -> None:
    vectors = M3Vectors(sparse=corpus.sparse_rows([{1: 1.0}] * len(names), 500))
    store.upsert([Document(name) for name in names], vectors)


def test_only_the_items_that_were_turned_away_are_sent_again(
    server: Scripted, store: ElasticsearchStore
) -> None:
    unavailable = {"type": "unavailable_shards_exception", "reason": "no primary"}
    first = {"a": None, "b": (429, BUSY), "c": (503, unavailable), "d": None}
    server.bulk = lambda turn, ids: items(first if turn == 1 else dict.fromkeys(ids))
    upsert(store, "abcd")
    assert server.batches == [["a", "b", "c", "d"], ["b", "c"]]


def test_what_is_refused_is_named_and_the_rest_goes_on(server: Scripted, store: ElasticsearchStore) -> None:
    first = {"a": (400, BAD), "b": (429, BUSY), "c": None}
    server.bulk = lambda turn, ids: items(first if turn == 1 else dict.fromkeys(ids))
    with pytest.raises(
        InputError, match="1 of 3 documents were refused, the others are written: 'a': this is no number"
    ):
        upsert(store, "abc")
    assert server.batches == [["a", "b", "c"], ["b"]]


def test_a_reason_is_said_once_for_all_it_refused(server: Scripted, store: ElasticsearchStore) -> None:
    server.bulk = lambda turn, ids: items(dict.fromkeys(ids, (400, BAD)))
    with pytest.raises(
        InputError,
        match=r"7 of 7 documents were refused: 'a', 'b', 'c', 'd', 'e' and 2 more: this is no number$",
    ):
        upsert(store, "abcdefg")


def test_patience_ends_and_names_what_was_not_written(server: Scripted, store: ElasticsearchStore) -> None:
    server.bulk = lambda turn, ids: items({name: (429, BUSY) if name == "b" else None for name in ids})
    with pytest.raises(StoreUnavailable, match=r"1 of 3 .*'b': .*queue is full"):
        upsert(store, "abc")
    assert server.batches == [["a", "b", "c"], ["b"], ["b"]]


@pytest.mark.parametrize(
    "trouble",
    [
        (503, {"error": "no"}, {}),
        (429, {"error": BUSY}, {"Retry-After": "0"}),
        (502, {"error": "a proxy"}, {}),
        (500, {"error": "a proxy"}, {}),
        (200, None, {}),
    ],
    ids=["503", "429", "502", "500", "reset"],
)
def test_requests_that_failed_for_a_passing_reason_are_made_again(
    server: Scripted, store: ElasticsearchStore, trouble: Answer
) -> None:
    server.bulk = lambda turn, ids: trouble if turn < 3 else items(dict.fromkeys(ids))
    upsert(store, "ab")
    assert server.batches == [["a", "b"]] * 3
    server.bulk = lambda turn, ids: trouble
    with pytest.raises(StoreUnavailable):
        upsert(store, "ab")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_will_not_pass_is_asked_once(server: Scripted, store: ElasticsearchStore, status: int) -> None:
    server.bulk = lambda turn, ids: (status, {"error": {"type": "some", "reason": "for good"}}, {})
    with pytest.raises(StoreError, match=rf"for good \({status}\)") as caught:
        upsert(store, "ab")
    assert not isinstance(caught.value, StoreUnavailable)
    assert server.batches == [["a", "b"]]


def test_the_servers_own_pause_is_kept(
    server: Scripted, store: ElasticsearchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(store._connection._retrying, "sleep", pauses.append)
    server.bulk = lambda turn, ids: (
        (429, {"error": BUSY}, {"Retry-After": "7"}) if turn == 1 else items(dict.fromkeys(ids))
    )
    upsert(store, "a")
    assert pauses == [7.0]


def test_a_batch_that_is_too_large_for_a_proxy_is_halved(server: Scripted, store: ElasticsearchStore) -> None:
    server.bulk = lambda turn, ids: (
        (413, {"error": "too large"}, {}) if len(ids) > 2 else items(dict.fromkeys(ids))
    )
    upsert(store, "abcde")
    written = [batch for batch in server.batches if len(batch) <= 2]
    assert [name for batch in written for name in batch] == list("abcde")


def test_a_document_that_is_too_large_for_a_proxy_is_named_and_the_rest_goes_on(
    server: Scripted, store: ElasticsearchStore
) -> None:
    server.bulk = lambda turn, ids: (
        (413, {"error": "too large"}, {}) if "b" in ids else items(dict.fromkeys(ids))
    )
    with pytest.raises(InputError, match=r"1 of 3 .*'b': its \d+ bytes are more"):
        upsert(store, "abc")
    assert [batch for batch in server.batches if "b" not in batch] == [["a"], ["c"]]


def test_a_server_that_asks_to_wait_for_long_is_not_asked_again(
    server: Scripted, store: ElasticsearchStore
) -> None:
    server.bulk = lambda turn, ids: (503, {"error": "for repairs"}, {"Retry-After": "3600"})
    with pytest.raises(StoreUnavailable, match="for repairs") as caught:
        upsert(store, "a")
    assert caught.value.retry_after == 3600
    assert len(server.batches) == 1


def test_what_is_written_while_another_thread_refreshes_is_seen(
    server: Scripted, store: ElasticsearchStore
) -> None:
    done = 200, {"_shards": {"failed": 0}}, {}

    def write() -> Answer:
        server.while_refreshing = lambda: done
        upsert(store, "b")
        return done

    upsert(store, "a")
    server.while_refreshing = write
    assert store.count() == 1
    assert store.count() == 2


def test_a_refresh_that_failed_is_made_up_for(server: Scripted, store: ElasticsearchStore) -> None:
    done = server.while_refreshing
    server.while_refreshing = lambda: (
        500,
        {"error": {"type": "broken", "reason": "disk"}, "status": 500},
        {},
    )
    upsert(store, "a")
    with pytest.raises(StoreError, match="disk"):
        store.count()
    server.while_refreshing = done
    assert store.count() == 1
