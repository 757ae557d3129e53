"""nDCG, exhaustive scores and BM25 against independent computations."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from m3_core import M3Encoder, Representation
from m3_core.errors import InputError
from m3_core.scoring import channel_scores
from m3_training.__main__ import app
from m3_training.evaluate import MODES, Result, all_scores, averages, bm25, evaluate, ndcg, read_questions


@pytest.fixture(scope="module")
def questions_file(tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, ...]) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    rows = []
    for number, text in enumerate(texts):
        for query in (" ".join(text.split()[:2]), text[-12:]):
            rows.append({"lang": "xx", "query": query, "doc_id": f"d{number}", "title": "t", "text": text})
    path = folder / "mixed.eval.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.slow  # ranx compiles for half a minute
def test_ndcg_equals_ranx_where_no_scores_are_equal() -> None:
    ranx = pytest.importorskip("ranx")
    random = np.random.default_rng(5)
    scores = random.normal(size=(40, 30)).astype(np.float32)
    answers = random.integers(0, 30, 40).tolist()
    qrels = ranx.Qrels({f"q{q}": {f"d{answer}": 1} for q, answer in enumerate(answers)})
    run = ranx.Run({f"q{q}": {f"d{d}": float(s) for d, s in enumerate(row)} for q, row in enumerate(scores)})
    assert ndcg(scores, answers) == pytest.approx(ranx.evaluate(qrels, run, "ndcg@10"), abs=1e-9)


def test_equal_scores_count_against_the_model() -> None:
    scores = np.zeros((1, 5), dtype=np.float32)
    assert ndcg(scores, [0]) == pytest.approx(1 / np.log2(6))
    assert ndcg(scores, [0], positive_only=True) == 0
    assert ndcg(np.zeros((1, 11), dtype=np.float32), [0]) == 0


def test_an_answer_that_shares_no_token_is_not_found() -> None:
    scores = np.array([[0.0, -1.0], [0.5, 0.0]], dtype=np.float32)
    assert ndcg(scores, [0, 0], positive_only=True) == 0.5


def test_scores_equal_the_pure_functions(bert_folder: Path, texts: tuple[str, ...]) -> None:
    encoder = M3Encoder.load(bert_folder)
    queries, passages = encoder.encode_queries([text[:9] for text in texts]), encoder.encode_documents(texts)
    scores = all_scores(queries, passages)
    for kind in Representation:
        wanted = np.stack([channel_scores(queries, row, passages, kind) for row in range(len(texts))])
        np.testing.assert_allclose(scores[kind.value], wanted, rtol=0, atol=1e-5)


def test_maxsim_in_blocks_equals_maxsim_at_once(
    bert_folder: Path, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = M3Encoder.load(bert_folder).encode_documents(texts)
    whole = all_scores(vectors, vectors)["multi"]
    monkeypatch.setattr("m3_training.evaluate.BLOCK_VALUES", 1)
    np.testing.assert_allclose(all_scores(vectors, vectors)["multi"], whole, rtol=0, atol=1e-6)


def test_mixed_modes_are_the_weighted_sums(bert_folder: Path, questions_file: Path) -> None:
    questions = read_questions(questions_file)
    encoder = M3Encoder.load(bert_folder)
    result = evaluate(encoder, questions)
    assert set(result.ndcg) == {*MODES, "BM25 words", "BM25 3-grams"}
    scores = all_scores(
        encoder.encode_queries(questions.queries), encoder.encode_documents(questions.passages)
    )
    mixed = scores["dense"] + 0.3 * scores["sparse"] + scores["multi"]
    assert result.ndcg["all"] == pytest.approx(ndcg(mixed, questions.answers), abs=1e-9)
    assert (result.queries, result.passages) == (24, 12)


def test_bm25_equals_its_formula(questions_file: Path) -> None:
    """Lucene's BM25, written out: idf ln(1 + (N - n + .5) / (n + .5)), tf / (tf + k1 (1 - b + b l / mean l))."""
    from m3_training.evaluate import words

    questions = read_questions(questions_file)
    documents = [words(text) for text in questions.passages]
    mean = sum(map(len, documents)) / len(documents)
    scores = np.zeros((len(questions.queries), len(documents)), dtype=np.float32)
    for row, query in enumerate(questions.queries):
        for term in words(query):
            n = sum(term in document for document in documents)
            for column, document in enumerate(documents):
                tf = document.count(term)
                weight = tf / (tf + 1.5 * (0.25 + 0.75 * len(document) / mean))
                scores[row, column] += np.log(1 + (len(documents) - n + 0.5) / (n + 0.5)) * weight
    assert bm25(questions)["BM25 words"] == pytest.approx(ndcg(scores, questions.answers, positive_only=True))


def test_a_sample_is_seeded_and_keeps_all_passages(questions_file: Path) -> None:
    whole, sample = read_questions(questions_file), read_questions(questions_file, 5)
    assert len(sample.queries) == 5
    assert sample.passages == whole.passages
    assert sample == read_questions(questions_file, 5)
    assert sample.queries != read_questions(questions_file, 5, seed=1).queries
    pairs = dict(zip(whole.queries, whole.answers, strict=True))
    assert all(pairs[query] == answer for query, answer in zip(sample.queries, sample.answers, strict=True))


def test_the_average_is_over_languages() -> None:
    results = [
        Result(n, lang, 1, 1, {"all": v})
        for n, lang, v in (("a", "zh", 0.2), ("b", "zh", 0.4), ("c", "ja", 0.9))
    ]
    assert averages(results).ndcg["all"] == pytest.approx((0.3 + 0.9) / 2)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.eval.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"lang": "ja", "query": "q", "text": "t"}\n'))
    with pytest.raises(InputError, match=r"bad\.eval\.jsonl\.gz, line 1: 'doc_id'"):
        read_questions(path)


def test_the_command_prints_json(bert_folder: Path, questions_file: Path) -> None:
    result = CliRunner().invoke(
        app, ["evaluate", str(bert_folder), "--data", str(questions_file.parent), "--json"]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["file"] for row in rows] == ["mixed", "mean over languages"]
    assert all(0 <= rows[0][mode] <= 1 for mode in MODES)


def test_a_folder_without_files_is_named(bert_folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(bert_folder), "--data", str(tmp_path)])
    assert isinstance(result.exception, InputError)
