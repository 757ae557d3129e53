"""The demo corpus and the held-out evaluation: parallel passages of help pages that no training pair has seen."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .help_pairs import question
from .libreoffice import Page, Section, sections
from .rows import write_lines
from .split import digest, held_out
from .text import size

LANGUAGES = ("de", "el", "en", "es", "fr", "it", "ja", "ko", "pt-br", "ru", "tr", "zh-cn")
SENTENCE_END = re.compile(r"[.!?。！？;](?:\s|$)|[。！？]")
BYTES = (130, 1400)
MIN_LANGUAGES = 7
PER_PAGE = 6  # some pages hold dozens of passages that hardly differ


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage in one language; ``page`` and the number in ``id`` are the same in all languages."""

    id: str
    lang: str
    title: str
    text: str
    page: str

    def row(self) -> dict[str, str]:
        """The passage as a JSON object of the corpus."""
        return {"id": self.id, "lang": self.lang, "title": self.title, "text": self.text, "page": self.page}


def held_out_passages(languages: Mapping[str, Mapping[str, Page]]) -> Iterator[list[Passage]]:
    """Groups of passages that are translations of each other, from held-out pages, in a repeatable order.

    A group starts from an English section; a language joins with the same paragraphs when it has them all.
    Groups in fewer than seven languages, listings and sections of less than two sentences are left out.
    """
    english = languages["en"]
    for path in sorted((path for path in english if held_out(path)), key=digest):
        groups = 0
        for number, section in enumerate(sections(english[path])):
            if groups == PER_PAGE or not readable(section.text):
                continue
            group = [
                passage
                for language in LANGUAGES
                if (
                    passage := _passage(
                        languages[language].get(path), language, english[path], section, number
                    )
                )
                is not None
            ]
            if len(group) >= MIN_LANGUAGES:
                groups += 1
                yield group


def readable(text: str) -> bool:
    """Whether a passage reads as prose: two sentences or more, mostly letters, no formulas or code."""
    letters = sum(character.isalpha() or character.isspace() for character in text)
    prose = not any(mark in text for mark in ("=", "{", "}", "<", "\\", "_"))
    return prose and len(SENTENCE_END.findall(text)) >= 2 and letters >= 0.85 * len(text)


def _passage(
    page: Page | None, language: str, english: Page, section: Section, number: int
) -> Passage | None:
    if page is None or not all(key in page.by_key for key in section.keys):
        return None
    paragraphs = [paragraph for paragraph in page.paragraphs if paragraph.key in section.keys]
    text = "\n".join(dict.fromkeys(paragraph.text for paragraph in paragraphs))
    if not BYTES[0] <= size(text) <= BYTES[1]:
        return None
    # Headings that are names (functions, keys) are the same in all languages and were taken out as English.
    heading = page.by_key.get(section.heading_key) or english.by_key.get(section.heading_key)
    title = question(page.title, heading.text) if heading is not None else page.title
    return Passage(f"{language}/{page.path}#{number}", language, title, text, page.path)


def write_corpus(path: Path, languages: Mapping[str, Mapping[str, Page]], passages: int) -> int:
    """Write the first groups that together have at most ``passages`` passages; returns how many were written."""
    chosen: list[Passage] = []
    for group in held_out_passages(languages):
        if len(chosen) + len(group) <= passages:
            chosen += group
    return write_lines(path, (passage.row() for passage in sorted(chosen, key=lambda passage: passage.id)))


def write_evaluation(path: Path, languages: Mapping[str, Mapping[str, Page]]) -> int:
    """Write all held-out passages as questions (their titles) and documents; returns how many were written.

    The rows are those of the question sets, with ``page`` besides: documents with the same ``page`` and number
    are translations, which makes this an evaluation across languages too. A title that stands over several
    passages of a language asks for none of them and is left out.
    """
    found = [passage for group in held_out_passages(languages) for passage in group]
    titles: dict[tuple[str, str], int] = {}
    for passage in found:
        titles[passage.lang, passage.title] = titles.get((passage.lang, passage.title), 0) + 1
    rows = (
        {
            "lang": passage.lang,
            "query": passage.title,
            "doc_id": passage.id,
            "title": passage.title,
            "text": passage.text,
            "page": passage.page,
        }
        for passage in found
        if titles[passage.lang, passage.title] == 1
    )
    return write_lines(path, rows)
