"""The documents of a collection in different stores."""

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

from m3_core.checks import check_held, check_ids, check_size, check_store, check_update
from m3_core.compose.members import Composite, OnFailure, joint_capabilities, schema_of, score, search
from m3_core.errors import InputError
from m3_core.filters import Filter, Where
from m3_core.store import Capabilities, Page, ScoreResult, SearchResult, Store
from m3_core.types import Document, Hit, M3Vectors, Record, Representation

T = TypeVar("T")


class UnionStore(Composite):
    """Documents spread over several stores, like old and new, or parts of a large collection.

    An id is in one member. ``route`` says which member (by its place) an upsert puts an id in, by default a
    hash of the id; where the id was before, it is removed. Other calls ask all members, and so need all of
    them; only `search` and `score` can do without.

    Members are searched at the same time, each with ``timeout`` seconds. With ``on_failure="skip"`` a member
    that is down or late is left out with a warning: its documents are not found, their scores are NaN, and
    ``missing`` of the result (`SearchResult`, `ScoreResult`) names it.

    Raises:
        InputError: no stores, one of them twice, or none of the channels is in all.
        FingerprintMismatch: the stores hold vectors of different models.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        route: Callable[[str], int] | None = None,
        timeout: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        if not stores:
            raise InputError("a UnionStore needs at least one store")
        for store in stores:
            check_store(store)
        if len({id(store) for store in stores}) < len(stores):
            raise InputError("the same store is in the union twice")
        super().__init__(stores, timeout, on_failure)
        common = frozenset.intersection(*(store.capabilities.representations for store in stores))
        if not common:
            raise InputError("there is no channel that all stores of the union hold, so nothing to search by")
        self._route = route or self._by_hash
        self._capabilities = joint_capabilities(stores, common)
        self._identity = f"union({', '.join(store.identity for store in stores)})"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def identity(self) -> str:
        return self._identity

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write documents to the member of each, and remove them from others. Raises before it writes if one is down."""
        self._check_open()
        batch = self._check_upsert(documents, vectors)
        rows: list[list[int]] = [[] for _ in self._stores]
        for row, document in enumerate(batch.documents):
            rows[self._place(document.id)].append(row)
        names = [[batch.documents[row].id for row in some] for some in rows]
        strays = self._held(
            {
                member: [name for other, some in enumerate(names) if other != member for name in some]
                for member in range(len(self._stores))
            }
        )
        for store, some in zip(self._stores, rows, strict=True):
            if some:
                store.upsert([batch.documents[row] for row in some], batch.vectors.take(some))
        for member, held in strays.items():
            if held:
                self._stores[member].delete(sorted(held))

    def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Replace channels of documents where they are."""
        self._check_open()
        check_update(ids, vectors, schema_of(vectors, self.capabilities.representations))
        held = self._held(dict.fromkeys(range(len(self._stores)), ids))
        absent = [name for name in ids if not any(name in names for names in held.values())]
        if absent:
            raise InputError(f"there is no document with the id {absent[0]!r}; nothing was updated")
        for member, names in held.items():
            rows = [row for row, name in enumerate(ids) if name in names]
            if rows:
                self._stores[member].update_vectors([ids[row] for row in rows], vectors.take(rows))

    def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        """Delete from every member."""
        self._check_open()
        check_ids(ids)
        condition = Filter.parse(where)
        for store in self._stores:
            store.delete(ids, where=condition)

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        """The named documents, from whichever member holds them."""
        self._check_open()
        check_held(vectors, self.capabilities.representations)
        answers, _ = self._ask(self._everywhere(lambda store: store.get(ids, vectors=vectors)))
        columns = zip(*answers.values(), strict=True)
        return [next((record for record in column if record is not None), None) for column in columns]

    def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        """One member after the other; the cursor is the member's place and its own cursor."""
        self._check_open()
        check_size(size, "the page size")
        check_held(vectors, self.capabilities.representations)
        condition = Filter.parse(where)
        place, _, inner = (cursor or "0:").partition(":")
        if not place.isdecimal() or int(place) >= len(self._stores):
            raise InputError(f"{cursor!r} is no cursor of this store")
        member = int(place)
        page = self._stores[member].scan(where=condition, vectors=vectors, cursor=inner or None, size=size)
        while not page.records and page.cursor is None and member + 1 < len(self._stores):
            member += 1
            page = self._stores[member].scan(where=condition, vectors=vectors, size=size)
        if page.cursor is not None:
            return Page(page.records, f"{member}:{page.cursor}")
        return Page(page.records, f"{member + 1}:" if member + 1 < len(self._stores) else None)

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> SearchResult:
        """Search all members at the same time; the best of all by each channel's score."""
        self._check_open()
        check_held(k.keys(), self.capabilities.representations)
        calls = self._everywhere(partial(search, queries, k, Filter.parse(where)))
        answers, missing = self._ask_search(calls)
        return SearchResult(
            {
                kind: [
                    _best((found[kind][row] for found in answers.values()), size)
                    for row in range(len(queries))
                ]
                for kind, size in k.items()
            },
            missing,
        )

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> ScoreResult:
        """Scores from whichever member holds each document."""
        self._check_open()
        check_held([by], self.capabilities.representations)
        return self._scores(self._everywhere(partial(score, queries, by, ids)), ids)

    def count(self, *, where: Where = None) -> int:
        """How many documents all members hold."""
        self._check_open()
        condition = Filter.parse(where)
        answers, _ = self._ask(self._everywhere(lambda store: store.count(where=condition)))
        return sum(answers.values())

    def _everywhere(self, call: Callable[[Store], T]) -> dict[int, Callable[[Store], T]]:
        return dict.fromkeys(range(len(self._stores)), call)

    def _held(self, asked: Mapping[int, Sequence[str]]) -> dict[int, set[str]]:
        """Which of the asked ids each member holds."""
        calls = {member: partial(_present, names) for member, names in asked.items() if names}
        answers, _ = self._ask(calls)
        return answers

    def _place(self, name: str) -> int:
        place = self._route(name)
        if not 0 <= place < len(self._stores):
            raise InputError(
                f"the route sends {name!r} to the store {place}, but they count from 0 to {len(self._stores) - 1}"
            )
        return place

    def _by_hash(self, name: str) -> int:
        return zlib.crc32(name.encode()) % len(self._stores)


def _present(names: Sequence[str], store: Store) -> set[str]:
    return {record.id for record in store.get(names) if record is not None}


def _best(found: Iterable[list[Hit]], k: int) -> list[Hit]:
    best: dict[str, Hit] = {}
    for hit in chain.from_iterable(found):
        if hit.id not in best or hit.score > best[hit.id].score:
            best[hit.id] = hit
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.id))[:k]
