"""Why a document was found, for people: matched tokens, MaxSim pairs and channel scores; as text and as HTML."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from m3_core.text import printable
from m3_core.tokenizer import content_room
from m3_core.types import FloatArray, Hit, Representation

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from m3_core.encoder import M3Encoder


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """A token that query and passage share; ``product`` is what it adds to the sparse score."""

    token: str
    query_weight: float
    passage_weight: float

    @property
    def product(self) -> float:
        return self.query_weight * self.passage_weight


@dataclass(frozen=True, slots=True)
class Alignment:
    """A token of the query, the passage token it is most similar to, and their inner product."""

    query_token: str
    passage_token: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `Retriever.explain` returns. Prints as text, shows as text in IPython and as HTML in a notebook.

    matches: shared tokens, the one that adds most first. alignments: one per query token, in order; their mean
    is the multi score. spans: character ranges of ``text`` covered by matched tokens, ascending, disjoint.
    Empty where the model has no such head.
    """

    query: str
    text: str
    score: float
    scores: Mapping[Representation, float]
    matches: Sequence[TokenMatch]
    alignments: Sequence[Alignment]
    spans: Sequence[tuple[int, int]]

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The text in pieces, each with whether the query matched it lexically."""
        end = 0
        for start, stop in self.spans:
            if start > end:
                yield self.text[end:start], False
            yield self.text[start:stop], True
            end = stop
        if end < len(self.text):
            yield self.text[end:], False

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table
        from rich.text import Text

        yield Text.assemble(("score ", "dim"), f"{self.score:.4f}  ", *self._score_line())
        yield Text.assemble(*((printable(piece), "bold" if hit else "") for piece, hit in self.pieces()))
        if self.matches:
            table = Table("token", "query", "passage", "adds", title="lexical matches", title_justify="left")
            for match in self.matches:
                table.add_row(
                    Text(printable(match.token)),
                    *(f"{x:.4f}" for x in (match.query_weight, match.passage_weight, match.product)),
                )
            yield table
        if self.alignments:
            table = Table(
                "query token", "best passage token", "similarity", title="MaxSim", title_justify="left"
            )
            for pair in self.alignments:
                names = (Text(printable(name)) for name in (pair.query_token, pair.passage_token))
                table.add_row(*names, f"{pair.similarity:.4f}")
            yield table

    def _score_line(self) -> Iterator[str]:
        for kind, value in self.scores.items():
            yield f"{kind.value} {value:.4f}  "

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        out = StringIO()
        # What the environment wants of a terminal (FORCE_COLOR, a notebook) is not for a string.
        console = Console(file=out, width=100, no_color=True, force_terminal=False, force_jupyter=False)
        console.print(self)
        return out.getvalue()

    def to_html(self) -> str:
        """A fragment for a page or a notebook; all text is escaped."""
        body = "".join(
            f"<b>{escape(piece)}</b>" if matched else escape(piece) for piece, matched in self.pieces()
        )
        scores = "".join(f" · {kind.value} {value:.4f}" for kind, value in self.scores.items())
        matches = [
            (match.token, f"{match.query_weight:.4f}", f"{match.passage_weight:.4f}", f"{match.product:.4f}")
            for match in self.matches
        ]
        pairs = [(pair.query_token, pair.passage_token, f"{pair.similarity:.4f}") for pair in self.alignments]
        return (
            f'<div class="m3-explanation"><p><b>{self.score:.4f}</b>{scores}</p><p>{body}</p>'
            + _html_table("Lexical matches", ("token", "query", "passage", "adds"), matches)
            + _html_table("MaxSim", ("query token", "best passage token", "similarity"), pairs)
            + "</div>"
        )

    _repr_html_ = to_html

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # what IPython shows in a terminal


def explain(encoder: "M3Encoder", query: str, hit: Hit, text: str | None = None) -> Explanation:
    """Encode the query and the hit's text once more and lay their tokens side by side.

    text: what was encoded for the store, by default the stored text. If it is, all adds up to the hit's scores.
    """
    kinds = encoder.representations - {Representation.DENSE}
    text = hit.document.text if text is None else text
    matches: list[TokenMatch] = []
    alignments: list[Alignment] = []
    spans: list[tuple[int, int]] = []
    if kinds:
        vectors = encoder.encode_queries([query, text], representations=tuple(kinds))
        if vectors.sparse is not None:
            left, right = (
                dict(zip(*(x.tolist() for x in vectors.sparse_row(row)), strict=True)) for row in (0, 1)
            )
            shared = {token: (left[token], right[token]) for token in left.keys() & right.keys()}
            matches = [
                TokenMatch(encoder.tokenizer.token(token), *weights) for token, weights in shared.items()
            ]
            matches.sort(key=lambda match: (-match.product, match.token))
            room = content_room(encoder.max_length, mcls=encoder.mcls)
            covered = encoder.tokenizer.spans(text)[:room]
            spans = _merge((start, end) for token, start, end in covered if token in shared)
        if vectors.multi is not None:
            alignments = _align(
                vectors.multi[0], vectors.multi[1], encoder.tokens(query), encoder.tokens(text)
            )
    return Explanation(query, text, hit.score, dict(hit.scores), matches, alignments, spans)


def _align(
    query: FloatArray, passage: FloatArray, left: Sequence[str], right: Sequence[str]
) -> list[Alignment]:
    similarity = query @ passage.T
    best = np.argmax(similarity, axis=1)
    return [
        Alignment(name, right[j], float(similarity[i, j]))
        for i, (name, j) in enumerate(zip(left, best.tolist(), strict=True))
    ]


def _merge(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def _html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    header = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><tr>{header}</tr>{body}</table>"
