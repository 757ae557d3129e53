"""Assembles the training files: questions with answers, and pairs mined from parallel help and descriptions."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from m3_core.errors import InputError

from . import descriptions, gnome, handbook, libreoffice
from .corpus import LANGUAGES, write_evaluation
from .help_pairs import across_languages, passages, same_language, training_pages
from .libreoffice import Page, translated
from .packages import Debian
from .rows import Pair, capped, read_lines, write_lines
from .split import digest
from .text import size

# Question sets with a stated licence. Others that lie beside them are for evaluation only.
QA = {
    "ja-jaquad": "CC BY-SA 3.0",
    "ko-korquad": "CC BY-ND 2.0",
    "zh-cmrc2018": "CC BY-SA 4.0",
    "zh-drcd": "CC BY-SA 3.0",
    "fa-pquad": "CC BY-SA 4.0",
}
CAPS = {"libreoffice": 2400, "gnome": 500, "handbook": 1500, "debian": 2000}
TEXT_BYTES = 3_000_000  # per language, in texts.jsonl

Step = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Pairs of one source and the texts behind them."""

    pairs: list[Pair]
    texts: list[tuple[str, str]]  # language, text


def make_data(data: Path, output: Path, debian: Debian, step: Step) -> dict[str, int]:
    """Write ``SOURCE.jsonl.gz`` for every source, ``texts.jsonl``, and questions on the held-out pages in ``eval``.

       Returns the number of rows per file that was written.
    A file that is there is not made again. ``data`` holds the folder ``qa``. ``step`` is told what begins.
    """
    qa = data / "qa"
    missing = [name for name in QA if not (qa / f"{name}.train.jsonl.gz").exists()]
    if missing:
        raise InputError(
            f"{qa} lacks {', '.join(missing)} (.train.jsonl.gz); --data names the folder that holds qa/"
        )
    makers: dict[str, Callable[[], Source]] = {
        **{name: lambda name=name: read_qa(qa, name) for name in QA},  # type: ignore[misc]
        "libreoffice": lambda: from_libreoffice(debian, step),
        "gnome": lambda: from_parallel(debian, "gnome", gnome.FOLDERS, gnome.read_gnome),
        "handbook": lambda: from_parallel(debian, "handbook", handbook.FOLDERS, handbook.read_handbook),
        "debian": lambda: from_descriptions(debian),
    }
    counts: dict[str, int] = {}
    texts: list[Path] = []
    for name, make in makers.items():
        pairs, text = output / f"{name}.jsonl.gz", output / "texts" / f"{name}.jsonl.gz"
        texts.append(text)
        if pairs.exists() and text.exists():
            continue
        step(name)
        source = make()
        write_lines(text, ({"lang": language, "text": passage} for language, passage in source.texts))
        counts[pairs.name] = write_lines(pairs, (pair.row() for pair in source.pairs))
    evaluation = output / "eval" / "libreoffice.eval.jsonl.gz"
    if not evaluation.exists():
        step("held-out pages")
        counts[f"eval/{evaluation.name}"] = write_evaluation(evaluation, read_help(debian, step, LANGUAGES))
    step("texts")
    sampled = sample_texts((row["lang"], row["text"]) for text in texts for row in read_lines(text))
    rows = ({"lang": language, "text": text} for language, text in sampled)
    counts["texts.jsonl"] = write_lines(output / "texts.jsonl", rows)
    return counts


def read_qa(folder: Path, name: str) -> Source:
    """A question set: the passage is ``text`` alone, without the article's title, as in the evaluation."""
    pairs: list[Pair] = []
    seen: dict[str, tuple[str, str]] = {}
    for row in read_lines(folder / f"{name}.train.jsonl.gz"):
        pairs.append(Pair(row["lang"], row["query"], row["text"], name))
        seen.setdefault(row["doc_id"], (row["lang"], row["text"]))
    return Source(pairs, list(seen.values()))


def read_help(
    debian: Debian, step: Step = lambda _: None, only: Collection[str] = ()
) -> dict[str, dict[str, Page]]:
    """LibreOffice help pages by language and path, without what was left in English; ``only`` some languages."""
    english = {page.path: page for page in libreoffice.read_pages(debian, "en-us")}
    languages = {"en": english}
    for package, (_, language) in libreoffice.LANGUAGES.items():
        if language == "en" or (only and language not in only):
            continue
        step(f"libreoffice {language}")
        languages[language] = _translations(libreoffice.read_pages(debian, package), english, language)
    return languages


def _translations(pages: Iterable[Page], english: dict[str, Page], language: str) -> dict[str, Page]:
    known = ((page, english[page.path]) for page in pages if page.path in english)
    kept = (translated(page, original, language) for page, original in known)
    return {page.path: page for page in kept if page is not None}


def from_libreoffice(debian: Debian, step: Step) -> Source:
    """Pairs and texts of the help pages that are not held out."""
    languages = {name: training_pages(pages) for name, pages in read_help(debian, step).items()}
    return _from_pages(languages, "libreoffice")


def from_parallel(
    debian: Debian, source: str, folders: dict[str, str], read: Callable[[Debian, str], Iterable[Page]]
) -> Source:
    """Pairs and texts of a help or book whose first folder is the English original."""
    (original, _), *others = folders.items()
    english = {page.path: page for page in read(debian, original)}
    languages = {"en": english}
    for folder, language in others:
        languages[language] = _translations(read(debian, folder), english, language)
    return _from_pages(languages, source)


def _from_pages(languages: dict[str, dict[str, Page]], source: str) -> Source:
    def pairs() -> Iterator[Pair]:
        for language, pages in languages.items():
            yield from same_language(pages, language, source)
        yield from across_languages(languages, source)

    texts = [
        (language, text) for language, pages in languages.items() for text in passages(list(pages.values()))
    ]
    return Source(capped(pairs(), CAPS[source]), texts)


def from_descriptions(debian: Debian) -> Source:
    """Pairs and texts of the package descriptions."""
    lists = debian.lists()
    languages = {
        language: descriptions.read_descriptions(lists, suffix)
        for suffix, language in descriptions.LANGUAGES.items()
    }
    pairs = list(descriptions.description_pairs(languages, "debian"))
    texts = [(pair.lang, f"{pair.query}\n{pair.positive}") for pair in pairs if pair.query_lang is None]
    return Source(capped(pairs, CAPS["debian"]), texts)


def sample_texts(texts: Iterable[tuple[str, str]], limit: int = TEXT_BYTES) -> list[tuple[str, str]]:
    """At most ``limit`` bytes of each language, chosen and ordered by digest, every text once."""
    taken: dict[str, int] = {}
    sample: list[tuple[str, str]] = []
    for language, text in sorted(set(texts), key=lambda item: digest(item[1])):
        used = taken.get(language, 0)
        if used < limit:
            taken[language] = used + size(text)
            sample.append((language, text))
    return sample
