"""Readers: what comes out of good files, and what is said of every kind of bad one."""

import csv
import datetime as dt
import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_core.errors import InputError
from m3_core.ingestion import readers
from m3_core.ingestion.readers import first_heading
from m3_core.ingestion.sources import Columns, Rejected, detect_format, identify, read_source
from m3_core.types import Document

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def split(records: Any) -> tuple[list[Document], list[Rejected]]:
    everything = list(records)
    return (
        [item for item in everything if isinstance(item, Document)],
        [item for item in everything if isinstance(item, Rejected)],
    )


def reasons(records: Any) -> dict[int | None, str]:
    return {item.line: item.reason for item in split(records)[1]}


# JSON lines.


def test_json_lines(write: Write) -> None:
    path = write(
        "pages.jsonl", '{"id": "a", "text": "x", "lang": "en", "tags": ["q", 1]}\n\n{"id": 7, "text": ""}\r\n'
    )
    assert list(read_source(path)) == [
        Document("a", "x", {"lang": "en", "tags": ["q", 1]}),
        Document("7", "", {}),
    ]


def test_names_of_fields_and_which_are_kept(write: Write) -> None:
    path = write("pages.jsonl", '{"key": "a", "body": "x", "id": 5, "lang": "en", "n": 1}\n')
    columns = Columns(id="key", text="body", metadata=["lang", "id"], id_prefix="wiki/")
    assert list(read_source(path, columns)) == [Document("wiki/a", "x", {"id": 5, "lang": "en"})]


def test_without_an_id_it_is_a_hash_of_the_text(write: Write) -> None:
    path = write("pages.jsonl", '{"text": "x"}\n{"text": "y"}\n{"text": "x", "n": 1}\n')
    ids = [document.id for document in split(read_source(path))[0]]
    assert ids == [sha256(text.encode()).hexdigest()[:32] for text in "xyx"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{bad", "not JSON"),
        ('["a"]', "a JSON object is wanted, this is list"),
        ('"a"', "a JSON object is wanted, this is str"),
        ('{"id": "a"}', "no field 'text'"),
        ('{"id": "a", "text": null}', "the text in 'text' is null"),
        ('{"id": "a", "text": 3}', "the text in 'text' is int (3)"),
        ('{"id": null, "text": "x"}', "the id in 'id' is null"),
        ('{"id": "", "text": "x"}', "the id in 'id' is empty"),
        ('{"id": 1.5, "text": "x"}', "the id in 'id' is float (1.5)"),
        ('{"id": true, "text": "x"}', "the id in 'id' is bool"),
        ('{"id": ["a"], "text": "x"}', "the id in 'id' is list"),
        ('{"id": "' + "é" * 257 + '", "text": "x"}', "512 UTF-8 bytes"),
        ('{"id": "a", "text": "\\ud800"}', "lone surrogate"),
        ('{"id": "a", "text": "x", "n": NaN}', "not a JSON number"),
        ('{"id": "a", "text": "x", "n": 99999999999999999999}', "does not fit in 64 bits"),
        ('{"id": "a", "text": "x", "n": ' + "9" * 5000 + "}", "not JSON that can be read"),
        ('{"id": "a", "text": "x", "a.b": 1}', "has a dot"),
        ("[" * 200_000, "not JSON"),
        ("{" * 10 + '"', "not JSON"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(write: Write, line: str, reason: str) -> None:
    path = write("pages.jsonl", f'{{"id": "1", "text": "x"}}\n{line}\n{{"id": "3", "text": "z"}}\n')
    documents, rejected = split(read_source(path))
    assert [document.id for document in documents] == ["1", "3"]
    (found,) = rejected
    assert found.line == 2
    assert reason in found.reason
    assert found.content == line
    assert str(found).startswith(f"{path}:2: ")


def test_bytes_that_are_not_utf_8(write: Write) -> None:
    path = write("pages.jsonl", b'{"text": "caf\xe9"}\n{"text": "fine"}\n')
    documents, (found,) = split(read_source(path))
    assert len(documents) == 1
    assert found.reason == "not UTF-8: byte 0xe9 at position 13"
    assert found.content == '{"text": "caf\\xe9"}'


def test_byte_order_marks(write: Write) -> None:
    assert len(split(read_source(write("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')))[0]) == 1
    with pytest.raises(InputError, match="UTF-16"):
        list(read_source(write("b.jsonl", '{"text": "x"}\n'.encode("utf-16"))))


def test_one_json_document_over_many_lines_is_told_what_is_wanted(write: Write) -> None:
    path = write("pages.json", json.dumps([{"text": "x"}], indent=1))
    assert "every line must be a JSON object" in reasons(read_source(path))[1]


def test_a_long_line_is_read_and_a_longer_one_skipped(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    long = json.dumps({"id": "long", "text": "x" * 10_000_000})
    path = write("pages.jsonl", f'{long}\n{{"id": "b", "text": "x"}}\n')
    assert [document.id for document in split(read_source(path))[0]] == ["long", "b"]
    monkeypatch.setattr(readers, "MAX_BYTES", 1_000_000)
    documents, (found,) = split(read_source(path))
    assert [document.id for document in documents] == ["b"]
    assert (found.line, found.reason) == (1, "the line is longer than 64 MiB")
    assert len(found.content) <= 1_000_000


def test_empty_file(write: Write) -> None:
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.txt"):
        assert list(read_source(write(name, b""))) == []


# CSV.


def test_csv(write: Write) -> None:
    path = write("pages.csv", 'id,text,price\n1,"a, ""quoted"" text\nover lines",3\n2,plain,\n')
    assert list(read_source(path)) == [
        Document("1", 'a, "quoted" text\nover lines', {"price": "3"}),
        Document("2", "plain", {"price": ""}),
    ]
    numbers = [
        document.metadata["price"] for document in split(read_source(path, Columns(numbers=["price"])))[0]
    ]
    assert numbers == [3, None]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_csv_delimiter_is_that_of_the_header(write: Write, mark: str) -> None:
    path = write("pages.csv", f"id{mark}text\n1{mark}a,b;c|d\n" if mark != "," else "id,text\n1,a;b|c\n")
    if mark in ";|":
        path = write("pages.csv", f'id{mark}text\n1{mark}"a,b;c|d"\n')
    (document,) = split(read_source(path))[0]
    assert document.id == "1"
    assert document.text[0] == "a"


def test_csv_with_a_delimiter_that_is_named(write: Write) -> None:
    path = write("pages.csv", "id,a:text\n1,2:x\n")
    assert list(read_source(path, Columns(id="id,a"), delimiter=":")) == [Document("1,2", "x", {})]
    with pytest.raises(InputError, match="one character"):
        list(read_source(path, delimiter="::"))


def test_tsv_needs_no_guess(write: Write) -> None:
    path = write("pages.tsv", "text\nplain, text; here\n")
    assert split(read_source(path))[0][0].text == "plain, text; here"


def test_bad_rows_are_named_with_the_line_they_begin_in(write: Write) -> None:
    rows = [
        b"id,text,n",  # 1
        b'1,"two\nlines",1',  # 2, 3
        b"2,too,many,fields",  # 4
        b"3,few",  # 5
        b'4,"a"b,4',  # 6
        b"",  # 7
        b'5,"caf\xe9\nx",5',  # 8, 9
        b"6,x,six",  # 10
        b",x,7",  # 11
        b"8,x,8",  # 12
        b'9,"never closed,9',  # 13
    ]
    path = write("pages.csv", b"\r\n".join(rows))
    columns = Columns(numbers=["n"])
    documents, rejected = split(read_source(path, columns))
    assert [document.id for document in documents] == ["1", "8"]
    said = {item.line: item.reason for item in rejected}
    assert said[4] == "the row has 4 fields, the header 3"
    assert said[5] == "the row has 2 fields, the header 3"
    assert "expected" in said[6]
    assert said[8] == "the field 'text' is not UTF-8"
    assert said[10] == "'six' in 'n' is not a number"
    assert said[11] == "the id in 'id' is empty; it must be a string or an integer"
    assert said[13] == "unexpected end of data"
    assert {item.line: item.content for item in rejected}[8] == '5,"caf\\xe9\nx",5'


def test_csv_header(write: Write) -> None:
    assert split(read_source(write("a.csv", b"\xef\xbb\xbf id , text \n1,x\n")))[0][0].id == "1"
    with pytest.raises(InputError, match=r"no column 'text'; the columns are: id, body \(delimiter ','\)"):
        list(read_source(write("b.csv", "id,body\n1,x\n")))
    with pytest.raises(InputError, match="an empty name or one twice"):
        list(read_source(write("c.csv", "text,text\n1,x\n")))
    with pytest.raises(InputError, match="no column 'price'"):
        list(read_source(write("d.csv", "id,text\n1,x\n"), Columns(numbers=["price"])))


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), min_size=2, max_size=2),
        max_size=6,
    )
)
def test_csv_gives_back_what_the_csv_module_wrote(
    rows: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([["text", "note"], *rows])
    path = tmp_path_factory.mktemp("csv") / "pages.csv"
    path.write_bytes(buffer.getvalue().encode())
    documents, rejected = split(read_source(path))
    assert rejected == []
    assert [[document.text, document.metadata["note"]] for document in documents] == rows


# Parquet.


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "pages.parquet"
    moment = dt.datetime(2026, 11, 22, 1, 2, 3, tzinfo=dt.UTC)
    table = pa.table(
        {
            "id": pa.array([1, 2]),
            "text": pa.array(["x", "y"]).dictionary_encode(),
            "when": pa.array([moment, None]),
            "day": pa.array([dt.date(2026, 11, 22), None]),
            "price": pa.array([Decimal("1.50"), None]),
            "who": pa.array([{"name": "a", "born": dt.date(1980, 1, 1), "tags": ["p"]}, None]),
        }
    )
    pq.write_table(table, path)
    assert list(read_source(path)) == [
        Document(
            "1",
            "x",
            {
                "when": "2026-11-22T01:02:03+00:00",
                "day": "2026-11-22",
                "price": "1.50",
                "who": {"name": "a", "born": "1980-01-01", "tags": ["p"]},
            },
        ),
        Document("2", "y", dict.fromkeys(("when", "day", "price", "who"))),
    ]
    assert split(read_source(path, Columns(metadata=["day"])))[0][0] == Document(
        "1", "x", {"day": "2026-11-22"}
    )


def test_parquet_rows_that_json_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "pages.parquet"
    table = pa.table(
        {
            "id": ["bytes", "span", "fine", None, "nan"],
            "text": ["x"] * 5,
            "raw": pa.array([b"\0", None, None, None, None]),
            "span": pa.array([None, dt.timedelta(1), None, None, None]),
            "n": [1.0, 1.0, 1.0, 1.0, float("nan")],
        }
    )
    pq.write_table(table, path)
    documents, rejected = split(read_source(path))
    assert [document.id for document in documents] == ["fine"]
    said = {item.line: item.reason for item in rejected}
    assert said[1] == "the column 'raw' holds bytes, which JSON cannot say"
    assert said[2] == "the column 'span' holds timedelta, which JSON cannot say"
    assert said[4] == "the id in 'id' is null; it must be a string or an integer"
    assert "nan is not a JSON number" in said[5]


def test_parquet_files_that_cannot_be_used(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(read_source(write("a.parquet", b"PAR1 not really")))
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"body": ["x"]}), path)
    with pytest.raises(InputError, match="no column 'text'; the columns are: body"):
        list(read_source(path))
    with pytest.raises(InputError, match="standard input"):
        list(read_source("-", format="parquet"))


# Folders.


def test_folder(write: Write, tmp_path: Path) -> None:
    write("docs/b.md", "intro\n\n# A *title* #\n\ntext\n")
    write("docs/a/z.txt", "# plain text has no headings\n")
    write("docs/a/z.md.gz", gzip.compress(b"Old style\n=========\n"))
    write("docs/picture.png", b"\x89PNG\0")
    write("docs/.hidden.md", "no")
    write("docs/.git/x.md", "no")
    write("docs/empty.md", " \n")
    write("docs/bad.md", b"caf\xe9")
    write("docs/binary.txt", b"\0\1")
    write("docs/wide.txt", "wide".encode("utf-16"))
    (tmp_path / "docs" / "loop").symlink_to(tmp_path / "docs")
    (tmp_path / "docs" / "link.md").symlink_to(tmp_path / "docs" / "b.md")
    documents, rejected = split(read_source(tmp_path / "docs"))
    assert [(document.id, document.metadata) for document in documents] == [
        ("a/z.md.gz", {"path": "a/z.md.gz", "title": "Old style"}),
        ("a/z.txt", {"path": "a/z.txt"}),
        ("b.md", {"path": "b.md", "title": "A *title*"}),
    ]
    assert documents[2].text == "intro\n\n# A *title* #\n\ntext\n"
    said = {Path(item.source).name: item.reason for item in rejected}
    assert said["bad.md"] == "not UTF-8: byte 0xe9 at position 3"
    assert said["binary.txt"] == "the file holds NUL bytes, so it is not text"
    assert "UTF-16" in said["wide.txt"]


def test_one_text_file_and_what_a_folder_is_not(write: Write, tmp_path: Path) -> None:
    path = write("docs/b.md", "# Head\n")
    assert list(read_source(path)) == [Document("b.md", "# Head\n", {"path": "b.md", "title": "Head"})]
    with pytest.raises(InputError, match="only text and Markdown are read from folders, not csv"):
        read_source(tmp_path / "docs", format="csv")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# One\n## Two", "One"),
        ("text\n### Three ###\n", "Three"),
        ("```\n# code\n```\n# Real", "Real"),
        ("~~~~\n# code\n~~~\n# still code\n~~~~\n# Real", "Real"),
        ("---\ntitle: x\n# no\n---\n# Real", "Real"),
        ("Under\n---\n", "Under"),
        ("para\n\n---\n# After a rule", "After a rule"),
        ("#no space\n", None),
        ("    # indented code\n", None),
        ("", None),
    ],
)
def test_first_heading(text: str, title: str | None) -> None:
    assert first_heading(text) == title


# All of them.


@pytest.mark.parametrize("name", ["pages.jsonl", "pages.csv"])
def test_gzip(write: Write, name: str) -> None:
    content = b'{"id": "1", "text": "x"}\n' if name.endswith("jsonl") else b"id,text\n1,x\n"
    assert list(read_source(write(name + ".gz", gzip.compress(content)))) == [Document("1", "x", {})]
    assert list(read_source(write(name, gzip.compress(content)))) == [Document("1", "x", {})]


def test_a_gzip_file_that_is_cut_is_an_incomplete_read(write: Write) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % i for i in range(10_000))
    path = write("pages.jsonl.gz", gzip.compress(lines)[:-2000])
    records = read_source(path)
    assert isinstance(next(records), Document)
    with pytest.raises(InputError, match="cannot be read to the end"):
        list(records)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"id": "a", "text": "x"}\n')))
    monkeypatch.setattr(sys, "stdin", stream)
    assert list(read_source("-")) == [Document("a", "x", {})]
    assert not stream.buffer.closed


def test_missing_file_and_unknown_format(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_source(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot tell the format from the name"):
        read_source(write("pages.docx", b""))
    assert list(read_source(write("pages.dat", '{"id": "a", "text": "x"}'), format="jsonl"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(write: Write) -> None:
    path = write("pages.jsonl", "{}")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read to the end"):
        list(read_source(path))


def test_format_and_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect_format("A.JSONL.GZ") == "jsonl"
    assert detect_format("-") == "jsonl"
    assert detect_format(tmp_path) == "text"
    monkeypatch.chdir(tmp_path)
    assert identify("pages.jsonl") == str(tmp_path.resolve() / "pages.jsonl")
    assert identify("-") == "standard input"
