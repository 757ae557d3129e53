"""A REST front for tests: Qdrant's endpoints that `QdrantStore` calls, served from the client's own engine in memory.

It is no Qdrant server, but all that a request and its answer go through on their way to one is real: the client's
serialisation, a socket, the limit of a request's size, and the words in which the server refuses.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models
from servers.background import BackgroundServer

MAX_BYTES = 32 << 20
"""Of a request: the server's default for ``max_request_size_mb``."""

Answer = Callable[..., Any]
"""What the engine answers: to the client, the collection's name, the form's content, and what else the path names."""


class Received(NamedTuple):
    """A request: its method, its path, the size of its body and the status of the answer."""

    method: str
    path: str
    size: int
    status: int


def _create(client: QdrantClient, name: str, body: models.CreateCollection) -> bool:
    if client.collection_exists(name):
        raise FileExistsError(f"Wrong input: Collection `{name}` already exists!")
    vectors, sparse = body.vectors or {}, body.sparse_vectors
    return client.create_collection(name, vectors, sparse_vectors_config=sparse, metadata=body.metadata)


def _update(client: QdrantClient, name: str, body: models.UpdateCollection) -> bool:
    return client.update_collection(name, vectors_config=body.vectors, metadata=body.metadata)


def _upsert(client: QdrantClient, name: str, body: Any) -> models.UpdateResult:
    points = body.points if isinstance(body, models.PointsList) else body.batch
    return client.upsert(name, points)


def _selected(body: Any) -> Any:
    return body.points if isinstance(body, models.PointIdsList) else models.FilterSelector(filter=body.filter)


def _delete_vectors(client: QdrantClient, name: str, body: models.DeleteVectors) -> models.UpdateResult:
    chosen = (
        models.PointIdsList(points=body.points)
        if body.points is not None
        else models.FilterSelector(filter=body.filter or models.Filter())
    )
    return client.delete_vectors(name, body.vector, chosen)


def _retrieve(client: QdrantClient, name: str, body: models.PointRequest) -> list[models.Record]:
    payload = True if body.with_payload is None else body.with_payload
    return client.retrieve(name, body.ids, with_payload=payload, with_vectors=body.with_vector or False)


def _scroll(client: QdrantClient, name: str, body: models.ScrollRequest) -> models.ScrollResult:
    points, following = client.scroll(
        name,
        scroll_filter=body.filter,
        limit=10 if body.limit is None else body.limit,
        offset=body.offset,
        with_payload=True if body.with_payload is None else body.with_payload,
        with_vectors=body.with_vector or False,
    )
    return models.ScrollResult(points=points, next_page_offset=following)


def _query(client: QdrantClient, name: str, body: models.QueryRequestBatch) -> list[models.QueryResponse]:
    for search in body.searches:
        _without_params(search)
    return client.query_batch_points(name, body.searches)


def _without_params(search: models.QueryRequest | models.Prefetch) -> None:
    """The engine in memory looks at everything anyway, and warns of parameters that say how."""
    search.params = None
    parts = search.prefetch or []
    for part in parts if isinstance(parts, list) else [parts]:
        _without_params(part)


def _count(client: QdrantClient, name: str, body: models.CountRequest) -> models.CountResult:
    return client.count(name, count_filter=body.filter, exact=True)


_POINTS = r"/collections/([^/]+)/points"
ROUTES: Mapping[tuple[str, str], tuple[Any, Answer]] = {
    ("GET", r"/collections"): (None, lambda client, _, __: client.get_collections()),
    ("GET", r"/aliases"): (None, lambda client, _, __: client.get_aliases()),
    ("POST", r"/collections/aliases"): (
        models.ChangeAliasesOperation,
        lambda client, _, body: client.update_collection_aliases(body.actions),
    ),
    ("GET", r"/collections/([^/]+)/exists"): (
        None,
        lambda client, name, _: {"exists": client.collection_exists(name)},
    ),
    ("GET", r"/collections/([^/]+)"): (None, lambda client, name, _: client.get_collection(name)),
    ("PUT", r"/collections/([^/]+)"): (models.CreateCollection, _create),
    ("PATCH", r"/collections/([^/]+)"): (models.UpdateCollection, _update),
    ("PUT", r"/collections/([^/]+)/vectors/([^/]+)"): (
        models.VectorNameConfig,
        lambda client, name, body, vector: client.create_vector_name(name, vector, body),
    ),
    ("PUT", r"/collections/([^/]+)/index"): (
        models.CreateFieldIndex,
        lambda client, name, body: {"operation_id": 0, "status": "completed"},  # of no use to this engine
    ),
    ("DELETE", r"/collections/([^/]+)"): (None, lambda client, name, _: client.delete_collection(name)),
    ("PUT", _POINTS): (models.PointInsertOperations, _upsert),
    ("PUT", _POINTS + "/vectors"): (
        models.UpdateVectors,
        lambda client, name, body: client.update_vectors(name, body.points),
    ),
    ("POST", _POINTS + "/payload"): (
        models.SetPayload,
        lambda client, name, body: client.set_payload(name, body.payload, body.points),
    ),
    ("POST", _POINTS + "/vectors/delete"): (models.DeleteVectors, _delete_vectors),
    ("POST", _POINTS + "/delete"): (
        models.PointsSelector,
        lambda client, name, body: client.delete(name, _selected(body)),
    ),
    ("POST", _POINTS): (models.PointRequest, _retrieve),
    ("POST", _POINTS + "/scroll"): (models.ScrollRequest, _scroll),
    ("POST", _POINTS + "/query/batch"): (models.QueryRequestBatch, _query),
    ("POST", _POINTS + "/count"): (models.CountRequest, _count),
}
"""By method and path: the form of the body, if there is one, and what answers."""


class QdrantFront(BackgroundServer):
    """Listens on a free port of this machine from `__enter__` to `__exit__`; its collections are new and go with it.

    limit: bytes that a request may have. too_large: the status of the answer to one that has more: 400, as the server
    says it, or 413, as a proxy before it does.
    """

    def __init__(self, *, limit: int = MAX_BYTES, too_large: int = 400) -> None:
        super().__init__(_Handler)
        self.limit, self.too_large = limit, too_large
        self.client = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.log: list[Received] = []
        self._forms = {kind: TypeAdapter(kind) for kind, _ in ROUTES.values() if kind is not None}

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.client.close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The status, and the result or what the error says."""
        if len(body) > self.limit:
            said = f"JSON payload ({len(body)} bytes) is larger than allowed (limit: {self.limit} bytes)."
            return self.too_large, f"Payload error: {said}"
        for (wanted, pattern), (form, respond) in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found is None or wanted != method:
                continue
            name, *more = [unquote(part) for part in found.groups()] or [""]
            try:
                read = None if form is None else self._forms[form].validate_json(body)
                with self.lock:
                    return 200, respond(self.client, name, read, *more)
            except ValidationError as error:
                return 400, f"Format error in JSON body: {error}"
            except FileExistsError as error:
                return 409, str(error)
            except (ValueError, KeyError, TypeError) as error:
                return (404 if f"Collection {name} not found" in str(error) else 400), str(error)
        return 404, f"there is no {method} {path} here"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: QdrantFront

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        status, result = self.server.answer(self.command, path, body)
        self.server.log.append(Received(self.command, path, len(body), status))
        said: Any = {"result": result, "status": "ok"} if status == 200 else {"status": {"error": result}}
        data = json.dumps({**said, "time": 0.0}, default=_plain, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _serve

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no part of an answer")
