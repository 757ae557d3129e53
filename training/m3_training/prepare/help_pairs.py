"""Training pairs from parallel help pages: within a language and across languages."""

from collections.abc import Iterator, Mapping, Sequence

from .libreoffice import Page, sections
from .rows import Pair
from .split import digest, held_out
from .text import size

Pages = Mapping[str, Page]  # by path

LEAKED_BYTES = 60  # paragraphs of held-out pages that long may not stand in a training passage


def training_pages(pages: Pages) -> dict[str, Page]:
    """The pages that may be trained on, without the paragraphs they share with a page that is held out."""
    kept_out = {
        paragraph.text
        for path, page in pages.items()
        if held_out(path)
        for paragraph in page.paragraphs
        if size(paragraph.text) >= LEAKED_BYTES
    }
    training: dict[str, Page] = {}
    for path, page in pages.items():
        if held_out(path):
            continue
        paragraphs = tuple(paragraph for paragraph in page.paragraphs if paragraph.text not in kept_out)
        training[path] = Page(path, page.title, paragraphs)
    return training


def same_language(pages: Pages, language: str, source: str) -> Iterator[Pair]:
    """Title or heading to passage, and now and then a paragraph to the rest of its passage."""
    for page in pages.values():
        for section in sections(page):
            yield Pair(language, question(page.title, section.heading), section.text, source)
            paragraphs = section.text.split("\n")
            number = digest(section.text) % (2 * len(paragraphs))
            if len(paragraphs) > 2 and number < len(paragraphs):
                rest = "\n".join(paragraphs[:number] + paragraphs[number + 1 :])
                yield Pair(language, paragraphs[number], rest, source)


def across_languages(languages: Mapping[str, Pages], source: str) -> Iterator[Pair]:
    """A title, heading or paragraph in one language to the passage in another; half of the others are English."""
    names = sorted(languages)
    for language in names:
        for path, page in languages[language].items():
            others = [name for name in names if name != language and path in languages[name]]
            if not others:
                continue
            number = digest(f"{language} {path}")
            other = "en" if "en" in others and number % 2 else others[(number >> 1) % len(others)]
            yield from _across(page, language, languages[other][path], other, source)


def _across(page: Page, language: str, foreign: Page, other: str, source: str) -> Iterator[Pair]:
    ours = sections(page)
    for section in sections(foreign):
        match = next((mine for mine in ours if mine.keys & section.keys), None)
        if match is not None:
            yield Pair(other, question(page.title, match.heading), section.text, source, language)
        for key in sorted(section.keys):
            paragraph = page.by_key.get(key)
            if paragraph is not None and size(paragraph.text) >= 40 and digest(language + key) % 3 == 0:
                yield Pair(other, paragraph.text, section.text, source, language)


def question(title: str, heading: str) -> str:
    """What a section answers: its heading where that says enough by itself, otherwise the title with the heading."""
    if heading.casefold() in title.casefold():
        return title
    return heading if size(heading) >= 30 else f"{title}: {heading}"


def passages(pages: Sequence[Page]) -> Iterator[str]:
    """The passages of pages, for counting words and for distillation."""
    for page in pages:
        for section in sections(page):
            yield f"{section.heading}\n{section.text}"
