"""Debian's package descriptions and their translations: a title and a passage, joined by the original's MD5."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .rows import Pair
from .text import clean, written_in

# Suffix of the list file to the language code of our data.
LANGUAGES = {
    "en": "en", "cs": "cs", "da": "da", "de": "de", "es": "es", "fi": "fi", "fr": "fr", "hu": "hu", "it": "it",
    "ja": "ja", "ko": "ko", "nl": "nl", "pl": "pl", "pt": "pt", "pt_BR": "pt-br", "ru": "ru", "sk": "sk", "sv": "sv",
    "tr": "tr", "uk": "uk", "vi": "vi", "zh_CN": "zh-cn", "zh_TW": "zh-tw",
}  # fmt: skip
STANZA = re.compile(
    r"Package: (?P<package>.*)\nDescription-md5: (?P<md5>[0-9a-f]{32})\n"
    r"Description-\w+: (?P<short>.*)(?P<long>(?:\n .*)*)"
)


@dataclass(frozen=True, slots=True)
class Description:
    """One package's short and long description in one language; paragraphs are lines of ``long``."""

    package: str
    short: str
    long: str


def read_descriptions(lists: Path, suffix: str) -> dict[str, Description]:
    """The descriptions of one language from apt's lists, by the MD5 of the English original."""
    found: dict[str, Description] = {}
    for file in sorted(lists.glob(f"*_main_i18n_Translation-{suffix.replace('_', '%5f')}")):
        found.update(parse_descriptions(file.read_text(encoding="utf-8")))
    return found


def parse_descriptions(text: str) -> dict[str, Description]:
    """The stanzas of a ``Translation-XX`` file, by MD5; unfinished translations (``<trans>``) are left out."""
    found: dict[str, Description] = {}
    for match in STANZA.finditer(text):
        long = "\n".join(_paragraphs(match["long"]))
        if long and "<trans>" not in match[0]:
            found.setdefault(match["md5"], Description(match["package"], clean(match["short"]), long))
    return found


def _paragraphs(long: str) -> Iterator[str]:
    """Paragraphs are divided by `` .``; lines that begin with two spaces (lists, tables) stand by themselves."""
    lines: list[str] = []
    for line in [*long.split("\n"), " ."]:
        if line == " ." or line.startswith("  "):
            if lines:
                yield clean(" ".join(lines))
            lines = []
        if line.startswith("  "):
            lines = [line]
        elif line != " .":
            lines.append(line)


def description_pairs(languages: Mapping[str, Mapping[str, Description]], source: str) -> Iterator[Pair]:
    """Short to long description in each language, and across: short in X to long in English and the reverse."""
    english = languages["en"]
    for language, descriptions in languages.items():
        for md5, description in descriptions.items():
            original = english.get(md5)
            if language != "en" and (original is None or not _translated(description, original, language)):
                continue
            yield Pair(language, description.short, description.long, source)
            if language != "en" and original is not None:
                yield Pair("en", description.short, original.long, source, language)
                yield Pair(language, original.short, description.long, source, "en")


def _translated(description: Description, original: Description, language: str) -> bool:
    english = set(original.long.split("\n"))
    return (
        description.short != original.short
        and not english.intersection(description.long.split("\n"))
        and written_in(description.long, language)
        and written_in(description.short, language, share=0.2)
    )
