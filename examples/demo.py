"""Index real help pages in twelve languages into the embedded Qdrant, and search them by all three representations.

Run by ``make demo``. Leaves the index in ``index/demo``, for ``m3 search qdrant+file://index/demo "..."``. A second
run writes nothing anew.
"""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from m3_core import Hits, M3Encoder, Representation, Retriever, ingest, open_store, read_source

HERE = Path(__file__).parent
CORPUS = HERE / "corpus" / "libreoffice-help.jsonl.gz"
STORE = "qdrant+file://index/demo"
JOURNAL = Path("index/demo.journal")
QUERIES = (
    ("ja", "文字列の長さを求める関数"),
    ("de", "Wie definiere ich eine globale Variable?"),
    ("ru", "как вставить таблицу"),
    ("tr", "hücreleri birleştirme"),
    ("en", "how do I protect a document with a password"),
)


def main() -> None:
    console = Console()
    encoder = M3Encoder.load("m3-tiny")
    with open_store(STORE, schema=encoder.schema()) as store:
        began = time.monotonic()
        summary = ingest(
            read_source(CORPUS), encoder, store, journal=JOURNAL, encode="{title}\n{text}", progress=True
        )
        console.print(
            f"{store.count()} passages in {STORE}: {summary.written} written, {summary.skipped} unchanged, "
            f"{time.monotonic() - began:.0f} s\n"
        )
        retriever = Retriever(encoder, store)
        for lang, query in QUERIES:
            console.print(_table(f"{lang}: {query}", retriever.search(query, k=3)))
        console.print("The same question, answered from the English pages only:")
        lang, query = QUERIES[0]
        console.print(_table(f"{lang} -> en: {query}", retriever.search(query, k=3, where={"lang": "en"})))
    console.print(f'Ask it yourself:  .venv/bin/m3 search {STORE} "表を挿入する"')


def _table(title: str, hits: Hits) -> Table:
    table = Table(title=title, title_justify="left", expand=True)
    for name in ("score", "dense", "sparse", "multi"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("lang")
    table.add_column("passage", ratio=1, no_wrap=True, overflow="ellipsis")
    for hit in hits:
        metadata = hit.document.metadata
        scores = [hit.score, *(hit.scores[kind] for kind in Representation)]
        passage = f"{metadata['title']} — {hit.document.text}".replace("\n", " ")
        table.add_row(*(f"{score:.3f}" for score in scores), metadata["lang"], passage)
    return table


if __name__ == "__main__":
    main()
