"""Documents out of files: JSON lines, CSV, Parquet, and folders of text and Markdown, as streams.

Nothing here holds more than one line (or one small batch of Parquet rows) in memory. What cannot be used
comes out as a `Rejected` in its place in the stream, so that whoever reads on can report and count it.
"""

import gzip
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast, get_args

from m3_core.errors import InputError
from m3_core.types import Document, Json, check_document

Format: TypeAlias = Literal["jsonl", "csv", "tsv", "parquet", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)
STDIN = "-"
_FORMAT_OF: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
}


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something in a source that is no document: where it was, why, and what it said.

    line: from 1; the row of a Parquet file; None for a file as a whole. content: cut after a million characters.
    """

    source: str
    line: int | None
    reason: str
    content: str = ""

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.reason}"


Records: TypeAlias = Iterator[Document | Rejected]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which fields of a line make the document.

    id: the field with the id, a string or an integer; None takes ``id`` where there is one and else a hash
    of the text. text: the field with the text. metadata: the fields to keep, None keeps all others. numbers:
    fields of a CSV file, where everything is a string, that are numbers. id_prefix: put before every id.
    """

    id: str | None = None
    text: str = "text"
    metadata: Sequence[str] | None = None
    numbers: Sequence[str] = ()
    id_prefix: str = ""

    def document(self, record: Mapping[str, Json]) -> Document:
        """The document of one line.

        Raises:
            InputError: a field is missing or of another kind; the message says which.
        """
        if self.text not in record:
            names = ", ".join(record) or "none"
            raise InputError(f"there is no field {self.text!r} with the text; the fields are: {names}")
        text = record[self.text]
        if not isinstance(text, str):
            raise InputError(f"the text in {self.text!r} is {_kind(text)}, not a string")
        id_field = self.id or "id"
        kept = record.keys() - {self.text, id_field}
        if self.metadata is not None:
            kept &= set(self.metadata)
        metadata = {name: _number(record, name) if name in self.numbers else record[name] for name in record}
        metadata = {name: value for name, value in metadata.items() if name in kept}
        document = Document(self.id_prefix + self._id(record, id_field, text), text, metadata)
        check_document(document)
        return document

    def _id(self, record: Mapping[str, Json], field: str, text: str) -> str:
        value = record.get(field)
        match value:
            case str() if value:
                return value
            case int() if not isinstance(value, bool):
                return str(value)
            case None if self.id is None and field not in record:
                return sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
        if field not in record:
            names = ", ".join(record) or "none"
            raise InputError(f"there is no field {field!r} with the id; the fields are: {names}")
        raise InputError(f"the id in {field!r} is {_kind(value)}; it must be a string or an integer")


def _kind(value: Json) -> str:
    match value:
        case None:
            return "null"
        case "":
            return "empty"
        case _:
            return f"{type(value).__name__} ({str(value)[:60]})"


def _number(record: Mapping[str, Json], name: str) -> Json:
    value = record[name]
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return int(value)
    except ValueError:
        try:
            return float(value)
        except ValueError:
            raise InputError(f"{value[:60]!r} in {name!r} is not a number") from None


def detect_format(source: str | Path) -> Format:
    """The format of a file by its name; of a folder, text; of standard input, JSON lines.

    Raises:
        InputError: the name says nothing known.
    """
    path = Path(source)
    if str(source) == STDIN:
        return "jsonl"
    if path.is_dir():
        return "text"
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in _FORMAT_OF:
        raise InputError(
            f"{source}: cannot tell the format from the name; name it (one of {', '.join(FORMATS)}), "
            f"or use one of the endings {', '.join(_FORMAT_OF)}, each also with .gz"
        )
    return _FORMAT_OF[suffix]


def identify(source: str | Path) -> str:
    """What a journal calls the source: its absolute path, so that it is the same from any folder."""
    return "standard input" if str(source) == STDIN else str(Path(source).resolve())


def read_source(
    source: str | Path,
    columns: Columns | None = None,
    *,
    format: Format | None = None,
    delimiter: str | None = None,
) -> Records:
    """The documents of a file, a folder, or standard input (``-``), with a `Rejected` where there is none.

    Gzip is recognised by its first bytes. A folder gives its text and Markdown files, sorted by path, which is their
    id; hidden files, symbolic links, empty files and other endings are left out; ``title`` is the first heading.

    Raises:
        InputError: there is no such file, its format is not known, or (while reading) it cannot be read to its end.
    """
    from m3_core.ingestion import readers

    path = Path(source)
    if str(source) != STDIN and not path.exists():
        raise InputError(f"{source}: there is no such file or folder")
    chosen = format or detect_format(source)
    if path.is_dir() and chosen != "text":
        raise InputError(f"{source} is a folder; only text and Markdown are read from folders, not {chosen}")
    columns = columns or Columns()
    match chosen:
        case "jsonl":
            records = readers.json_lines(source, columns)
        case "csv" | "tsv":
            records = readers.csv_rows(source, columns, delimiter or ("\t" if chosen == "tsv" else None))
        case "parquet":
            records = readers.parquet_rows(source, columns)
        case "text":
            records = readers.text_files(source, columns)
    return _to_the_end(str(source), records)


def _to_the_end(source: str, records: Records) -> Records:
    try:
        yield from records
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{source}: cannot be read to the end: {error}") from error


@contextmanager
def open_bytes(source: str | Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked if they are gzip; standard input for ``-``."""
    with nullcontext(sys.stdin.buffer) if str(source) == STDIN else Path(source).open("rb") as raw:
        if isinstance(raw, BufferedReader) and raw.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield cast(BinaryIO, unpacked)
        else:
            yield raw
