"""What an ingest run did."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What a run did, in documents (not in chunks).

    read: that came out of the source, the rejected included; after a complete run it is the sum of
    written, skipped, duplicates and rejected. written: new and changed ones. skipped: unchanged. changed:
    those of the written that replaced an earlier content. duplicates: ids that came again; the last content
    counts. missing: that the source no longer has (counted with ``delete_missing``). deleted: of those.
    truncated: texts cut at the encoder's ``max_length``. without_text: read documents that have no text to encode
    (`m3_core.backfill`); they are left alone, or copied as they are.
    """

    read: int = 0
    written: int = 0
    skipped: int = 0
    changed: int = 0
    duplicates: int = 0
    rejected: int = 0
    missing: int = 0
    deleted: int = 0
    truncated: int = 0
    without_text: int = 0
    seconds: float = 0.0
