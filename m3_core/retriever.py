"""Query -> channels -> fusion -> hits, over any store.

The algorithm is written once, as a generator that asks for what it needs (`_Ask`) and is answered; the sync
and the async retriever only differ in how they answer.
"""

import asyncio
import inspect
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from m3_core.checks import check_encoder, check_fingerprint, check_size, check_store
from m3_core.encoder import M3Encoder
from m3_core.errors import InputError, Unsupported
from m3_core.explain import Explanation, explain
from m3_core.filters import Filter, Where, check_field
from m3_core.fusion import Fusion, ReciprocalRank, WeightedSum, rank_order
from m3_core.ingestion.templates import Encode, text_of
from m3_core.scoring import channel_scores
from m3_core.store import AsyncStore, Store
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Representation

Rescore: TypeAlias = Literal["store", "encode"]
CANDIDATES = 100
"""Documents each channel contributes by default, or k if that is more."""


class Hits(list[Hit]):
    """Found documents, best first. ``missing`` names the members of a `UnionStore` that did not answer, or not all."""

    def __init__(self, hits: Iterable[Hit] = (), missing: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.missing = tuple(missing)


@dataclass(frozen=True, slots=True)
class _Ask:
    """A method of the store or the encoder that the algorithm wants called."""

    target: Any
    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def call(self) -> Any:
        return getattr(self.target, self.method)(*self.args, **self.kwargs)


_Steps: TypeAlias = Generator[_Ask, Any, list[Hits]]


@dataclass(slots=True)
class _Found:
    """What is known of one query's candidates."""

    documents: dict[str, Document]
    scores: dict[Representation, dict[str, float]]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Candidates that were encoded: the place of each among the vectors."""

    place: Mapping[str, int]
    passages: M3Vectors

    def scores(self, queries: M3Vectors, row: int, kind: Representation, names: Sequence[str]) -> FloatArray:
        if not names:
            return np.empty(0, np.float32)
        return channel_scores(queries, row, self.passages.take([self.place[name] for name in names]), kind)


class _Search:
    """Everything about a search but who waits for the answers."""

    def __init__(
        self,
        encoder: M3Encoder,
        store: Store | AsyncStore,
        *,
        fusion: Fusion | None = None,
        candidates: int | None = None,
        rescore: Rescore = "store",
        group_by: str | None = None,
        encode: Encode = None,
    ) -> None:
        check_encoder(encoder)
        check_store(store)
        self.text_of = text_of(encode)
        self.encoder, self.store = encoder, store
        self.held = store.capabilities.representations & encoder.representations
        self.fusion = _default_fusion(self.held) if fusion is None else fusion
        self.candidates, self.rescore, self.group_by = candidates, rescore, group_by
        if not isinstance(self.fusion, WeightedSum | ReciprocalRank):
            raise InputError(f"fusion is a WeightedSum or a ReciprocalRank, not {fusion!r}")
        if rescore not in ("store", "encode"):
            raise InputError(f"rescore is 'store' or 'encode', not {rescore!r}")
        if candidates is not None:
            check_size(candidates, "candidates")
        if group_by is not None:
            check_field(group_by)
        self.kinds = self.fusion.representations
        check_fingerprint(store.fingerprint, encoder.fingerprint, store.identity)
        encoder.model.check(self.kinds)
        self.lacking = self.kinds - store.capabilities.representations
        self._check_lacking()

    def _check_lacking(self) -> None:
        if not self.lacking:
            return
        names = ", ".join(sorted(self.lacking))
        held = ", ".join(sorted(self.held)) or "none of the model's channels"
        if not self.kinds - self.lacking:
            raise Unsupported(f"the store holds {held}; the fusion weighs only {names}")
        if self.rescore != "encode" or not isinstance(self.fusion, WeightedSum):
            raise Unsupported(
                f"the fusion gives {names} a weight, but the store holds {held}. Either set the weight of {names} to 0, "
                "or use a WeightedSum with rescore='encode', which encodes the candidates' stored text"
            )

    def steps(self, queries: Sequence[str] | M3Vectors, k: int, where: Where) -> _Steps:
        """Search for all queries; yields what must be called and receives the answers."""
        check_size(k, "k")
        parsed = Filter.parse(where)
        kinds = self.kinds
        vectors = queries
        if not isinstance(vectors, M3Vectors):
            vectors = yield _Ask(self.encoder, "encode_queries", (queries,), {"representations": kinds})
        if not len(vectors):
            return []
        if missing := ", ".join(sorted(kinds - vectors.representations)):
            raise InputError(f"the queries have no {missing} vectors, which the fusion gives a weight")
        # Of one channel alone the best k are the result; only groups need more to choose from.
        alone = len(kinds) == 1 and not self.group_by
        count = k if alone else max(k, self.candidates or CANDIDATES)
        channels = {kind: count for kind in Representation if kind in kinds - self.lacking}
        absent: list[str] = []
        if self._store_fuses():
            answer = yield _Ask(
                self.store, "search_fused", (vectors, self.fusion, k, channels), {"where": parsed}
            )
            found = [_Found({hit.id: hit.document for hit in row}, {}) for row in answer]
            ranked = [[(hit.id, hit.score) for hit in row] for row in answer]
        else:
            answer = yield _Ask(self.store, "search", (vectors, channels), {"where": parsed})
            found = [_collect(answer, row) for row in range(len(vectors))]
            if isinstance(self.fusion, WeightedSum):
                absent += yield from self._complete(vectors, found)
            ranked = [self._rank(row, k) for row in found]
        absent += yield from self._complete(
            vectors, [_only(row, [name for name, _ in best]) for row, best in zip(found, ranked, strict=True)]
        )
        left_out = tuple(dict.fromkeys([*getattr(answer, "missing", ()), *absent]))
        return [
            Hits((self._hit(row, name, score) for name, score in best), left_out)
            for row, best in zip(found, ranked, strict=True)
        ]

    def _store_fuses(self) -> bool:
        """Whether the store does this fusion exactly: a weighted sum, or reciprocal rank without weights."""
        plain = isinstance(self.fusion, WeightedSum) or {
            self.fusion.weights.of(kind) for kind in self.kinds
        } == {1.0}
        name = type(self.fusion).__name__
        several = len(self.kinds) > 1 and not self.lacking and not self.group_by
        return several and plain and name in self.store.capabilities.fusions

    def _complete(self, vectors: M3Vectors, found: Sequence[_Found]) -> Generator[_Ask, Any, list[str]]:
        """Give every candidate a score in every channel of the fusion, 0 where it holds no such vector.

        Returns the stores that were left out, whose documents have 0 because nobody answered for them.
        """
        absent: list[str] = []
        encoded: _Encoded | None = None
        for kind in Representation:
            if kind not in self.kinds:
                continue
            wanted = [
                [name for name in row.documents if name not in row.scores.get(kind, {})] for row in found
            ]
            if not any(wanted):
                continue
            if kind in self.lacking:
                encoded = encoded or (yield from self._encode_candidates(found))
                scores = [encoded.scores(vectors, row, kind, names) for row, names in enumerate(wanted)]
            else:
                scores = yield _Ask(self.store, "score", (vectors, kind, wanted))
                absent += getattr(scores, "missing", ())
            for row, names, values in zip(found, wanted, scores, strict=True):
                filled = np.nan_to_num(values, nan=0.0).tolist()
                row.scores.setdefault(kind, {}).update(zip(names, filled, strict=True))
        return absent

    def _encode_candidates(self, found: Sequence[_Found]) -> Generator[_Ask, Any, "_Encoded"]:
        """All candidates in all channels that the store does not hold, in one pass."""
        documents = {name: document for row in found for name, document in row.documents.items()}
        texts = [self.text_of(document) for document in documents.values()]
        kinds = tuple(kind for kind in Representation if kind in self.lacking)
        passages = yield _Ask(self.encoder, "encode_documents", (texts,), {"representations": kinds})
        return _Encoded({name: place for place, name in enumerate(documents)}, passages)

    def _rank(self, found: _Found, k: int) -> list[tuple[str, float]]:
        fused = self.fusion.fuse(found.scores)
        names = rank_order(fused)
        if self.group_by:
            names = _first_of_each(names, found.documents, self.group_by)
        return [(name, fused[name]) for name in names[:k]]

    def _hit(self, found: _Found, name: str, score: float) -> Hit:
        scores = {
            kind: found.scores[kind][name] for kind in Representation if name in found.scores.get(kind, {})
        }
        return Hit(found.documents[name], score, scores)


class Retriever(_Search):
    """Hybrid search over a store with one model.

    fusion: by default the paper's weights for passages over the channels the store holds, or the raw scores of a single
    one. candidates: documents each channel contributes (100, or k if more). rescore: where scores come from that the
    search left open: ``"store"``, or ``"encode"`` to encode the stored text of the candidates for a channel the store
    does not hold.
    encode: the text that was encoded for the store, if it was made by a template like ``"{title}\\n{text}"`` or by a
    function (see `ingest`), for what is encoded here: candidates, and what `explain` lays open.
    group_by: a metadata field of which only the best document of each value is returned (chunks: ``parent_id``; dots
    reach into nested objects).

    Raises:
        Unsupported: the fusion weighs a channel the store does not hold. FingerprintMismatch: another model's store.
        RepresentationMissing: the fusion weighs a channel the model does not have.
    """

    store: Store

    @overload
    def search(self, query: str, k: int = 10, *, where: Where = None) -> Hits: ...  # type: ignore[overload-overlap]
    @overload
    def search(self, query: Sequence[str] | M3Vectors, k: int = 10, *, where: Where = None) -> list[Hits]: ...

    def search(
        self, query: str | Sequence[str] | M3Vectors, k: int = 10, *, where: Where = None
    ) -> Hits | list[Hits]:
        """The best k documents of one query, or of each query of a list. Equal scores order by id.

        Queries may also be vectors, with (at least) the representations that the fusion weighs.
        """
        steps = self.steps(_queries(query), k, where)
        answer: Any = None
        while True:
            try:
                ask = steps.send(answer)
            except StopIteration as end:
                results: list[Hits] = end.value
                return results[0] if isinstance(query, str) else results
            answer = ask.call()

    def explain(self, query: str, hit: Hit) -> Explanation:
        """Why the hit was found: matched tokens with their weights, the MaxSim pairs, the channel scores."""
        return explain(self.encoder, query, hit, self.text_of(hit.document))


class AsyncRetriever(_Search):
    """The same, awaited. Takes an `AsyncStore`, or a `Store`, whose calls then run in worker threads."""

    @overload
    async def search(self, query: str, k: int = 10, *, where: Where = None) -> Hits: ...  # type: ignore[overload-overlap]
    @overload
    async def search(
        self, query: Sequence[str] | M3Vectors, k: int = 10, *, where: Where = None
    ) -> list[Hits]: ...

    async def search(
        self, query: str | Sequence[str] | M3Vectors, k: int = 10, *, where: Where = None
    ) -> Hits | list[Hits]:
        """The same as `Retriever.search`."""
        steps = self.steps(_queries(query), k, where)
        answer: Any = None
        while True:
            try:
                ask = steps.send(answer)
            except StopIteration as end:
                results: list[Hits] = end.value
                return results[0] if isinstance(query, str) else results
            if inspect.iscoroutinefunction(getattr(ask.target, ask.method)):
                answer = ask.call()
            else:
                answer = await asyncio.to_thread(ask.call)
            if inspect.isawaitable(answer):
                answer = await answer

    async def explain(self, query: str, hit: Hit) -> Explanation:
        """Why the hit was found: matched tokens with their weights, the MaxSim pairs, the channel scores."""
        return await asyncio.to_thread(explain, self.encoder, query, hit, self.text_of(hit.document))


def _queries(query: str | Sequence[str] | M3Vectors) -> Sequence[str] | M3Vectors:
    if isinstance(query, str):
        return [query]
    if isinstance(query, bytes | Mapping) or not isinstance(query, M3Vectors | Iterable):
        raise InputError(
            f"a query is a string, a list of strings or M3Vectors, not {type(query).__name__}: {query!r:.60}"
        )
    return query


def _default_fusion(held: frozenset[Representation]) -> Fusion:
    if not held:
        raise Unsupported("the store holds none of the representations this model has")
    if len(held) == 1:
        return WeightedSum.only(*held)
    weights = WeightedSum.passages().weights
    return WeightedSum(**{kind.value: weights.of(kind) if kind in held else 0.0 for kind in Representation})


def _collect(answer: Mapping[Representation, Sequence[Sequence[Hit]]], row: int) -> _Found:
    found = _Found({}, {})
    for kind, rows in answer.items():
        found.scores[kind] = {hit.id: hit.score for hit in rows[row]}
        for hit in rows[row]:
            found.documents.setdefault(hit.id, hit.document)
    return found


def _only(found: _Found, names: Sequence[str]) -> _Found:
    """The same scores (shared, so that what is completed here is known there) with no other documents."""
    return _Found({name: found.documents[name] for name in names}, found.scores)


def _first_of_each(names: Sequence[str], documents: Mapping[str, Document], group_by: str) -> list[str]:
    """The first of the documents with an equal value in the field; one without the field is a group of its own."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for name in names:
        value: Any = documents[name].metadata
        for part in group_by.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        key = ("document", name) if value is None else _equality(value)
        if key not in seen:
            seen.add(key)
            kept.append(name)
    return kept


def _equality(value: Any) -> tuple[str, str]:
    """Equal for values that filters take for equal: 1 and 1.0, but neither of them and true."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return type(value).__name__, repr(value)
