"""``m3 search``: one query against a store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from m3_core.cli.output import (
    DeviceOption,
    DtypeOption,
    FusionName,
    JsonOption,
    MclsOption,
    ModelOption,
    console,
    load_encoder,
    make_fusion,
    out,
    print_json,
    read_template,
    read_where,
)
from m3_core.text import printable
from m3_core.types import Hit, Representation

if TYPE_CHECKING:
    from m3_core.explain import Explanation


def search(
    store: Annotated[str, typer.Argument(help="The store's URL, like qdrant+file://index/demo.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", "--k", help="How many hits.")] = 5,
    where: Annotated[str | None, typer.Option(help='A filter as JSON, like \'{"lang": "ja"}\'.')] = None,
    fusion: Annotated[
        FusionName | None, typer.Option(help="By default the paper's weights for passages.")
    ] = None,
    dense: Annotated[float | None, typer.Option(help="Weight of the dense score.")] = None,
    sparse: Annotated[float | None, typer.Option(help="Weight of the sparse score.")] = None,
    multi: Annotated[float | None, typer.Option(help="Weight of the multi-vector score.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Documents each channel contributes (100).")] = None,
    rescore: Annotated[
        str, typer.Option(help="store, or encode for channels the store does not hold.")
    ] = "store",
    group_by: Annotated[
        str | None, typer.Option(help="Only the best hit of each value, like parent_id.")
    ] = None,
    encode: Annotated[
        str | None,
        typer.Option(
            help="What was encoded at the ingest, like '{title}\\n{text}', for --rescore and --explain."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also the matched tokens and MaxSim pairs.")
    ] = False,
    model: ModelOption = "m3-tiny",
    mcls: MclsOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    full: Annotated[bool, typer.Option("--full", help="The whole text, not only an excerpt.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search a store by all channels it holds; the score of each is shown, lexical matches are bold.

    Examples:

        m3 search qdrant+file://index/demo "how do I merge cells" -k 3

        m3 search qdrant+file://index/demo "表" --where '{"lang": "ja"}'

        m3 search milvus://db/pages "a table" --fusion weighted --rescore encode

        m3 search qdrant://db/docs "install" --group-by parent_id --json
    """
    from m3_core.retriever import Retriever
    from m3_core.store import open_store

    condition = read_where(where)
    rule = make_fusion(fusion, dense, sparse, multi)
    encoder = load_encoder(model, device, dtype, mcls=mcls)
    opened = open_store(store)
    try:
        place: Literal["store", "encode"] = rescore  # type: ignore[assignment]  # the retriever checks it
        retriever = Retriever(
            encoder,
            opened,
            fusion=rule,
            candidates=candidates,
            rescore=place,
            group_by=group_by,
            encode=read_template(encode),
        )
        hits = retriever.search(query, k, where=condition)
        for name in hits.missing:
            console.print(f"{name} did not answer and was left out", style="yellow", markup=False)
        for rank, hit in enumerate(hits, start=1):
            if as_json:
                print_json(_record(rank, hit))
            else:
                _show(
                    retriever.explain(query, hit),
                    rank,
                    hit,
                    everything=explain,
                    full=full,
                    titled=encode is None,
                )
        if not hits:
            console.print("nothing was found")
    finally:
        opened.close()


def _record(rank: int, hit: Hit) -> dict[str, Any]:
    scores = {kind.value: score for kind, score in hit.scores.items()}
    document = {"id": hit.id, "text": hit.document.text, "metadata": hit.document.metadata}
    return {"rank": rank, "score": hit.score, "scores": scores, **document}


def _show(
    explanation: "Explanation", rank: int, hit: Hit, *, everything: bool, full: bool, titled: bool
) -> None:
    from rich.padding import Padding
    from rich.text import Text

    scores = "  ".join(
        f"{kind.value} {hit.scores[kind]:.4f}" for kind in Representation if kind in hit.scores
    )
    name = printable(hit.id)
    _print(Text.assemble((f"{rank}. {name}", "bold cyan"), f"   {hit.score:.4f}   ", (scores, "dim")))
    title = hit.document.metadata.get("title") if titled else None
    if isinstance(title, str):
        _print(Text(f"   {printable(title)}", style="italic"))
    text = Text(printable(explanation.text).replace("\n", " ").replace("\t", " "))
    for start, end in explanation.spans:
        text.stylize("bold", start, end)
    if not full:
        start, end = excerpt(len(text), explanation.spans)
        text = Text.assemble("… " if start else "", text[start:end], " …" if end < len(text) else "")
    _print(Padding(text, (0, 0, 0, 3)) if out.is_terminal else Text("   ").append_text(text))
    if everything:
        out.print(explanation)
    out.print()


def _print(what: Any) -> None:
    # Lines are broken for eyes only: what goes into a pipe stays one line per item.
    out.print(what, soft_wrap=not out.is_terminal)


def excerpt(length: int, spans: Sequence[tuple[int, int]], size: int = 500) -> tuple[int, int]:
    """The stretch of at most ``size`` characters that holds most of the spans (ascending), with room before the first.

    >>> excerpt(2000, [(10, 15), (1500, 1505), (1600, 1610)])
    (1375, 1875)
    """
    best = end = 0
    most = 0
    for first in range(len(spans)):
        while end < len(spans) and spans[end][1] <= spans[first][0] + 3 * size // 4:
            end += 1
        if end - first > most:
            best, most = spans[first][0], end - first
    start = max(0, min(best - size // 4, length - size))
    return start, min(length, start + size)
