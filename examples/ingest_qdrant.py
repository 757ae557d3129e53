"""Ingest a file of documents into Qdrant, and search it by dense, sparse and multi-vectors.

    docker compose up --detach --wait qdrant
    python examples/ingest_qdrant.py pages.jsonl --query "how do I merge cells"

Without a server: ``--url qdrant+file://index/pages``. An API key is taken from the environment's QDRANT_API_KEY, and
``--url 'qdrant://host:6333/pages?ca_certs=ca.pem'`` trusts an authority of your own. The same command again writes only
what has changed.
"""

import argparse
from itertools import islice
from pathlib import Path

from m3_core import M3Encoder, Retriever, ingest, open_store, read_source

CORPUS = Path(__file__).parent / "corpus" / "libreoffice-help.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", default=CORPUS, help="JSON lines with id, text and metadata")
    parser.add_argument("--url", default="qdrant://localhost:6333/pages")
    parser.add_argument("--model", default="m3-tiny", help="or BAAI/bge-m3, or a folder")
    parser.add_argument("--journal", default="index/qdrant.journal", help="what the store has confirmed")
    parser.add_argument("--limit", type=int, help="only the first documents")
    parser.add_argument("--query", default="how do I merge cells")
    parser.add_argument("--lang", help="only passages whose metadata say so")
    options = parser.parse_args()

    encoder = M3Encoder.load(options.model)
    # What follows the schema matters when the collection is made: float16 halves the vectors, and a payload index
    # makes filters fast.
    with open_store(
        options.url, schema=encoder.schema(), datatype="float16", payload_indexes={"lang": "keyword"}
    ) as store:
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

        # The paper's weighted sum of all three scores, fused by Qdrant itself.
        retriever = Retriever(encoder, store)
        where = {"lang": options.lang} if options.lang else None
        for hit in retriever.search(options.query, k=5, where=where):
            scores = "  ".join(f"{channel} {score:.3f}" for channel, score in hit.scores.items())
            print(f"{hit.score:.3f}  {scores}  {hit.id}  {hit.document.text[:60]!r}")


if __name__ == "__main__":
    main()
