"""``m3 encode``: texts to the three representations."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3_core.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    MclsOption,
    ModelOption,
    load_encoder,
    out,
    print_json,
)
from m3_core.errors import InputError
from m3_core.types import M3Vectors, Representation

if TYPE_CHECKING:
    from m3_core.encoder import M3Encoder

_SHOWN = 12


def encode(
    source: Annotated[
        str, typer.Argument(help="A file with one text per line, or - for standard input.")
    ] = "-",
    model: ModelOption = "m3-tiny",
    representation: Annotated[
        list[Representation] | None,
        typer.Option("--representation", "-r", help="Only these; repeat for several."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut texts at so many tokens.")] = None,
    mcls: MclsOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode texts, one per line.

    For people it prints each text's heaviest lexical weights and the shapes of its vectors; with --json one line
    per text with "dense" (a list), "sparse" (token id -> weight) and "multi" (a list of lists), in the order of the
    input.

    Examples:

        echo "a table of contents" | m3 encode

        m3 encode texts.txt --json -r sparse > weights.jsonl
    """
    texts = _lines(source)
    encoder = load_encoder(model, device, dtype, mcls=mcls)
    lines: list[str] = []

    def noted() -> Iterator[str]:
        for line in texts:
            lines.append(line)
            yield line

    for vectors in encoder.iter_documents(
        noted(), representations=representation or None, max_length=max_length
    ):
        for row in range(len(vectors)):
            if as_json:
                print_json(_record(vectors, row))
            else:
                _show(encoder, lines[row], vectors, row)
        lines.clear()


def _lines(source: str) -> Iterator[str]:
    if source != "-" and not Path(source).is_file():
        raise InputError(f"{source}: there is no such file")
    return _read(source)


def _read(source: str) -> Iterator[str]:
    with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{source}, line {number}: not UTF-8 ({error.reason} at byte {error.start})"
                ) from error


def _record(vectors: M3Vectors, row: int) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if vectors.dense is not None:
        record["dense"] = vectors.dense[row].tolist()
    if vectors.sparse is not None:
        ids, weights = vectors.sparse_row(row)
        record["sparse"] = dict(zip(map(str, ids.tolist()), weights.tolist(), strict=True))
    if vectors.multi is not None:
        record["multi"] = vectors.multi[row].tolist()
    return {**record, "truncated": bool(vectors.truncated[row])}


def _show(encoder: "M3Encoder", text: str, vectors: M3Vectors, row: int) -> None:
    out.print(text, style="bold", markup=False, highlight=False)
    if vectors.sparse is not None:
        ids, weights = vectors.sparse_row(row)
        heaviest = sorted(zip(weights.tolist(), ids.tolist(), strict=True), reverse=True)
        named = "  ".join(
            f"{encoder.tokenizer.token(token)} {weight:.3f}" for weight, token in heaviest[:_SHOWN]
        )
        rest = len(heaviest) - _SHOWN
        more = f"  and {rest} more" if rest > 0 else ""
        out.print(f"  sparse  {named or 'no lexical weights'}{more}", markup=False, highlight=False)
    if vectors.dense is not None:
        first = " ".join(f"{value:.3f}" for value in vectors.dense[row][:6].tolist())
        out.print(f"  dense   {vectors.dense.shape[1]} numbers: {first} ...", markup=False, highlight=False)
    if vectors.multi is not None:
        tokens, width = vectors.multi[row].shape
        out.print(f"  multi   {tokens} vectors of {width}", markup=False, highlight=False)
    if vectors.truncated[row]:
        out.print("  the text was cut at the maximum length", style="yellow")
