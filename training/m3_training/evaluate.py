"""nDCG@10 of a model on question files, per file and mode, beside BM25 on words and on character 3-grams.

All passages of a file are the candidates and the search is exhaustive. Nothing is found by luck: among equal
scores the answer comes last, and a passage that shares no token with the query is not found by sparse or BM25.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from m3_core.errors import InputError
from m3_core.scoring import Weights
from m3_core.types import FloatArray, M3Vectors, Ragged

from .data import read_lines, text_of

if TYPE_CHECKING:
    from m3_core import M3Encoder

DEPTH = 10
EVAL_FILES = "*.eval.jsonl.gz"
MODES = ("dense", "sparse", "multi", "dense+sparse", "all")
BASELINES = ("BM25 words", "BM25 3-grams")
WORD = re.compile(r"\w+")
BLOCK_VALUES = 50_000_000  # similarities held at once by MaxSim, 200 MB


@dataclass(frozen=True, slots=True)
class Questions:
    """A file's questions, its distinct passages, and for each question the row of the passage that answers it."""

    name: str
    lang: str
    queries: list[str]
    passages: list[str]
    answers: list[int]


@dataclass(frozen=True, slots=True)
class Result:
    """nDCG@10 by mode of one file."""

    name: str
    lang: str
    queries: int
    passages: int
    ndcg: dict[str, float]


def read_questions(path: Path, max_queries: int | None = None, seed: int = 0) -> Questions:
    """Lines with query, doc_id, title, text and lang. Of more than ``max_queries`` questions a seeded sample is kept.

    The passage is ``text`` alone: titles of these sets name the article, which many questions do too.
    """
    passages: dict[str, int] = {}
    texts: list[str] = []
    rows: list[tuple[str, int]] = []
    languages: set[str] = set()
    for number, row in read_lines(path):
        where = f"{path}, line {number}"
        document = text_of(row, "doc_id", where)
        if document not in passages:
            passages[document] = len(texts)
            texts.append(text_of(row, "text", where))
        languages.add(text_of(row, "lang", where))
        rows.append((text_of(row, "query", where), passages[document]))
    if not rows:
        raise InputError(f"{path} holds no questions")
    if max_queries is not None and len(rows) > max_queries:
        rows = Random(seed).sample(rows, max_queries)
    name = path.name.removesuffix(EVAL_FILES[1:])
    lang = languages.pop() if len(languages) == 1 else "several"
    return Questions(name, lang, [query for query, _ in rows], texts, [answer for _, answer in rows])


def ndcg(scores: FloatArray, answers: Sequence[int], *, positive_only: bool = False) -> float:
    """Mean nDCG@10 with one relevant passage a query; (queries, passages) scores. Equal scores rank the answer last.

    With one relevant passage the ideal DCG is 1, so a query counts 1 / log2(1 + rank), 0 beyond rank 10.

    >>> round(ndcg(np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.5]]), [0, 1]), 3)
    0.75
    """
    rows = np.arange(len(scores))
    own = scores[rows, np.asarray(answers)]
    ranks = (scores >= own[:, None]).sum(axis=1)
    gains = np.where(ranks <= DEPTH, 1 / np.log2(1 + ranks), 0.0)
    if positive_only:
        gains = np.where(own > 0, gains, 0.0)
    return float(gains.mean())


def evaluate(
    encoder: "M3Encoder", questions: Questions, weights: Weights | None = None, *, baselines: bool = True
) -> Result:
    """nDCG@10 of the five modes (mixed ones: weighted sums with the paper's weights by default) and of BM25."""
    weights = weights or Weights()
    queries = encoder.encode_queries(questions.queries)
    passages = encoder.encode_documents(questions.passages)
    scores = all_scores(queries, passages)
    scores["dense+sparse"] = weights.dense * scores["dense"] + weights.sparse * scores["sparse"]
    scores["all"] = scores["dense+sparse"] + weights.multi * scores["multi"]
    found = {mode: ndcg(scores[mode], questions.answers, positive_only=mode == "sparse") for mode in MODES}
    if baselines:
        found |= bm25(questions)
    return Result(questions.name, questions.lang, len(questions.queries), len(questions.passages), found)


def all_scores(queries: M3Vectors, passages: M3Vectors) -> dict[str, FloatArray]:
    """(queries, passages) scores by each representation, as `m3_core.scoring` computes them one query at a time."""
    if queries.dense is None or passages.dense is None:
        raise InputError("evaluation needs dense vectors")
    if queries.sparse is None or passages.sparse is None or queries.multi is None or passages.multi is None:
        raise InputError("evaluation needs a model with all three representations, sparse and multi too")
    return {
        "dense": queries.dense @ passages.dense.T,
        "sparse": (queries.sparse @ passages.sparse.T).toarray(),
        "multi": _maxsim(queries.multi, passages.multi),
    }


def _maxsim(queries: Ragged, passages: Ragged) -> FloatArray:
    """(n, m) MaxSim; every passage has at least the vector of its end token, so no block is empty."""
    lengths = np.diff(queries.offsets)
    scores = np.empty((len(queries), len(passages)), dtype=np.float32)
    rows = max(1, BLOCK_VALUES // max(1, len(passages.values)))
    start = 0
    while start < len(queries):
        end = start + 1
        while end < len(queries) and queries.offsets[end + 1] - queries.offsets[start] <= rows:
            end += 1
        block = queries.values[queries.offsets[start] : queries.offsets[end]] @ passages.values.T
        best = np.maximum.reduceat(block, passages.offsets[:-1], axis=1)
        sums = np.add.reduceat(best, queries.offsets[start:end] - queries.offsets[start], axis=0)
        scores[start:end] = sums / lengths[start:end, None]
        start = end
    return scores


def bm25(questions: Questions) -> dict[str, float]:
    """nDCG@10 of BM25 (Lucene's variant, k1 1.5, b 0.75) on words and on character 3-grams."""
    return {name: _bm25(questions, split) for name, split in zip(BASELINES, (words, trigrams), strict=True)}


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits; where a script has no spaces, a run is a phrase.

    >>> words("Wo liegt Köln?")
    ['wo', 'liegt', 'köln']
    """
    return WORD.findall(text.lower())


def trigrams(text: str) -> list[str]:
    """Overlapping character 3-grams of every word, a shorter word as it is.

    >>> trigrams("die Oper")
    ['die', 'ope', 'per']
    """
    return [word[start : start + 3] for word in words(text) for start in range(max(1, len(word) - 2))]


def _bm25(questions: Questions, split: Callable[[str], list[str]]) -> float:
    import bm25s  # type: ignore[import-untyped]

    vocabulary: dict[str, int] = {}
    documents = [
        [vocabulary.setdefault(term, len(vocabulary)) for term in split(text)] for text in questions.passages
    ]
    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index((documents, vocabulary), show_progress=False)
    scores = np.zeros((len(questions.queries), len(documents)), dtype=np.float32)
    for row, query in enumerate(questions.queries):
        terms = [vocabulary[term] for term in split(query) if term in vocabulary]
        if terms:
            scores[row] = index.get_scores_from_ids(terms)
    return ndcg(scores, questions.answers, positive_only=True)


def averages(results: Sequence[Result]) -> Result:
    """The mean over languages, each the mean of its files."""
    languages: dict[str, list[Result]] = {}
    for result in results:
        languages.setdefault(result.lang, []).append(result)
    ndcgs = {
        mode: float(np.mean([np.mean([r.ndcg[mode] for r in group]) for group in languages.values()]))
        for mode in results[0].ndcg
    }
    total = sum(result.queries for result in results), sum(result.passages for result in results)
    return Result("mean over languages", "", *total, ndcgs)
