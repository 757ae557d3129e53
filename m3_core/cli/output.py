"""What the commands share: consoles, the options that several have, and how a model and a fusion are read."""

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from m3_core.errors import InputError
from m3_core.text import one_line, printable

if TYPE_CHECKING:
    from m3_core.encoder import M3Encoder
    from m3_core.fusion import Fusion

console = Console(stderr=True, soft_wrap=True)
"""For progress, notes and errors."""
out = Console(soft_wrap=False)
"""For results that people read."""

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="M3_MODEL",
        help="The bundled m3-tiny, a folder in BGE-M3 format, or a hub name.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or mps; by default the best there is.")
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, or float16 (GPU) for the matrix products.")
]
MclsOption = Annotated[
    bool, typer.Option("--mcls", help="A CLS every 256 tokens, averaged, for long documents.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines, for machines.")]


class FusionName(StrEnum):
    """The fusions by name."""

    WEIGHTED = "weighted"
    LONG_DOCUMENTS = "long-documents"
    RRF = "rrf"


def error_line(message: str) -> None:
    """One line on standard error, exactly as it is (no markup is read in it)."""
    console.print(f"m3: {one_line(message)}", style="red", markup=False, highlight=False)


def print_json(value: Any) -> None:
    """One line of JSON on standard output, escaped where that is not UTF-8."""
    escape = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=escape) + "\n")


def show_notes(*, everything: bool) -> None:
    """Print the library's log and warnings as plain lines on standard error; those of others only for debugging."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    def note(message: object, *_: Any, **__: Any) -> None:
        console.print(f"m3: {printable(str(message))}", style="yellow", markup=False, highlight=False)

    if everything:
        logging.basicConfig(level=logging.DEBUG, handlers=[Lines()])
        return
    # Whatever has no handler is printed raw by the logging module; a client's own log is no news to the user.
    logging.getLogger().addHandler(logging.NullHandler())
    for name in ("m3_core", "m3_integrations"):
        logging.getLogger(name).handlers = [Lines()]
    warnings.showwarning = note


def load_encoder(
    model: str,
    device: str | None = None,
    dtype: str | None = None,
    *,
    max_length: int | None = None,
    mcls: bool = False,
) -> "M3Encoder":
    """The model, with a note on standard error while it loads."""
    with console.status("loading the model ..."):
        from m3_core.encoder import M3Encoder

        return M3Encoder.load(model, device=device, dtype=dtype, max_length=max_length, mcls=mcls)


def read_template(text: str | None) -> str | None:
    """The template of ``--encode``, in which a shell's ``\\n`` is a line break."""
    return None if text is None else text.replace("\\n", "\n")


def read_where(text: str | None) -> Mapping[str, Any] | None:
    """The filter of ``--where``.

    Raises:
        InputError: it is not JSON.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        example = """--where '{"lang": "ja", "year": {"$gte": 2020}}'"""
        raise InputError(f"--where is not JSON ({error}): {text!r}; write it like {example}") from error
    if not isinstance(value, dict):
        raise InputError(f"--where is not a JSON object: {text!r}")
    return value


def make_fusion(
    name: FusionName | None, dense: float | None, sparse: float | None, multi: float | None
) -> "Fusion | None":
    """The fusion of the options; None leaves it to the retriever, which looks at what the store holds.

    Given weights change those of the named fusion; a channel without one keeps the preset's.
    """
    from m3_core.fusion import ReciprocalRank, WeightedSum

    given = {"dense": dense, "sparse": sparse, "multi": multi}
    if name is None and all(weight is None for weight in given.values()):
        return None
    if name is None:
        # Naming weights leaves the other channels out, so that `--dense 1 --sparse 0.3` fits any store.
        return WeightedSum(**{kind: weight or 0.0 for kind, weight in given.items()})
    preset = {
        FusionName.WEIGHTED: WeightedSum.passages(),
        FusionName.LONG_DOCUMENTS: WeightedSum.long_documents(),
        FusionName.RRF: ReciprocalRank(),
    }[name]
    weights = {kind: getattr(preset, kind) if weight is None else weight for kind, weight in given.items()}
    return ReciprocalRank(**weights) if isinstance(preset, ReciprocalRank) else WeightedSum(**weights)
