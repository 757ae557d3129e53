"""Real Elasticsearch nodes from the jars on Maven Central, started once for a test run and stopped at its end.

What is on Maven Central is the server without most of its modules: 7.17 with `rank_features` and no
`dense_vector`, 8.19 and 9.5 with `dense_vector` and no `rank_features`. Where M3_TEST_ELASTICSEARCH_URL is set,
like http://localhost:9200, that complete server is used for everything and nothing is started.
"""

import atexit
import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

VARIABLE = "M3_TEST_ELASTICSEARCH_URL"
HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "nodes"
PATIENCE = 300.0
"""Seconds for a node to start: 5 on an idle machine, minutes where two cores are busy."""

Kind = Literal["lexical", "dense", "dense-newest"]


@dataclass(frozen=True)
class Release:
    """What a node is started from. java: the oldest JDK it runs on. modules: jars it wants in a folder of their own."""

    profile: str
    launcher: str
    java: int
    version: str
    modules: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


_NETTY = ("netty-*", "transport-netty4-*", "elasticsearch-ssl-config-*")
RELEASES: Mapping[Kind, Release] = {
    "lexical": Release(
        "elasticsearch-7",
        "Node7.java",
        17,
        "7.17.29",
        # Few, so that tests meet the limit of clauses with queries that are quick to make.
        settings={"indices.query.bool.max_clause_count": "256"},
    ),
    "dense": Release("elasticsearch-8", "Node8.java", 17, "8.19.21", _NETTY),
    "dense-newest": Release("elasticsearch-9", "Node8.java", 21, "9.5.3", _NETTY),
}


def is_complete() -> bool:
    """Whether the tests have a server with every module."""
    return bool(os.environ.get(VARIABLE))


@cache
def url_of(kind: Kind) -> str:
    """The URL of a node that runs until the tests end; skips the test, with the reason, where none can be started."""
    if is_complete():
        return os.environ[VARIABLE].rstrip("/")
    release = RELEASES[kind]
    java, maven = find_java(release.java), shutil.which("mvn")
    if java is None or maven is None:
        missing = f"a JDK of version {release.java} or later" if java is None else "Maven"
        pytest.skip(f"an Elasticsearch {release.version} node needs {missing}; or set {VARIABLE}")
    jars = bring_jars(release, maven, java)
    return start(release, java, jars)


def find_java(oldest: int) -> str | None:
    """A ``java`` of at least this version: JAVA_HOME's, the one on the path, or one installed beside it."""
    folders = [Path(value) for name, value in os.environ.items() if name.startswith("JAVA_HOME")]
    folders += [*Path("/usr/lib/jvm").glob("*"), *Path("/opt").glob("*jdk*")]
    found = [str(folder / "bin" / "java") for folder in folders if (folder / "bin" / "java").is_file()]
    on_path = shutil.which("java")
    for java in [*([on_path] if on_path else []), *found]:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
        version = re.search(r'version "(\d+)', said)
        if version and int(version[1]) >= oldest:
            return java
    return None


def bring_jars(release: Release, maven: str, java: str) -> Path:
    """A folder with the jars of a release in ``lib`` and ``modules``, made once and kept."""
    pom = HERE / "pom.xml"
    kept = CACHE / f"{release.profile}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    if kept.is_dir():
        return kept
    CACHE.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{release.profile}-"))
    command = [maven, "-q", "-B", "-f", str(pom), "-P", release.profile, "dependency:copy-dependencies"]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={made / 'lib'}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(made)
        pytest.fail(
            f"Maven did not bring the jars of {release.profile}: {(done.stdout + done.stderr)[-1500:]}"
        )
    if release.modules:
        module = made / "modules" / "transport-netty4"
        module.mkdir(parents=True)
        for pattern in release.modules:
            for jar in (made / "lib").glob(f"{pattern}.jar"):
                jar.rename(module / jar.name)
        (module / "plugin-descriptor.properties").write_text(_DESCRIPTOR.format(version=release.version))
    try:
        made.rename(kept)
    except OSError:  # another worker was first
        shutil.rmtree(made)
    return kept


_DESCRIPTOR = """\
name=transport-netty4
description=HTTP
version={version}
elasticsearch.version={version}
java.version=17
classname=org.elasticsearch.transport.netty4.Netty4Plugin
extended.plugins=
has.native.controller=false
"""


def start(release: Release, java: str, jars: Path) -> str:
    """Start a node on a free port of this machine, and wait until it answers."""
    home = Path(tempfile.mkdtemp(prefix="m3-node-"))
    (home / "config").mkdir()
    if (jars / "modules").is_dir():
        (home / "modules").symlink_to(jars / "modules", target_is_directory=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / "node.log"
    options = [
        "-Xms256m",
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        f"{jars / 'lib'}/*",
    ]
    settings = [f"{name}={value}" for name, value in release.settings.items()]
    with log.open("w") as out:
        node = subprocess.Popen(
            [java, *options, str(HERE / release.launcher), str(home), str(port), *settings],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=home,
        )
    atexit.register(_stop, node, home)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + PATIENCE
    while not _answers(url):
        if node.poll() is not None or time.monotonic() > end:
            pytest.fail(f"Elasticsearch {release.version} did not start: {log.read_text()[-3000:]}")
        time.sleep(0.5)
    return url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(
            f"{url}/_cluster/health?wait_for_status=yellow&timeout=5s", timeout=30
        ) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(node: "subprocess.Popen[bytes]", home: Path) -> None:
    node.terminate()
    try:
        node.wait(20)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()
    shutil.rmtree(home, ignore_errors=True)
