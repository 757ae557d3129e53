"""What a run could not use: counted, reported, and written down for repair."""

import json
import logging
import threading
from pathlib import Path
from typing import IO

from m3_core.errors import IngestError
from m3_core.ingestion.sources import Rejected
from m3_core.types import Document

logger = logging.getLogger("m3_core.ingest")

_REPORTED = 20


def refusal(source: str, document: Document, reason: str) -> Rejected:
    """A document that was read and cannot be written."""
    content = json.dumps(
        {"id": document.id, "text": document.text, "metadata": document.metadata},
        ensure_ascii=False,
        default=dict,
    )
    return Rejected(source, None, f"document {document.id!r}: {reason}", content)


class RejectLog:
    """Counts rejected documents, logs the first twenty, and writes all to a file of JSON lines.

    A row has source, line, reason and content. The file of an earlier run is removed, and a new one made at
    the first rejected document. With ``strict`` that one stops the run. Safe to call from several threads.

    Raises:
        IngestError: the file cannot be written; or ``strict``, and something was rejected.
    """

    def __init__(self, path: Path | None, *, strict: bool) -> None:
        self.count = 0
        self._path, self._strict = path, strict
        self._file: IO[str] | None = None
        self._lock = threading.Lock()
        if path is not None:
            try:
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise IngestError(f"the reject file {path} cannot be written: {error}") from error

    def add(self, rejected: Rejected) -> None:
        """Count and keep one."""
        with self._lock:
            self.count += 1
            if self.count <= _REPORTED:
                logger.warning("rejected %s", rejected)
            if self._path is not None:
                self._write(self._path, rejected)
        if self._strict:
            raise IngestError(f"stopped at the first rejected document, as asked: {rejected}")

    def _write(self, path: Path, rejected: Rejected) -> None:
        row = {
            "source": rejected.source,
            "line": rejected.line,
            "reason": rejected.reason,
            "content": rejected.content,
        }
        try:
            if self._file is None:
                self._file = path.open("w", encoding="utf-8", errors="backslashreplace")
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise IngestError(f"the reject file {path} cannot be written: {error}") from error

    def close(self) -> None:
        """Close the file, and say how many there were if not all were reported."""
        if self.count > _REPORTED:
            logger.warning("%d were rejected in all", self.count)
        if self._file is not None:
            self._file.close()
