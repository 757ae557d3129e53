"""Ingest a file of documents into Elasticsearch, and search it by dense vectors and lexical weights.

    docker compose up --detach --wait elasticsearch
    python examples/ingest_elasticsearch.py pages.jsonl --query "how do I merge cells"

Elasticsearch 7.17 holds lexical weights alone: ``--channels sparse``. Credentials are taken from the environment:
ELASTICSEARCH_API_KEY, or ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD; for TLS
``--url 'elasticsearch+https://host:9200/pages?ca_certs=ca.pem'``. The same command again writes only what has changed.
"""

import argparse
from itertools import islice
from pathlib import Path

from m3_core import M3Encoder, Representation, Retriever, ingest, open_store, read_source

CORPUS = Path(__file__).parent / "corpus" / "libreoffice-help.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", default=CORPUS, help="JSON lines with id, text and metadata")
    parser.add_argument("--url", default="elasticsearch://localhost:9200/pages")
    parser.add_argument("--model", default="m3-tiny", help="or BAAI/bge-m3, or a folder")
    parser.add_argument(
        "--journal", default="index/elasticsearch.journal", help="what the store has confirmed"
    )
    parser.add_argument("--limit", type=int, help="only the first documents")
    parser.add_argument("--channels", nargs="+", default=["dense", "sparse"], choices=["dense", "sparse"])
    parser.add_argument("--query", default="how do I merge cells")
    parser.add_argument("--lang", help="only passages whose metadata say so")
    options = parser.parse_args()

    encoder = M3Encoder.load(options.model)
    schema = encoder.schema().only([Representation(channel) for channel in options.channels])
    # What follows the schema matters when the index is made: "flat" is exact, "hnsw" is for millions of documents.
    with open_store(options.url, schema=schema, dense_index="hnsw", shards=1) as store:
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

        # The paper's weighted sum over the channels that the index holds.
        retriever = Retriever(encoder, store)
        where = {"lang": options.lang} if options.lang else None
        for hit in retriever.search(options.query, k=5, where=where):
            scores = "  ".join(f"{channel} {score:.3f}" for channel, score in hit.scores.items())
            print(f"{hit.score:.3f}  {scores}  {hit.id}  {hit.document.text[:60]!r}")


if __name__ == "__main__":
    main()
