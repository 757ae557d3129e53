"""`M3Compressor` against `M3Encoder.compute_scores`."""

from pathlib import Path

import pytest
from langchain_core.documents import Document as LangChainDocument
from pydantic import ValidationError

from m3_core.encoder import M3Encoder
from m3_core.errors import InputError, RepresentationMissing
from m3_core.fusion import ReciprocalRank, WeightedSum
from m3_integrations.langchain import M3Compressor

QUERY = "Berlin ist die Hauptstadt"


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder, device="cpu")


@pytest.fixture
def documents(texts: tuple[str, ...]) -> list[LangChainDocument]:
    return [
        LangChainDocument(id=f"doc-{row}", page_content=text, metadata={"row": row})
        for row, text in enumerate(texts)
    ]


@pytest.mark.parametrize("fusion", [WeightedSum(), WeightedSum.long_documents(), WeightedSum(0.2, 0.8, 0.0)])
async def test_order_and_scores(
    encoder: M3Encoder, documents: list[LangChainDocument], fusion: WeightedSum
) -> None:
    pairs = [(QUERY, document.page_content) for document in documents]
    scores = encoder.compute_scores(pairs, fusion.weights)
    mode = "all" if fusion.multi else "dense+sparse"
    order = sorted(range(len(documents)), key=lambda row: -scores[mode][row])
    compressor = M3Compressor(encoder=encoder, fusion=fusion)
    found = compressor.compress_documents(documents, QUERY)
    assert found == await compressor.acompress_documents(documents, QUERY)
    assert [document.metadata["row"] for document in found] == order
    for document, row in zip(found, order, strict=True):
        assert document.id == f"doc-{row}"
        assert document.page_content == documents[row].page_content
        assert document.metadata["m3_score"] == pytest.approx(scores[mode][row], abs=1e-5)
        channels = document.metadata["m3_scores"]
        assert set(channels) == {str(kind) for kind in fusion.representations}
        for name, value in channels.items():
            assert value == pytest.approx(scores[name][row], abs=1e-5)


def test_documents_are_copied(encoder: M3Encoder, documents: list[LangChainDocument]) -> None:
    M3Compressor(encoder=encoder).compress_documents(documents, QUERY)
    assert all(set(document.metadata) == {"row"} for document in documents)


def test_top_n(encoder: M3Encoder, documents: list[LangChainDocument]) -> None:
    everything = M3Compressor(encoder=encoder).compress_documents(documents, QUERY)
    assert M3Compressor(encoder=encoder, top_n=3).compress_documents(documents, QUERY) == everything[:3]
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        M3Compressor(encoder=encoder, top_n=0)
    with pytest.raises(ValidationError, match="reranking is by a WeightedSum"):
        M3Compressor(encoder=encoder, fusion=ReciprocalRank())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a query is a string, not NoneType"):
        M3Compressor(encoder=encoder).compress_documents([], None)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="the encoder is an M3Encoder"):
        M3Compressor(encoder="m3-tiny")  # type: ignore[arg-type]


def test_equal_scores_keep_their_order(encoder: M3Encoder) -> None:
    same = [LangChainDocument(id=name, page_content="the same text") for name in ("b", "c", "a")]
    found = M3Compressor(encoder=encoder).compress_documents(same, QUERY)
    assert [document.id for document in found] == ["b", "c", "a"]


@pytest.mark.parametrize("texts", [(), ("",), ("...", "")])
def test_nothing_and_empty_texts(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    documents = [LangChainDocument(page_content=text) for text in texts]
    found = M3Compressor(encoder=encoder).compress_documents(documents, "?!")
    assert sorted(document.page_content for document in found) == sorted(texts)


def test_a_model_without_the_head(tiny_model_folder: Path) -> None:
    encoder = M3Encoder.load(tiny_model_folder, device="cpu")
    encoder.model.colbert_linear = None
    with pytest.raises(RepresentationMissing, match="multi"):
        M3Compressor(encoder=encoder)
    assert M3Compressor(encoder=encoder, fusion=WeightedSum.passages(multi=False)).top_n is None
