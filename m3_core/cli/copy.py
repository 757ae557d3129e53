"""``m3 copy``: the documents of one store into another, vectors included."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3_core.cli.output import JsonOption, console, load_encoder, out, print_json, read_where
from m3_core.errors import InputError, StoreNotFound
from m3_core.types import Representation

if TYPE_CHECKING:
    from m3_core.store import Schema, Store


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The URL of the store to read.")],
    target: Annotated[
        str,
        typer.Argument(metavar="TO", help="The URL of the store to write. It is made if it is not there."),
    ],
    drop: Annotated[
        list[Representation] | None,
        typer.Option(help="A channel to leave behind, if TO cannot hold it; repeat for several."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help='Only what this filter matches, like \'{"lang": "ja"}\'.')
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model that made the vectors, if FROM does not say which."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Pass over documents that TO has with the same text and metadata."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be copied, and write nothing.")
    ] = False,
    rejects: Annotated[Path | None, typer.Option(help="A file for documents that cannot be copied.")] = None,
    batch_size: Annotated[int, typer.Option(help="Documents read and written together at most.")] = 256,
    patience: Annotated[
        float, typer.Option(help="For how many seconds a store that does not answer is tried again.")
    ] = 120.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy documents with their vectors from one store into another; nothing is encoded.

    What TO cannot hold is said before anything is written, and is left behind only where --drop names it. Documents
    of the same id are replaced, others in TO stay. Interrupted, the same command with --resume goes on. Servers that want
    different keys have them in their URLs, as ?api_key=env:VARIABLE (Milvus: token).

    Examples:

        m3 copy qdrant+file://index/pages qdrant://localhost:6333/pages

        m3 copy qdrant+file://index/pages milvus://localhost:19530/pages --drop multi

        m3 copy qdrant://db/pages elasticsearch://db:9200/pages --where '{"lang": "ja"}' --drop multi --dry-run
    """
    from m3_core.errors import IngestInterrupted, IngestStopped
    from m3_core.ingestion.copy import copy_store
    from m3_core.store import open_store

    condition = read_where(where)
    if source.partition("?")[0] == target.partition("?")[0]:
        raise InputError("FROM and TO are the same store")
    stated = None if model is None else load_encoder(model).schema()
    with ExitStack() as opened:
        origin = opened.enter_context(open_store(source))
        plan = _plan(origin, target, drop or [], stated, condition, opened)
        if dry_run and as_json:
            print_json(plan.facts())
            return
        (out if dry_run else console).print(str(plan), markup=False, highlight=False, soft_wrap=True)
        if dry_run:
            return
        end = plan.target or opened.enter_context(open_store(target, schema=plan.schema))
        try:
            summary = copy_store(
                origin,
                end,
                drop=drop or [],
                where=condition,
                model=stated,
                resume=resume,
                rejects=rejects,
                batch_size=batch_size,
                patience=patience,
                progress=console.is_terminal and not quiet,
            )
        except (IngestStopped, IngestInterrupted) as stopped:
            interrupted = isinstance(stopped, KeyboardInterrupt)
            reason = "the copy was interrupted" if interrupted else str(stopped)
            _report(stopped.summary, plan, as_json, stopped=reason)
            raise
        _report(summary, plan, as_json, held=end.count())
    if summary.rejected:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done. target: None where it is to be made, for the schema."""

    source: str
    place: str
    target: "Store | None"
    schema: "Schema"
    dropped: list[str]
    documents: int

    def facts(self) -> dict[str, Any]:
        return {
            "from": self.source,
            "to": self.place,
            "documents": self.documents,
            "channels": [kind.value for kind in Representation if kind in self.schema.representations],
            "dropped": self.dropped,
            "new": self.target is None,
        }

    def __str__(self) -> str:
        facts = self.facts()
        new = " (new)" if facts["new"] else ""
        dropped = f"; without {', '.join(self.dropped)}" if self.dropped else ""
        channels = ", ".join(facts["channels"])
        return f"{self.documents:,} documents from {self.source} to {self.place}{new}: {channels}{dropped}"


def _plan(
    source: "Store",
    url: str,
    drop: list[Representation],
    stated: "Schema | None",
    condition: Any,
    opened: ExitStack,
) -> _Plan:
    """What the target holds, or could, and whether it fits; nothing is written or made."""
    from m3_core.ingestion.copy_checks import check_copy, kept_channels, schema_of
    from m3_core.store import channels_of, open_store
    from m3_core.text import without_secrets

    target: Store | None = None
    place = without_secrets(url)
    try:
        target = opened.enter_context(open_store(url))
    except StoreNotFound:
        # What is not wanted need not be there, even where it could be.
        kinds = kept_channels(source, channels_of(url) - set(drop), place, drop)
        schema = schema_of(source, kinds, stated)
    else:
        place = target.identity
        schema = check_copy(source, target, drop, stated)
    lost = source.capabilities.representations - schema.representations
    dropped = [kind.value for kind in Representation if kind in lost]
    return _Plan(source.identity, place, target, schema, dropped, source.count(where=condition))


def _report(
    summary: Any, plan: _Plan, as_json: bool, *, held: int | None = None, stopped: str | None = None
) -> None:
    counts = {name: getattr(summary, name) for name in ("read", "written", "skipped", "rejected", "seconds")}
    if as_json:
        print_json({**plan.facts(), **counts, "held": held, "stopped": stopped})
        return
    told = "".join(f", {counts[name]:,} {name}" for name in ("skipped", "rejected") if counts[name])
    out.print(
        f"{summary.read:,} read, {summary.written:,} written{told} in {summary.seconds:.1f} s",
        highlight=False,
    )
    if held is not None:
        out.print(f"{plan.place} holds {held:,} documents", markup=False, highlight=False, soft_wrap=True)
    if stopped is not None:
        out.print("the same command with --resume goes on from here", highlight=False)
