"""Question-passage pairs from JSON lines, and the order in which a run sees them.

The order is a pure function of the data, the configuration and the seed: a checkpoint needs to keep nothing
but the number of the step.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from m3_core.errors import InputError
from m3_core.tokenizer import M3Tokenizer

from .config import BatchShape, DataConfig
from .neighbours import Neighbours

OTHER = "other"  # in place of the queries' language: any but the passages'
NEIGHBOUR_TOKENS = 512  # of a passage that are compared
CHUNK = 16  # batches whose pairs are sorted by length together


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage that answers it, with their languages."""

    query: str
    positive: str
    lang: str
    query_lang: str


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Tokenised pairs: row i of ``passages`` answers row i of ``queries``."""

    queries: list[list[int]]
    passages: list[list[int]]


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The objects of a JSON-lines file (``.gz`` or plain) with their line numbers, from 1.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object; names file and line.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, _parse(line, f"{path}, line {number}")
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _parse(line: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a JSON object")
    return value


def text_of(row: Mapping[str, object], name: str, where: str) -> str:
    """The non-empty string in field ``name``.

    Raises:
        InputError: it is missing, empty or no string; names file, line and field.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name!r} should be a non-empty string, but is {value!r}")
    return value


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from lines with ``query``, ``positive``, ``lang``, and ``query_lang`` where the query's differs."""
    pairs = []
    for number, row in read_lines(path):
        where = f"{path}, line {number}"
        lang = text_of(row, "lang", where)
        query_lang = text_of(row, "query_lang", where) if "query_lang" in row else lang
        pairs.append(Pair(text_of(row, "query", where), text_of(row, "positive", where), lang, query_lang))
    if not pairs:
        raise InputError(f"{path} holds no pairs")
    return pairs


Languages = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Planned:
    """One batch of the plan: rows of a source's pairs with passages in one language, and the shape."""

    source: str
    rows: tuple[int, ...]
    shape: BatchShape


class PairData:
    """The pairs of all sources, and a plan of ``steps`` batches over them."""

    def __init__(
        self, folder: Path, tokenizer: M3Tokenizer, config: DataConfig, *, steps: int, seed: int
    ) -> None:
        self.config, self.seed, self.tokenizer = config, seed, tokenizer
        self.pairs = {name: read_pairs(folder / name) for name in config.sources}
        self.plan = _Planner(self.pairs, tokenizer, config, seed).plan(steps)

    def identity(self) -> str:
        """A hash of all pairs, options and seed: of two runs with the same one, the longer begins as the shorter."""
        digest = hashlib.sha256(f"{self.config!r} {self.seed}".encode())
        for name, pairs in self.pairs.items():
            digest.update(f"{name} {len(pairs)}".encode())
            for pair in pairs:
                digest.update(f"{pair.query}\0{pair.positive}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]

    def batch(self, step: int) -> PairBatch:
        """The batch of one step, tokenised and cut; queries and passages start with CLS and end with the end token."""
        planned = self.plan[step]
        pairs = [self.pairs[planned.source][row] for row in planned.rows]
        queries, _ = self.tokenizer.encode([pair.query for pair in pairs], self.config.query_tokens)
        room = planned.shape.passage_tokens
        passages, _ = self.tokenizer.encode([pair.positive for pair in pairs], 16 * room)
        cut = [best_window(query, passage, room) for query, passage in zip(queries, passages, strict=True)]
        return PairBatch(queries, cut)


def best_window(query: Sequence[int], passage: Sequence[int], size: int) -> list[int]:
    """At most ``size`` tokens of a passage, its first and last token kept: the part that shares most with the query.

    A passage cut at its beginning would often lose the sentence that answers. Windows start every eighth of their
    size; the earliest of the best wins.

    >>> best_window([1, 7, 8, 2], [1, 3, 4, 5, 6, 7, 8, 9, 2], size=5)
    [1, 6, 7, 8, 2]
    """
    if len(passage) <= size:
        return list(passage)
    wanted, content, room = set(query[1:-1]), passage[1:-1], size - 2
    last = len(content) - room
    starts = [*range(0, last, max(1, room // 8)), last]
    shared = [len(wanted.intersection(content[start : start + room])) for start in starts]
    start = starts[shared.index(max(shared))]
    return [passage[0], *content[start : start + room], passage[-1]]


class _Planner:
    """Draws batches: a source by its share, a shape, languages, and the next rows of that queue."""

    def __init__(
        self, pairs: Mapping[str, Sequence[Pair]], tokenizer: M3Tokenizer, config: DataConfig, seed: int
    ) -> None:
        self.pairs, self.tokenizer, self.config, self.seed = pairs, tokenizer, config, seed
        self.groups = {name: _groups(rows) for name, rows in pairs.items()}
        self.near: dict[tuple[str, Languages], Neighbours] = {}

    def plan(self, steps: int) -> tuple[Planned, ...]:
        random, config = Random(self.seed), self.config
        queues: dict[tuple[str, Languages, BatchShape], Iterator[tuple[int, ...]]] = {}
        plan = []
        for _ in range(steps):
            (source,) = random.choices(list(config.sources), list(config.sources.values()))
            shape = random.choices(config.shapes, [shape.share for shape in config.shapes])[0]
            languages = _draw_languages(self.groups[source], config, random)
            key = (source, languages, shape)
            if key not in queues:
                queues[key] = self._batches(source, languages, shape.size, Random(f"{self.seed} {key}"))
            plan.append(Planned(source, next(queues[key]), shape))
        return tuple(plan)

    def _batches(
        self, source: str, languages: Languages, size: int, random: Random
    ) -> Iterator[tuple[int, ...]]:
        """Endless batches of passages of like length; no batch holds a passage or a query twice."""
        pairs = self.pairs[source]
        while True:
            blocks = self._blocks(source, languages, random)
            step = CHUNK * max(1, size // self.config.neighbours)
            for start in range(0, len(blocks), step):
                chunk = sorted(blocks[start : start + step], key=lambda rows: len(pairs[rows[0]].positive))
                batches = _distinct([row for rows in chunk for row in rows], pairs, size)
                random.shuffle(batches)
                yield from batches

    def _blocks(self, source: str, languages: Languages, random: Random) -> list[list[int]]:
        """Rows in random order that stay together: every pair alone, or one pair of each neighbouring passage."""
        rows = self.groups[source][languages]
        if self.config.neighbours == 1:
            return [[row] for row in random.sample(rows, len(rows))]
        asking: dict[str, list[int]] = {}
        for row in rows:
            asking.setdefault(self.pairs[source][row].positive, []).append(row)
        if (source, languages) not in self.near:
            tokens, _ = self.tokenizer.encode(list(asking), NEIGHBOUR_TOKENS)
            self.near[source, languages] = Neighbours(tokens)
        near = self.near[source, languages].blocks(self.config.neighbours, random)
        choices = list(asking.values())
        return [[random.choice(choices[passage]) for passage in block] for block in near]


def _groups(pairs: Sequence[Pair]) -> dict[Languages, list[int]]:
    """Rows by the languages of query and passage; the queries of a cross-language group have several."""
    groups: dict[Languages, list[int]] = {}
    for row, pair in enumerate(pairs):
        asked = pair.lang if pair.query_lang == pair.lang else OTHER
        groups.setdefault((asked, pair.lang), []).append(row)
    return groups


def _draw_languages(
    groups: Mapping[Languages, Sequence[int]], config: DataConfig, random: Random
) -> Languages:
    same = [languages for languages in groups if languages[0] != OTHER]
    other = [languages for languages in groups if languages[0] == OTHER]
    chosen = other if other and (not same or random.random() < config.cross_language) else same
    weights = [len(groups[languages]) ** 0.5 * config.favoured.get(languages[1], 1.0) for languages in chosen]
    return random.choices(chosen, weights)[0]


def _distinct(rows: Sequence[int], pairs: Sequence[Pair], size: int) -> list[tuple[int, ...]]:
    """Cut rows into batches without repeated passages or queries; what repeats waits for a later batch."""
    batches: list[tuple[int, ...]] = []
    waiting = list(rows)
    while waiting:
        batch: list[int] = []
        seen: set[str] = set()
        later = []
        for row in waiting:
            texts = {pairs[row].query, pairs[row].positive}
            if len(batch) < size and not texts & seen:
                batch.append(row)
                seen |= texts
            else:
                later.append(row)
        batches.append(tuple(batch))
        waiting = later
    full = [batch for batch in batches if len(batch) == size]
    return full or [batch for batch in batches if len(batch) > 1] or batches
