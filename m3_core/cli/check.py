"""``m3 check``: does it all work here: packages, model, store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

import typer

from m3_core.cli.backfill import command_line, model_options, sibling
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
from m3_core.text import one_line
from m3_core.types import Representation

if TYPE_CHECKING:
    from m3_core.encoder import M3Encoder
    from m3_core.extending import Extensible
    from m3_core.types import Record

_SAMPLE = 64
"""Documents looked at, to find the field with the text."""
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

    Of a collection that lacks vectors it says what there is, what is missing, and the command that adds it. Nothing is
    written. The exit code is 1 if something does not work.

    Examples:

        m3 check

        m3 check qdrant://localhost:6333/pages --model BAAI/bge-m3

        m3 check 'elasticsearch://localhost:9200/shop?text=body&dense=none'
    """
    failed = False
    for finding in _findings(store, model, device, dtype, mcls):
        failed |= finding.ok is False
        if as_json:
            print_json({"subject": finding.subject, "ok": finding.ok, "message": finding.message})
        else:
            mark = {True: "[green]ok[/]", False: "[red]no[/]", None: "[dim]--[/]"}[finding.ok]
            out.print(f"{mark}  {finding.subject:<14}", end="")
            message = one_line(finding.message)
            # Broken for eyes only: in a pipe a finding stays one line.
            out.print(message, markup=False, highlight=False, soft_wrap=not out.is_terminal)
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
        yield from _store(store, encoder, model, mcls)


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


def _store(url: str, encoder: "M3Encoder", model: str, mcls: bool) -> Iterator[Finding]:
    from m3_core.checks import check_fingerprint
    from m3_core.extending import Extensible, open_partial
    from m3_core.store import Problem

    try:
        store = open_partial(url)
    except M3Error as error:
        yield Finding("store", False, str(error))
        return
    try:
        kinds = store.capabilities.representations
        held = ", ".join(sorted(kinds)) or "no vectors of an M3 model"
        yield Finding("store", True, f"{store.identity}: {store.count()} documents, {held}")
        check_fingerprint(store.fingerprint, encoder.fingerprint, store.identity)
        schema = encoder.schema().only(kinds)
        problems: list[Problem] = store.check(schema) if kinds and hasattr(store, "check") else []
        theirs = store.fingerprint is None and isinstance(store, Extensible) and not _named(url)
        if problems and theirs:  # vectors of the usual names, but not of an M3 model: others are to be added
            store.close()
            store = open_partial(url, dense=None, sparse=None, multi=None)
            kinds = frozenset()
        for problem in problems:
            yield Finding("schema", None if theirs else False, f"{problem.what}; {problem.remedy}")
        if kinds and not problems:
            yield Finding("schema", True, "fits the model")
        if isinstance(store, Extensible):
            yield Finding("fields", None, store.contents)
            if kinds and (count := store.count_bare(kinds)):
                what = f"{count:,} documents have none: they have no text, or are not backfilled yet"
                yield Finding("vectors", None, what)
            yield from _missing(store, url, encoder, model_options(model, mcls))
    except SchemaMismatch as error:
        yield Finding("schema", False, str(error))
    except StoreError as error:
        yield Finding("store", False, str(error))
    finally:
        store.close()


def _missing(
    store: "Extensible", url: str, encoder: "M3Encoder", options: Mapping[str, str | bool | None]
) -> Iterator[Finding]:
    """What the collection lacks of what it could hold, and the command that adds it.

    It is an error where a field is named, in the URL or when the collection was made, and not there, or where there
    are no vectors at all. What somebody chose to leave out is only told.
    """
    lacking = dict(store.lacking(encoder.schema()))
    left_out = _left_out(url)
    sample = store.scan(size=_SAMPLE).records
    taken = {*store.taken, *(name for record in sample for name in record.document.metadata)}
    possible = store.holds & encoder.representations
    new = {
        kind: kind.value if kind.value not in taken else f"m3_{kind.value}"
        for kind in Representation
        if kind in possible - store.capabilities.representations - lacking.keys() - left_out
    }
    wrong = bool(lacking) or not store.capabilities.representations
    if not lacking and wrong:
        # Multi-vectors are many times larger than the others, so nobody is told to add them unasked.
        lacking = {kind: name for kind, name in new.items() if kind is not Representation.MULTI}
    if wrong and not lacking:
        yield Finding("vectors", False, "there is no channel left that the collection and the model can have")
        return
    text = text_field(store, sample)
    if text is None:
        yield Finding("text", False, "no field of the first documents holds text to encode")
        return
    for wanted, ok in ((lacking, False), (new, None)):
        if wanted and (ok is False or not wrong):
            into = ",".join(f"{kind.value}={name}" for kind, name in wanted.items())
            to = None if store.in_place else sibling(store)
            line = command_line(url, {"--text-field": text, "--into": into, "--to": to, **options})
            what = ", ".join(kind.value for kind in wanted)
            how = (
                "this adds them"
                if to is None
                else "this makes a copy that has them, for fields cannot be added"
            )
            yield Finding("vectors", ok, f"there are none for {what}; {how}: {line}")


def text_field(store: "Extensible", records: Sequence["Record"]) -> str | None:
    """The field with the text: the one that is named, if any document has text there, or that of the longest strings."""
    if not records or any(record.document.text.strip() for record in records):
        return store.named.text
    lengths: dict[str, int] = {}
    for record in records:
        for name, value in record.document.metadata.items():
            if isinstance(value, str) and value.strip():
                lengths[name] = lengths.get(name, 0) + len(value)
    return max(lengths, key=lambda name: lengths[name], default=None)


def _named(url: str) -> bool:
    """Whether the URL names the vector fields, or says that there are none."""
    return bool(dict(parse_qsl(url.partition("?")[2])).keys() & {*Representation})


def _left_out(url: str) -> frozenset[Representation]:
    """The channels that the URL says the collection is to go without: ``dense=none``."""
    options = dict(parse_qsl(url.partition("?")[2]))
    return frozenset(kind for kind in Representation if options.get(kind.value) == "none")
