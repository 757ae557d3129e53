"""Memory of a long ingest: a hundred thousand documents from a file through ingest into a store that only counts."""

import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from m3_core import Rejected, ingest
from m3_core.ingestion.sources import read_source
from m3_core.store import Capabilities
from m3_core.types import Document, M3Vectors, Ragged, Representation

COUNT = 100_000
SETTLED = 10_000
SLACK_MIB = 8.0
"""What SQLite's caches and the allocator may still take. Keeping no more than the ids would take 25 MiB."""


class Encoder:
    """The shape of an encoder and nothing of its cost: this is about the memory of ingest."""

    fingerprint = "constant"
    max_length = 8192

    def encode_documents(
        self, texts: Sequence[str], *, representations: Collection[Representation] | None = None
    ) -> M3Vectors:
        rows = [np.ones((len(text.split()), 32), np.float32) for text in texts]
        sparse = csr_array(
            (np.ones(len(texts), np.float32), (range(len(texts)), [1] * len(texts))), (len(texts), 9)
        )
        return M3Vectors(np.ones((len(texts), 64), np.float32), sparse, Ragged.from_rows(rows, dimension=32))


class CountingStore:
    """Counts, and keeps nothing."""

    capabilities = Capabilities(frozenset(Representation))
    fingerprint = "constant"
    identity = "counting"

    def __init__(self) -> None:
        self.written = self.deleted = 0

    def upsert(self, documents: Sequence[Document], vectors: M3Vectors) -> None:
        assert len(documents) == len(vectors)
        self.written += len(documents)

    def delete(self, ids: Sequence[str] = (), *, where: object = None) -> None:
        self.deleted += len(ids)

    def count(self, *, where: object = None) -> int:
        return self.written - self.deleted


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watched:
    """A stream that measures the process's memory at every thousandth document."""

    def __init__(self, stream: Iterator[Document | Rejected]) -> None:
        self.stream = stream
        self.settled = self.most = 0.0

    def __iter__(self) -> Iterator[Document | Rejected]:
        for number, document in enumerate(self.stream):
            if number == SETTLED:
                self.settled = resident_mib()
            elif number > SETTLED and number % 1000 == 0:
                self.most = max(self.most, resident_mib())
            yield document

    @property
    def growth(self) -> float:
        return self.most - self.settled


def write(path: Path, numbers: range, bad_every: int) -> None:
    with path.open("w") as file:
        for i in numbers:
            row = {
                "id": f"document-{i:08}",
                "text": f"a short text with the number {i}",
                "lang": "en",
                "n": i,
            }
            file.write("{bad\n" if bad_every and i % bad_every == 7 else json.dumps(row) + "\n")
            if i % 50 == 0:  # and an id that comes twice
                file.write(json.dumps({**row, "text": "another text"}) + "\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_after_the_first_ten_thousand(tmp_path: Path) -> None:
    store, encoder = CountingStore(), Encoder()
    path, journal = tmp_path / "pages.jsonl", tmp_path / "journal.sqlite"

    def run(delete_missing: bool) -> tuple[Watched, int, int]:
        watched = Watched(read_source(path))
        summary = ingest(
            watched,
            encoder,
            store,  # type: ignore[arg-type]  # it has what ingest calls, and no more
            journal=journal,
            rejects=tmp_path / "rejects.jsonl",
            delete_missing=delete_missing,
            confirm=lambda *_: True,
        )
        return watched, summary.written, summary.deleted

    write(path, range(COUNT), bad_every=100)
    first, written, _ = run(delete_missing=False)
    assert written == COUNT * 99 // 100
    print(f"writing: {first.settled:.1f} -> {first.most:.1f} MiB")
    assert first.growth < SLACK_MIB, f"{first.settled:.0f} -> {first.most:.0f} MiB while writing"

    write(path, range(COUNT // 2, COUNT * 3 // 2), bad_every=0)
    before = resident_mib()
    second, written, deleted = run(delete_missing=True)
    assert (
        written == COUNT // 2 + COUNT // 200
    )  # half is new, and the bad lines of the other half are good now
    assert deleted == COUNT // 2 * 99 // 100
    print(
        f"looking up: {second.settled:.1f} -> {second.most:.1f} MiB, after deleting {resident_mib():.1f} MiB"
    )
    assert second.growth < SLACK_MIB, f"{second.settled:.0f} -> {second.most:.0f} MiB while looking up"
    assert resident_mib() - before < 2 * SLACK_MIB  # deleting half a hundred thousand ids included
