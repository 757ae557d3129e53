"""Text as people see it."""

import unicodedata

_OVERRIDES = {"LRO", "RLO"}
"""Classes of characters that turn text around whatever it is; embeddings and isolates belong to proper text."""


def printable(text: str) -> str:
    """The text without what a document could use to rewrite the terminal: control characters, and overrides of direction.

    >>> printable("a\\x1b[2J")
    'a�[2J'
    """
    return "".join("\ufffd" if _rewrites(c) else c for c in text)


def _rewrites(c: str) -> bool:
    return (unicodedata.category(c) == "Cc" and c not in "\n\t") or unicodedata.bidirectional(c) in _OVERRIDES


def one_line(text: str) -> str:
    """The text for people as one line, however many it has.

    >>> one_line("refused:\\n  no such\\tkey\\x07")
    'refused: no such key�'
    """
    return printable(" ".join(text.split()))


def without_secrets(url: str) -> str:
    """The URL without user, password and options, any of which may be secret.

    >>> without_secrets("milvus://root:secret@db:19530/pages?token=secret")
    'milvus://db:19530/pages'
    """
    scheme, separator, place = url.partition("?")[0].rpartition("://")
    host, slash, path = place.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
