"""The application: its commands, its exit codes, and one line instead of a traceback for a user's mistake.

Importing this must stay cheap (``m3 --help`` within a second): commands import torch and the stores when run.
"""

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from m3_core.cli.backfill import backfill
from m3_core.cli.check import check
from m3_core.cli.copy import copy
from m3_core.cli.encode import encode
from m3_core.cli.ingest import ingest
from m3_core.cli.output import console, error_line, out, show_notes
from m3_core.cli.search import search
from m3_core.errors import M3Error

EPILOG = (
    "Results go to standard output, everything else to standard error. "
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong use of the command, 130 interrupted."
)


class _Group(TyperGroup):
    """Turns what a command raises into a line and an exit code; typer does so for wrong usage."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.print("interrupted")
            raise SystemExit(130) from None
        except M3Error as error:
            if ctx.params.get("debug"):
                raise
            error_line(str(error))
            raise SystemExit(1) from None
        except OSError as error:
            # A file that a person named; without a name it is a closed pipe or a fault of ours.
            if ctx.params.get("debug") or error.filename is None:
                raise
            error_line(f"{error.filename}: {error.strerror}")
            raise SystemExit(1) from None


app = typer.Typer(
    name="m3",
    cls=_Group,
    help="Dense, sparse and multi-vector retrieval with BGE-M3-style models, on the store you already run.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"m3-retrieval {version('m3-retrieval')}", highlight=False)
        raise typer.Exit


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Options before the command."""
    show_notes(everything=debug)


for command in (encode, ingest, search, check, copy, backfill):
    app.command()(command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    app(prog_name="m3")
