"""A store that cannot be had: each way is an error of ours with the remedy, and one line at the command line."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from qdrant_client import QdrantClient, models
from servers.elasticsearch import Kind, url_of
from servers.flaky import Fault, FlakyProxy, Plan
from servers.qdrant_front import QdrantFront
from servers.strangers import answering, nobody, refusing_calls, speaking
from typer.testing import CliRunner, Result

from m3_core import M3Encoder
from m3_core.cli import app
from m3_core.errors import StoreError, StoreUnavailable
from m3_core.store import open_store
from m3_integrations.milvus.address import parse_url, pymilvus
from m3_integrations.milvus.connection import Connection

SECRET = "a-key-that-nobody-may-see"
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json", "X-Elastic-Product": "Elasticsearch"}
DENIED = json.dumps(
    {"error": {"type": "security_exception", "reason": "no such key"}, "status": 401}
).encode()

KEYS = {
    "elasticsearch": r"give api_key=.* set ELASTICSEARCH_API_KEY",
    "qdrant": r"give api_key=.* set QDRANT_API_KEY",
    "milvus": r"give token=.* set MILVUS_TOKEN",
}
IS_IT_RUNNING = r"is it running, is this .*address.* TLS"
STRANGER = {
    "elasticsearch": "does not say that it is Elasticsearch; is this its address",
    "qdrant": "is this the address of a Qdrant server",
    "milvus": IS_IT_RUNNING,
}
Place = Callable[[], AbstractContextManager[int]]
HTTP: dict[str, Place] = {
    "page": partial(answering, 200, b"<html>Welcome!</html>", HTML),
    "missing page": partial(answering, 404, b"<html>Not Found</html>", HTML),
    "JSON": partial(answering, 200, b'{"ok": true}', {"Content-Type": "application/json"}),
}
CASES: list[tuple[str, str, Place, type[StoreError], str]] = []
for _scheme in KEYS:
    CASES += [
        (_scheme, "down", nobody, StoreUnavailable, IS_IT_RUNNING),
        (_scheme, "SSH", partial(speaking, b"SSH-2.0-OpenSSH_9.6\r\n"), StoreUnavailable, IS_IT_RUNNING),
        (_scheme, "silence", partial(speaking, None), StoreUnavailable, IS_IT_RUNNING),
        *((_scheme, name, place, StoreError, STRANGER[_scheme]) for name, place in HTTP.items()),
    ]
for _scheme in ("elasticsearch", "qdrant"):
    CASES += [
        (_scheme, "401", partial(answering, 401, DENIED, JSON), StoreError, KEYS[_scheme]),
        (_scheme, "403", partial(answering, 403, b"forbidden", HTML), StoreError, KEYS[_scheme]),
    ]
for _code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
    place = partial(refusing_calls, _code, "auth check failure, please check api key is correct")
    CASES.append(("milvus", _code, place, StoreError, KEYS["milvus"]))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert_folder: Path, texts: tuple[str, ...]) -> Path:
    """An empty folder with twelve documents, the smaller model, and a key for every server in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3_MODEL", str(bert_folder))
    for name in ("ELASTICSEARCH_API_KEY", "QDRANT_API_KEY", "MILVUS_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    rows = [json.dumps({"id": f"p{row}", "text": text}) + "\n" for row, text in enumerate(texts)]
    (tmp_path / "pages.jsonl").write_text("".join(rows))
    return tmp_path


def m3(*arguments: str) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert SECRET not in done.output
    assert "Traceback" not in done.output
    return done


def refused(says: str, *arguments: str) -> str:
    """The only line that the command says, besides warnings of the clients."""
    done = m3(*arguments)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    told = done.stdout if arguments[0] == "check" else done.stderr
    (line,) = [
        line
        for line in told.splitlines()
        if line.startswith(("m3: ", "no ")) and "insecure connection" not in line
    ]
    assert arguments[0] == "check" or not done.stdout
    assert re.search(says, line), line
    return line


def url(scheme: str, port: int) -> str:
    options = {"elasticsearch": "&retries=0", "qdrant": "&retries=0&https=false", "milvus": ""}[scheme]
    return f"{scheme}://127.0.0.1:{port}/pages?timeout=1{options}"


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(
    ("scheme", "name", "place", "error", "says"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES]
)
def test_at_the_address_is_something_else(
    here: Path, scheme: str, name: str, place: Place, error: type[StoreError], says: str
) -> None:
    with place() as port:
        store = url(scheme, port)
        with pytest.raises(error, match=says) as caught:
            open_store(store)
        assert f"{scheme}://127.0.0.1:{port}/pages" in str(caught.value)
        assert SECRET not in str(caught.value)
        refused(says, "search", store, "a query")
        if name not in (
            "silence",
            *HTTP,
        ):  # every command opens its store alike; all of them for all cases take long
            refused(says, "check", store)
            refused(says, "ingest", "pages.jsonl", store, "--patience", "1")
            refused(says, "copy", store, "qdrant+file://index/copy")
    assert not (here / "index").exists()
    assert not (here / ".m3").exists(), "nothing was written, and no journal begun"


def test_tls_with_a_server_that_speaks_none() -> None:
    with answering(200, b"{}", JSON) as port:
        refused(
            r"no TLS connection .* ca_certs=",
            "search",
            f"elasticsearch+https://127.0.0.1:{port}/a?retries=0",
            "q",
        )
        refused("speak TLS with it", "search", f"qdrant://127.0.0.1:{port}/a?retries=0", "q")


@pytest.mark.parametrize(
    "name", ["v'] or true", 'v"}}', "v\n", "v\x1b[31m", "*", "$where", "", "v\u202ew", "v\0", "v" * 999 + " "]
)
def test_a_filter_that_cannot_be_asked(name: str) -> None:
    assert ingested("qdrant+file://index/pages")["written"] == 12
    line = refused(
        "cannot be used in a filter|unknown operator",
        "search",
        "qdrant+file://index/pages",
        "q",
        "--where",
        json.dumps({name: 1}),
    )
    assert line.isprintable()
    assert len(line) < 300


# A server that goes away.


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """A proxy before a stand-in for a Qdrant server."""
    monkeypatch.delenv("QDRANT_API_KEY")
    with QdrantFront() as front, FlakyProxy(front.url, Plan()) as proxy:
        yield proxy


def ingested(store: str, *arguments: str) -> dict[str, Any]:
    done = m3("ingest", "pages.jsonl", store, "--json", *arguments)
    assert done.stdout, done.output
    summary: dict[str, Any] = json.loads(done.stdout)
    assert (done.exit_code == 0) == (summary["stopped"] is None), done.output
    return summary


DEAD = {"5xx": Fault.ERROR, "reset": Fault.UNSENT}


@pytest.mark.parametrize("fault", DEAD.values(), ids=list(DEAD))
def test_ingest_loses_its_patience_and_goes_on_from_the_journal(front: FlakyProxy, fault: Fault) -> None:
    store = f"qdrant://127.0.0.1:{front.server_port}/pages?retries=0"
    front.plan = Plan(first=[None] * 7 + [fault] * 1000)  # what opens the collection, and a few writes
    began = time.monotonic()
    first = ingested(store, "--batch-size", "2", "--patience", "1")
    assert time.monotonic() - began < 60, "patience is a second, and the rest is for a busy machine"
    assert "does not answer" in first["stopped"] or " 50" in first["stopped"]
    assert 0 < first["written"] < 12
    front.heal()
    last = ingested(store)
    assert (last["stopped"], last["skipped"], last["written"]) == (
        None,
        first["written"],
        12 - first["written"],
    )
    with open_store(store) as opened:
        assert opened.count() == 12


def test_journal_survives_a_server_that_is_down_from_the_start(front: FlakyProxy) -> None:
    store = f"qdrant://127.0.0.1:{front.server_port}/pages?retries=0"
    assert ingested(store)["written"] == 12
    front.plan = Plan(first=[Fault.UNSENT] * 1000)
    refused("is it running", "ingest", "pages.jsonl", store, "--patience", "1", "--delete-missing", "--yes")
    refused("is it running", "search", store, "a query")
    front.heal()
    assert ingested(store)["skipped"] == 12


# A collection of another model.


@pytest.fixture(params=["qdrant+file", "milvus+file", "qdrant"])
def ours(request: pytest.FixtureRequest) -> str:
    """The URL of a collection of each engine."""
    if request.param == "qdrant":
        return f"qdrant://127.0.0.1:{request.getfixturevalue('front').server_port}/pages"
    return f"{request.param}://index/pages"


def test_collection_of_another_model(
    ours: str, xlmr_folder: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ingested(ours)["written"] == 12
    monkeypatch.setenv("M3_MODEL", str(xlmr_folder))
    here, there = (M3Encoder.load(folder).fingerprint for folder in (bert_folder, xlmr_folder))
    says = f"{here}.*{there}.*(open it|use|write).*"
    refused(says, "search", ours, "a query")
    refused(says, "check", ours)
    refused(says, "ingest", "pages.jsonl", ours)
    with open_store(ours) as store:
        assert store.count() == 12
        assert store.fingerprint == here


def qdrant_of_eight(front: FlakyProxy) -> str:
    client = QdrantClient(url=front.url, check_compatibility=False)
    client.create_collection(
        "theirs", vectors_config={"dense": models.VectorParams(size=8, distance=models.Distance.DOT)}
    )
    client.close()
    return f"qdrant://127.0.0.1:{front.server_port}/theirs?id=none"


def milvus_of_eight(_: FlakyProxy) -> str:
    place = "milvus+file://index/theirs.db/theirs"
    connection = Connection(parse_url(place, {})[0], create=True)
    kinds = pymilvus.DataType
    schema = pymilvus.MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=100)
    schema.add_field("text", kinds.VARCHAR, max_length=1000)
    schema.add_field("metadata", kinds.JSON)
    schema.add_field("dense", kinds.FLOAT_VECTOR, dim=8)
    index = pymilvus.MilvusClient.prepare_index_params()
    index.add_index(field_name="dense", index_type="FLAT", metric_type="IP")
    connection.client.create_collection("theirs", schema=schema)
    connection.client.create_index("theirs", index, sync=False)
    connection.close()
    return place


@pytest.mark.parametrize("make", [qdrant_of_eight, milvus_of_eight])
def test_collection_of_another_dimension(front: FlakyProxy, make: Callable[[FlakyProxy], str]) -> None:
    store = make(front)
    says = r"(32.*\b8|\b8\b.*32).*use"
    refused(says, "search", store, "a query")
    done = m3("check", store)
    assert done.exit_code == 1
    assert re.search(rf"schema .*{says}", done.stdout), done.stdout
    refused(says, "ingest", "pages.jsonl", store)


# What an Elasticsearch index can be put into.


BLOCKS = {"read_only": True, "read_only_allow_delete": True, "write": True, "read": False}
"""And whether an index with this block can be searched."""


@pytest.fixture(scope="module")
def client() -> Iterator[Elasticsearch]:
    with Elasticsearch(url_of("lexical"), request_timeout=120) as client:
        yield client
        for name in client.indices.get(index="m3-refusals-*"):
            client.indices.put_settings(
                index=name, settings={f"index.blocks.{kind}": None for kind in BLOCKS}
            )
            client.indices.delete(index=name)


@pytest.fixture
def index(client: Elasticsearch, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an index with the twelve documents."""
    monkeypatch.delenv("ELASTICSEARCH_API_KEY")
    name = f"m3-refusals-{abs(hash(request.node.name)):x}"
    assert ingested(es_url(name))["written"] == 12
    return name


def es_url(name: str, kind: Kind = "lexical") -> str:
    """The URL of an index without the other channel."""
    scheme, _, place = url_of(kind).partition("://")
    secure = "+https" if scheme == "https" else ""
    without = "dense" if kind == "lexical" else "sparse"
    return f"elasticsearch{secure}://{place}/{name}?{without}=none&shards=1&replicas=0&retries=1"


def unblock(client: Elasticsearch, line: str) -> None:
    """Do what the line says, which ends with a call of the client."""
    eval(line[line.index("client.") :], {"client": client})


@pytest.mark.slow
def test_closed_index(client: Elasticsearch, index: str) -> None:
    client.indices.close(index=index)
    says = r"is closed; open it: client\.indices\.open\(index='m3-refusals-"
    for command in (
        ["search", es_url(index), "q"],
        ["check", es_url(index)],
        ["ingest", "pages.jsonl", es_url(index)],
    ):
        line = refused(says, *command)
    unblock(client, line)
    assert ingested(es_url(index))["skipped"] == 12, "what was written before is in the journal"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "reads"),
    [("read_only", True), ("read_only_allow_delete", True), ("write", True), ("read", False)],
)
def test_blocked_index(client: Elasticsearch, index: str, block: str, reads: bool) -> None:
    client.indices.put_settings(index=index, settings={f"index.blocks.{block}": True})
    says = rf"remove the block: client\.indices\.put_settings\(index='{index}', settings=.'index\.blocks\.{block}': None"
    if reads:
        assert m3("search", es_url(index), "q").exit_code == 0
        line = str(ingested(es_url(index), "--fresh", "--patience", "1")["stopped"])
    else:
        line = refused(says, "search", es_url(index), "q")
    assert re.search(says, line)
    assert ("free disk space" in line) == (block == "read_only_allow_delete")
    unblock(client, line)
    assert ingested(es_url(index), "--fresh")["written"] == 12


@pytest.mark.slow
def test_index_that_is_missing_or_of_another_model(
    client: Elasticsearch, index: str, xlmr_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused("there is no index .*make one by ingesting", "search", es_url("m3-refusals-none"), "q")
    monkeypatch.setenv("M3_MODEL", str(xlmr_folder))
    for command in (
        ["search", es_url(index), "q"],
        ["check", es_url(index)],
        ["ingest", "pages.jsonl", es_url(index)],
    ):
        refused("holds vectors of the model .* but this model is .*write into another", *command)
    client.indices.refresh(index=index)
    assert client.count(index=index)["count"] == 12


@pytest.mark.slow
def test_index_of_another_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELASTICSEARCH_API_KEY")
    name = "m3-refusals-of-eight"
    mappings = {
        "properties": {
            "text": {"type": "text"},
            "dense": {"type": "dense_vector", "dims": 8, "index": True, "similarity": "dot_product"},
        }
    }
    with Elasticsearch(url_of("dense"), request_timeout=120) as client:
        client.indices.create(index=name, mappings=mappings, settings={"number_of_replicas": 0})
        try:
            store = es_url(name, "dense")
            says = r"(32.*\b8|\b8\b.*32).*use"
            refused(says, "search", store, "q")
            refused(says, "ingest", "pages.jsonl", store)
            done = m3("check", store)
            assert done.exit_code == 1
            assert re.search(says, done.stdout)
            assert client.count(index=name)["count"] == 0
        finally:
            client.indices.delete(index=name)
