"""Copying to and from real Elasticsearch nodes, whose numbers and pages are their own."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elasticsearch import Elasticsearch
from servers.elasticsearch import Kind, is_complete, url_of
from typer.testing import CliRunner

from m3_core import Document, M3Vectors, MemoryStore, Representation, Schema, SplitStore, Store, copy_store
from m3_core.cli import app
from m3_core.ingestion.copy_checks import schema_of
from m3_core.testing import corpus
from m3_integrations.elasticsearch import ElasticsearchStore
from m3_integrations.qdrant import QdrantEdgeStore

pytestmark = pytest.mark.slow  # a node starts in 5 to 10 s

DENSE, SPARSE, MULTI = Representation
SCHEMA = Schema(dense=16, sparse=500, multi=8, fingerprint="one")
PREFIX = f"m3-copy-{os.getpid()}-"
NODES: list[tuple[Kind, Representation, float]] = [
    ("lexical", SPARSE, 0.05),  # the index keeps 9 binary digits of a weight; what is read back is whole
    ("dense", DENSE, 1e-5),
    ("dense-newest", DENSE, 1e-5),
]


@pytest.fixture
def nodes() -> Iterator[dict[Kind, Elasticsearch]]:
    """Clients, made when they are asked for; the indices of a test are gone after it."""

    class Clients(dict[Kind, Elasticsearch]):
        def __missing__(self, kind: Kind) -> Elasticsearch:
            self[kind] = Elasticsearch(url_of(kind), request_timeout=120)
            return self[kind]

    clients = Clients()
    yield clients
    for client in clients.values():
        for name in client.indices.get(index=f"{PREFIX}*"):
            client.indices.delete(index=name)
        client.close()


def filled() -> MemoryStore:
    """More than a page of documents, among them one without lexical weights and all odd metadata."""
    odd = [Document(f"odd '{n}'", "", metadata) for n, metadata in enumerate(corpus.ODD_METADATA)]
    documents = [*corpus.documents(300), *odd, Document("x" * 512, "text " * 5000)]
    store = MemoryStore(SCHEMA)
    store.upsert(documents, corpus.vectors(SCHEMA, len(documents)))
    store.update_vectors(["doc-3"], M3Vectors(sparse=corpus.sparse_rows([{}], 500)))
    return store


def everything(store: Store, kind: Representation) -> dict[str, tuple[Any, list[float]]]:
    found, cursor = {}, None
    while True:
        page = store.scan(vectors=[kind], cursor=cursor)
        for record in page.records:
            assert record.vectors is not None
            held = (
                record.vectors.dense[0] if record.vectors.dense is not None else record.vectors.sparse_row(0)
            )
            found[record.id] = (record.document, np.ravel(np.concatenate(np.atleast_2d(held))).tolist())
        cursor = page.cursor
        if cursor is None:
            return found


@pytest.mark.parametrize(("kind", "channel", "tolerance"), NODES)
def test_there_and_back(
    kind: Kind, channel: Representation, tolerance: float, nodes: dict[Kind, Elasticsearch], tmp_path: Path
) -> None:
    source, lost = filled(), set(Representation) - {channel}
    index = ElasticsearchStore.create(
        nodes[kind], f"{PREFIX}a", schema=schema_of(source, [channel]), shards=1, dense_index="flat"
    )
    with index, QdrantEdgeStore.create(tmp_path / "back", schema=SCHEMA.only([channel])) as back:
        first = copy_store(source, index, drop=lost, batch_size=100)
        again = copy_store(source, index, drop=lost, resume=True)
        assert (first.written, again.written, again.skipped) == (311, 0, 311)
        assert copy_store(index, back, batch_size=100).written == 311
        assert back.fingerprint == index.fingerprint == "one"
        assert everything(index, channel) == everything(source, channel) == everything(back, channel)
        queries = corpus.vectors(SCHEMA, 5, seed=9)
        for hits, others, copies in zip(
            *(store.search(queries, {channel: 10})[channel] for store in (source, index, back)), strict=True
        ):
            assert [hit.id for hit in copies] == [hit.id for hit in hits]
            assert [hit.score for hit in others] == pytest.approx([hit.score for hit in hits], rel=tolerance)


def test_into_two_nodes_and_out_of_them(nodes: dict[Kind, Elasticsearch], tmp_path: Path) -> None:
    """Dense vectors on one, lexical weights on the other, copied as one store."""
    source = filled()
    with ExitStack() as opened:
        dense, sparse = (
            ElasticsearchStore.create(
                nodes[kind], f"{PREFIX}{channel}", schema=SCHEMA.only([channel]), shards=1, dense_index="flat"
            )
            for kind, channel in (("dense", DENSE), ("lexical", SPARSE))
        )
        split = opened.enter_context(SplitStore(dense=dense, sparse=sparse))
        back = opened.enter_context(MemoryStore(schema_of(source, [DENSE, SPARSE])))
        assert copy_store(source, split, drop=[MULTI]).written == 311
        assert copy_store(split, back).written == 311
        for channel in (DENSE, SPARSE):
            assert everything(back, channel) == everything(source, channel)


@pytest.mark.skipif(is_complete(), reason="a complete server holds both channels")
def test_a_channel_that_the_node_cannot_hold_is_one_line(
    nodes: dict[Kind, Elasticsearch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine could; what this server lacks it says itself, when the index is made."""
    monkeypatch.chdir(tmp_path)
    with QdrantEdgeStore.create("pages", schema=SCHEMA) as store:
        store.upsert(corpus.documents(5), corpus.vectors(SCHEMA, 5))
    node = url_of("lexical").replace("http", "elasticsearch")
    assert nodes["lexical"]
    command = ["copy", "qdrant+file://pages", f"{node}/{PREFIX}cli?shards=1", "--drop", "multi"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "dense_vector" in done.stderr.splitlines()[-1]
    done = CliRunner().invoke(app, [*command, "--drop", "dense"])
    assert done.exit_code == 0, done.stderr
    assert "5 read, 5 written" in done.stdout
