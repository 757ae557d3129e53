"""Ingest a file of documents into Milvus, and search it by dense and sparse vectors, with multi-vectors computed anew.

    docker compose up --detach --wait milvus
    python examples/ingest_milvus.py pages.jsonl --query "how do I merge cells"

Without a server: ``--url milvus+file://index/pages``. A token is taken from the environment's MILVUS_TOKEN, and
``--url 'milvus://host:19530/pages?ca_certs=ca.pem'`` speaks TLS and trusts an authority of your own. The same command
again writes only what has changed.
"""

import argparse
from itertools import islice
from pathlib import Path

from m3_core import M3Encoder, Retriever, WeightedSum, ingest, open_store, read_source

CORPUS = Path(__file__).parent / "corpus" / "libreoffice-help.jsonl.gz"
HNSW = {"index": "HNSW", "index_params": {"M": 32, "efConstruction": 200}, "search_params": {"ef": 200}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", default=CORPUS, help="JSON lines with id, text and metadata")
    parser.add_argument("--url", default="milvus://localhost:19530/pages")
    parser.add_argument("--model", default="m3-tiny", help="or BAAI/bge-m3, or a folder")
    parser.add_argument("--journal", default="index/milvus.journal", help="what the store has confirmed")
    parser.add_argument("--limit", type=int, help="only the first documents")
    parser.add_argument(
        "--hnsw", action="store_true", help="a graph for millions of documents; a server has it"
    )
    parser.add_argument("--query", default="how do I merge cells")
    parser.add_argument("--lang", help="only passages whose metadata say so")
    options = parser.parse_args()

    encoder = M3Encoder.load(options.model)
    # Milvus holds the dense and sparse vectors of the schema.
    with open_store(options.url, schema=encoder.schema(), **(HNSW if options.hnsw else {})) as store:
        documents = islice(read_source(options.source), options.limit)
        summary = ingest(
            documents,
            encoder,
            store,
            journal=options.journal,
            source=str(options.source),
            encode="{title}\n{text}",
            progress=True,
        )
        print(f"{summary.written} written, {summary.skipped} unchanged, {store.count()} in {store.identity}")

        # The paper's weighted sum; multi-vectors of the candidates are computed from their stored text.
        retriever = Retriever(encoder, store, fusion=WeightedSum.passages(), rescore="encode", candidates=20)
        where = {"lang": options.lang} if options.lang else None
        for hit in retriever.search(options.query, k=5, where=where):
            scores = "  ".join(f"{channel} {score:.3f}" for channel, score in hit.scores.items())
            print(f"{hit.score:.3f}  {scores}  {hit.id}  {hit.document.text[:60]!r}")


if __name__ == "__main__":
    main()
