"""Search against a float64 computation by hand: sums, ranks, ties, groups, rescoring, refusals, sync and async."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3_core.compose import SplitStore, UnionStore
from m3_core.encoder import M3Encoder
from m3_core.errors import (
    FilterError,
    FingerprintMismatch,
    InputError,
    RepresentationMissing,
    StoreUnavailable,
    Unsupported,
)
from m3_core.fusion import Fusion, ReciprocalRank, WeightedSum
from m3_core.ingestion.run import ingest
from m3_core.memory import MemoryStore
from m3_core.model import M3Model
from m3_core.retriever import AsyncRetriever, Hits, Retriever
from m3_core.store import Schema
from m3_core.threaded import ThreadedStore
from m3_core.types import ALL_REPRESENTATIONS, Document, Hit, M3Vectors, Representation

DENSE, SPARSE, MULTI = Representation
QUERIES = ("Hauptstadt von Deutschland", "столицей России", "首都", "the lazy dog", "...", "")


@pytest.fixture(scope="session")
def encoder(bert_folder: Path) -> M3Encoder:
    return M3Encoder.load(bert_folder, device="cpu")


@pytest.fixture(scope="session")
def documents(texts: tuple[str, ...]) -> list[Document]:
    words = [text.split() for text in texts]
    rng = np.random.default_rng(8)
    made = []
    for number in range(60):
        size = int(rng.integers(3, 14))
        some = [words[rng.integers(len(words))] for _ in range(size)]
        text = " ".join(row[rng.integers(len(row))] for row in some)
        metadata = {"parent": f"p{number % 7}", "number": number, "even": number % 2 == 0}
        made.append(Document(f"d{number:02}", text, metadata))
    return made


@pytest.fixture(scope="session")
def vectors(encoder: M3Encoder, documents: list[Document]) -> M3Vectors:
    return encoder.encode_documents([document.text for document in documents])


def store_of(
    encoder: M3Encoder,
    documents: Sequence[Document],
    vectors: M3Vectors,
    kinds: Sequence[Representation] = tuple(Representation),
) -> MemoryStore:
    store = MemoryStore(encoder.schema(kinds))
    store.upsert(documents, vectors)
    return store


@pytest.fixture(scope="session")
def store(encoder: M3Encoder, documents: list[Document], vectors: M3Vectors) -> MemoryStore:
    return store_of(encoder, documents, vectors)


def exact(
    encoder: M3Encoder, vectors: M3Vectors, query: str
) -> dict[Representation, np.ndarray[Any, np.dtype[np.float64]]]:
    """Every channel's score of every document, in float64."""
    found = encoder.encode_queries([query])
    assert found.dense is not None
    assert found.sparse is not None
    assert found.multi is not None
    assert vectors.dense is not None
    assert vectors.sparse is not None
    assert vectors.multi is not None
    rows = found.multi[0].astype(np.float64)
    return {
        DENSE: vectors.dense.astype(np.float64) @ found.dense[0].astype(np.float64),
        SPARSE: vectors.sparse.toarray().astype(np.float64) @ found.sparse.toarray()[0].astype(np.float64),
        MULTI: np.array(
            [(rows @ passage.astype(np.float64).T).max(axis=1).mean() for passage in vectors.multi]
        ),
    }


def candidates_of(scores: dict[Representation, Any], count: int) -> set[int]:
    """The places of the documents that are among the best ``count`` of any channel."""
    found: set[int] = set()
    for kind, values in scores.items():
        order = sorted(range(len(values)), key=lambda place: (-values[place], place))
        found |= {place for place in order[:count] if kind is not SPARSE or values[place] > 0}
    return found


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("count", [1, 4, 100])
@pytest.mark.parametrize("fusion", [WeightedSum(), WeightedSum.long_documents(), WeightedSum(1, 0.3, 0)])
def test_the_weighted_sum_is_exact_over_the_candidates(
    encoder: M3Encoder,
    store: MemoryStore,
    documents: list[Document],
    vectors: M3Vectors,
    query: str,
    count: int,
    fusion: WeightedSum,
) -> None:
    scores = {
        kind: values
        for kind, values in exact(encoder, vectors, query).items()
        if kind in fusion.representations
    }
    size = max(count, 3)  # at least k
    total = sum(fusion.weights.of(kind) * values for kind, values in scores.items())
    best = sorted(candidates_of(scores, size), key=lambda place: -total[place])[:3]
    hits = Retriever(encoder, store, fusion=fusion, candidates=count).search(query, k=3)
    assert [hit.id for hit in hits] == [documents[place].id for place in best]
    for hit, place in zip(hits, best, strict=True):
        assert hit.document == documents[place]
        assert hit.score == pytest.approx(total[place], abs=1e-5)
        assert hit.scores.keys() == fusion.representations
        for kind, score in hit.scores.items():
            assert score == pytest.approx(scores[kind][place], abs=1e-5)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("fusion", [ReciprocalRank(), ReciprocalRank(k=2, dense=0.5, sparse=2, multi=0)])
def test_reciprocal_rank_equals_the_formula(
    encoder: M3Encoder,
    store: MemoryStore,
    documents: list[Document],
    vectors: M3Vectors,
    query: str,
    fusion: ReciprocalRank,
) -> None:
    expected: dict[str, float] = {}
    scores = exact(encoder, vectors, query)
    for kind in fusion.representations:
        order = np.argsort(-scores[kind], kind="stable").tolist()
        order = [place for place in order if kind is not SPARSE or scores[kind][place] > 0][:10]
        for rank, place in enumerate(order, start=1):
            name = documents[place].id
            expected[name] = expected.get(name, 0.0) + fusion.weights.of(kind) / (fusion.k + rank)
    best = sorted(expected, key=lambda name: (-expected[name], name))[:10]
    hits = Retriever(encoder, store, fusion=fusion, candidates=3).search(query, k=10)
    assert [hit.id for hit in hits] == best
    assert [hit.score for hit in hits] == pytest.approx([expected[name] for name in best])
    # Scores per channel are there for every hit, found by the channel or not.
    for hit in hits:
        assert hit.scores.keys() == fusion.representations
        for kind, score in hit.scores.items():
            assert score == pytest.approx(scores[kind][int(hit.id[1:])], abs=1e-5)


@pytest.mark.parametrize("fusion", [WeightedSum(), ReciprocalRank()])
def test_equal_scores_order_by_id(encoder: M3Encoder, fusion: Fusion) -> None:
    names = ["b", "c", "a", "ä", "B"]
    store = store_of(
        encoder,
        [Document(name, "Berlin an der Spree") for name in names],
        encoder.encode_documents(["Berlin an der Spree"] * 5),
    )
    hits = Retriever(encoder, store, fusion=fusion).search("Berlin", k=3)
    assert [hit.id for hit in hits] == sorted(names)[:3]


def test_queries_of_a_list_are_answered_in_order(encoder: M3Encoder, store: MemoryStore) -> None:
    retriever = Retriever(encoder, store)
    found = retriever.search(QUERIES, k=5)
    assert [len(hits) for hits in found] == [5] * len(QUERIES)
    for query, hits in zip(QUERIES, found, strict=True):
        same(hits, retriever.search(query, k=5))
    same(retriever.search([QUERIES[0]], k=5)[0], found[0])
    assert retriever.search([]) == []
    by_vectors = retriever.search(encoder.encode_queries(QUERIES), k=5)
    for left, right in zip(by_vectors, found, strict=True):
        same(left, right)


def same(left: Sequence[Hit], right: Sequence[Hit], tolerance: float = 1e-5) -> None:
    assert [hit.id for hit in left] == [hit.id for hit in right]
    for one, other in zip(left, right, strict=True):
        assert one.document == other.document
        assert one.score == pytest.approx(other.score, abs=tolerance)
        assert dict(one.scores) == pytest.approx(dict(other.scores), abs=tolerance)


def test_a_query_without_words_has_no_lexical_score(encoder: M3Encoder, store: MemoryStore) -> None:
    for query in ("", "   ", "\u200b"):
        hits = Retriever(encoder, store).search(query, k=5)
        assert len(hits) == 5
        assert {hit.scores[SPARSE] for hit in hits} == {0.0}
    assert Retriever(encoder, store, fusion=WeightedSum(0, 1, 0)).search("") == []


def test_the_filter_reaches_every_channel(
    encoder: M3Encoder, store: MemoryStore, documents: list[Document]
) -> None:
    retriever = Retriever(encoder, store, candidates=5)
    where = {"even": True, "number": {"$lt": 21}}
    hits = retriever.search(QUERIES[0], k=60, where=where)
    assert {hit.id for hit in hits} == {f"d{number:02}" for number in range(0, 21, 2)}
    assert retriever.search(QUERIES[0], where={"number": 99}) == []
    with pytest.raises(FilterError, match=r"\$near"):
        retriever.search(QUERIES[0], where={"number": {"$near": 3}})


def test_a_group_gives_its_best_document(encoder: M3Encoder, store: MemoryStore) -> None:
    every = Retriever(encoder, store).search(QUERIES[0], k=60)
    best: dict[str, Hit] = {}
    for hit in every:
        best.setdefault(hit.document.metadata["parent"], hit)
    grouped = Retriever(encoder, store, group_by="parent").search(QUERIES[0], k=5)
    same(grouped, list(best.values())[:5])
    assert len(Retriever(encoder, store, group_by="parent").search(QUERIES[0], k=60)) == 7


def test_groups_are_of_equal_values_as_filters_understand_them(encoder: M3Encoder) -> None:
    values: list[Any] = [1, 1.0, True, "1", None, None, [1], [1], {"b": 2}, {"b": 2}]
    made = [Document(f"d{row}", "Berlin", {"group": value}) for row, value in enumerate(values)]
    made += [Document("e0", "Berlin", {}), Document("e1", "Berlin", {})]
    store = store_of(encoder, made, encoder.encode_documents(["Berlin"] * len(made)))
    hits = Retriever(encoder, store, group_by="group").search("Berlin", k=20)
    # 1 and 1.0, the lists and the objects are one group each; null is the same as missing.
    assert [hit.id for hit in hits] == ["d0", "d2", "d3", "d4", "d5", "d6", "d8", "e0", "e1"]
    nested = Retriever(encoder, store, group_by="group.b").search("Berlin", k=20)
    assert [hit.id for hit in nested] == [name for name in sorted(d.id for d in made) if name != "d9"]
    with pytest.raises(FilterError, match="field name 'a b'"):
        Retriever(encoder, store, group_by="a b")


@pytest.mark.parametrize("fusion", [WeightedSum(), WeightedSum(0.2, 0.5, 2.0)])
def test_candidates_encoded_again_score_as_stored_vectors(
    encoder: M3Encoder,
    store: MemoryStore,
    documents: list[Document],
    vectors: M3Vectors,
    fusion: WeightedSum,
) -> None:
    held = store_of(encoder, documents, vectors, (DENSE, SPARSE))
    retriever = Retriever(encoder, held, fusion=fusion, rescore="encode")
    full = Retriever(encoder, store, fusion=fusion)
    # With every document a candidate of the dense channel, both see the same candidates.
    for encoded, stored in zip(retriever.search(QUERIES, k=8), full.search(QUERIES, k=8), strict=True):
        same(encoded, stored)
        assert all(hit.scores.keys() == ALL_REPRESENTATIONS for hit in encoded)


def test_fewer_candidates_are_encoded_than_there_are_documents(
    encoder: M3Encoder, documents: list[Document], vectors: M3Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = store_of(encoder, documents, vectors, (DENSE,))
    retriever = Retriever(encoder, held, fusion=WeightedSum(1, 0.3, 1), rescore="encode", candidates=4)
    seen: list[int] = []
    original = M3Encoder.encode_documents

    def counted(self: M3Encoder, texts: Sequence[str], **options: Any) -> M3Vectors:
        seen.append(len(texts))
        return original(self, texts, **options)

    monkeypatch.setattr(M3Encoder, "encode_documents", counted)
    hits = retriever.search(QUERIES[0], k=2)
    assert seen == [4]  # lexical weights and multi-vectors in one pass
    scores = exact(encoder, vectors, QUERIES[0])
    best = np.argsort(-scores[DENSE], kind="stable")[:4]
    total = scores[DENSE] + 0.3 * scores[SPARSE] + scores[MULTI]
    expected = sorted(best.tolist(), key=lambda place: -total[place])[:2]
    assert [hit.id for hit in hits] == [documents[place].id for place in expected]
    assert [hit.score for hit in hits] == pytest.approx([total[place] for place in expected], abs=1e-5)


def test_what_is_encoded_is_what_was_encoded_for_the_store(
    encoder: M3Encoder, documents: list[Document], texts: tuple[str, ...]
) -> None:
    """With the template of the ingest, a store without multi-vectors gives the hits of one with them."""
    titled = [
        Document(item.id, item.text, {"title": texts[-1 - n % len(texts)]})
        for n, item in enumerate(documents)
    ]
    held, full = MemoryStore(encoder.schema((DENSE, SPARSE))), MemoryStore(encoder.schema())
    template = "{title}: {text}"
    for one in (held, full):
        ingest(titled, encoder, one, encode=template)
    wanted = Retriever(encoder, full, fusion=WeightedSum()).search(texts[-2], k=8)
    same(
        Retriever(encoder, held, fusion=WeightedSum(), rescore="encode", encode=template).search(
            texts[-2], k=8
        ),
        wanted,
    )
    bare = Retriever(encoder, held, fusion=WeightedSum(), rescore="encode").search(texts[-2], k=8)
    assert [hit.score for hit in bare] != pytest.approx([hit.score for hit in wanted], abs=1e-4)
    explained = Retriever(encoder, full, encode=template).explain(texts[-2], wanted[0])
    assert explained.text == f"{wanted[0].document.metadata['title']}: {wanted[0].document.text}"
    assert sum(match.product for match in explained.matches) == pytest.approx(
        wanted[0].scores[SPARSE], abs=1e-5
    )


def test_one_channel_alone_needs_no_more_than_k(
    encoder: M3Encoder, store: MemoryStore, vectors: M3Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    original = MemoryStore.search
    monkeypatch.setattr(
        MemoryStore,
        "search",
        lambda self, queries, k, **rest: asked.append(k) or original(self, queries, k, **rest),  # type: ignore[func-returns-value]
    )
    fusion = WeightedSum(0.5, 0, 0)
    hits = Retriever(encoder, store, fusion=fusion).search(QUERIES[0], k=3)
    Retriever(encoder, store, fusion=fusion, group_by="parent").search(QUERIES[0], k=3)
    assert asked == [{DENSE: 3}, {DENSE: 100}]
    scores = exact(encoder, vectors, QUERIES[0])[DENSE]
    best = np.argsort(-scores, kind="stable")[:3].tolist()
    assert [hit.id for hit in hits] == [f"d{place:02}" for place in best]
    assert [hit.score for hit in hits] == pytest.approx([0.5 * scores[place] for place in best], abs=1e-5)


# Refusals


def test_a_channel_that_the_store_lacks_is_refused_with_both_ways_out(
    encoder: M3Encoder, documents: list[Document], vectors: M3Vectors
) -> None:
    held = store_of(encoder, documents, vectors, (DENSE, SPARSE))
    with pytest.raises(Unsupported, match=r"multi a weight.*holds dense, sparse.*to 0, or.*rescore='encode'"):
        Retriever(encoder, held, fusion=WeightedSum())
    with pytest.raises(Unsupported, match=r"WeightedSum with rescore='encode'"):
        Retriever(encoder, held, fusion=ReciprocalRank(), rescore="encode")
    with pytest.raises(Unsupported, match="fusion weighs only multi"):
        Retriever(encoder, held, fusion=WeightedSum(0, 0, 1), rescore="encode")
    # Without a fusion, the channels that are there are weighed.
    assert Retriever(encoder, held).fusion == WeightedSum(1.0, 0.3, 0.0)


@pytest.mark.parametrize("kind", list(Representation))
def test_one_channel_alone_keeps_its_raw_scores(
    encoder: M3Encoder, documents: list[Document], vectors: M3Vectors, kind: Representation
) -> None:
    retriever = Retriever(encoder, store_of(encoder, documents, vectors, (kind,)))
    assert retriever.fusion == WeightedSum.only(kind)
    hits = retriever.search(documents[0].text, k=3)
    assert [hit.score for hit in hits] == [hit.scores[kind] for hit in hits]
    assert hits


def test_another_models_store_is_refused(encoder: M3Encoder, xlmr_folder: Path) -> None:
    other = M3Encoder.load(xlmr_folder, device="cpu")
    with pytest.raises(FingerprintMismatch, match=rf"{other.fingerprint}.*{encoder.fingerprint}"):
        Retriever(encoder, MemoryStore(other.schema()))
    many = M3Encoder(encoder.model, encoder.tokenizer, mcls=True)
    with pytest.raises(FingerprintMismatch):
        Retriever(encoder, MemoryStore(many.schema()))


def test_a_representation_that_the_model_lacks_is_refused(encoder: M3Encoder, bert_folder: Path) -> None:
    model, tokenizer = M3Model.load(bert_folder)
    model.colbert_linear = None
    bare = M3Encoder(model, tokenizer)
    store = MemoryStore(Schema(dense=32, sparse=model.config.vocab_size, multi=24))
    with pytest.raises(RepresentationMissing, match="multi"):
        Retriever(bare, store, fusion=WeightedSum())
    assert Retriever(bare, store).fusion == WeightedSum(1.0, 0.3, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rescore": "guess"}, "rescore is 'store' or 'encode', not 'guess'"),
        ({"candidates": 0}, "candidates must be an integer of at least 1, not 0"),
        ({"candidates": 2.5}, "candidates must be an integer of at least 1, not 2.5"),
    ],
)
def test_options_that_cannot_be_used(
    encoder: M3Encoder, store: MemoryStore, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Retriever(encoder, store, **options)


def test_what_is_no_encoder_and_no_store(encoder: M3Encoder, store: MemoryStore) -> None:
    for wrong in ("m3-tiny", None, store):
        with pytest.raises(InputError, match=r"the encoder is an M3Encoder, as M3Encoder\.load"):
            Retriever(wrong, store)  # type: ignore[arg-type]
    for wrong in ("memory://", None, encoder):
        with pytest.raises(InputError, match=r"as open_store\(\.\.\.\) returns it"):
            AsyncRetriever(encoder, wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not 'qdrant://db:6333/pages'"):
        Retriever(encoder, "qdrant://me:secret@db:6333/pages?api_key=secret")  # type: ignore[arg-type]


@pytest.mark.parametrize("query", [None, 5, {"query": "Berlin"}])
def test_what_is_no_query(encoder: M3Encoder, store: MemoryStore, query: Any) -> None:
    with pytest.raises(
        InputError, match=f"a string, a list of strings or M3Vectors, not {type(query).__name__}"
    ):
        Retriever(encoder, store).search(query)


def test_queries_that_cannot_be_used(encoder: M3Encoder, store: MemoryStore) -> None:
    retriever = Retriever(encoder, store)
    for k in (0, -1, 2.5, True, "3"):
        with pytest.raises(InputError, match="k must be an integer of at least 1"):
            retriever.search("Berlin", k=k)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the text at index 1 is NoneType"):
        retriever.search(["Berlin", None])  # type: ignore[list-item]
    with pytest.raises(InputError, match="a string, a list of strings or M3Vectors, not bytes: b'Berlin'"):
        retriever.search(b"Berlin")  # type: ignore[call-overload]
    dense = encoder.encode_queries(["Berlin"], representations=[DENSE])
    with pytest.raises(InputError, match="the queries have no multi, sparse vectors"):
        retriever.search(dense)


# Stores of stores, sync and async


class GoesDown(MemoryStore):
    """A store that still answers the search, and is down when it is asked for scores."""

    def score(self, *_: Any, **__: Any) -> Any:
        raise StoreUnavailable("nobody answers")


def test_a_member_that_goes_down_between_search_and_scores_is_marked_too(
    encoder: M3Encoder, documents: list[Document], vectors: M3Vectors
) -> None:
    """Its documents count 0 in the channels that did not find them, so that they may stand too low."""
    here, gone = store_of(encoder, documents[:6], vectors.take(range(6))), GoesDown(encoder.schema())
    gone.upsert(documents[6:], vectors.take(range(6, len(documents))))
    retriever = Retriever(encoder, UnionStore([here, gone], on_failure="skip"), candidates=4)
    with pytest.warns(UserWarning, match=gone.identity):
        found = retriever.search(QUERIES, k=3)
    assert {hits.missing for hits in found} == {(gone.identity,)}
    with pytest.raises(StoreUnavailable):
        Retriever(encoder, UnionStore([here, gone]), candidates=4).search(QUERIES, k=3)


class Down(MemoryStore):
    """A store whose searches fail as if its server were down."""

    def search(self, *_: Any, **__: Any) -> Any:
        raise StoreUnavailable("nobody answers")


def test_a_member_that_is_down_is_marked_on_the_hits(
    encoder: M3Encoder, documents: list[Document], vectors: M3Vectors
) -> None:
    here = store_of(encoder, documents, vectors)
    gone = Down(encoder.schema())
    union = UnionStore([here, gone], on_failure="skip")
    with pytest.warns(UserWarning, match=gone.identity):
        hits = Retriever(encoder, union).search(QUERIES[0], k=4)
    assert hits.missing == (gone.identity,)
    same(hits, Retriever(encoder, here).search(QUERIES[0], k=4))
    assert Retriever(encoder, here).search(QUERIES[0]).missing == ()
    with pytest.raises(StoreUnavailable):
        Retriever(encoder, UnionStore([here, gone])).search(QUERIES[0])


def test_channels_in_different_stores_are_as_good_as_one(
    encoder: M3Encoder, documents: list[Document], vectors: M3Vectors, store: MemoryStore
) -> None:
    main, lexical = (MemoryStore(encoder.schema(kinds)) for kinds in ([DENSE, MULTI], [SPARSE]))
    split = SplitStore(dense=main, multi=main, sparse=lexical)
    split.upsert(documents, vectors)
    for left, right in zip(
        Retriever(encoder, split).search(QUERIES, k=6),
        Retriever(encoder, store).search(QUERIES, k=6),
        strict=True,
    ):
        same(left, right)


class Native(ThreadedStore):
    """An async store of which one method is no coroutine function, but returns an awaitable."""

    def search(self, *args: Any, **kwargs: Any) -> Any:
        return super().search(*args, **kwargs)


@pytest.mark.parametrize("wrap", [lambda store: store, ThreadedStore, Native])
@pytest.mark.parametrize("fusion", [WeightedSum(), ReciprocalRank()])
async def test_async_is_the_same(encoder: M3Encoder, store: MemoryStore, wrap: Any, fusion: Fusion) -> None:
    retriever = AsyncRetriever(encoder, wrap(store), fusion=fusion, candidates=5, group_by="parent")
    expected = Retriever(encoder, store, fusion=fusion, candidates=5, group_by="parent")
    where = {"even": True}
    found = await retriever.search(QUERIES, k=4, where=where)
    for left, right in zip(found, expected.search(QUERIES, k=4, where=where), strict=True):
        assert isinstance(left, Hits)
        same(left, right)
    one = await retriever.search(QUERIES[0], k=4, where=where)
    same(one, found[0])
    assert await retriever.search([]) == []
    explained = await retriever.explain(QUERIES[0], one[0])
    assert explained == expected.explain(QUERIES[0], one[0])
    with pytest.raises(InputError, match="k must be"):
        await retriever.search("Berlin", k=0)


async def test_async_rescoring_is_the_same(
    encoder: M3Encoder, store: MemoryStore, documents: list[Document], vectors: M3Vectors
) -> None:
    held = store_of(encoder, documents, vectors, (DENSE, SPARSE))
    retriever = AsyncRetriever(encoder, ThreadedStore(held), fusion=WeightedSum(), rescore="encode")
    same(await retriever.search(QUERIES[0], k=5), Retriever(encoder, store).search(QUERIES[0], k=5))


class Fusing(MemoryStore):
    """A store that says it fuses by itself; its answers are the exact ones, its hits carry one number."""

    asked = 0

    @property
    def capabilities(self) -> Any:
        from dataclasses import replace

        return replace(super().capabilities, fusions=frozenset({"WeightedSum", "ReciprocalRank"}))

    def search_fused(
        self, queries: M3Vectors, fusion: Fusion, k: int, candidates: Any, *, where: Any = None
    ) -> list[list[Hit]]:
        self.asked += 1
        plain = MemoryStore(self.schema)
        records = self.scan(size=1000, vectors=tuple(Representation)).records
        plain.upsert(
            [record.document for record in records],
            M3Vectors.concat([record.vectors for record in records if record.vectors]),
        )
        answer = plain.search(queries, candidates, where=where)
        rows = []
        for row in range(len(queries)):
            ids = sorted({hit.id for hits in answer.values() for hit in hits[row]})
            if isinstance(fusion, WeightedSum):
                scores = {
                    kind: dict(
                        zip(ids, plain.score(queries.take([row]), kind, [ids])[0].tolist(), strict=True)
                    )
                    for kind in fusion.representations
                }
            else:
                scores = {kind: {hit.id: hit.score for hit in hits[row]} for kind, hits in answer.items()}
            fused = fusion.fuse(scores)
            best = sorted(fused, key=lambda name: (-fused[name], name))[:k]
            held = plain.get(best)
            rows.append([Hit(record.document, fused[record.id]) for record in held if record])
        return rows


@pytest.mark.parametrize(
    ("fusion", "asks"),
    [
        (WeightedSum(), 1),
        (WeightedSum(0.2, 0.8, 0), 1),
        (ReciprocalRank(), 1),
        (ReciprocalRank(sparse=0.5), 0),
        (ReciprocalRank(sparse=0), 1),
    ],
)
def test_a_store_that_fuses_gives_the_same_hits(
    encoder: M3Encoder,
    store: MemoryStore,
    documents: list[Document],
    vectors: M3Vectors,
    fusion: Fusion,
    asks: int,
) -> None:
    fusing = Fusing(encoder.schema())
    fusing.upsert(documents, vectors)
    found = Retriever(encoder, fusing, fusion=fusion, candidates=10).search(QUERIES[:3], k=5)
    expected = Retriever(encoder, store, fusion=fusion, candidates=10).search(QUERIES[:3], k=5)
    for left, right in zip(found, expected, strict=True):
        same(left, right)
    assert fusing.asked == asks  # a weighted reciprocal rank is none that stores promise
