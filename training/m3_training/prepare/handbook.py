"""The Debian Administrator's Handbook (GPL-2+ or CC BY-SA 3.0): a technical book, parallel in 25 languages.

The one source here with a good amount of Arabic and Persian besides the question sets.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .libreoffice import Page, Paragraph
from .packages import Debian
from .text import clean

if TYPE_CHECKING:
    from lxml.html import HtmlElement

FOLDERS = {
    "en-US": "en", "ar-MA": "ar", "ca-ES": "ca", "cs-CZ": "cs", "da-DK": "da", "de-DE": "de", "el-GR": "el",
    "es-ES": "es", "fa-IR": "fa", "fr-FR": "fr", "id-ID": "id", "it-IT": "it", "ja-JP": "ja", "ko-KR": "ko",
    "nl-NL": "nl", "pl-PL": "pl", "pt-BR": "pt-br", "ru-RU": "ru", "sv-SE": "sv", "tr-TR": "tr", "vi-VN": "vi",
    "zh-CN": "zh-cn", "zh-TW": "zh-tw",
}  # fmt: skip
NUMBER = re.compile(r"^(?:\S+\s)?[\dA-Z]+(?:\.\d+)*\.\s+")
HEADINGS = {"h1", "h2", "h3", "h4", "h5"}
NESTED = {"div", "pre", "ul", "ol", "dl", "table", "script"}


def read_handbook(debian: Debian, folder: str) -> Iterator[Page]:
    """The pages of the book in one language, ordered by file name."""
    root = debian.unpack("debian-handbook") / "usr/share/doc/debian-handbook/html" / folder
    for file in sorted(root.glob("*.html")):
        page = parse_docbook(file.read_bytes(), file.stem)
        if page is not None:
            yield page


def parse_docbook(html: bytes, path: str) -> Page | None:
    """Title, headings and paragraphs of one page; a paragraph's key is its place, which translations keep."""
    from lxml import html as parser

    paragraphs: list[Paragraph] = []
    for number, block in enumerate(
        parser.document_fromstring(html, parser=parser.HTMLParser(encoding="utf-8")).iter("div", *HEADINGS)
    ):
        heading = block.tag in HEADINGS
        if heading or block.get("class") == "para":
            text = clean("".join(_own_text(block)))
            text = NUMBER.sub("", text) if heading else text
            if text:
                paragraphs.append(Paragraph(f"p{number}", text, heading))
    title = next((paragraph.text for paragraph in paragraphs if paragraph.heading), "")
    return Page(path, title, tuple(paragraphs)) if title and len(paragraphs) > 1 else None


def _own_text(element: "HtmlElement") -> Iterator[str]:
    """The text of a paragraph without the lists, listings and paragraphs inside it."""
    if element.text:
        yield element.text
    for child in element:
        if child.tag not in NESTED and isinstance(child.tag, str):
            yield from _own_text(child)
        if child.tail:
            yield child.tail
