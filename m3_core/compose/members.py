"""Stores asked at the same time: threads, a timeout for each, and what happens when one does not answer."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from threading import Thread
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from m3_core.checks import Batch, check_upsert
from m3_core.errors import (
    FingerprintMismatch,
    InputError,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    Unsupported,
)
from m3_core.filters import Filter
from m3_core.store import Capabilities, ClosingMixin, Schema, ScoreResult, Store
from m3_core.types import Document, FloatArray, Hit, M3Vectors, Representation

T = TypeVar("T")
Found: TypeAlias = Mapping[Representation, list[list[Hit]]]
OnFailure: TypeAlias = Literal["raise", "skip"]
_MOST_OVERDUE = 16
"""Unanswered calls after which a member is not asked any more until one of them returns."""


class MissingMemberWarning(UserWarning):
    """A store did not answer and was left out of a search, as the caller chose."""


class Composite(ClosingMixin):
    """What `SplitStore` and `UnionStore` share. The members belong to it: closing it closes them.

    timeout: seconds that a member has to answer a search or scores, None waits as long as it takes.
    on_failure: "raise", or "skip" to leave a member out that is down or late.
    """

    def __init__(self, stores: Sequence[Store], timeout: float | None, on_failure: OnFailure) -> None:
        if timeout is not None and not timeout > 0:
            raise InputError(f"the timeout must be a number of seconds above 0, or None, not {timeout!r}")
        if on_failure not in ("raise", "skip"):
            raise InputError(f"on_failure must be 'raise' or 'skip', not {on_failure!r}")
        self._stores = tuple(stores)
        self._timeout = timeout
        self._skips = on_failure == "skip"
        self._fingerprint = _common_fingerprint(stores)
        # What members hold, also beyond the channels that are searched: an upsert has to bring all of it.
        self._needed = frozenset(kind for store in stores for kind in store.capabilities.representations)
        self._overdue: list[set[Future[Any]]] = [set() for _ in stores]
        self._closed = False

    @property
    def fingerprint(self) -> str | None:
        return self._fingerprint

    def close(self) -> None:
        """Close every member, also after one that fails to."""
        self._closed = True
        with ExitStack() as stack:
            for store in self._stores:
                stack.callback(store.close)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed, with the stores that it is made of")

    def _check_upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> Batch:
        """All checks that need no schema, before the first member writes anything."""
        return check_upsert(documents, vectors, schema_of(vectors, self._needed))

    def _ask_search(
        self, calls: Mapping[int, Callable[[Store], Found]]
    ) -> tuple[dict[int, Found], tuple[str, ...]]:
        """The members' hits, and the identities of the stores that are missing, in members of members too."""
        answers, missing = self._ask(calls, timeout=self._timeout, skip=self._skips, at_least=1)
        return answers, _all_missing(missing, answers)

    def _scores(
        self, calls: Mapping[int, Callable[[Store], list[FloatArray]]], ids: Sequence[Sequence[str]]
    ) -> ScoreResult:
        """The members' scores as one: where several know a document, the highest; NaN where none does."""
        answers, missing = self._ask(calls, timeout=self._timeout, skip=self._skips)
        scores = [np.full(len(names), np.nan, np.float32) for names in ids]
        for answer in answers.values():
            scores = [np.fmax(known, more) for known, more in zip(scores, answer, strict=True)]
        return ScoreResult(scores, _all_missing(missing, answers))

    def _ask(
        self,
        calls: Mapping[int, Callable[[Store], T]],
        *,
        timeout: float | None = None,
        skip: bool = False,
        at_least: int = 0,
    ) -> tuple[dict[int, T], tuple[str, ...]]:
        """The answers by member, all asked at once, and the identities of those left out.

        Raises:
            StoreUnavailable: a member is down or late and is not to be skipped, or too few answered.
        """
        futures = {member: self._start(member, call) for member, call in calls.items()}
        wait(futures.values(), timeout=timeout)
        answers: dict[int, T] = {}
        failures: dict[int, BaseException] = {}
        for member, future in futures.items():
            if not future.done():
                failures[member] = StoreUnavailable(f"no answer within {timeout} seconds")
                self._remember(member, future)
            elif error := future.exception():
                if not _is_down(error):
                    raise error
                failures[member] = error
            else:
                answers[member] = future.result()
        if not failures:
            return answers, ()
        missing = tuple(self._stores[member].identity for member in failures)
        what = "; ".join(
            f"{name} failed: {error}" for name, error in zip(missing, failures.values(), strict=True)
        )
        if not skip or len(answers) < at_least:
            raise StoreUnavailable(what) from next(iter(failures.values()))
        warnings.warn(f"left out of the answer: {what}", MissingMemberWarning, stacklevel=4)
        return answers, missing

    def _start(self, member: int, call: Callable[[Store], T]) -> Future[T]:
        # A thread for each call, and daemons: a pool would queue the calls of a search behind those that
        # hang, and would keep the process from ending until they return.
        future: Future[T] = Future()
        if len(self._overdue[member]) >= _MOST_OVERDUE:
            future.set_exception(StoreUnavailable(f"{_MOST_OVERDUE} earlier calls were not answered yet"))
        else:
            Thread(target=_run, args=(future, call, self._stores[member]), daemon=True).start()
        return future

    def _remember(self, member: int, future: Future[T]) -> None:
        self._overdue[member].add(future)
        future.add_done_callback(self._overdue[member].discard)


def _run(future: Future[T], call: Callable[[Store], T], store: Store) -> None:
    try:
        future.set_result(call(store))
    except BaseException as error:  # noqa: BLE001  # whatever it is, the caller's thread raises it
        future.set_exception(error)


def _all_missing(here: Sequence[str], answers: Mapping[int, object]) -> tuple[str, ...]:
    """The stores that are missing here, and in members of members."""
    return (*here, *(name for answer in answers.values() for name in getattr(answer, "missing", ())))


def _is_down(error: BaseException) -> bool:
    """Whether the member is at fault; a bad filter or a wrong dimension is the caller's, and fails everywhere."""
    return isinstance(error, StoreError | OSError) and not isinstance(error, SchemaMismatch | Unsupported)


def _common_fingerprint(stores: Sequence[Store]) -> str | None:
    known = [(store.identity, store.fingerprint) for store in stores if store.fingerprint is not None]
    for identity, fingerprint in known[1:]:
        if fingerprint != known[0][1]:
            raise FingerprintMismatch(
                f"{known[0][0]} holds vectors of the model {known[0][1]}, but {identity} those of {fingerprint}; "
                "stores can be searched as one only if one model made all their vectors"
            )
    return known[0][1] if known else None


def schema_of(vectors: M3Vectors, kinds: Collection[Representation]) -> Schema:
    """A schema of these channels that the vectors fit: for the checks that need no collection."""
    return Schema(
        dense=0 if vectors.dense is None else vectors.dense.shape[1],
        sparse=0 if vectors.sparse is None else vectors.sparse.shape[1],
        multi=0 if vectors.multi is None else vectors.multi.values.shape[1],
    ).only(kinds)


def joint_capabilities(stores: Sequence[Store], kinds: frozenset[Representation]) -> Capabilities:
    """What stores can do together: no more than the weakest."""
    each = [store.capabilities for store in stores]
    return Capabilities(
        representations=kinds,
        unsupported_filters=frozenset().union(*(one.unsupported_filters for one in each)),
        exact=all(one.exact for one in each),
        score_tolerance=max(one.score_tolerance for one in each),
    )


def search(queries: M3Vectors, k: Mapping[Representation, int], where: Filter | None, store: Store) -> Found:
    """`Store.search` with the store last, to be asked of several."""
    return store.search(queries, k, where=where)


def score(
    queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]], store: Store
) -> list[FloatArray]:
    """`Store.score` with the store last."""
    return store.score(queries, by, ids)
