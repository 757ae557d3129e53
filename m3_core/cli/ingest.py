"""``m3 ingest``: files into a store."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from m3_core.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    MclsOption,
    ModelOption,
    console,
    load_encoder,
    out,
    print_json,
    read_template,
)
from m3_core.errors import InputError
from m3_core.ingestion.sources import STDIN, Columns, Format, identify, read_source

_OPTIMIZE_FROM = 5_000
"""Documents written, from which on merging the embedded engine's segments is worth its time."""


def ingest(
    source: Annotated[
        str,
        typer.Argument(
            help="JSON lines, CSV, Parquet, a text or Markdown file, a folder of these two, or - for JSON lines "
            "on standard input. Gzip is unpacked."
        ),
    ],
    store: Annotated[
        str,
        typer.Argument(
            help="The store's URL, like qdrant+file://index/pages. It is made if it is not there."
        ),
    ],
    format: Annotated[
        Format | None, typer.Option("--format", "-f", help="By default the file's name tells.")
    ] = None,
    id_field: Annotated[
        str | None,
        typer.Option(help="The field with the id. By default 'id' if there is one, else a hash of the text."),
    ] = None,
    text_field: Annotated[str, typer.Option(help="The field with the text.")] = "text",
    metadata: Annotated[
        str | None, typer.Option(help="The fields to keep beside the text, with commas. By default all.")
    ] = None,
    number: Annotated[
        list[str] | None, typer.Option(help="A CSV column that holds numbers; repeat for several.")
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="Of a CSV file. By default the one its header shows.")
    ] = None,
    id_prefix: Annotated[str, typer.Option(help="Put before every id, to keep sources apart.")] = "",
    encode: Annotated[
        str | None,
        typer.Option(
            help="What is encoded, like '{title}\\n{text}'. By default the text. Stored is the text."
        ),
    ] = None,
    chunk_tokens: Annotated[
        int | None, typer.Option(help="Split texts into chunks of at most so many tokens.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut texts at so many tokens.")] = None,
    delete_missing: Annotated[
        bool,
        typer.Option("--delete-missing", help="Delete what this source had before and has no longer."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Delete without a question, also above a tenth.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first line that cannot be used.")
    ] = False,
    journal: Annotated[
        Path | None,
        typer.Option(help="What was written. By default .m3/journal-HASH.sqlite here, per store and model."),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(help="Where lines go that cannot be used. By default beside the journal."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The source's name in the journal. By default its absolute path.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Write everything, whatever the journal says.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Documents encoded and written together at most.")] = 128,
    patience: Annotated[
        float, typer.Option(help="For how many seconds a store that does not answer is tried again.")
    ] = 120.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    model: ModelOption = "m3-tiny",
    mcls: MclsOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode documents and write them into a store.

    A line must have a text; an id is wanted but not needed, and all other fields become metadata. Files of a folder have
    their path as id, and their first heading as title. Of an id that comes twice the last wins.

    The journal remembers what the store has confirmed: the same command again skips what is unchanged, writes
    what changed, and goes on where it was interrupted or killed. Lines that cannot be used are reported,
    counted, and kept in the reject file; the others are written.

    Examples:

        m3 ingest pages.jsonl qdrant+file://index/pages

        m3 ingest docs/ qdrant://localhost:6333/docs --chunk-tokens 400

        m3 ingest shop.csv milvus+file://index/shop --number price --delete-missing

        zcat dump.gz | m3 ingest - qdrant://db/dump --encode '{title}\\n{text}'
    """
    columns = Columns(
        id=id_field,
        text=text_field,
        metadata=None if metadata is None else [field.strip() for field in metadata.split(",")],
        numbers=number or (),
        id_prefix=id_prefix,
    )
    documents = read_source(source, columns, format=format, delimiter=delimiter)
    encoder = load_encoder(model, device, dtype, max_length=max_length, mcls=mcls)

    from m3_core.errors import IngestInterrupted, IngestStopped
    from m3_core.ingestion.journal import default_path
    from m3_core.ingestion.run import ingest as run
    from m3_core.ingestion.templates import text_of
    from m3_core.store import open_store

    aliases = {text_field: "text", **({id_field: "id"} if id_field else {})}
    template = text_of(read_template(encode), aliases)  # before a store is made for what cannot be read
    opened = open_store(store, schema=encoder.schema())
    try:
        path = journal or default_path(opened.identity, encoder.fingerprint)
        reject_path = rejects or path.with_suffix(".rejects.jsonl")
        if source != STDIN and reject_path.resolve() == Path(source).resolve():
            raise InputError(f"the reject file {reject_path} is the source; name another with --rejects")
        summary = run(
            documents,
            encoder,
            opened,
            journal=path,
            source=name or identify(source),
            encode=template,
            chunk_tokens=chunk_tokens,
            delete_missing=delete_missing,
            confirm=None if not delete_missing else lambda gone, known: yes or _ask(source, gone, known),
            strict=strict,
            rejects=reject_path,
            fresh=fresh,
            batch_size=batch_size,
            patience=patience,
            progress=console.is_terminal and not quiet,
        )
        if summary.written >= _OPTIMIZE_FROM and (optimize := getattr(opened, "optimize", None)):
            console.print("merging what was written, for faster searches", highlight=False)
            optimize()
    except (IngestStopped, IngestInterrupted) as stopped:
        report(stopped.summary, path, reject_path, as_json, stopped=str(stopped))
        raise
    finally:
        opened.close()
    report(summary, path, reject_path, as_json, stopped=None)
    if summary.deleted < summary.missing or (summary.read and summary.rejected == summary.read):
        raise typer.Exit(1)


def _ask(source: str, gone: int, known: int) -> bool:
    """Whether to delete; nobody can answer where standard input is the source, or is no terminal."""
    if source == STDIN or not sys.stdin.isatty():
        console.print("nobody is there to confirm the deletion; --yes confirms it beforehand")
        return False
    return typer.confirm(
        f"{gone:,} of {known:,} documents are no longer in the source. Delete them?", err=True
    )


def report(summary: Any, journal: Path, rejects: Path, as_json: bool, *, stopped: str | None) -> None:
    """Say how far a run came: `m3 ingest` and `m3 backfill`."""
    if as_json:
        files = {"journal": str(journal), "rejects": str(rejects) if summary.rejected else None}
        print_json({**asdict(summary), **files, "stopped": stopped})
        return
    counts = {
        "changed": summary.changed,
        "unchanged": summary.skipped,
        "without text": summary.without_text,
        "duplicates": summary.duplicates,
        "rejected": summary.rejected,
        "deleted": summary.deleted,
        "cut at the maximum length": summary.truncated,
    }
    told = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    out.print(
        f"{summary.read:,} read, {summary.written:,} written{told} in {summary.seconds:.1f} s",
        highlight=False,
    )
    if summary.rejected:
        out.print(f"what was rejected is in {rejects}", highlight=False, markup=False)
    if stopped is not None:
        out.print("the same command goes on from here", highlight=False)
