"""`M3Retriever` against the core's retriever, which has its own tests."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import ValidationError

from m3_core.encoder import M3Encoder
from m3_core.errors import FingerprintMismatch, InputError, RepresentationMissing, Unsupported
from m3_core.fusion import Fusion, ReciprocalRank, WeightedSum
from m3_core.memory import MemoryStore
from m3_core.retriever import Retriever
from m3_core.store import Schema, Store
from m3_core.types import Document, Hit, Representation
from m3_integrations.langchain import M3Retriever
from m3_integrations.langchain.convert import SCORE, SCORES

QUERY = "Die Hauptstadt an der Spree und die Hauptstadt Japans"
DENSE, SPARSE, MULTI = Representation
DENSE_ALONE = WeightedSum(1.0, 0.0, 0.0)
SPARSE_ALONE = WeightedSum(0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


@pytest.fixture(scope="module")
def store(encoder: M3Encoder, texts: tuple[str, ...]) -> Store:
    return filled(MemoryStore(encoder.schema()), encoder, texts)


def filled(store: Store, encoder: M3Encoder, texts: tuple[str, ...]) -> Store:
    documents = [
        Document(f"doc-{row}", text, {"row": row, "even": row % 2 == 0, "score": "the user's own"})
        for row, text in enumerate(texts)
    ]
    store.upsert(documents, encoder.encode_documents(texts))
    return store


def expected(hits: list[Hit]) -> list[LangChainDocument]:
    return [
        LangChainDocument(
            id=hit.id,
            page_content=hit.document.text,
            metadata={
                **hit.document.metadata,
                "m3_score": hit.score,
                "m3_scores": {str(kind): score for kind, score in hit.scores.items()},
            },
        )
        for hit in hits
    ]


def ids(documents: list[LangChainDocument]) -> list[str | None]:
    return [document.id for document in documents]


def test_documents_carry_id_score_and_the_score_of_each_channel(encoder: M3Encoder, store: Store) -> None:
    found = M3Retriever(encoder=encoder, store=store).invoke(QUERY)
    assert found == expected(Retriever(encoder, store).search(QUERY, 4))
    best = found[0]
    assert set(best.metadata[SCORES]) == {"dense", "sparse", "multi"}
    weighted = sum(
        weight * best.metadata[SCORES][name]
        for name, weight in {"dense": 1.0, "sparse": 0.3, "multi": 1.0}.items()
    )
    assert best.metadata[SCORE] == pytest.approx(weighted, abs=1e-6)
    assert best.metadata["score"] == "the user's own"
    assert type(best.metadata[SCORE]) is float


def test_the_store_keeps_no_scores(encoder: M3Encoder, store: Store) -> None:
    name = M3Retriever(encoder=encoder, store=store, k=1).invoke(QUERY)[0].id
    assert name is not None
    (record,) = store.get([name])
    assert record is not None
    assert set(record.document.metadata) == {"row", "even", "score"}


@pytest.mark.parametrize(
    "options",
    [
        {"k": 1},
        {"k": 12},
        {"fusion": SPARSE_ALONE},
        {"fusion": ReciprocalRank(k=1.0, multi=0.0)},
        {"where": {"even": True}},
        {"k": 3, "fusion": DENSE_ALONE, "where": {"row": {"$gte": 5}}},
    ],
)
async def test_options_at_construction_and_per_call(
    encoder: M3Encoder, store: Store, options: dict[str, Any]
) -> None:
    core = Retriever(encoder, store, fusion=options.get("fusion"))
    wanted = expected(core.search(QUERY, options.get("k", 4), where=options.get("where")))
    assert wanted
    constructed = M3Retriever(encoder=encoder, store=store, **options)
    plain = M3Retriever(encoder=encoder, store=store)
    other = M3Retriever(encoder=encoder, store=store, k=2, fusion=ReciprocalRank(), where={"row": 0})
    assert constructed.invoke(QUERY) == wanted
    assert await constructed.ainvoke(QUERY) == wanted
    assert plain.invoke(QUERY, **options) == wanted
    assert await plain.ainvoke(QUERY, **options) == wanted
    assert constructed.batch([QUERY, QUERY]) == [wanted, wanted]
    assert await plain.abatch([QUERY], **options) == [wanted]
    complete: dict[str, Any] = {"k": 4, "fusion": WeightedSum(), "where": {}, **options}
    assert other.invoke(QUERY, **complete) == wanted  # what a call says goes before the constructor
    assert await other.ainvoke(QUERY, **complete) == wanted


def test_where_of_a_call_replaces_that_of_the_constructor(encoder: M3Encoder, store: Store) -> None:
    retriever = M3Retriever(encoder=encoder, store=store, k=12, where={"even": True})
    assert len(retriever.invoke(QUERY)) == 6
    assert len(retriever.invoke(QUERY, where=None)) == 6
    assert ids(retriever.invoke(QUERY, where={"row": 3})) == ["doc-3"]
    assert len(retriever.invoke(QUERY, where={})) == 12


async def test_configurable_fields(encoder: M3Encoder, store: Store) -> None:
    retriever = M3Retriever(encoder=encoder, store=store).configurable_fields(
        k=ConfigurableField(id="k"),
        fusion=ConfigurableField(id="fusion"),
        where=ConfigurableField(id="filter"),
    )
    fusion: Fusion = SPARSE_ALONE
    config: Any = {"configurable": {"k": 2, "fusion": fusion, "filter": {"even": False}}}
    wanted = expected(Retriever(encoder, store, fusion=fusion).search(QUERY, 2, where={"even": False}))
    assert retriever.invoke(QUERY, config) == wanted
    assert await retriever.ainvoke(QUERY, config) == wanted
    assert retriever.with_config(config).invoke(QUERY) == wanted
    assert len(retriever.invoke(QUERY)) == 4
    schema = retriever.get_config_jsonschema()["$defs"]["Configurable"]["properties"]
    assert set(schema) == {"k", "fusion", "filter"}
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        retriever.invoke(QUERY, {"configurable": {"k": 0}})


async def test_in_a_chain(encoder: M3Encoder, store: Store) -> None:
    chain = M3Retriever(encoder=encoder, store=store, k=2) | RunnableLambda(ids)
    assert (
        chain.invoke(QUERY)
        == await chain.ainvoke(QUERY)
        == ids(expected(Retriever(encoder, store).search(QUERY, 2)))
    )


async def test_group_by_candidates_and_rescore(
    encoder: M3Encoder, store: Store, texts: tuple[str, ...]
) -> None:
    grouped = M3Retriever(encoder=encoder, store=store, k=12, group_by="even")
    assert len(await grouped.ainvoke(QUERY)) == len(grouped.invoke(QUERY)) == 2
    few = M3Retriever(encoder=encoder, store=store, k=1, candidates=1, fusion=ReciprocalRank())
    core = Retriever(encoder, store, candidates=1, fusion=ReciprocalRank())
    assert few.invoke(QUERY) == expected(core.search(QUERY, 1))
    without_multi = filled(MemoryStore(encoder.schema([DENSE, SPARSE])), encoder, texts)
    rescored = M3Retriever(encoder=encoder, store=without_multi, fusion=WeightedSum(), rescore="encode")
    best = rescored.invoke(QUERY)
    assert ids(best) == ids(M3Retriever(encoder=encoder, store=store).invoke(QUERY))
    assert set(best[0].metadata[SCORES]) == {"dense", "sparse", "multi"}


def test_mistakes_at_construction(encoder: M3Encoder, store: Store, tiny_model_folder: Path) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        M3Retriever(encoder=encoder, store=store, k=0)
    with pytest.raises(ValidationError, match="unknown operator"):
        M3Retriever(encoder=encoder, store=store, where={"row": {"$near": 3}})
    with pytest.raises(ValidationError, match="WeightedSum or a ReciprocalRank, not 'rrf'"):
        M3Retriever(encoder=encoder, store=store, fusion="rrf")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"top_k\n.*not permitted"):
        M3Retriever(encoder=encoder, store=store, top_k=3)  # type: ignore[call-arg]
    with pytest.raises(
        ValidationError, match=r"open_store\(\.\.\.\) returns it, not 'qdrant://db:6333/pages'"
    ):
        M3Retriever(encoder=encoder, store="qdrant://me:secret@db:6333/pages")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"M3Encoder\.load\(\.\.\.\) returns it, not 'm3-tiny'"):
        M3Retriever(encoder="m3-tiny", store=store)  # type: ignore[arg-type]
    sparse_only = MemoryStore(encoder.schema([SPARSE]))
    with pytest.raises(Unsupported, match="the store holds sparse; the fusion weighs only dense"):
        M3Retriever(encoder=encoder, store=sparse_only, fusion=DENSE_ALONE)
    stranger = MemoryStore(Schema(dense=encoder.schema().dense, fingerprint="another"))
    with pytest.raises(FingerprintMismatch, match="another"):
        M3Retriever(encoder=encoder, store=stranger)
    headless = M3Encoder.load(tiny_model_folder, device="cpu")
    headless.model.colbert_linear = None
    with pytest.raises(RepresentationMissing, match="multi"):
        M3Retriever(encoder=headless, store=store, fusion=WeightedSum())


async def test_mistakes_in_a_call(encoder: M3Encoder, store: Store) -> None:
    retriever = M3Retriever(encoder=encoder, store=store)
    with pytest.raises(InputError, match="at least 1, not 0"):
        retriever.invoke(QUERY, k=0)
    with pytest.raises(InputError, match="at least 1, not 0"):
        await retriever.ainvoke(QUERY, k=0)
    with pytest.raises(InputError, match="unknown operator"):
        retriever.invoke(QUERY, where={"$nor": []})
    with pytest.raises(InputError, match="WeightedSum or a ReciprocalRank"):
        await retriever.ainvoke(QUERY, fusion={"dense": 1.0})
    with pytest.raises(InputError, match=r"unknown option 'top_k'; there are k, fusion and where"):
        retriever.invoke(QUERY, top_k=3)
    with pytest.raises(InputError, match="two names for the same thing"):
        retriever.invoke(QUERY, where={}, filter={})


@pytest.mark.parametrize("query", [{"question": QUERY}, [QUERY], None, 5, b"bytes"])
async def test_a_query_is_a_string(encoder: M3Encoder, store: Store, query: Any) -> None:
    """A chain that hands over the whole of its input is the usual case."""
    retriever = M3Retriever(encoder=encoder, store=store)
    with pytest.raises(InputError, match=rf"a query is a string, not {type(query).__name__}.*itemgetter"):
        retriever.invoke(query)
    with pytest.raises(InputError, match=f"a query is a string, not {type(query).__name__}"):
        await retriever.ainvoke(query)


async def test_langchains_own_name_of_a_filter(encoder: M3Encoder, store: Store) -> None:
    retriever = M3Retriever(encoder=encoder, store=store, k=2)
    wanted = retriever.invoke(QUERY, where={"row": 7})
    assert ids(wanted) == ["doc-7"]
    assert retriever.invoke(QUERY, filter={"row": 7}) == wanted
    assert await retriever.ainvoke(QUERY, filter={"row": 7}) == wanted
