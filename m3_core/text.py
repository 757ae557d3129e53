"""Text as people see it."""

import unicodedata


def printable(text: str) -> str:
    """The text without control characters, which a document could use to rewrite the terminal.

    >>> printable("a\\x1b[2J")
    'a�[2J'
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)


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
