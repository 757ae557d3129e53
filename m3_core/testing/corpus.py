"""Seeded documents, vectors and filters for the contract suite; no model is needed."""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from m3_core.store import Schema
from m3_core.types import Document, FloatArray, Json, M3Vectors, Ragged

WORDS = ("table", "insert", "表を挿入する", "جدول", "Zeile", "столбец", "wörd", "🙂", "row", "cell")

ODD_METADATA: Sequence[Mapping[str, Json]] = (
    {},
    {"integers": [0, 1, -1, 2**31, 2**53, -(2**53)]},
    {"integer": 2**63 - 1, "other": -(2**63)},
    {"floats": [0.5, 1.0, -2.0, 0.1, 1e-9, 1.7976931348623157e308, 3.141592653589793]},
    {"yes": True, "no": False, "nothing": None},
    {"lists": [[], [[]], [1, "1", 1.0, True, None, {"a": [{"b": None}]}]]},
    {"empty": {}, "none": [], "nested": {"a": {"b": {"c": [1, {"d": "e"}]}}}},
    {
        "text": "not the text",
        "id": "not the id",
        "dense": [1.0],
        "sparse": {},
        "multi": 0,
        "metadata": {"a": 1},
    },
    {"key with space": 1, "'": 2, '"': 3, "\\": 4, "$gt": 5, "日本語": 6, "🙂": 7, "{x}": 8, "new\nline": 9},
    {"string": " spaces ", "long": "long " * 1000, "date": "2026-11-22T00:00:00Z", "number": "007"},
)
"""Metadata that has to come back as it went in: 1 as an integer, 1.0 as a float, true as a boolean."""


def documents(n: int, *, seed: int = 0, prefix: str = "doc-") -> list[Document]:
    """Documents whose metadata mixes types under the same fields, with gaps."""
    chance = random.Random(seed)
    return [
        Document(f"{prefix}{row}", " ".join(chance.choices(WORDS, k=5)), _metadata(chance))
        for row in range(n)
    ]


def _metadata(chance: random.Random) -> dict[str, Json]:
    year = chance.randint(2015, 2024)
    choices: dict[str, Sequence[Json]] = {
        "lang": ("ja", "en", "de", "ar", "JA", None),
        "year": (year, year, float(year), str(year), year + 0.5, [year, 2020]),
        "tags": ([], ["a"], ["a", "b"], ["c", 1], [2.5, True, "1"], "a", 1, ["b", "b", "c", "d"], None),
        "flag": (True, False, 1, 0, "true", [True, False]),
        "score": (-1.5, -1, 0, 0.25, 1, 1.0, 2.75, 10**6),
        "meta": (
            {"author": "Ann", "n": 1},
            {"author": "Bob", "n": 2.5, "deep": {"x": [1, 2]}},
            {"author": None, "deep": {"x": "y"}},
            {"author": ["Ann", "Cid"], "n": "1"},
            "a string",
            None,
        ),
    }
    return {name: chance.choice(values) for name, values in choices.items() if chance.random() < 0.8}


FILTER_VALUES: Mapping[str, Sequence[Json]] = {
    "lang": ("ja", "en", "de", "JA", "", 1),
    "year": (2016, 2018, 2019.0, 2020, 2021.5, 2023, "2020", True),
    "tags": ("a", "b", "c", "1", 1, 2.5, True, "d"),
    "flag": (True, False, 1, 0, "true"),
    "score": (-1.5, -1, 0, 0.25, 1, 1.0, 10**6, "1", True),
    "meta.author": ("Ann", "Bob", "Cid", "ann"),
    "meta.n": (1, 2.5, "1", 2, True),
    "meta.deep.x": (1, 2, "y"),
    "nowhere": (1, "a", True),
}
"""Fields of `documents` and values to ask for; some are of another type than any document has there."""


@cache
def random_filters(n: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Filters over the fields of `documents`, with every operator and up to three levels of connectives."""
    chance = random.Random(seed)
    return [_filter(chance, depth=chance.randint(0, 3)) for _ in range(n)]


def _filter(chance: random.Random, depth: int) -> dict[str, Any]:
    if depth:
        match chance.choice(("$and", "$or", "$not", "fields")):
            case "$not":
                return {"$not": _filter(chance, depth - 1)}
            case "$and" | "$or" as connective:
                return {connective: [_filter(chance, depth - 1) for _ in range(chance.randint(1, 3))]}
    fields = chance.sample(list(FILTER_VALUES), chance.choice((1, 1, 2)))
    return {name: _condition(chance, FILTER_VALUES[name]) for name in fields}


def _condition(chance: random.Random, values: Sequence[Json]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    number = chance.choice(numbers or (0, 1.5))
    match chance.choice(
        ("value", "null", "$eq", "$ne", "$in", "$nin", "range", "between", "$exists", "$not")
    ):
        case "value":
            return chance.choice(values)
        case "null":
            return None
        case "$in" | "$nin" as operator:
            return {operator: chance.choices((*values, None), k=chance.randint(0, 4))}
        case "range":
            return {chance.choice(("$gt", "$gte", "$lt", "$lte")): number}
        case "between":
            return {chance.choice(("$gt", "$gte")): number, chance.choice(("$lt", "$lte")): number + 2}
        case "$exists":
            return {"$exists": chance.random() < 0.5}
        case "$not":
            return {"$not": {chance.choice(("$eq", "$gt", "$lte")): number}}
        case operator:
            return {operator: chance.choice(values)}


def vectors(schema: Schema, n: int, *, seed: int = 0) -> M3Vectors:
    """Vectors of n texts as a model makes them: unit length, some tokens frequent, 1 to 12 multi-vectors."""
    chance = np.random.default_rng(seed)
    multi = None
    if schema.multi is not None:
        sizes = chance.integers(1, 13, n)
        multi = Ragged.from_rows(
            [_unit(chance, size, schema.multi) for size in sizes], dimension=schema.multi
        )
    return M3Vectors(
        dense=None if schema.dense is None else _unit(chance, n, schema.dense),
        sparse=None if schema.sparse is None else _lexical(chance, n, schema.sparse),
        multi=multi,
    )


def _unit(chance: np.random.Generator, n: int, dimension: int) -> FloatArray:
    values = chance.standard_normal((n, dimension))
    unit: FloatArray = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _lexical(chance: np.random.Generator, n: int, vocabulary: int) -> "csr_array[Any, Any]":
    frequency = 1 / (np.arange(vocabulary) + 5)
    rows = [
        chance.choice(vocabulary, size=chance.integers(3, 30), replace=False, p=frequency / frequency.sum())
        for _ in range(n)
    ]
    return sparse_rows(
        [{int(token): float(chance.uniform(0.01, 0.5)) for token in row} for row in rows], vocabulary
    )


def sparse_rows(rows: Sequence[Mapping[int, float]], vocabulary: int) -> "csr_array[Any, Any]":
    """Lexical weights from dictionaries, token id -> weight."""
    tokens = [token for row in rows for token in sorted(row)]
    weights = [row[token] for row in rows for token in sorted(row)]
    offsets = np.cumsum([0, *map(len, rows)])
    return csr_array(
        (np.array(weights, np.float32), np.array(tokens, np.int64), offsets), shape=(len(rows), vocabulary)
    )
