"""The formats that `m3_core.ingestion.sources` reads, one function each: bytes in, documents and rejected lines out."""

import csv
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from m3_core.errors import InputError
from m3_core.ingestion.sources import STDIN, Columns, Records, Rejected, detect_format, open_bytes
from m3_core.types import Document, Json, check_document

MAX_BYTES = 64 * 2**20
"""The longest line and the largest text file that is read; what is longer is rejected and skipped."""
_KEPT = 1_000_000
_TOO_LONG = f"longer than {MAX_BYTES // 2**20} MiB"
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t|"
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_MARKDOWN = re.compile(r"\.(md|markdown)(\.gz)?$", re.IGNORECASE)
_FENCE = re.compile(r" {0,3}(```+|~~~+)")


def _readable(raw: bytes) -> str:
    return raw[:_KEPT].decode(errors="backslashreplace").rstrip("\r\n")


def _check_start(source: str | Path, start: bytes) -> bytes:
    """The first line without its byte order mark."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{source} is UTF-16; convert it to UTF-8 first, for instance with iconv")
    return start.removeprefix(_BOM)


def _lines(file: BinaryIO, source: str | Path) -> Iterator[tuple[bytes, bool]]:
    """Every line, and whether it is complete: of one longer than `MAX_BYTES` only the beginning comes."""
    first = True
    while line := file.readline(MAX_BYTES + 1):
        complete = len(line) <= MAX_BYTES or line.endswith(b"\n")
        if not complete:
            while (rest := file.readline(2**20)) and not rest.endswith(b"\n"):
                pass
        yield (_check_start(source, line) if first else line), complete
        first = False


def json_lines(source: str | Path, columns: Columns) -> Records:
    """One JSON object per line; empty lines are skipped."""
    with open_bytes(source) as file:
        for number, (raw, complete) in enumerate(_lines(file, source), start=1):
            if not raw.strip():
                continue
            try:
                if not complete:
                    raise InputError(f"the line is {_TOO_LONG}")
                yield columns.document(_json_object(raw, number))
            except InputError as error:
                yield Rejected(str(source), number, str(error), _readable(raw))


def _json_object(raw: bytes, number: int) -> Mapping[str, Json]:
    try:
        record = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {raw[error.start]:#04x} at position {error.start}") from None
    except json.JSONDecodeError as error:
        hint = ""
        if number == 1 and raw.lstrip().startswith((b"[", b"{")):
            hint = "; every line must be a JSON object of its own (jq -c can rewrite a file so)"
        raise InputError(f"not JSON: {error.msg} at column {error.colno}{hint}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON that can be read: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"a JSON object is wanted, this is {type(record).__name__}")
    return record


class _TextLines:
    """Decoded lines for the csv module, which may continue after an error; remembers what it gave out."""

    def __init__(self, lines: Iterator[tuple[bytes, bool]]) -> None:
        self._lines = lines
        self.number = 0
        self.raw = bytearray()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw, complete = next(self._lines)
        self.number += 1
        self.raw += raw[: max(0, _KEPT - len(self.raw))]
        if not complete:
            raise csv.Error(f"the line is {_TOO_LONG}")
        # A record may span lines, so it is parsed first and bytes that are no UTF-8 are found afterwards.
        return raw.decode(errors="surrogateescape")


def csv_rows(source: str | Path, columns: Columns, delimiter: str | None) -> Records:
    """Rows under a header. Without a delimiter, that of ``, ; tab |`` which splits the header into the most names.

    Raises:
        InputError: the header cannot be used.
    """
    # The limit is the module's, not the reader's; a smaller one would reject long texts.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_BYTES))
    with open_bytes(source) as file:
        lines = _TextLines(_lines(file, source))
        start = next(lines, None)
        if start is None:
            return
        names, mark = _header(start, source, columns, delimiter)
        rows = csv.reader(lines, delimiter=mark, strict=True)
        while True:
            lines.raw.clear()
            number = lines.number + 1
            try:
                row = next(rows, None)
                if row is None:
                    return
                if row:
                    yield columns.document(_csv_record(names, row))
            except (csv.Error, InputError) as error:
                yield Rejected(str(source), number, str(error), _readable(bytes(lines.raw)))


def _header(
    start: str, source: str | Path, columns: Columns, delimiter: str | None
) -> tuple[Sequence[str], str]:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise InputError(f"a delimiter is one character, not {delimiter!r}")
    try:
        parsed = {mark: next(csv.reader([start], delimiter=mark), []) for mark in delimiter or _DELIMITERS}
    except csv.Error as error:
        raise InputError(f"{source}: the header line cannot be read: {error}") from None
    mark = max(parsed, key=lambda mark: len(parsed[mark]))
    names = [name.strip() for name in parsed[mark]]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"{source}: the header has an empty name or one twice: {names}")
    for name in (columns.text, columns.id, *(columns.metadata or ()), *columns.numbers):
        if name is not None and name not in names:
            raise InputError(
                f"{source}: there is no column {name!r}; the columns are: {', '.join(names)} (delimiter {mark!r})"
            )
    return names, mark


def _csv_record(names: Sequence[str], row: Sequence[str]) -> Mapping[str, Json]:
    if len(row) != len(names):
        raise InputError(f"the row has {len(row)} fields, the header {len(names)}")
    for name, value in zip(names, row, strict=True):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"the field {name!r} is not UTF-8") from None
    return dict(zip(names, row, strict=True))


def parquet_rows(source: str | Path, columns: Columns) -> Records:
    """Rows of a Parquet file. Dates and times become ISO 8601 strings, decimals strings; bytes are rejected.

    Raises:
        InputError: it is no Parquet file, or lacks a column.
    """
    from pyarrow import ArrowException, ArrowInvalid  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    if str(source) == STDIN:
        raise InputError("Parquet cannot be read from standard input; give the name of a file")
    try:
        with ParquetFile(source, pre_buffer=False, buffer_size=2**20) as file:
            wanted = _parquet_columns(str(source), file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(batch_size=64, columns=wanted):
                for row in range(len(batch)):
                    number += 1
                    try:
                        (record,) = batch.slice(row, 1).to_pylist()
                        plain = {name: _plain(value, name) for name, value in record.items()}
                        yield columns.document(plain)
                    except (InputError, ValueError, OverflowError, ArrowInvalid) as error:
                        yield Rejected(str(source), number, str(error), str(batch.slice(row, 1))[:_KEPT])
    except ArrowException as error:
        raise InputError(f"{source}: cannot be read as Parquet: {error}") from error


def _parquet_columns(source: str, names: Sequence[str], columns: Columns) -> Sequence[str] | None:
    for name in (columns.text, columns.id, *(columns.metadata or ())):
        if name is not None and name not in names:
            raise InputError(f"{source}: there is no column {name!r}; the columns are: {', '.join(names)}")
    if columns.metadata is None:
        return None
    return [name for name in names if name in {columns.text, columns.id or "id", *columns.metadata}]


def _plain(value: object, name: str) -> Json:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal() | UUID():
            return str(value)
        case list():
            return [_plain(item, name) for item in value]
        case dict():
            return {key: _plain(item, f"{name}.{key}") for key, item in value.items()}
        case _:
            raise InputError(f"the column {name!r} holds {type(value).__name__}, which JSON cannot say")


def text_files(source: str | Path, columns: Columns) -> Records:
    """The text and Markdown files under a folder, or the one file."""
    top = Path(source)
    if not top.is_dir():
        yield from _text_file(source, "stdin" if str(source) == STDIN else top.name, columns)
        return
    for path in _walk(top):
        yield from _text_file(path, path.relative_to(top).as_posix(), columns)


def _walk(folder: Path) -> Iterator[Path]:
    """The files that are meant, sorted; an entry that cannot be listed stops the walk (the read is incomplete)."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        elif entry.is_file() and _is_text(entry.name):
            yield Path(entry.path)


def _is_text(name: str) -> bool:
    try:
        return detect_format(name) == "text"
    except InputError:
        return False


def _text_file(source: str | Path, name: str, columns: Columns) -> Records:
    try:
        with open_bytes(source) as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise InputError(f"the file is {_TOO_LONG}")
        text = _check_start(source, raw).decode()
        if "\0" in text:
            raise InputError("the file holds NUL bytes, so it is not text")
        if not text.strip():
            return
        metadata: dict[str, Json] = {"path": name}
        if _MARKDOWN.search(name) and (title := first_heading(text)):
            metadata["title"] = title
        document = Document(columns.id_prefix + name, text, metadata)
        check_document(document)
        yield document
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte {raw[error.start]:#04x} at position {error.start}"
        yield Rejected(str(source), None, reason)
    except (InputError, OSError, EOFError, zlib.error) as error:
        yield Rejected(str(source), None, str(error))


def first_heading(text: str) -> str | None:
    """The first Markdown heading outside code blocks and front matter.

    >>> first_heading("Guide" + chr(10) + "=====")
    'Guide'
    """
    lines = text.splitlines()
    start = 0
    if lines and lines[0].rstrip() == "---" and "---" in (line.rstrip() for line in lines[1:]):
        start = 2 + [line.rstrip() for line in lines[1:]].index("---")
    fence = ""
    above = ""
    for line in lines[start:]:
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
            continue
        if mark:
            fence, above = mark[1], ""
        elif heading := _HEADING.fullmatch(line):
            return heading[1]
        elif above and _UNDERLINE.fullmatch(line):
            return above
        else:
            above = line.strip()
    return None
