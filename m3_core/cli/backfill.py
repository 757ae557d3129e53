"""``m3 backfill``: vectors for the text that a collection holds already."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3_core.cli.ingest import report
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
    read_where,
)
from m3_core.errors import IngestInterrupted, IngestStopped, InputError, Unsupported
from m3_core.text import without_secrets
from m3_core.types import Representation

if TYPE_CHECKING:
    from m3_core.extending import Extensible
    from m3_core.ingestion.backfill import BackfillPlan

DEFAULT_MODEL = "m3-tiny"
_SECRET = frozenset({"api_key", "token", "user", "username", "password"})


def backfill(
    store: Annotated[
        str,
        typer.Argument(
            help="The collection's URL. Names of its own fields can follow: ?id=none&metadata=meta. In collections "
            "that others made, the engine's id is the id, and the metadata lie beside the text."
        ),
    ],
    text_field: Annotated[
        str | None, typer.Option(help="The field with the text; by default the one in the URL, or 'text'.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            help="The vector fields to fill, like dense=m3_dense,sparse=m3_sparse,multi=m3_multi. Those that are "
            "missing are added. By default those the collection was made with."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="Leave the collection as it is, and copy it with the vectors into this one, which is made if it is "
            "not there: for engines that cannot add fields."
        ),
    ] = None,
    switch_alias: Annotated[
        str | None,
        typer.Option(
            help="With --to: this alias leads to the copy once it is complete. What changes while it runs is brought up "
            "to date by another run: where the collection is written to, run once without this, then with it."
        ),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only the documents that match this filter.")] = None,
    encode: Annotated[
        str | None, typer.Option(help="What is encoded, like '{title}\\n{body}'. By default the text.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    rate: Annotated[float | None, typer.Option(help="Documents written per second at most.")] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            help="What was written. By default .m3/journal-HASH.sqlite here, per collection, fields and model."
        ),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(help="Where documents go that the store refuses. By default beside the journal."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Encode everything, whatever the journal says.")
    ] = False,
    max_length: Annotated[int | None, typer.Option(help="Cut texts at so many tokens.")] = None,
    batch_size: Annotated[int, typer.Option(help="Documents encoded and written together at most.")] = 128,
    patience: Annotated[
        float, typer.Option(help="For how many seconds a store that does not answer is tried again.")
    ] = 120.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    model: ModelOption = DEFAULT_MODEL,
    mcls: MclsOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode the text that a collection holds, and write the vectors back into it. Payload and ids stay untouched.

    Documents are read page by page, so that any number of them will do. The journal remembers what the store has
    confirmed: the same command again encodes what is new or has another text, and goes on where it was interrupted
    or killed. Documents without text are counted and left alone.

    The collection's own metadata keeps the model and the names of the fields, so that afterwards
    `m3 search STORE ...` needs no more than its URL.

    Examples:

        m3 check qdrant://localhost:6333/shop

        m3 backfill qdrant://localhost:6333/shop --text-field body --into dense=m3_dense,sparse=m3_sparse --dry-run

        m3 backfill elasticsearch://localhost:9200/shop --text-field body --into sparse=m3_sparse --rate 200

        m3 backfill milvus://db/shop_v1 --text-field body --into dense,sparse --to milvus://db/shop_v2 --switch-alias shop
    """
    condition, names = read_where(where), _names(text_field, into)
    if switch_alias is not None and to is None:
        raise InputError("an alias is switched to a copy; say where that is with --to")
    encoder = load_encoder(model, device, dtype, max_length=max_length, mcls=mcls)

    from m3_core.extending import Extensible, open_partial
    from m3_core.ingestion.backfill import backfill as run
    from m3_core.ingestion.backfill import binding, check_backfill, plan_backfill
    from m3_core.ingestion.journal import default_path

    options: dict[str, str | bool | None] = {
        "--text-field": text_field,
        "--into": into,
        "--where": where,
        "--encode": encode,
        **model_options(model, mcls),
    }
    with open_partial(store, **names) as opened:
        template = read_template(encode)
        if dry_run:
            plan = plan_backfill(opened, encoder, where=condition, encode=template)
            _tell(plan, opened.identity, as_json)
            return
        if to is not None and not isinstance(opened, Extensible):
            raise Unsupported(f"{opened.identity} cannot be copied as it is; see m3 copy")
        twin = None
        try:
            if to is not None and isinstance(opened, Extensible):
                check_backfill(opened, encoder, encode=template)
                twin = opened.twin(to, encoder.schema())
            target = opened if twin is None else twin
            path = journal or default_path(binding(target), encoder.fingerprint)
            reject_path = rejects or path.with_suffix(".rejects.jsonl")
            summary = run(
                opened,
                encoder,
                to=twin,
                switch_alias=switch_alias,
                where=condition,
                encode=template,
                journal=path,
                rejects=reject_path,
                fresh=fresh,
                rate=rate,
                batch_size=batch_size,
                patience=patience,
                progress=console.is_terminal and not quiet,
            )
        except (IngestStopped, IngestInterrupted) as stopped:
            report(stopped.summary, path, reject_path, as_json, stopped=str(stopped))
            raise
        except Unsupported as error:
            if to is not None or not isinstance(opened, Extensible):
                raise
            line = command_line(store, {**options, "--to": sibling(opened)})
            raise Unsupported(f"{error}. A copy can have them: {line}") from error
        finally:
            if twin is not None:
                twin.close()
    report(summary, path, reject_path, as_json, stopped=None)
    if to is not None and switch_alias is None and not as_json:
        line = command_line(store, {**options, "--to": to, "--switch-alias": "ALIAS"})
        out.print(
            f"programs that use an alias are switched to the copy by: {line}", soft_wrap=True, markup=False
        )
    if summary.rejected:
        raise typer.Exit(1)


def command_line(store: str, options: Mapping[str, str | bool | None]) -> str:
    """The command that backfills a store, to be typed into a shell, without secrets. A flag's value is true."""
    given: list[str] = []
    for name, value in options.items():
        if value:
            given += [name] if value is True else [name, _shown(value) if name == "--to" else value]
    return shlex.join(["m3", "backfill", _shown(store), *given])


def _shown(url: str) -> str:
    """The URL with those of its options that are no credentials, which belong into the environment."""
    query = [
        pair for pair in url.partition("?")[2].split("&") if pair and pair.partition("=")[0] not in _SECRET
    ]
    return without_secrets(url) + ("?" + "&".join(query) if query else "")


def model_options(model: str, mcls: bool) -> dict[str, str | bool | None]:
    """The options that say which model, where it is not the default."""
    return {"--model": None if model == DEFAULT_MODEL else model, "--mcls": mcls}


def sibling(store: "Extensible") -> str:
    """A URL for a copy, beside the collection."""
    path, mark, query = store.place.partition("?")
    return f"{path}_m3{mark}{query}"


def _names(text_field: str | None, into: str | None) -> dict[str, str]:
    """The options that name the fields.

    Raises:
        InputError: ``into`` is not of the form ``dense=NAME,sparse=NAME``.
    """
    names = {} if text_field is None else {"text": text_field}
    for part in [] if into is None else into.split(","):
        kind, _, name = part.strip().partition("=")
        if kind not in [*Representation] or kind in names:
            raise InputError(
                f"--into names each of {', '.join(Representation)} once at most, like "
                f"dense=m3_dense,sparse=m3_sparse; {into!r} does not"
            )
        names[kind] = name or kind
    return names


def _tell(plan: "BackfillPlan", identity: str, as_json: bool) -> None:
    if as_json:
        print_json(asdict(plan))
        return
    told = [
        f"{identity}: {plan.documents:,} documents, {plan.without_text:,} of them without text",
        *(
            f"{kind.value} vectors go into {name!r}, which {'is added' if kind in plan.adds else 'is there'}"
            for kind, name in plan.fills.items()
        ),
        "nothing was written",
    ]
    for line in told:
        out.print(line, soft_wrap=True, markup=False, highlight=False)
