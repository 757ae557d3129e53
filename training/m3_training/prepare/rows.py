"""The row that training reads, and how many of them to take from where."""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .split import digest
from .text import size

QUERY_BYTES = (6, 400)
POSITIVE_BYTES = (80, 4000)


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage that answers it; ``query_lang`` only where it is not the passage's language."""

    lang: str
    query: str
    positive: str
    source: str
    query_lang: str | None = None

    def row(self) -> dict[str, str]:
        """The pair as a JSON object of the training files."""
        row = {"lang": self.lang, "query": self.query, "positive": self.positive, "source": self.source}
        return row if self.query_lang is None else {**row, "query_lang": self.query_lang}


def usable(pair: Pair) -> bool:
    """Whether both sides have a sensible length and the query is not simply a part of the passage's start."""
    within = QUERY_BYTES[0] <= size(pair.query) <= QUERY_BYTES[1]
    fits = POSITIVE_BYTES[0] <= size(pair.positive) <= POSITIVE_BYTES[1]
    return within and fits and not pair.positive.startswith(pair.query)


def capped(pairs: Iterable[Pair], limit: int) -> list[Pair]:
    """At most ``limit`` usable pairs per language and direction (same language, or across), each query-passage once.

    Which ones is decided by their digest, so that the same input gives the same files everywhere.
    """
    groups: dict[tuple[str, bool], dict[tuple[str, str], Pair]] = defaultdict(dict)
    for pair in pairs:
        if usable(pair):
            language = pair.lang if pair.query_lang is None or pair.lang != "en" else pair.query_lang
            groups[language, pair.query_lang is None].setdefault((pair.query, pair.positive), pair)
    chosen: list[Pair] = []
    for group in groups.values():
        ordered = sorted(group.values(), key=lambda pair: digest(pair.query + "\0" + pair.positive))
        chosen += ordered[:limit]
    return sorted(
        chosen, key=lambda pair: (digest(f"{pair.positive}\0{pair.query}"), pair.lang, pair.query_lang or "")
    )


def write_lines(path: Path, rows: Iterable[dict[str, str]]) -> int:
    """Write JSON lines (gzip where the name ends in ``.gz``), in place only when complete; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    written = 0
    with partial.open("wb") as raw:
        # No name and no time in the header: the same rows give the same bytes.
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
        out = raw if packed is None else packed
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            written += 1
        if packed is not None:
            packed.close()
    partial.replace(path)
    return written


def read_lines(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a JSON lines file, gzip or plain."""
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as file
    ):
        for line in file:
            yield json.loads(line)
