"""``m3 check``: does it all work here: packages, model, store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

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
from m3_core.errors import M3Error, SchemaMismatch, StoreError

_EXTRAS = {
    "qdrant": ("qdrant-client", "qdrant-edge-py"),
    "milvus": ("pymilvus", "milvus-lite"),
    "elasticsearch": ("elasticsearch",),
    "langchain": ("langchain-core",),
    "llama-index": ("llama-index-core",),
    "train": ("bm25s", "pyyaml"),
    "notebooks": ("ipykernel", "nbclient", "matplotlib", "pandas"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ok: None for what is only told."""

    subject: str
    ok: bool | None
    message: str


def check(
    store: Annotated[
        str | None, typer.Argument(help="A store's URL, to see whether it answers and fits.")
    ] = None,
    model: ModelOption = "m3-tiny",
    mcls: MclsOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the environment, the model, and with a URL whether the store answers and its schema fits the model.

    Nothing is written. The exit code is 1 if something does not work.

    Examples:

        m3 check

        m3 check qdrant://localhost:6333/pages --model BAAI/bge-m3
    """
    failed = False
    for finding in _findings(store, model, device, dtype, mcls):
        failed |= finding.ok is False
        if as_json:
            print_json({"subject": finding.subject, "ok": finding.ok, "message": finding.message})
        else:
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[dim]--[/]"}[finding.ok]
            out.print(f"{mark}  {finding.subject:<14}", end="")
            out.print(finding.message, markup=False, highlight=False)
    if failed:
        raise typer.Exit(1)


def _findings(
    store: str | None, model: str, device: str | None, dtype: str | None, mcls: bool
) -> Iterator[Finding]:
    yield from _environment()
    try:
        encoder = load_encoder(model, device, dtype, mcls=mcls)
        kinds = ", ".join(sorted(encoder.representations))
        encoder.encode_queries(["ready?"])
    except M3Error as error:
        yield Finding("model", False, str(error))
        return
    yield Finding(
        "model",
        True,
        f"{model}: {kinds}, up to {encoder.max_length} tokens, on {encoder.device}, fingerprint {encoder.fingerprint}",
    )
    if store is not None:
        yield from _store(store, encoder)


def _environment() -> Iterator[Finding]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    devices = [f"cpu with {torch.get_num_threads()} threads"]
    devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    yield Finding("python", None, f"{platform.python_version()}, m3-retrieval {version('m3-retrieval')}")
    yield Finding("torch", None, f"{torch.__version__}: {', '.join(devices)}")
    for extra, packages in _EXTRAS.items():
        try:
            found = ", ".join(f"{name} {version(name)}" for name in packages)
            yield Finding(extra, None, found)
        except PackageNotFoundError as error:
            yield Finding(extra, None, f"{error.name} is not installed: pip install 'm3-retrieval[{extra}]'")


def _store(url: str, encoder: object) -> Iterator[Finding]:
    from m3_core.checks import check_fingerprint
    from m3_core.encoder import M3Encoder
    from m3_core.store import Problem, open_store

    assert isinstance(encoder, M3Encoder)
    try:
        store = open_store(url)
    except M3Error as error:
        yield Finding("store", False, str(error))
        return
    try:
        held = ", ".join(sorted(store.capabilities.representations))
        yield Finding("store", True, f"{store.identity}: {store.count()} documents, {held}")
        schema = encoder.schema().only(store.capabilities.representations)
        problems: list[Problem] = store.check(schema) if hasattr(store, "check") else []
        for problem in problems:
            yield Finding("schema", False, f"{problem.what}; {problem.remedy}")
        check_fingerprint(store.fingerprint, encoder.fingerprint, store.identity)
        if not problems:
            yield Finding("schema", True, "fits the model")
    except SchemaMismatch as error:
        yield Finding("schema", False, str(error))
    except StoreError as error:
        yield Finding("store", False, str(error))
    finally:
        store.close()
