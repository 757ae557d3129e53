"""What an explanation adds up to, which characters it marks, and how it prints."""

from pathlib import Path

import pytest
from IPython.lib.pretty import pretty
from rich.console import Console

from m3_core.encoder import M3Encoder
from m3_core.explain import Alignment, Explanation, TokenMatch, explain
from m3_core.memory import MemoryStore
from m3_core.model import M3Model
from m3_core.retriever import Retriever
from m3_core.types import Document, Hit, Representation


@pytest.fixture(scope="session", params=["bert", "xlmr"])
def encoder(request: pytest.FixtureRequest, bert_folder: Path, xlmr_folder: Path) -> M3Encoder:
    return M3Encoder.load(bert_folder if request.param == "bert" else xlmr_folder, device="cpu")


def found(encoder: M3Encoder, query: str, text: str) -> tuple[Hit, Explanation]:
    """A hit, and its explanation."""
    store = MemoryStore(encoder.schema())
    store.upsert([Document("a", text)], encoder.encode_documents([text]))
    retriever = Retriever(encoder, store)
    (hit,) = retriever.search(query)
    return hit, retriever.explain(query, hit)


@pytest.mark.parametrize("mcls", [False, True])
def test_it_adds_up_to_the_scores(encoder: M3Encoder, texts: tuple[str, ...], mcls: bool) -> None:
    encoder = M3Encoder(encoder.model, encoder.tokenizer, mcls=mcls)
    for query in (texts[1], "die Hauptstadt an der Spree", "Berlin Berlin Москва", "首都", "xyz", ""):
        for text in (*texts[:6], " ".join(texts), ""):
            hit, explanation = found(encoder, query, text)
            assert explanation.score == hit.score
            assert explanation.scores == hit.scores
            assert sum(match.product for match in explanation.matches) == pytest.approx(
                hit.scores[Representation.SPARSE], abs=1e-5
            )
            similarities = [pair.similarity for pair in explanation.alignments]
            assert sum(similarities) / len(similarities) == pytest.approx(
                hit.scores[Representation.MULTI], abs=1e-5
            )
            products = [match.product for match in explanation.matches]
            assert products == sorted(products, reverse=True)


def test_tokens_are_named_in_order(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    query = "die Hauptstadt von"
    _, explanation = found(encoder, query, texts[1])
    names = [encoder.tokenizer.token(token) for token, _, _ in encoder.tokenizer.spans(query)]
    end = encoder.tokenizer.token(encoder.tokenizer.eos_id)
    assert [pair.query_token for pair in explanation.alignments] == [*names, end]
    passage = {encoder.tokenizer.token(token) for token, _, _ in encoder.tokenizer.spans(texts[1])} | {end}
    assert {pair.passage_token for pair in explanation.alignments} <= passage
    same = {pair.query_token: pair.passage_token for pair in explanation.alignments}
    assert {match.token for match in explanation.matches} <= passage
    assert same[end] in passage


def test_the_right_characters_are_marked(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    text = texts[1]
    _, explanation = found(encoder, text, text)
    ids, _ = encoder.encode_queries([text]).sparse_row(0)
    expected = set()
    for token, start, end in encoder.tokenizer.spans(text):
        if token in ids:
            expected |= set(range(start, end))
    marked = {place for start, end in explanation.spans for place in range(start, end)}
    assert marked == expected
    assert len(marked) > 10
    assert "".join(piece for piece, _ in explanation.pieces()) == text
    assert not any(piece[0].isspace() or piece[-1].isspace() for piece, hit in explanation.pieces() if hit)
    assert list(explanation.spans) == sorted(explanation.spans)
    # What no token of the query covers is not marked.
    _, other = found(encoder, "xyz", text)
    assert all(encoder.tokenizer.token(encoder.tokenizer.unk_id) != match.token for match in other.matches)
    letters = {character for start, end in other.spans for character in text[start:end]}
    assert letters <= set("xyz")


def test_nothing_beyond_the_cut_is_marked(encoder: M3Encoder, texts: tuple[str, ...]) -> None:
    short = M3Encoder(encoder.model, encoder.tokenizer, max_length=8)
    text = f"{texts[0]} {texts[0]}"
    with pytest.warns(UserWarning, match="longer than 8 tokens"):
        explanation = explain(short, text, Hit(Document("a", text), 1.0, {}))
    kept = encoder.tokenizer.spans(text)[:6]
    assert len(explanation.alignments) == 7
    assert explanation.spans
    assert max(end for _, end in explanation.spans) <= kept[-1][2]


def test_a_model_without_heads_explains_what_it_can(bert_folder: Path, texts: tuple[str, ...]) -> None:
    for lexical, late in ((False, False), (True, False), (False, True)):
        model, tokenizer = M3Model.load(bert_folder)
        model.sparse_linear = model.sparse_linear if lexical else None
        model.colbert_linear = model.colbert_linear if late else None
        bare = M3Encoder(model, tokenizer)
        hit, explanation = found(bare, texts[0], texts[0])
        assert bool(explanation.matches) == bool(explanation.spans) == lexical
        assert bool(explanation.alignments) == late
        assert explanation.scores == hit.scores
        assert "score" in str(explanation)


def made(text: str, spans: list[tuple[int, int]], token: str = "tok") -> Explanation:
    return Explanation(
        "query",
        text,
        1.25,
        {Representation.DENSE: 0.5},
        [TokenMatch(token, 0.5, 0.25)],
        [Alignment(token, token, 0.75)],
        spans,
    )


def test_html_is_escaped_and_marks_the_matches() -> None:
    html = made("a <script>alert(1)</script> & b", [(2, 10), (28, 29)], '<img src="x">').to_html()
    assert "<script" not in html
    assert "<img" not in html
    assert "a <b>&lt;script&gt;</b>alert(1)&lt;/script&gt; <b>&amp;</b> b" in html
    assert "<td>&lt;img src=&quot;x&quot;&gt;</td><td>0.5000</td><td>0.2500</td><td>0.1250</td>" in html
    assert "<td>0.7500</td>" in html
    assert made("a", [])._repr_html_() == made("a", []).to_html()


def test_html_of_an_explanation_with_nothing_to_show() -> None:
    html = Explanation("q", "", 0.0, {}, [], [], []).to_html()
    assert "<table" not in html
    assert "0.0000" in html


def test_a_terminal_shows_the_matches_in_bold_and_no_control_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explanation = made("see \x1b[2J Berlin [red]here[/red]", [(9, 15)], "\x1b]0;x\x07")
    console = Console(force_terminal=True, color_system="standard", width=80, record=True)
    with console.capture() as capture:
        console.print(explanation)
    shown = capture.get()
    assert "\x1b[1mBerlin\x1b[0m" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
    assert "[red]here[/red]" in shown
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in the kernel of a notebook
    plain = str(explanation)
    assert "\x1b" not in plain
    for part in ("score 1.2500", "dense 0.5000", "Berlin", "lexical matches", "0.1250", "MaxSim", "0.7500"):
        assert part in plain
    assert pretty(explanation) == plain
