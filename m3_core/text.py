"""Text as people see it."""

import unicodedata


def printable(text: str) -> str:
    """The text without control characters, which a document could use to rewrite the terminal.

    >>> printable("a\\x1b[2J")
    'a�[2J'
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)
