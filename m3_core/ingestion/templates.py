"""The text that is encoded, made of a document's fields: ``"{title}\\n{text}"``."""

from collections.abc import Callable, Mapping
from string import Formatter
from typing import TypeAlias

from m3_core.errors import InputError
from m3_core.types import FIELD_NAME, Document, Json

Encode: TypeAlias = str | Callable[[Document], str] | None
"""What is encoded of a document: a template, a function, or its text."""


def text_of(encode: Encode, aliases: Mapping[str, str] | None = None) -> Callable[[Document], str]:
    """The function that gives what is encoded of a document; aliases and what is raised are `Template`'s."""
    return (
        Template(encode, aliases) if isinstance(encode, str) else encode or (lambda document: document.text)
    )


class Template:
    """Fills ``{text}``, ``{id}`` and metadata fields (dots for nesting) into a pattern; ``{{`` is a brace.

    A field that a document lacks is left empty, and space at both ends is trimmed. Only names are allowed
    between the braces: nothing is looked up or called. ``aliases`` are other names for fields.

    Raises:
        InputError: the pattern cannot be parsed, or has no field.

    >>> Template("{title}: {text}")(Document("1", "a dog", {"title": "Dogs"}))
    'Dogs: a dog'
    """

    def __init__(self, pattern: str, aliases: Mapping[str, str] | None = None) -> None:
        try:
            parsed = list(Formatter().parse(pattern))
        except ValueError as error:
            raise InputError(f"the template {pattern!r} cannot be read: {error}") from None
        self._pieces: list[tuple[str, str | None]] = []
        for literal, name, spec, conversion in parsed:
            if name is not None and (spec or conversion or not FIELD_NAME.fullmatch(name)):
                raise InputError(
                    f"the template {pattern!r}: between braces only the name of a field is allowed, "
                    "of letters, digits, '_' and '-', with dots for nesting; write {{ for a brace"
                )
            self._pieces.append((literal, (aliases or {}).get(name, name) if name else None))
        self._unfilled = {name for _, name in self._pieces if name is not None}
        if not self._unfilled:
            raise InputError(f"the template {pattern!r} has no field, like {{text}}")

    @property
    def unfilled(self) -> list[str]:
        """The fields that no document has had so far."""
        return sorted(self._unfilled)

    def __call__(self, document: Document) -> str:
        parts = []
        for literal, name in self._pieces:
            parts.append(literal)
            if name is not None and (value := _field(document, name)) not in (None, ""):
                parts.append(str(value))
                self._unfilled.discard(name)
        return "".join(parts).strip()


def _field(document: Document, name: str) -> Json:
    if name in ("id", "text"):
        return getattr(document, name)
    value: Json = document.metadata
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
