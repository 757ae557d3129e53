"""Every exception the library raises on purpose, as one tree.

::

    M3Error
    ├── InputError (ValueError)          a text, query, id or option that cannot be used; names the index or value
    │   └── FilterError                  a filter that cannot be parsed
    ├── ModelError                       a model folder that cannot be loaded
    │   └── RepresentationMissing        the model has no head for what was asked
    ├── MissingExtra (ImportError)       an optional package is not installed; the message is the pip line
    ├── IngestError                      an ingest run that cannot go on
    │   ├── IngestStopped                stopped on the way; its summary says how far it came
    │   └── JournalError                 the journal belongs to another store, model or source
    └── StoreError                       something a store said
        ├── StoreNotFound                no such collection, folder or URL scheme
        ├── StoreLocked                  another process or object holds the folder
        ├── StoreUnavailable             the server does not answer; trying again may help
        ├── SchemaMismatch               the collection exists but does not fit: names what and how
        │   ├── DimensionMismatch        vectors of another dimension
        │   └── FingerprintMismatch      the vectors in it were made by another model
        └── Unsupported                  this engine cannot do it: a channel, an operator, a fusion

    KeyboardInterrupt
    └── IngestInterrupted                Ctrl-C during an ingest, which ended cleanly; its summary says how far it came
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m3_core.ingestion.summary import IngestSummary


class M3Error(Exception):
    """Root of all errors of this library."""


class InputError(M3Error, ValueError):
    """A text, query, id or option that cannot be used; the message names the index or the value."""


class FilterError(InputError):
    """A filter that cannot be parsed; the message names the field or operator."""


class ModelError(M3Error):
    """A model folder that cannot be loaded; the message names the file and what is wrong with it."""


class RepresentationMissing(ModelError):
    """The model has no head for a representation that was asked for."""


class MissingExtra(M3Error, ImportError):
    """An optional package is not installed; the message holds the exact ``pip install`` line."""


class IngestError(M3Error):
    """An ingest run cannot go on; what was acknowledged by the store is in the journal."""


class IngestStopped(IngestError):
    """The run could not go on. ``summary`` says how far it came, ``__cause__`` why; the next run goes on from there."""

    def __init__(self, message: str, summary: "IngestSummary") -> None:
        super().__init__(message)
        self.summary = summary


class IngestInterrupted(KeyboardInterrupt):
    """Ctrl-C: what was being written was finished. ``summary`` says how far the run came."""

    def __init__(self, summary: "IngestSummary") -> None:
        super().__init__("the ingest was interrupted")
        self.summary = summary


class JournalError(IngestError):
    """The journal belongs to another store, model or source, or cannot be read."""


class StoreError(M3Error):
    """Something a store refused or could not do."""


class StoreNotFound(StoreError):
    """There is no such collection, folder or URL scheme."""


class StoreLocked(StoreError):
    """Another process, or another object of this one, holds the folder."""


class StoreUnavailable(StoreError):
    """The server does not answer, or answers that it is overloaded; trying again may help.

    ``retry_after``: the seconds that it asked to wait before; 0 if it did not.
    """

    def __init__(self, message: str = "", *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SchemaMismatch(StoreError):
    """The collection exists but does not fit what is to be stored; the message says what and how."""


class DimensionMismatch(SchemaMismatch):
    """Vectors of another dimension than the collection holds."""


class FingerprintMismatch(SchemaMismatch):
    """The vectors of the collection were made by another model; the message names both."""


class Unsupported(StoreError):
    """The engine cannot do this exactly (a channel, an operator, a fusion), and nothing is approximated."""
