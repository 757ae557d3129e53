"""Fusion in the engine.

The exact weighted sum of all candidates takes either one request, whose parts each nest all searches for
candidates, or two: the candidates first, then their scores by parts that are filtered to their ids. Embedded, two
are two to three times as fast where multi-vectors search, because the nested searches run again for every part, and
about as fast where they only score (benchmarks/qdrant_fusion.py); so there is only the second form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from m3_core.errors import Unsupported
from m3_core.fusion import Fusion, ReciprocalRank, WeightedSum
from m3_core.types import M3Vectors, Representation
from m3_integrations.qdrant.engine import Found, Query, Ranked, Weighted
from m3_integrations.qdrant.filters import Condition
from m3_integrations.qdrant.requests import Requests, scale

_Searches: TypeAlias = Sequence[Mapping[Representation, Query]]
"""Per query its searches for candidates by channel."""


def search(
    requests: Requests,
    queries: M3Vectors,
    fusion: Fusion,
    k: int,
    candidates: Mapping[Representation, int],
    condition: Condition | None,
) -> list[list[Found]]:
    """Per query the best k by the fusion over the union of the candidates; raises as `QdrantBase.search_fused`."""
    ranked = isinstance(fusion, ReciprocalRank)
    kinds = candidates.keys() & fusion.representations if ranked else candidates.keys()
    searches = [
        {
            kind: query
            for kind in Representation
            if kind in kinds
            and (query := requests.query(queries, row, kind, candidates[kind], condition)) is not None
        }
        for row in range(len(queries))
    ]
    if isinstance(fusion, ReciprocalRank):
        return _reciprocal_rank(requests, searches, fusion, k, condition)
    return _weighted_sum(requests, searches, queries, fusion, k)


def _weighted_sum(
    requests: Requests, searches: _Searches, queries: M3Vectors, fusion: WeightedSum, k: int
) -> list[list[Found]]:
    found = iter(requests.ask_ids([query for row in searches for query in row.values()]))
    dialect = requests.engine.dialect
    sums: dict[int, Weighted] = {}
    for row, some in enumerate(searches):
        points = list(dict.fromkeys(point for _ in some for point in next(found)))
        if not points:
            continue
        # A channel that has searched is a part even if its weight is 0: what no part finds is not in the answer.
        parts = {
            kind: query
            for kind in Representation
            if (kind in fusion.representations or kind in some)
            and (query := requests.query(queries, row, kind, len(points), None, exact=True)) is not None
        }
        weights = [fusion.weights.of(kind) * scale(queries, row, kind) for kind in parts]
        named = dialect.filter(must=[dialect.has_id(points)])
        sums[row] = Weighted(list(parts.values()), weights, k, named)
    answers = dict(zip(sums, requests.ask(list(sums.values())), strict=True))
    return [answers.get(row, []) for row in range(len(searches))]


def _reciprocal_rank(
    requests: Requests, searches: _Searches, fusion: ReciprocalRank, k: int, condition: Condition | None
) -> list[list[Found]]:
    weight, *others = {fusion.weights.of(kind) for kind in fusion.representations}
    if others or fusion.k != int(fusion.k):
        raise Unsupported(
            "Qdrant fuses by reciprocal rank with equal weights and an integer k only; fuse in the retriever"
        )
    ranked = {
        row: Ranked([replace(part, filter=None) for part in parts.values()], int(fusion.k), k, condition)
        for row, parts in enumerate(searches)
        if parts
    }
    answers = dict(zip(ranked, requests.ask(list(ranked.values())), strict=True))
    return [
        [point._replace(score=weight * point.score) for point in answers.get(row, [])]
        for row in range(len(searches))
    ]
