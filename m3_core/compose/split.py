"""The channels of a collection in different stores."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from m3_core.checks import check_held, check_store, check_update
from m3_core.compose.members import Composite, OnFailure, joint_capabilities, schema_of, score, search
from m3_core.errors import InputError, StoreError
from m3_core.filters import Filter, Where
from m3_core.store import Capabilities, Page, ScoreResult, SearchResult, Store
from m3_core.types import Document, Hit, M3Vectors, Record, Representation


class SplitStore(Composite):
    """The channels of the same documents in different stores, like dense and multi in one, lexical in another.

    ``SplitStore(dense=a, multi=a, sparse=b)``. Every member holds all documents with text and metadata, and
    filters for itself. Documents are read from the primary: the store of the channel ``primary`` names, by
    default that of the first channel. A write goes to one member after the other, to the primary last, so
    that what it holds the others hold; if a member fails in between, the same write again repairs it. Documents that a
    member refuses are taken out of the others again, unless they replace earlier ones.

    Members are searched at the same time, each with ``timeout`` seconds. With ``on_failure="skip"`` a member
    that is down or late is left out with a warning: its channels find nothing, its scores are NaN, and
    ``missing`` of the result (`SearchResult`, `ScoreResult`) names it.

    Raises:
        InputError: no channel is given.
        Unsupported: a store does not hold the channel that is wanted from it.
        FingerprintMismatch: the stores hold vectors of different models.
    """

    def __init__(
        self,
        *,
        dense: Store | None = None,
        sparse: Store | None = None,
        multi: Store | None = None,
        primary: Representation | None = None,
        timeout: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        given = zip(Representation, (dense, sparse, multi), strict=True)
        channels = {kind: store for kind, store in given if store is not None}
        if not channels:
            raise InputError("a SplitStore needs a store for at least one of dense, sparse and multi")
        for kind, store in channels.items():
            check_store(store)
            check_held([kind], store.capabilities.representations)
        first = next(iter(channels)) if primary is None else primary
        if first not in channels:
            raise InputError(f"the primary is the store for {first}, but none is given for {first}")
        # The primary comes first among the members.
        stores = list({id(store): store for store in (channels[first], *channels.values())}.values())
        super().__init__(stores, timeout, on_failure)
        self._primary = channels[first]
        self._member = {kind: stores.index(store) for kind, store in channels.items()}
        self._capabilities = joint_capabilities(stores, frozenset(channels))
        self._identity = f"split({', '.join(f'{kind}={store.identity}' for kind, store in channels.items())})"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def identity(self) -> str:
        return self._identity

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        """Write documents to every member, with the channels it holds."""
        self._check_open()
        batch = self._check_upsert(documents, vectors)
        for store in reversed(self._stores):
            try:
                store.upsert(batch.documents, batch.vectors)
            except InputError:
                self._withdraw([document.id for document in batch.documents])
                raise

    def _withdraw(self, ids: Sequence[str]) -> None:
        """Take out of the other members again what one has refused; what the primary held before stays in all."""
        held = self._primary.get(ids)
        strays = [name for name, record in zip(ids, held, strict=True) if record is None]
        for store in self._stores[1:]:
            store.delete(strays)

    def update_vectors(self, ids: Sequence[str], vectors: M3Vectors) -> None:
        """Replace channels in every member that holds them."""
        self._check_open()
        check_update(ids, vectors, schema_of(vectors, self.capabilities.representations))
        for store in reversed(self._stores):
            kinds = vectors.representations & store.capabilities.representations
            if kinds:
                store.update_vectors(ids, vectors.only(kinds))

    def delete(self, ids: Sequence[str] = (), *, where: Where = None) -> None:
        """Delete from every member, from the primary first."""
        self._check_open()
        for store in self._stores:
            store.delete(ids, where=where)

    def get(self, ids: Sequence[str], *, vectors: Collection[Representation] = ()) -> list[Record | None]:
        """Documents from the primary, with vectors from the members that hold them."""
        self._check_open()
        check_held(vectors, self.capabilities.representations)
        return self._complete(self._primary.get(ids, vectors=self._of_primary(vectors)), vectors)

    def scan(
        self,
        *,
        where: Where = None,
        vectors: Collection[Representation] = (),
        cursor: str | None = None,
        size: int = 256,
    ) -> Page:
        """A scan of the primary, with vectors from the members that hold them."""
        self._check_open()
        check_held(vectors, self.capabilities.representations)
        page = self._primary.scan(where=where, vectors=self._of_primary(vectors), cursor=cursor, size=size)
        return Page([record for record in self._complete(page.records, vectors) if record], page.cursor)

    def search(
        self, queries: M3Vectors, k: Mapping[Representation, int], *, where: Where = None
    ) -> SearchResult:
        """Search each channel in its store, all at the same time."""
        self._check_open()
        check_held(k.keys(), self.capabilities.representations)
        condition = Filter.parse(where)
        wanted: dict[int, dict[Representation, int]] = {}
        for kind, size in k.items():
            wanted.setdefault(self._member[kind], {})[kind] = size
        calls = {member: partial(search, queries, some, condition) for member, some in wanted.items()}
        answers, missing = self._ask_search(calls)

        def hits(kind: Representation) -> list[list[Hit]]:
            answer = answers.get(self._member[kind])
            return [[] for _ in range(len(queries))] if answer is None else answer[kind]

        return SearchResult({kind: hits(kind) for kind in k}, missing)

    def score(self, queries: M3Vectors, by: Representation, ids: Sequence[Sequence[str]]) -> ScoreResult:
        """Scores from the member that holds the channel."""
        self._check_open()
        check_held([by], self.capabilities.representations)
        return self._scores({self._member[by]: partial(score, queries, by, ids)}, ids)

    def count(self, *, where: Where = None) -> int:
        """How many documents the primary holds."""
        self._check_open()
        return self._primary.count(where=where)

    def _of_primary(self, kinds: Collection[Representation]) -> list[Representation]:
        return [kind for kind in kinds if self._member[kind] == 0]

    def _complete(
        self, records: Sequence[Record | None], kinds: Collection[Representation]
    ) -> list[Record | None]:
        """The primary's records with the vectors of the other members."""
        found = {record.id: record for record in records if record is not None}
        for member, store in enumerate(self._stores[1:], start=1):
            theirs = [kind for kind in kinds if self._member[kind] == member]
            names = list(found) if theirs else []
            for name, other in zip(names, store.get(names, vectors=theirs), strict=True):
                if other is None or other.vectors is None:
                    raise StoreError(
                        f"the document {name!r} is in {self._primary.identity} but not in {store.identity}, "
                        "after a write that failed half way; write it again"
                    )
                found[name] = replace(found[name], vectors=_join(found[name].vectors, other.vectors))
        return [record and found[record.id] for record in records]


def _join(held: M3Vectors | None, more: M3Vectors) -> M3Vectors:
    """The channels of both."""
    return replace(
        more,
        **{
            kind.value: getattr(held, kind.value)
            for kind in (held.representations if held is not None else ())
        },
    )
