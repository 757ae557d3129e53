"""LibreOffice help (MPL-2.0): parallel pages in many languages, paragraphs aligned by their ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .packages import Debian
from .text import clean, size, written_in

if TYPE_CHECKING:
    from lxml.html import HtmlElement

# Package suffix, folder in the package, and the language code of our data.
LANGUAGES = {
    "en-us": ("en-US", "en"),
    "ca": ("ca", "ca"),
    "cs": ("cs", "cs"),
    "da": ("da", "da"),
    "de": ("de", "de"),
    "el": ("el", "el"),
    "es": ("es", "es"),
    "fi": ("fi", "fi"),
    "fr": ("fr", "fr"),
    "hi": ("hi", "hi"),
    "hu": ("hu", "hu"),
    "id": ("id", "id"),
    "it": ("it", "it"),
    "ja": ("ja", "ja"),
    "ko": ("ko", "ko"),
    "nl": ("nl", "nl"),
    "pl": ("pl", "pl"),
    "pt": ("pt", "pt"),
    "pt-br": ("pt-BR", "pt-br"),
    "ru": ("ru", "ru"),
    "sv": ("sv", "sv"),
    "tr": ("tr", "tr"),
    "vi": ("vi", "vi"),
    "zh-cn": ("zh-CN", "zh-cn"),
    "zh-tw": ("zh-TW", "zh-tw"),
}
BLOCKS = ["h1", "h2", "h3", "h4", "h5", "h6", "p"]
MIN_PARAGRAPH = 25  # bytes


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph or heading; ``key`` names it in all translations of the page."""

    key: str
    text: str
    heading: bool


@dataclass(frozen=True)
class Page:
    """One help page in one language; ``path`` is the same in all of them."""

    path: str
    title: str
    paragraphs: tuple[Paragraph, ...]

    @cached_property
    def by_key(self) -> dict[str, Paragraph]:
        """The paragraphs by their key; the first where a key repeats."""
        found: dict[str, Paragraph] = {}
        for paragraph in self.paragraphs:
            found.setdefault(paragraph.key, paragraph)
        return found


def read_pages(debian: Debian, package: str) -> Iterator[Page]:
    """The pages of one language's package, ordered by path."""
    folder = LANGUAGES[package][0]
    root = debian.unpack(f"libreoffice-help-{package}")
    text = root / "usr/share/libreoffice/help" / folder / "text"
    for file in sorted(text.rglob("*.html")):
        page = parse_page(file.read_bytes(), file.relative_to(text).with_suffix("").as_posix())
        if page is not None:
            yield page


def parse_page(html: bytes, path: str) -> Page | None:
    """Title and paragraphs of a help page; None when it holds no text of its own."""
    from lxml import html as parser

    document = parser.document_fromstring(html, parser=parser.HTMLParser(encoding="utf-8"))
    area = document.find(".//div[@id='DisplayArea']")
    title = clean(document.findtext(".//title") or "")
    if area is None or not title:
        return None
    paragraphs: list[Paragraph] = []
    for block in area.iter(*BLOCKS):
        key = block.get("id") or ""
        text = clean("".join(_texts(block)))
        if key and text and "bug" not in (block.get("class") or ""):
            paragraphs.append(Paragraph(key.split("_")[-1], text, block.tag != "p"))
    return Page(path, title, tuple(paragraphs)) if paragraphs else None


def _texts(element: "HtmlElement") -> Iterator[str]:
    """The text of ``element`` as the reader sees it: of the variants per platform only the default one."""
    if element.text:
        yield element.text
    for child in element:
        variant = child.get("hidden") == "true" and not (child.get("id") or "").startswith("default")
        if isinstance(child.tag, str) and child.tag not in {"script", "style"} and not variant:
            yield from _texts(child)
        if child.tail:
            yield child.tail


def translated(page: Page, english: Page, language: str) -> Page | None:
    """``page`` without the paragraphs that were left in English; None when the title was, or nothing remains."""
    original = english.by_key
    kept = tuple(
        paragraph
        for paragraph in page.paragraphs
        if written_in(paragraph.text, language)
        and (paragraph.key not in original or original[paragraph.key].text != paragraph.text)
    )
    if not kept or not written_in(page.title, language):
        return None
    if size(page.title) > 12 and page.title == english.title:
        return None
    return Page(page.path, page.title, kept)


@dataclass(frozen=True, slots=True)
class Section:
    """A run of paragraphs under one heading, short enough to be one passage."""

    heading: str
    text: str
    keys: frozenset[str]
    heading_key: str = ""  # empty below the page's title


def sections(page: Page, *, limit: int = 900, minimum: int = 120) -> list[Section]:
    """Cut a page into passages of at most ``limit`` bytes, at headings and between paragraphs.

    A single paragraph longer than the limit stays whole; what is shorter than ``minimum`` bytes is left out.
    """
    found: list[Section] = []
    heading, heading_key, texts, keys = page.title, "", list[str](), list[str]()

    def close() -> None:
        text = "\n".join(texts)
        if size(text) >= minimum:
            found.append(Section(heading, text, frozenset(keys), heading_key))
        texts.clear()
        keys.clear()

    for paragraph in page.paragraphs:
        if paragraph.heading:
            close()
            heading, heading_key = paragraph.text, paragraph.key
            continue
        if size(paragraph.text) < MIN_PARAGRAPH or paragraph.text in texts:
            continue
        if texts and size("\n".join(texts)) + size(paragraph.text) > limit:
            close()
        texts.append(paragraph.text)
        keys.append(paragraph.key)
    close()
    return found
