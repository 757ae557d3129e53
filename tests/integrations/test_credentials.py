"""Credentials reach the server and are seen nowhere else; TLS trusts whom it is told to, and nobody else."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers.elasticsearch import url_of
from servers.qdrant_front import QdrantFront
from servers.strangers import answering, nobody, refusing_calls
from servers.tls import Certificates, TlsFront, make_certificates
from typer.testing import CliRunner

from m3_core import Schema, open_store
from m3_core.cli import app
from m3_core.errors import InputError, M3Error, StoreError, StoreNotFound, StoreUnavailable
from m3_core.testing import corpus
from m3_core.types import Document
from m3_integrations.milvus import MilvusStore
from m3_integrations.milvus.address import parse_url, pymilvus

SECRET = "s3cr3t-Zw9"
SCHEMA = Schema(dense=8, sparse=50, fingerprint="one")
ODD = "%2F%3F"
"""In a URL's password: a slash and a question mark, which have to be quoted there."""


class Engine(NamedTuple):
    """How an engine is addressed, and the ways to give it a secret: variable, options."""

    url: str
    variable: str
    options: tuple[str, ...]


ENGINES = {
    "qdrant": Engine("qdrant://127.0.0.1:{port}/pages?https=true&retries=0", "QDRANT_API_KEY", ("api_key",)),
    "milvus": Engine(
        "milvus://127.0.0.1:{port}/pages?secure=true&timeout=3", "MILVUS_TOKEN", ("token", "password")
    ),
    "elasticsearch": Engine(
        "elasticsearch+https://127.0.0.1:{port}/pages?retries=0",
        "ELASTICSEARCH_API_KEY",
        ("api_key", "password"),
    ),
}
USERS = {"milvus": {"user": "root"}, "elasticsearch": {"username": "elastic"}}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@contextmanager
def refusing(name: str, certificates: Certificates) -> Iterator[int]:
    """A server behind TLS that refuses every key, in the engine's words."""
    body = {"status": {"error": "wrong key"}, "error": {"type": "security_exception", "reason": "wrong key"}}
    headers = {"Content-Type": "application/json", "X-Elastic-Product": "Elasticsearch"}
    plain: AbstractContextManager[int] = (
        refusing_calls("UNAUTHENTICATED", "wrong key")
        if name == "milvus"
        else answering(401, json.dumps(body).encode(), headers)
    )
    with plain as port, TlsFront(certificates, port) as front:
        yield front.port


def everything_said(error: BaseException) -> str:
    """The error with all that led to it: texts, traces, representations."""
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and not any(one is other for other in seen):
            seen.append(one)
            left += [one.__cause__, one.__context__]
    texts = [text for one in seen for text in (str(one), repr(one), repr(one.args), repr(vars(one)))]
    return "\n".join([*texts, *traceback.format_exception(error)])


@pytest.mark.parametrize("failure", ["down", "wrong key", "not trusted"])
@pytest.mark.parametrize("way", ["variable", "option", "URL", "user in the URL"])
@pytest.mark.parametrize("name", ENGINES)
def test_no_error_log_or_output_holds_a_secret(
    name: str,
    way: str,
    failure: str,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    tmp_path: Path,
    bert_folder: Path,
) -> None:
    engine = ENGINES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M3_MODEL", str(bert_folder))
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "a"}\n')
    for logger in ("m3_core", "m3_integrations"):
        caplog.set_level(logging.DEBUG, logger=logger)
    place: AbstractContextManager[int] = nobody() if failure == "down" else refusing(name, certificates)
    trust = {"ca_certs": str(certificates.authority)} if failure == "wrong key" else {}
    with place as port:
        for option in engine.options if way in ("option", "URL") else engine.options[:1]:
            options: dict[str, Any] = dict(trust)
            url = engine.url.format(port=port)
            if way == "variable":
                monkeypatch.setenv(engine.variable, SECRET)
            elif way == "option":
                options |= {option: SECRET, **(USERS[name] if option == "password" else {})}
            elif way == "URL":
                user = USERS[name] if option == "password" else {}
                url += "".join(f"&{key}={value}" for key, value in {option: SECRET, **user}.items())
            else:
                url = url.replace("://", f"://root:{SECRET}{ODD}@")
            with pytest.raises(M3Error) as caught:
                open_store(url, **options)
            refused_whole = way == "user in the URL" and name != "milvus"
            expected = {"down": StoreUnavailable, "wrong key": StoreError, "not trusted": StoreError}[failure]
            assert type(caught.value) is (InputError if refused_whole else expected)
            if failure == "not trusted" and not refused_whole:
                assert "certificate is not trusted" in str(caught.value)
            assert SECRET not in everything_said(caught.value)
            if way != "option":
                url += "".join(f"&{key}={value}" for key, value in trust.items())
                for command in (
                    ("search", url, "a"),
                    ("check", url),
                    ("copy", url, "qdrant+file://copy"),
                    ("copy", "qdrant+file://nothing", url),
                    ("ingest", "a.jsonl", url, "--patience", "0"),
                ):
                    done = CliRunner().invoke(app, command)
                    assert done.exit_code == 1, (command, done.output)
                    assert SECRET not in done.output, command
    assert SECRET not in caplog.text
    assert SECRET not in "".join(str(warning.message) for warning in recwarn)
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_debugging_shows_no_secret_either(name: str, certificates: Certificates, bert_folder: Path) -> None:
    """The traceback of --debug, and the logs of all clients."""
    engine = ENGINES[name]
    with refusing(name, certificates) as port:
        url = f"{engine.url.format(port=port)}&ca_certs={certificates.authority}"
        done = subprocess.run(
            [sys.executable, "-m", "m3_core.cli", "--debug", "search", url, "a", "--model", str(bert_folder)],
            env={**os.environ, engine.variable: SECRET},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 1
    assert "wrong key" in done.stderr or "refuses the credentials" in done.stderr
    assert "Traceback" in done.stderr
    assert SECRET not in done.stdout + done.stderr


# TLS.


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[int]:
    """The local port of Milvus Lite, which is spoken to as to a server."""
    client = pymilvus.MilvusClient(str(tmp_path / "lite.db"))
    yield int(client._config.address.rpartition(":")[2])
    client.close()


@pytest.fixture(params=["qdrant", "milvus"])
def behind_tls(request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path) -> Iterator[str]:
    """The URL of a store behind TLS."""
    with ExitStack() as opened:
        if request.param == "qdrant":
            front = opened.enter_context(QdrantFront())
            port = int(front.url.rpartition(":")[2])
        else:
            port = request.getfixturevalue("lite")
        tls = opened.enter_context(TlsFront(certificates, port))
        yield ENGINES[request.param].url.format(port=tls.port)


def test_an_authority_is_trusted_only_if_it_is_named(behind_tls: str, certificates: Certificates) -> None:
    with pytest.raises(StoreError, match=r"certificate is not trusted .* give ca_certs="):
        open_store(behind_tls, schema=SCHEMA)
    with pytest.raises(InputError, match=r"nowhere\.pem"):
        open_store(behind_tls, schema=SCHEMA, ca_certs="nowhere.pem")
    written = corpus.documents(30), corpus.vectors(SCHEMA, 30)
    with open_store(f"{behind_tls}&ca_certs={certificates.authority}", schema=SCHEMA) as store:
        store.upsert(*written)
        assert store.get(["doc-3"])[0].document == written[0][3]  # type: ignore[union-attr]
    with open_store(behind_tls, ca_certs=str(certificates.authority)) as store:
        assert store.count() == 30


def test_tls_is_spoken_where_certificates_are_named(certificates: Certificates, lite: int) -> None:
    with QdrantFront() as front, TlsFront(certificates, int(front.url.rpartition(":")[2])) as tls:
        with pytest.raises(StoreNotFound, match="there is no collection"):
            open_store(f"qdrant://127.0.0.1:{tls.port}/pages?ca_certs={certificates.authority}")
        with pytest.raises(StoreNotFound, match="there is no collection"):
            open_store(f"qdrant://127.0.0.1:{tls.port}/pages?verify_certs=false")
    with TlsFront(certificates, lite) as tls, pytest.raises(StoreNotFound, match="there is no collection"):
        open_store(f"milvus://127.0.0.1:{tls.port}/pages?ca_certs={certificates.authority}")


def test_servers_that_want_the_clients_certificate(certificates: Certificates, lite: int) -> None:
    files = {
        "ca_certs": certificates.authority,
        "client_cert": certificates.certificate,
        "client_key": certificates.key,
    }
    with QdrantFront() as front:
        ports = {"qdrant": int(front.url.rpartition(":")[2]), "milvus": lite}
        for name, port in ports.items():
            with TlsFront(certificates, port, wants_certificate=True) as tls:
                url = ENGINES[name].url.format(port=tls.port)
                with pytest.raises(StoreUnavailable):
                    open_store(url, ca_certs=str(certificates.authority))
                with pytest.raises(StoreNotFound, match="there is no collection"):
                    open_store(url, **{option: str(path) for option, path in files.items()})
    with pytest.raises(InputError, match="client_cert goes with client_key and ca_certs"):
        open_store("milvus://h/c", client_cert=str(certificates.certificate))
    with pytest.raises(InputError, match="gRPC verifies certificates always"):
        open_store("qdrant://h/c", verify_certs=False, prefer_grpc=True)


def test_qdrant_by_grpc_trusts_whom_it_is_told_to(certificates: Certificates) -> None:
    with refusing("milvus", certificates) as port:
        url = f"qdrant://127.0.0.1:{port}/pages?https=true&prefer_grpc=true&grpc_port={port}&retries=0"
        with pytest.raises(StoreError, match="certificate is not trusted"):
            open_store(url)
        with pytest.raises(StoreError, match="refuses the API key"):
            open_store(url, ca_certs=str(certificates.authority))


@pytest.mark.slow
def test_elasticsearch_behind_tls(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert_folder: Path
) -> None:
    """A real node; what `m3 ingest` leaves in its journal is looked at too."""
    monkeypatch.chdir(tmp_path)
    node = url_of("lexical")
    with TlsFront(certificates, int(node.rpartition(":")[2].strip("/"))) as tls:
        url = f"elasticsearch+https://127.0.0.1:{tls.port}/m3-tls-{os.getpid()}?dense=none&multi=none"
        with pytest.raises(StoreError, match=r"certificate is not trusted .* give ca_certs="):
            open_store(url)
        url += f"&ca_certs={certificates.authority}&api_key={SECRET}"
        _ingest_and_look(url, tmp_path, bert_folder)
        with open_store(url) as store:
            store._connection.client.indices.delete(index=store._connection.index)  # type: ignore[attr-defined]


def test_a_journal_holds_no_secret(
    behind_tls: str,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bert_folder: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    key = "token" if behind_tls.startswith("milvus") else "api_key"
    _ingest_and_look(f"{behind_tls}&ca_certs={certificates.authority}&{key}={SECRET}", tmp_path, bert_folder)


def _ingest_and_look(url: str, folder: Path, model: Path) -> None:
    (folder / "a.jsonl").write_text('{"id": "a", "text": "Berlin"}\n{"text": 3}\n')
    ingest = CliRunner().invoke(app, ["ingest", "a.jsonl", url, "--model", str(model)])
    assert ingest.exit_code == 0, ingest.output
    search = CliRunner().invoke(app, ["search", url, "Berlin", "--model", str(model)])
    assert re.search(r"^1\. a ", search.stdout)
    check = CliRunner().invoke(app, ["check", url, "--model", str(model)])
    written = list((folder / ".m3").iterdir())
    assert {path.suffix for path in written} >= {".sqlite", ".jsonl"}
    for said in (ingest.output, search.output, check.output, *(str(path) for path in written)):
        assert SECRET not in said
    for path in written:
        assert SECRET.encode() not in path.read_bytes()


# A client of the caller's.


def test_a_client_of_the_callers_is_used_and_left_open(lite: int) -> None:
    client = pymilvus.MilvusClient(f"http://127.0.0.1:{lite}", token=f"root:{SECRET}")
    with MilvusStore.create(client, collection="pages", schema=SCHEMA) as store:
        store.upsert([Document("a", "text")], corpus.vectors(SCHEMA, 1))
        assert store.identity == f"milvus://127.0.0.1:{lite}/pages"
    with MilvusStore.open(client, collection="pages") as store:
        assert store.count() == 1
        assert store.fingerprint == "one"
    assert client.list_collections() == ["pages"]
    with pytest.raises(InputError, match="'' cannot be the name of a Milvus collection"):
        MilvusStore.open(client)
    with pytest.raises(InputError, match="a URL or a MilvusClient is wanted, not int"):
        MilvusStore.open(7)
    client.close()


@pytest.mark.parametrize("way", ["variable", "option", "another variable"])
def test_a_key_arrives(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the header that each server reads; an option goes before the environment."""
    heard: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append({name.lower(): value for name, value in self.headers.items()})
            self.send_error(401)

        do_HEAD = do_GET  # the base class's name

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    for name in ("QDRANT_API_KEY", "MILVUS_TOKEN", "ELASTICSEARCH_API_KEY"):
        monkeypatch.setenv(name, "from-outside")
    monkeypatch.setenv("MINE", "given")
    given = "from-outside" if way == "variable" else "given"
    options = {"api_key": "given"} if way == "option" else {}
    named = "api_key=env:MINE" if way == "another variable" else ""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_address[1]}/pages"
        for url in (f"qdrant://{place}?https=false&{named}", f"elasticsearch://{place}?{named}"):
            with pytest.warns() if "qdrant" in url else nullcontext(), pytest.raises(StoreError):
                open_store(url, **options)
        server.shutdown()
    assert heard[0]["api-key"] == given
    assert heard[-1]["authorization"] == f"ApiKey {given}"
    token = {"token": "given"} if way == "option" else {}
    url = f"milvus://host/pages?{named.replace('api_key', 'token')}"
    assert parse_url(url, token)[0].token == given
    with pytest.raises(
        InputError, match="token=env:NOBODYS names a variable that the environment does not have"
    ):
        parse_url("milvus://host/pages?token=env:NOBODYS", {})
