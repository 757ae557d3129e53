"""A proxy that spoils some of what passes through it, by a seeded plan, and keeps a log of it."""

import http.client
import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from servers.background import BackgroundServer

_ERRORS = (500, 502, 503, 504)
_SHORT = 0.03
_PER_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Fault(StrEnum):
    """What happens to a request, and whether the server has it all the same."""

    ERROR = "5xx, not delivered"
    ERROR_AFTER = "5xx, delivered"
    BUSY = "429"
    WAIT = "429 or 503 with Retry-After: 1"
    UNSENT = "reset within the request"
    LOST = "delivered, reset before the answer"
    CUT = "delivered, cut within the answer"
    SLOW = "slow first byte"
    HANGING = "delivered, slower than the client's timeout"
    ITEMS = "429 or 503 for some items of a bulk request, which are not delivered"

    @property
    def is_delivered(self) -> bool:
        """Whether the server gets the request."""
        return self not in (Fault.ERROR, Fault.BUSY, Fault.WAIT, Fault.UNSENT)


ANY_REQUEST = tuple(fault for fault in Fault if fault is not Fault.ITEMS)
"""The faults that every request can have; the other is one of Elasticsearch's."""


@dataclass(slots=True)
class Passage:
    """A request that came through. answered: when its answer began to be sent; retry_after: that it was told."""

    method: str
    path: str
    fault: Fault | None
    began: float
    answered: float = 0.0
    retry_after: int | None = None


@dataclass
class Plan:
    """Which requests are spoiled.

    first: what happens to the first requests. rates: the part of the others for each fault. most: of a fault that
    takes long. in_a_row: after so many spoiled requests one passes, which is what makes the faults passing ones.
    down: requests, by their number from 0, that are all answered by 5xx, however many.
    """

    first: Sequence[Fault | None] = ()
    rates: Mapping[Fault, float] = field(default_factory=dict)
    most: Mapping[Fault, int] = field(default_factory=dict)
    in_a_row: int = 3
    down: Sequence[range] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._number = self._run = 0
        self._done: Counter[Fault] = Counter()

    def next(self) -> Fault | None:
        """What happens to the next request."""
        number, self._number = self._number, self._number + 1
        if number < len(self.first):
            return self.first[number]
        if any(number in numbers for numbers in self.down):
            return Fault.ERROR
        rest = 1 - sum(self.rates.values())
        fault: Fault | None = self.chance.choices([*self.rates, None], [*self.rates.values(), rest])[0]
        if fault is not None and self._done[fault] >= self.most.get(fault, self._number):
            fault = None
        if fault not in (None, Fault.SLOW) and self._run >= self.in_a_row:
            fault = None
        self._run = 0 if fault in (None, Fault.SLOW) else self._run + 1
        if fault is not None:
            self._done[fault] += 1
        return fault


class FlakyProxy(BackgroundServer):
    """Listens on a free port of this machine before ``upstream``, from `__enter__` to `__exit__`.

    hanging: seconds that `Fault.HANGING` keeps a client waiting.
    """

    def __init__(self, upstream: str, plan: Plan, *, hanging: float = 0.0) -> None:
        super().__init__(_Handler)
        parts = urlsplit(upstream)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.plan, self.hanging = plan, hanging
        self.log: list[Passage] = []
        self._lock = threading.Lock()

    def admit(self, method: str, path: str) -> Passage:
        """Enter a request into the log, with what is to happen to it."""
        with self._lock:
            fault = self.plan.next()
            if fault is Fault.ITEMS and not urlsplit(path).path.endswith("/_bulk"):
                fault = None
            passage = Passage(method, path, fault, time.monotonic())
            self.log.append(passage)
            return passage

    def heal(self) -> None:
        """Spoil nothing from now on."""
        self.plan = Plan()

    def faults(self) -> Counter[Fault]:
        """How often each happened."""
        return Counter(passage.fault for passage in self.log if passage.fault is not None)

    def pauses(self) -> list[tuple[float, int]]:
        """For every answer that asked to wait: the seconds until the next request began, and those asked for."""
        return [
            (following.began - passage.answered, passage.retry_after)
            for passage, following in zip(self.log, self.log[1:], strict=False)
            if passage.retry_after is not None
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FlakyProxy

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.host, self.server.port, timeout=120)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def _pass(self) -> None:
        passage = self.server.admit(self.command, self.path)
        length = int(self.headers.get("content-length", 0))
        if passage.fault is Fault.UNSENT:
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if passage.fault is Fault.ITEMS:
            answer = self._forward_some(body)
        elif passage.fault is None or passage.fault.is_delivered:
            answer = self._forward(body)
        match passage.fault:
            case Fault.ERROR | Fault.ERROR_AFTER:
                self._refuse(passage, self.server.plan.chance.choice(_ERRORS))
            case Fault.BUSY:
                self._refuse(passage, 429)
            case Fault.WAIT:
                self._refuse(passage, self.server.plan.chance.choice((429, 503)), retry_after=1)
            case Fault.LOST:
                self._reset()
            case Fault.CUT:
                self._cut(*answer)
            case _:
                pauses = {Fault.SLOW: _SHORT, Fault.HANGING: self.server.hanging}
                time.sleep(pauses.get(passage.fault or Fault.ITEMS, 0.0))
                passage.answered = time.monotonic()
                self._send(b"".join(answer))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _pass

    def _forward(self, body: bytes) -> tuple[bytes, bytes]:
        """The head and the body of the server's answer."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _PER_HOP}
        self._upstream.request(self.command, self.path, body or None, headers)
        answer = self._upstream.getresponse()
        content = answer.read()
        length = answer.headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _PER_HOP]
        return _head(answer.status, [*kept, ("Content-Length", length)]), content

    def _forward_some(self, body: bytes) -> tuple[bytes, bytes]:
        """Turn away some items of a bulk request, at least one, and let the server answer for the others."""
        chance, items = self.server.plan.chance, _items(body)
        refused = set(chance.sample(range(len(items)), chance.randint(1, len(items))))
        kept = [lines for place, lines in enumerate(items) if place not in refused]
        answered = iter(())
        if kept:
            _, content = self._forward(b"".join(kept))
            answered = iter(json.loads(content)["items"])
        results = [
            _refusal(lines, chance.choice((429, 503))) if place in refused else next(answered)
            for place, lines in enumerate(items)
        ]
        said = json.dumps({"took": 1, "errors": True, "items": results}).encode()
        headers = [("X-Elastic-Product", "Elasticsearch"), ("Content-Type", "application/json")]
        return _head(200, [*headers, ("Content-Length", str(len(said)))]), said

    def _refuse(self, passage: Passage, status: int, *, retry_after: int | None = None) -> None:
        """An answer of the proxy's own: a page, as proxies give it."""
        page = b"" if self.command == "HEAD" else f"<html>{HTTPStatus(status).phrase}</html>".encode()
        headers = [("Content-Type", "text/html"), ("Content-Length", str(len(page)))]
        if retry_after is not None:
            headers.append(("Retry-After", str(retry_after)))
        passage.retry_after, passage.answered = retry_after, time.monotonic()
        self._send(_head(status, headers) + page)

    def _cut(self, head: bytes, content: bytes) -> None:
        """Send the answer to the middle of its body; then either reset the connection or close it in order."""
        self._send(head + content[: len(content) // 2] if content else head[: len(head) // 2])
        if self.server.plan.chance.random() < 0.5:
            self._reset()
        self.close_connection = True

    def _send(self, data: bytes) -> None:
        try:
            self.connection.sendall(data)
        except OSError:  # the client has lost its patience, as it should with one that hangs
            self.close_connection = True

    def _reset(self) -> None:
        """Close so that the other side gets a reset, whatever was sent before."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


def _items(body: bytes) -> list[bytes]:
    """The lines of each item of a bulk request."""
    lines = iter(body.splitlines(keepends=True))
    return [line if line.startswith(b'{"delete"') else line + next(lines) for line in lines]


def _refusal(lines: bytes, status: int) -> dict[str, Any]:
    """What a node says of an item that it has no room for."""
    ((action, target),) = json.loads(lines.splitlines()[0]).items()
    error = {"type": "es_rejected_execution_exception", "reason": "the queue is full"}
    return {action: {"_id": target["_id"], "status": status, "error": error}}


def _head(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
