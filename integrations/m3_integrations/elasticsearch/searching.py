"""Searches of both channels in one round trip, with as many query tokens as the cluster takes."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3_core.errors import StoreError
from m3_core.filters import Filter
from m3_core.types import Hit, M3Vectors, Representation
from m3_integrations.elasticsearch.connection import Connection
from m3_integrations.elasticsearch.convert import (
    dense_body,
    inner_product,
    shortest,
    source_filter,
    sparse_body,
    to_document,
)
from m3_integrations.elasticsearch.filters import Query, clauses
from m3_integrations.elasticsearch.layout import Layout

_LIMIT = re.compile(r"maxClauseCount is set to (\d+)")
_TOO_MANY = re.compile(r"too_many_(nested_)?clauses|maxClauseCount")


class DroppedTokensWarning(UserWarning):
    """A query had more tokens than the cluster takes clauses, and was asked without its lightest ones."""


@dataclass(frozen=True, slots=True)
class Request:
    """One search: of query ``row`` by one channel. weights: of a sparse one, the heaviest first."""

    row: int
    kind: Representation
    k: int
    weights: Sequence[tuple[int, float]] = ()


class Searcher:
    """Searches an index, and remembers how many clauses its cluster takes."""

    def __init__(self, connection: Connection, candidates: int) -> None:
        """candidates: that each shard looks for at least in an approximate dense search."""
        self._connection, self._candidates = connection, candidates
        self._most: int | None = None

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], condition: Filter | None, layout: Layout
    ) -> Mapping[Representation, list[list[Hit]]]:
        """The best ``k[channel]`` of every query by each channel."""
        requests = list(_requests(queries, k))
        query = layout.query(condition)
        found: dict[Representation, list[list[Hit]]] = {kind: [[] for _ in range(len(queries))] for kind in k}
        for request, answer in zip(requests, self._ask(requests, queries, query, layout), strict=True):
            hits = [_hit(hit, request.kind, layout) for hit in answer["hits"]["hits"]]
            found[request.kind][request.row] = sorted(hits, key=lambda hit: (-hit.score, hit.id))
        return found

    def _ask(
        self, requests: Sequence[Request], queries: M3Vectors, condition: Query | None, layout: Layout
    ) -> list[Mapping[str, Any]]:
        answers: dict[int, Mapping[str, Any]] = {}
        taken = 0 if condition is None else clauses(condition)
        pending = list(range(len(requests)))
        while pending:
            most = None if self._most is None else self._most - taken - 2
            if most is not None and most < 1:
                raise StoreError(
                    f"{self._connection.place} takes {self._most} clauses in a query, and the filter alone has {taken}; "
                    "raise indices.query.bool.max_clause_count, or make the filter smaller"
                )
            bodies = [self._body(requests[place], queries, condition, layout, most) for place in pending]
            refused = []
            for place, answer in zip(pending, self._connection.msearch(bodies), strict=True):
                if "error" not in answer:
                    answers[place] = answer
                elif requests[place].weights and _TOO_MANY.search(json.dumps(answer["error"])):
                    refused.append((place, answer))
                else:
                    raise self._connection.error_of(answer)
            if refused:
                self._learn(json.dumps(refused[0][1]["error"]), most)
            pending = [place for place, _ in refused]
        self._warn([len(request.weights) for request in requests], taken)
        return [answers[place] for place in range(len(requests))]

    def _learn(self, error: str, sent: int | None) -> None:
        """Take the limit from the error; where that was not enough, go below it in steps."""
        told = _LIMIT.search(error)
        limit = int(told[1]) if told else 1024
        self._most = limit if sent is None else min(limit, self._most or limit, max(sent, 1)) * 3 // 4

    def _warn(self, sizes: Sequence[int], taken: int) -> None:
        if self._most is None:
            return
        most = self._most - taken - 2
        cut = [size - most for size in sizes if size > most]
        if cut:
            warnings.warn(
                f"{self._connection.place} takes {self._most} clauses in a query: the {sum(cut)} lightest query tokens "
                f"of {len(cut)} of {len(sizes)} searches were left out; raise indices.query.bool.max_clause_count",
                DroppedTokensWarning,
                stacklevel=5,
            )

    def _body(
        self, request: Request, queries: M3Vectors, condition: Query | None, layout: Layout, most: int | None
    ) -> Mapping[str, Any]:
        field = layout.channels[request.kind]
        if request.kind is Representation.DENSE and queries.dense is not None:
            body = dense_body(queries.dense[request.row], field, request.k, self._candidates, condition)
        else:
            body = sparse_body(request.weights[:most], field, request.k, condition)
        return {**body, "_source": source_filter(layout, ()), "track_total_hits": False}


def _requests(queries: M3Vectors, k: Mapping[Representation, int]) -> Iterator[Request]:
    """The searches that have an answer: not those without lexical weights."""
    for kind, size in k.items():
        for row in range(len(queries)):
            if kind is Representation.DENSE:
                yield Request(row, kind, size)
                continue
            tokens, weights = queries.sparse_row(row)
            summed: dict[int, float] = {}
            for token, weight in zip(tokens.tolist(), shortest(weights), strict=True):
                summed[token] = summed.get(token, 0.0) + weight
            heaviest = sorted(
                ((t, w) for t, w in summed.items() if w > 0), key=lambda item: (-item[1], item[0])
            )
            if heaviest:
                yield Request(row, kind, size, heaviest)


def _hit(hit: Mapping[str, Any], kind: Representation, layout: Layout) -> Hit:
    score = float(hit["_score"])
    if kind is Representation.DENSE:
        score = inner_product(score, layout.similarity)
    return Hit(to_document(hit, layout), score, {kind: score})
