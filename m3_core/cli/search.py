"""``m3 search``: one query against a store."""

from typing import Annotated, Any, Literal

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
    read_where,
)
from m3_core.types import Hit, Representation


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
    explain: Annotated[
        bool, typer.Option("--explain", help="Also the matched tokens and MaxSim pairs.")
    ] = False,
    model: ModelOption = "m3-tiny",
    mcls: MclsOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search a store by all channels it holds; the score of each is shown, lexical matches are bold.

    Examples:

        m3 search qdrant+file://index/demo "how do I merge cells" -k 3

        m3 search qdrant+file://index/demo "表" --where '{"lang": {"$in": ["ja", "en"]}}'

        m3 search milvus://localhost:19530/pages "a table" --multi 1 --dense 1 --sparse 0.3 --rescore encode
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
            encoder, opened, fusion=rule, candidates=candidates, rescore=place, group_by=group_by
        )
        hits = retriever.search(query, k, where=condition)
        for name in hits.missing:
            console.print(f"{name} did not answer and was left out", style="yellow", markup=False)
        for rank, hit in enumerate(hits, start=1):
            if as_json:
                print_json(_record(rank, hit))
            else:
                _show(retriever, rank, query, hit, everything=explain)
        if not hits:
            console.print("nothing was found")
    finally:
        opened.close()


def _record(rank: int, hit: Hit) -> dict[str, Any]:
    scores = {kind.value: score for kind, score in hit.scores.items()}
    document = {"id": hit.id, "text": hit.document.text, "metadata": hit.document.metadata}
    return {"rank": rank, "score": hit.score, "scores": scores, **document}


def _show(retriever: Any, rank: int, query: str, hit: Hit, *, everything: bool) -> None:
    from rich.text import Text

    explanation = retriever.explain(query, hit)
    scores = "  ".join(
        f"{kind.value} {hit.scores[kind]:.4f}" for kind in Representation if kind in hit.scores
    )
    out.print(Text.assemble((f"{rank}. {hit.id}", "bold cyan"), f"   {hit.score:.4f}   ", (scores, "dim")))
    title = hit.document.metadata.get("title")
    if isinstance(title, str):
        out.print(Text(f"   {title}", style="italic"))
    if everything:
        out.print(explanation)
    else:
        body = Text.assemble(*((piece, "bold" if matched else "") for piece, matched in explanation.pieces()))
        out.print(Text("   ").append_text(body))
    out.print()
