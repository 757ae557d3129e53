"""Backfilling indices that others made, on real nodes: lexical weights on 7.17, dense vectors on 8.19."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import elasticsearch as es
import pytest
from servers.elasticsearch import url_of
from typer.testing import CliRunner

from m3_core.cli import app
from m3_core.encoder import M3Encoder
from m3_core.errors import DimensionMismatch, FingerprintMismatch, InputError, SchemaMismatch, Unsupported
from m3_core.ingestion.backfill import backfill, plan_backfill
from m3_core.retriever import Retriever
from m3_core.scoring import channel_scores
from m3_core.types import Document, Representation
from m3_integrations.elasticsearch import ElasticsearchStore

pytestmark = pytest.mark.slow  # a node starts in 5 to 10 s

DENSE, SPARSE = Representation.DENSE, Representation.SPARSE
MAPPING: dict[str, Any] = {
    "dynamic": "strict",
    "_meta": {"owner": "the shop", "since": 2019},
    "properties": {
        "body": {"type": "text", "analyzer": "simple"},
        "title": {"type": "keyword"},
        "price": {"type": "float"},
        "seen": {"type": "date"},
        "id": {"type": "keyword"},
        "deep": {"type": "object", "enabled": False},
    },
}
ODD: dict[str, Any] = {
    "body": "Merge the cells of a table, and print the page.",
    "title": "Cells",
    "price": 12.50,
    "seen": "2024-01-02T03:04:05Z",
    "id": "not the _id",
    "deep": {"a.b": [1, None, {"c": [[], {}]}], "größe": 1e-7, "big": 2**53 + 1},
}
IDS = ["plain", "with space / slash?", 'quote"\\', "表", "x" * 512]


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Path) -> M3Encoder:
    return M3Encoder.load(tiny_model_folder)


@pytest.fixture(params=["lexical", "dense"])
def client(request: pytest.FixtureRequest) -> Iterator[es.Elasticsearch]:
    with es.Elasticsearch(url_of(request.param), request_timeout=120) as client:
        yield client


@pytest.fixture
def kind(request: pytest.FixtureRequest, client: es.Elasticsearch) -> Representation:
    """What the node can hold."""
    return SPARSE if "lexical" in request.node.name else DENSE


@pytest.fixture
def index(request: pytest.FixtureRequest, client: es.Elasticsearch) -> Iterator[str]:
    """A strict index of somebody's, with odd ids and values, and two documents without text."""
    name = f"m3-backfill-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**9}"
    client.indices.create(
        index=name, mappings=MAPPING, settings={"number_of_shards": 2, "number_of_replicas": 0}
    )
    for number, one in enumerate(IDS):
        client.index(index=name, id=one, document={**ODD, "title": f"t{number}"}, routing=f"r{number}")
    client.index(index=name, id="no text", document={"title": "nothing"})
    client.index(index=name, id="empty text", document={"body": "  ", "price": 1})
    client.indices.refresh(index=name)
    yield name
    for one in (name, f"{name}-copy"):
        client.indices.delete(index=one, ignore_unavailable=True)


def sources(client: es.Elasticsearch, index: str) -> dict[str, str]:
    """What is in each document besides the vectors: the JSON in the order that the server gives, and the routing."""
    client.indices.refresh(index=index)
    hits = client.search(index=index, size=100)["hits"]["hits"]
    for hit in hits:
        hit["_source"].pop("m3_vector", None)
    return {hit["_id"]: json.dumps([hit["_source"], hit.get("_routing")]) for hit in hits}


def opened(client: es.Elasticsearch, index: str, kind: Representation, **names: str) -> ElasticsearchStore:
    return ElasticsearchStore.open(
        client, index, fields={"text": "body", kind.value: "m3_vector", **names}, partial=True
    )


def test_vectors_are_added_and_nothing_else_changes(
    client: es.Elasticsearch, index: str, kind: Representation, encoder: M3Encoder, tmp_path: Path
) -> None:
    before = sources(client, index)
    mapping = client.indices.get_mapping(index=index)[index]["mappings"]
    store = opened(client, index, kind)
    plan = plan_backfill(store, encoder)
    assert (plan.documents, plan.without_text, plan.adds) == (7, 2, {kind: "m3_vector"})
    assert client.indices.get_mapping(index=index)[index]["mappings"] == mapping

    journal = tmp_path / "journal.sqlite"
    done = backfill(store, encoder, journal=journal, page_size=2)
    assert (done.read, done.written, done.without_text, done.rejected) == (7, 5, 2, 0)
    assert sources(client, index) == before
    new = client.indices.get_mapping(index=index)[index]["mappings"]
    assert new["_meta"]["owner"] == "the shop"
    assert new["_meta"]["m3"]["fingerprint"] == encoder.fingerprint
    spec = new["properties"].pop("m3_vector")
    assert (spec["type"], spec.get("index_options", {}).get("type")) == {
        SPARSE: ("rank_features", None),
        DENSE: ("dense_vector", "hnsw"),
    }[kind]
    assert new["properties"] == mapping["properties"]

    again = backfill(opened(client, index, kind), encoder, journal=journal)
    assert (again.written, again.skipped, again.without_text) == (0, 5, 2)
    client.update(index=index, id="表", routing="r3", doc={"body": "Something else"}, refresh=True)
    with opened(client, index, kind) as store:  # closing makes it visible to others
        changed = backfill(store, encoder, journal=journal)
    assert (changed.written, changed.changed, changed.skipped) == (1, 1, 4)

    # A program that knows nothing of the vectors writes a document whole.
    client.index(index=index, id="plain", routing="r0", document={**ODD, "title": "t0"}, refresh=True)
    with opened(client, index, kind) as store:
        assert store.count_bare([kind]) == (3 if kind is DENSE else None)
        assert sorted(store.bare([*IDS, "no text"], [kind])) == ["no text", "plain"]
        lost = backfill(store, encoder, journal=journal)
        assert (lost.written, lost.skipped) == (1, 4)

    # Opened plainly, it is a store like any other.
    plain = ElasticsearchStore.open(client, index, schema=encoder.schema([kind]))
    assert plain.check(encoder.schema([kind])) == []
    hits = {hit.id: hit for hit in Retriever(encoder, plain).search("Something else", k=9)}
    assert hits["表"].document.text == "Something else"
    assert hits["表"].document.metadata["deep"] == ODD["deep"]
    (exact,) = plain.score(encoder.encode_queries(["Something else"]), kind, [["表"]])
    (mine,) = channel_scores(
        encoder.encode_queries(["Something else"]), 0, encoder.encode_documents(["Something else"]), kind
    )
    assert exact[0] == pytest.approx(mine, rel=1e-6)


def test_a_copy_has_everything_and_takes_over_the_alias(
    client: es.Elasticsearch, index: str, kind: Representation, encoder: M3Encoder, tmp_path: Path
) -> None:
    if kind is DENSE:  # a vector of another model is not read with the text, but copied with the rest
        short = {"short": {"type": "dense_vector", "dims": 3, "index": True, "similarity": "cosine"}}
        client.indices.put_mapping(index=index, properties=short)
        client.update(index=index, id="plain", routing="r0", doc={"short": [1, 0, 0.5]}, refresh=True)
        (plain,) = opened(client, index, kind).get(["plain"])
        assert plain is not None
        assert "short" not in plain.document.metadata
        assert '"short": [1, 0, 0.5]' in sources(client, index)["plain"]
    client.indices.put_alias(index=index, name=f"{index}-alias", filter={"exists": {"field": "title"}})
    before = sources(client, index)
    store = opened(client, index, kind)
    twin = store.twin(f"{store.place}-copy", encoder.schema())
    done = backfill(
        store, encoder, to=twin, switch_alias=f"{index}-alias", journal=tmp_path / "journal.sqlite"
    )
    assert (done.written, done.without_text) == (7, 2)
    assert sources(client, index) == before
    assert sources(client, f"{index}-copy") == before
    aliases = client.indices.get_alias(name=f"{index}-alias").body
    assert aliases == {
        f"{index}-copy": {"aliases": {f"{index}-alias": {"filter": {"exists": {"field": "title"}}}}}
    }

    # The second run finds the alias where it is to be, and what has gone from the source goes from the copy.
    client.delete(index=index, id="no text", refresh=True)
    again = backfill(
        opened(client, index, kind),
        encoder,
        to=store.twin(f"{store.place}-copy", encoder.schema()),
        switch_alias=f"{index}-alias",
        journal=tmp_path / "journal.sqlite",
    )
    assert (again.written, again.skipped, again.missing) == (0, 6, 1)


def test_documents_that_others_have_routed_are_replaced_and_deleted_where_they_are(
    client: es.Elasticsearch, index: str, kind: Representation, encoder: M3Encoder
) -> None:
    backfill(opened(client, index, kind), encoder)
    with opened(client, index, kind) as store:
        new = [Document(name, "new", {"title": name[:9]}) for name in IDS]
        store.upsert(new, encoder.encode_documents([document.text for document in new]))
        assert store.count() == len(IDS) + 2
        assert [record and record.document for record in store.get(IDS)] == new
        # Twice by the same id, on one shard or the other, is one document to find and two to count.
        for route in "abcdef":
            client.index(index=index, id=IDS[0], routing=route, document=ODD, refresh=True)
        assert store.count() == len(IDS) + 3
        assert None not in store.get(IDS)
        store.delete(IDS[1:])
        assert sorted(sources(client, index)) == sorted([IDS[0], "no text", "empty text"])


def test_what_does_not_fit_is_named_before_anything_is_written(
    client: es.Elasticsearch, index: str, kind: Representation, encoder: M3Encoder
) -> None:
    before, mapping = sources(client, index), client.indices.get_mapping(index=index).body
    with pytest.raises(InputError, match=r"none of 7 documents .* has a text in 'bdy'.*'body'"):
        backfill(opened(client, index, kind, text="bdy"), encoder)
    taken = ElasticsearchStore.open(client, index, fields={"text": "body", kind.value: "title"}, partial=True)
    with pytest.raises(SchemaMismatch, match=r"'title' for .* vectors is mapped as keyword"):
        backfill(taken, encoder)
    store = opened(client, index, kind)
    twin = store.twin(f"{store.place}-copy", encoder.schema())
    with pytest.raises(InputError, match="there is no alias 'nowhere'"):
        backfill(store, encoder, to=twin, switch_alias="nowhere")
    other = DENSE if kind is SPARSE else SPARSE
    if os.environ.get("M3_TEST_ELASTICSEARCH_URL") is None:
        with pytest.raises(Unsupported, match="this cluster cannot add 'm3_vector'"):
            backfill(opened(client, index, other), encoder)
    assert sources(client, index) == before
    assert client.indices.get_mapping(index=index).body == mapping

    noted = encoder.schema([kind])
    store.extend(type(noted)(noted.dense, noted.sparse, None, "another model"))
    with pytest.raises(FingerprintMismatch, match="another model"):
        backfill(opened(client, index, kind), encoder)
    if kind is DENSE:
        extra = {"short": {"type": "dense_vector", "dims": 3, "index": True, "similarity": "cosine"}}
        client.indices.put_mapping(index=index, properties=extra, meta={})
        small = ElasticsearchStore.open(
            client, index, fields={"text": "body", "dense": "short"}, partial=True
        )
        with pytest.raises(DimensionMismatch, match="3 dimensions"):
            backfill(small, encoder)


def test_the_line_that_check_prints_makes_check_pass(
    client: es.Elasticsearch,
    index: str,
    kind: Representation,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    other = "dense" if kind is SPARSE else "sparse"  # which these nodes cannot hold
    (node,) = client.transport.node_pool.all()
    url = f"elasticsearch://{node.host}:{node.port}/{index}?{other}=none"
    command = ["check", url, "--model", str(tiny_model_folder), "--json"]
    before = CliRunner().invoke(app, command)
    assert before.exit_code == 1
    found = [json.loads(line) for line in before.stdout.splitlines()]
    assert "body (text)" in next(one["message"] for one in found if one["subject"] == "fields")
    (said,) = [one["message"] for one in found if one["subject"] == "vectors"]
    line = shlex.split(said[said.index(": m3 ") + 2 :])
    assert line[:6] == ["m3", "backfill", url, "--text-field", "body", "--into"]
    assert CliRunner().invoke(app, line[1:]).exit_code == 0
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, ["check", url.partition("?")[0], *command[2:]]).exit_code == 0


def test_an_alias_of_two_indices_and_a_name_with_a_dot(
    client: es.Elasticsearch, index: str, kind: Representation, encoder: M3Encoder
) -> None:
    second, alias = f"{index}-copy", f"{index}-both"
    client.indices.create(index=second, mappings=MAPPING, settings={"number_of_replicas": 0})
    client.index(index=second, id="another", document={"body": "Another index"}, refresh=True)
    for one in (index, second):
        client.indices.put_alias(index=one, name=alias)
    names = {"text": "body", kind.value: "ml.vector"}
    with ElasticsearchStore.open(client, alias, fields=names, partial=True) as store:
        assert backfill(store, encoder).written == len(IDS) + 1
        assert sorted(store.bare([*IDS, "another", "no text"], [kind])) == ["no text"]
    with ElasticsearchStore.open(client, alias) as both:
        assert both.fingerprint == encoder.fingerprint
        (record,) = both.get(["another"], vectors=[kind])
        assert record is not None
        assert record.document.metadata == {}
        assert record.vectors is not None
        assert record.vectors.representations == {kind}
