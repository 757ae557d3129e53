"""Requests to a Qdrant server, or to its stand-in in memory, by `qdrant_client`."""

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from m3_core.errors import StoreError, Unsupported
from m3_core.types import Representation
from m3_integrations.qdrant.engine import (
    Found,
    Point,
    PointId,
    Query,
    Ranked,
    Request,
    Sparse,
    Vector,
    Weighted,
)
from m3_integrations.qdrant.filters import Condition
from m3_integrations.qdrant.layout import Layout, Note, SparseInfo, VectorInfo
from m3_integrations.qdrant.server_errors import Calls

METADATA_KEY = "m3"
"""Our note's place in the collection's metadata."""


class ClientDialect:
    """Conditions as `qdrant_client` writes them."""

    def equals(self, key: str, value: str | bool) -> Condition:
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))

    def any_of(self, key: str, values: Sequence[str]) -> Condition:
        return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))

    def other_than(self, key: str, value: str | int) -> Condition:
        return models.FieldCondition(key=key, match=models.MatchExcept.model_validate({"except": [value]}))

    def between(self, key: str, **bounds: float) -> Condition:
        return models.FieldCondition(key=key, range=models.Range(**bounds))

    def has_id(self, ids: Sequence[PointId]) -> Condition:
        return models.HasIdCondition(has_id=list(ids))

    def has_vector(self, name: str) -> Condition:
        return models.HasVectorCondition(has_vector=name)

    def filter(
        self,
        *,
        must: Sequence[Condition] = (),
        should: Sequence[Condition] = (),
        must_not: Sequence[Condition] = (),
    ) -> Condition:
        return models.Filter(
            must=list(must) or None, should=list(should) or None, must_not=list(must_not) or None
        )


class ClientEngine:
    """The `Engine` of one collection of a client. Writes wait until they are applied."""

    dialect = ClientDialect()

    def __init__(self, client: QdrantClient, collection: str, call: Calls, *, owned: bool) -> None:
        self._client, self._collection, self._call, self._owned = client, collection, call, owned
        self._is_local = is_local(client)

    @property
    def client(self) -> QdrantClient:
        """The client, which knows other collections too."""
        return self._client

    @property
    def call(self) -> Calls:
        """What calls it, about this collection."""
        return self._call

    def layout(self) -> Layout:
        config = self._call(lambda: self._client.get_collection(self._collection)).config
        params = config.params
        named = params.vectors if isinstance(params.vectors, dict) else {"": params.vectors}
        vectors = {
            name: VectorInfo(
                size=info.size,
                distance=info.distance.value.lower(),
                multi=info.multivector_config is not None,
                datatype="float32" if info.datatype is None else info.datatype.value,
                graph=self._has_graph(info.hnsw_config, config.hnsw_config),
                quantized=(info.quantization_config or config.quantization_config) is not None,
            )
            for name, info in named.items()
            if info is not None
        }
        sparse = {
            name: SparseInfo(info.modifier == models.Modifier.IDF, _sparse_datatype(info))
            for name, info in (params.sparse_vectors or {}).items()
        }
        return Layout(vectors, sparse, Note.from_json((config.metadata or {}).get(METADATA_KEY)))

    def add_vector(self, kind: Representation, name: str, size: int) -> None:
        """Add a named vector; one that is there with these settings is left as it is.

        Raises:
            Unsupported: the server is older than 1.18, the first that can.
        """
        many = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        dense = models.DenseVectorConfig(
            size=size,
            distance=models.Distance.DOT,
            multivector_config=many if kind is Representation.MULTI else None,
        )
        wanted: models.VectorNameConfig = models.DenseVectorNameConfig(dense=dense)
        if kind is Representation.SPARSE:
            wanted = models.SparseVectorNameConfig(sparse=models.SparseVectorConfig())
        try:
            self._call(lambda: self._client.create_vector_name(self._collection, name, wanted, wait=True))
        except StoreError as error:
            told = error.__cause__
            if isinstance(told, UnexpectedResponse) and told.status_code in (404, 405):
                raise Unsupported(
                    f"{self._call.place}: this server cannot add vectors to a collection (1.18 and later can)"
                ) from error
            raise
        if kind is Representation.MULTI and not self._is_local:
            bare = models.VectorParamsDiff(hnsw_config=models.HnswConfigDiff(m=0))
            self._call(lambda: self._client.update_collection(self._collection, vectors_config={name: bare}))

    def write_note(self, note: Note) -> None:
        metadata = {METADATA_KEY: note.to_json()}
        self._call(lambda: self._client.update_collection(self._collection, metadata=metadata))

    def _has_graph(self, own: models.HnswConfigDiff | None, common: models.HnswConfig) -> bool:
        if self._is_local:
            return False  # the stand-in looks at everything, whatever it is told
        return (common.m if own is None or own.m is None else own.m) > 0

    def upsert(self, points: Sequence[Point]) -> None:
        written = [
            models.PointStruct(id=point.id, vector=_named(point.vectors), payload=dict(point.payload))
            for point in points
        ]
        self._call(lambda: self._client.upsert(self._collection, written, wait=True))

    def update_vectors(self, points: Sequence[Point]) -> None:
        written = [models.PointVectors(id=point.id, vector=_named(point.vectors)) for point in points]
        self._call(lambda: self._client.update_vectors(self._collection, written, wait=True))

    def delete_vectors(self, ids: Sequence[PointId], name: str) -> None:
        points = models.PointIdsList(points=list(ids))
        self._call(lambda: self._client.delete_vectors(self._collection, [name], points, wait=True))

    def delete(self, ids: Sequence[PointId]) -> None:
        points = models.PointIdsList(points=list(ids))
        self._call(lambda: self._client.delete(self._collection, points, wait=True))

    def delete_matching(self, condition: Condition) -> None:
        matching = models.FilterSelector(filter=condition)
        self._call(lambda: self._client.delete(self._collection, matching, wait=True))

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: Sequence[str]) -> Sequence[Found]:
        records = self._call(
            lambda: self._client.retrieve(
                self._collection, list(ids), with_payload=payload, with_vectors=list(vectors) or False
            )
        )
        return [_found(record) for record in records]

    def scroll(
        self, *, condition: Condition | None, start: PointId | None, limit: int, vectors: Sequence[str]
    ) -> tuple[Sequence[Found], PointId | None]:
        records, following = self._call(
            lambda: self._client.scroll(
                self._collection,
                scroll_filter=condition,
                offset=start,
                limit=limit,
                with_payload=True,
                with_vectors=list(vectors) or False,
            )
        )
        return [_found(record) for record in records], _id(following)

    def query(self, requests: Sequence[Request]) -> list[list[Found]]:
        return [[_found(point) for point in points] for points in self._ask(requests)]

    def query_ids(self, requests: Sequence[Request]) -> list[list[Any]]:
        return [[point.id for point in points] for points in self._ask(requests)]

    def _ask(self, requests: Sequence[Request]) -> list[list[models.ScoredPoint]]:
        asked = [self._request(request) for request in requests]
        answers = self._call(lambda: self._client.query_batch_points(self._collection, asked))
        return [answer.points for answer in answers]

    def count(self, condition: Condition | None) -> int:
        return self._call(
            lambda: self._client.count(self._collection, count_filter=condition, exact=True)
        ).count

    def _nearest(self, query: Query) -> dict[str, Any]:
        """The arguments that a request and a part of one share."""
        arguments: dict[str, Any] = {"limit": query.limit, "filter": query.filter}
        if query.vector is not None:
            arguments["query"] = _to_client(query.vector)
            arguments["using"] = query.using or None
            if not self._is_local:  # the stand-in warns of parameters, which mean nothing to it
                arguments["params"] = models.SearchParams(
                    exact=query.exact,
                    quantization=models.QuantizationSearchParams(ignore=query.exact, rescore=True),
                )
        return arguments

    def _request(self, request: Request) -> models.QueryRequest:
        match request:
            case Query():
                return models.QueryRequest(**self._nearest(request), with_payload=request.payload)
            case Ranked(parts, k):
                # Qdrant counts ranks from 0, so the k of 1 / (k + rank) with ranks from 1 is one more there.
                fusion: Any = models.RrfQuery(rrf=models.Rrf(k=k + 1))
            case Weighted(parts, weights):
                fusion = models.FormulaQuery(
                    formula=models.SumExpression(
                        sum=[
                            models.MultExpression(mult=[weight, f"$score[{part}]"])
                            for part, weight in enumerate(weights)
                        ]
                    ),
                    defaults={f"$score[{part}]": 0.0 for part in range(len(weights))},
                )
        return models.QueryRequest(
            query=fusion,
            prefetch=[models.Prefetch(**self._nearest(part)) for part in parts],
            limit=request.limit,
            filter=request.filter,
            with_payload=True,
        )

    def close(self) -> None:
        if self._owned:
            self._client.close()


def is_local(client: QdrantClient) -> bool:
    """Whether the client keeps its collections in this process instead of on a server."""
    made_with = client.init_options
    return made_with.get("location") == ":memory:" or made_with.get("path") is not None


def _sparse_datatype(info: models.SparseVectorParams) -> str:
    return "float32" if info.index is None or info.index.datatype is None else info.index.datatype.value


def _id(value: Any) -> PointId | None:
    return value if isinstance(value, int | None) else str(value)


def _found(point: models.Record | models.ScoredPoint) -> Found:
    vectors: Mapping[str, Any] = point.vector if isinstance(point.vector, dict) else {"": point.vector}
    return Found(
        point.id if isinstance(point.id, int) else str(point.id),
        point.payload or {},
        {name: _from_client(vector) for name, vector in vectors.items() if vector is not None},
        point.score if isinstance(point, models.ScoredPoint) else 0.0,
    )


def _from_client(vector: Any) -> Vector:
    if isinstance(vector, models.SparseVector):
        return Sparse(vector.indices, vector.values)
    plain: list[float] | list[list[float]] = vector
    return plain


def _to_client(vector: Vector) -> Any:
    if isinstance(vector, Sparse):
        return models.SparseVector(indices=vector.indices, values=vector.values)
    return vector


def _named(vectors: Mapping[str, Vector]) -> dict[str, Any]:
    return {name: _to_client(vector) for name, vector in vectors.items()}
