"""GNOME's user help (CC BY-SA 3.0): Mallard pages, parallel by file name."""

from collections.abc import Iterator
from pathlib import Path

from .libreoffice import Page, Paragraph
from .packages import Debian
from .text import clean

FOLDERS = {
    "C": "en", "ca": "ca", "cs": "cs", "da": "da", "de": "de", "el": "el", "es": "es", "fi": "fi", "fr": "fr",
    "hu": "hu", "hi": "hi", "id": "id", "it": "it", "ja": "ja", "ko": "ko", "nl": "nl", "pl": "pl", "pt": "pt",
    "pt_BR": "pt-br", "ru": "ru", "sv": "sv", "tr": "tr", "uk": "uk", "vi": "vi", "zh_CN": "zh-cn",
}  # fmt: skip
MALLARD = "{http://projectmallard.org/1.0/}"


def read_gnome(debian: Debian, folder: str) -> Iterator[Page]:
    """The help pages of one language, as far as they are translated in structure."""
    root = debian.unpack("gnome-user-docs") / "usr/share/help" / folder / "gnome-help"
    for file in sorted(root.glob("*.page")):
        page = parse_mallard(file)
        if page is not None:
            yield page


def parse_mallard(file: Path) -> Page | None:
    """Title, description and paragraphs of a Mallard page; None where one of them is missing.

    Mallard has no paragraph ids: a paragraph's key is its place in the page, which translations keep.
    """
    from lxml import etree

    try:
        root = etree.parse(file).getroot()
    except etree.XMLSyntaxError:
        return None  # a handful of translated pages are not well-formed; nothing else can be read from them
    title = _text(root.find(f"{MALLARD}title"))
    paragraphs: list[Paragraph] = []
    for number, element in enumerate(root.iter(f"{MALLARD}desc", f"{MALLARD}title", f"{MALLARD}p")):
        if element.getparent() is root and element.tag == f"{MALLARD}title":
            continue
        text = _text(element)
        if text:
            paragraphs.append(Paragraph(f"p{number}", text, element.tag == f"{MALLARD}title"))
    return Page(file.stem, title, tuple(paragraphs)) if title and paragraphs else None


def _text(element: object) -> str:
    from lxml import etree

    return (
        clean("".join(str(part) for part in element.itertext()))
        if isinstance(element, etree._Element)
        else ""
    )
