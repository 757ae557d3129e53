"""What is Milvus's own: URLs, locks, limits, what an interrupted process leaves, and errors without secrets."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_core.errors import InputError, StoreError, StoreLocked, StoreNotFound, StoreUnavailable, Unsupported
from m3_core.store import Fields, Schema, open_store
from m3_core.testing import corpus
from m3_core.testing.base import assert_same_document, scan_ids
from m3_core.types import Document, M3Vectors, Representation
from m3_integrations.milvus import MilvusStore, connection, convert, table
from m3_integrations.milvus.address import parse_url, pymilvus
from m3_integrations.milvus.layout import PROPERTY

DENSE, SPARSE = Representation.DENSE, Representation.SPARSE
SCHEMA = Schema(dense=8, sparse=500, fingerprint="m3")


def vectors(n: int, *, seed: int = 0) -> M3Vectors:
    return corpus.vectors(SCHEMA, n, seed=seed)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"milvus+file://{tmp_path}/index"


@pytest.fixture
def store(url: str) -> Iterator[MilvusStore]:
    with MilvusStore.create(url, schema=SCHEMA) as store:
        yield store


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "folder", "collection"),
        [
            ("milvus+file:///data/index/pages", "/data/index/pages.db", "documents"),
            ("milvus+file:///data/pages.db", "/data/pages.db", "documents"),
            ("milvus+file:///data/pages.db/passages", "/data/pages.db", "passages"),
            ("milvus+file:///data/my%20index?timeout=5", "/data/my index.db", "documents"),
        ],
    )
    def test_places_of_milvus_lite(self, url: str, folder: str, collection: str) -> None:
        address, rest = parse_url(url, {})
        assert (str(address.path), address.collection, rest) == (folder, collection, {})
        assert address.identity == f"milvus+file://{folder}/{collection}"

    def test_identity_does_not_depend_on_the_working_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        assert parse_url("milvus+file://tmp/x", {})[0] == parse_url("milvus+file:///tmp/x.db", {})[0]

    @pytest.mark.parametrize(
        ("url", "options", "uri", "identity", "token"),
        [
            ("milvus://host/pages", {}, "http://host:19530", "milvus://host:19530/pages", ""),
            ("milvus://host:1/p?secure=true", {}, "https://host:1", "milvus://host:1/p", ""),
            ("milvus://[::1]/p", {"token": "xyz"}, "http://[::1]:19530", "milvus://[::1]:19530/p", "xyz"),
            ("milvus://a:b%40@h/p?database=d", {}, "http://h:19530", "milvus://h:19530/p?database=d", "a:b@"),
            ("milvus://h/p?user=a", {"password": "b"}, "http://h:19530", "milvus://h:19530/p", "a:b"),
        ],
    )
    def test_places_of_servers(
        self, url: str, options: dict[str, str], uri: str, identity: str, token: str
    ) -> None:
        address, _ = parse_url(url, options)
        assert (address.uri, address.identity, address.token) == (uri, identity, token)
        assert not token or token not in repr(address)

    @pytest.mark.parametrize(
        "url",
        [
            "milvus://host",
            "milvus://host/",
            "milvus:///pages",
            "milvus://host:port/pages",
            "milvus://host/my-pages",
            "milvus://host/a/b",
            "milvus+file://",
            "milvus+file:///data/pages.db/1st",
            "milvus+file:///data/pages?timeout=soon",
            "milvus+file:///data/pages?timeout=-1",
            "qdrant://host/pages",
            "nonsense",
        ],
    )
    def test_other_forms_are_refused(self, url: str) -> None:
        with pytest.raises(InputError):
            MilvusStore.from_url(url)

    def test_open_store_finds_it(self, url: str) -> None:
        with pytest.raises(StoreNotFound, match=r"index\.db"):
            open_store(url)
        assert not Path(url.removeprefix("milvus+file://") + ".db").exists(), "asking made nothing"
        with open_store(url, schema=SCHEMA) as made:
            assert isinstance(made, MilvusStore)
        with open_store(url) as found:
            assert found.fingerprint == "m3"

    def test_options_stand_in_the_url_or_beside_it(self, url: str) -> None:
        with MilvusStore.from_url(f"{url}?filter_terms=array&index=flat&timeout=30", schema=SCHEMA) as store:
            store.upsert([Document("a", "", {"n": [1, 2]})], vectors(1))
            assert store.count(where={"n": {"$in": [2, 3]}}) == 1
        for bad in ({"indx": "FLAT"}, {"index_params": "{"}, {"index_params": "[1]"}, {"filter_terms": "x"}):
            with pytest.raises(InputError, match=next(iter(bad))):
                MilvusStore.from_url(f"{url}2", schema=SCHEMA, **bad)
        with pytest.raises(Unsupported, match="HNSW"):
            MilvusStore.from_url(f"{url}3?index=HNSW", schema=SCHEMA)


class TestCreating:
    def test_other_field_names_are_kept_with_the_collection(self, url: str) -> None:
        fields = Fields(dense="e", sparse="w", multi=None, text="body", id="doc", metadata="meta")
        document = Document("a", "text", {"k": ["v"]})
        with MilvusStore.create(url, schema=SCHEMA, fields=fields) as store:
            store.upsert([document], vectors(1))
        with MilvusStore.open(url) as store:
            (record,) = store.scan(where={"k": "v"}, vectors=[DENSE, SPARSE]).records
            assert_same_document(record.document, document)
            assert store.check(SCHEMA) == []

    def test_a_channel_alone(self, url: str) -> None:
        for kind in (DENSE, SPARSE):
            with MilvusStore.create(f"{url}-{kind}", schema=SCHEMA.only([kind])) as store:
                store.upsert([Document("a")], vectors(1))
                assert store.capabilities.representations == {kind}
                assert store.search(vectors(1), {kind: 1})[kind][0][0].id == "a"

    def test_what_cannot_be_made(self, url: str) -> None:
        with pytest.raises(Unsupported, match="neither"):
            MilvusStore.create(url, schema=Schema(multi=4))
        with pytest.raises(InputError, match="name once"):
            MilvusStore.create(url, schema=SCHEMA, fields=Fields(text="dense"))
        with pytest.raises(InputError, match="for the id"):
            MilvusStore.create(url, schema=SCHEMA, fields=Fields(id=None))
        MilvusStore.create(url, schema=SCHEMA).close()
        with pytest.raises(StoreError, match="already"):
            MilvusStore.create(url, schema=SCHEMA)

    def test_creation_that_was_interrupted_is_finished(self, url: str, store: MilvusStore) -> None:
        """A process was killed before it had made the collection, and another before it had made the indexes."""
        client = store._connection.client
        other = Path(f"{url[14:]}.db/collections/other")
        other.mkdir()
        (other / "schema.json.tmp").touch()
        with MilvusStore.from_url(f"{url}.db/other", schema=SCHEMA) as made:
            made.upsert([Document("a")], vectors(1))
            for field in ("dense", "sparse"):
                client.release_collection("other")
                client.drop_index("other", f"{field}_idx")
        with MilvusStore.from_url(f"{url}.db/other", schema=SCHEMA) as again:
            assert again.check(SCHEMA) == []
            assert again.search(vectors(1), {DENSE: 1, SPARSE: 1})[SPARSE][0][0].id == "a"

    def test_leftovers_are_not_taken_for_a_collection(self, url: str, store: MilvusStore) -> None:
        kept = Path(f"{url[14:]}.db/collections/other")
        kept.mkdir()
        (kept / "something").touch()
        with pytest.raises(StoreError):
            MilvusStore.create(f"{url}.db/other", schema=SCHEMA)
        assert (kept / "something").exists(), "what we do not know is not removed"


class TestLimits:
    @pytest.mark.parametrize("size", [65_535, 65_536, 300_000])
    def test_texts_of_any_length(self, store: MilvusStore, size: int) -> None:
        document = Document("a", "é" * (size // 2) + "x" * (size % 2), {"n": 1})
        store.upsert([document], vectors(1))
        store.update_vectors(["a"], vectors(1, seed=1))
        assert_same_document(store.scan(where={"n": 1}).records[0].document, document)
        assert_same_document(store.search(vectors(1), {DENSE: 1})[DENSE][0][0].document, document)

    @pytest.mark.parametrize(
        ("document", "named"),
        [
            (Document("big", "", {"m": "x" * 65_530}), r"metadata of document 'big' has 65,5\d\d bytes"),
            (Document("many", "", {"tags": [str(n) for n in range(3000)]}), r"'many' has 3,001 values"),
            (Document("huge", "x" * (50 << 20)), r"all of document 'huge' has 52,4\d\d,\d\d\d bytes"),
        ],
        ids=["metadata", "values", "row"],
    )
    def test_what_milvus_cannot_hold_is_refused_before_anything_is_written(
        self, store: MilvusStore, document: Document, named: str
    ) -> None:
        with pytest.raises(InputError, match=named):
            store.upsert([Document("small"), document], vectors(2))
        assert store.count() == 0

    def test_as_many_values_as_fit(self, store: MilvusStore) -> None:
        tags = [str(n) for n in range(2620)]
        store.upsert([Document("a", "", {"t": tags})], vectors(1))
        assert store.count(where={"t": {"$in": ["x", "2619"]}}) == 1
        assert store.count(where={"t": "2620"}) == 0

    def test_k_beyond_what_milvus_returns(self, store: MilvusStore) -> None:
        with pytest.raises(InputError, match="16,384"):
            store.search(vectors(1), {DENSE: 16_385})

    def test_many_rows_go_in_several_requests(
        self, store: MilvusStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(table, "REQUEST_BYTES", 4000)
        monkeypatch.setattr(table, "ROWS_AT_ONCE", 7)
        monkeypatch.setattr(table, "HITS_AT_ONCE", 10)
        documents, both = corpus.documents(40), vectors(40)
        store.upsert(documents, both)
        store.update_vectors([document.id for document in documents[:20]], both.take(range(20, 40)))
        assert store.count() == 40
        found = store.search(both.take(range(20, 40)), {DENSE: 2})[DENSE]
        assert [{hit.id for hit in hits} for hits in found] == [
            {f"doc-{n}", f"doc-{n + 20}"} for n in range(20)
        ]
        store.delete([document.id for document in documents[:30]])
        assert sorted(scan_ids(store)) == sorted(document.id for document in documents[30:])


class TestLocks:
    def test_two_collections_of_one_folder(self, url: str, store: MilvusStore) -> None:
        with MilvusStore.create(f"{url}.db/second", schema=SCHEMA) as second:
            second.upsert([Document("a")], vectors(1))
            with pytest.raises(StoreLocked, match="second"):
                MilvusStore.open(f"{url}.db/second")
        assert store.count() == 0, "closing one leaves the other open"
        with MilvusStore.open(f"{url}.db/second") as second:
            assert second.count() == 1

    def test_another_process_is_kept_out_until_we_close(self, url: str, store: MilvusStore) -> None:
        script = (
            "import sys; from m3_core.errors import StoreLocked; from m3_integrations.milvus import MilvusStore\n"
            "try: MilvusStore.open(sys.argv[1]).close()\n"
            "except StoreLocked as error: sys.exit(f'locked: {error}')"
        )
        command = [sys.executable, "-c", script, url]
        locked = subprocess.run(command, capture_output=True, text=True)
        assert locked.stderr == f"locked: another process has opened {url[14:]}.db; wait for it or stop it\n"
        store.close()
        free = subprocess.run(command, capture_output=True, text=True)
        assert (free.returncode, free.stderr) == (0, "")

    def test_a_file_is_not_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "old.db").write_bytes(b"SQLite format 3\0")
        with pytest.raises(StoreError, match="is a file"):
            MilvusStore.from_url(f"milvus+file://{tmp_path}/old", schema=SCHEMA)

    def test_a_collection_that_is_not_there(self, url: str, store: MilvusStore) -> None:
        with pytest.raises(StoreNotFound, match="nowhere"):
            MilvusStore.open(f"{url}.db/nowhere")
        assert store.count() == 0

    def test_a_killed_process_loses_nothing_that_was_acknowledged(self, url: str) -> None:
        script = (
            "import sys; from m3_integrations.milvus import MilvusStore; from m3_core.store import Schema\n"
            "from m3_core.testing import corpus; from m3_core.types import Document\n"
            "schema = Schema(dense=8, sparse=500, fingerprint='m3')\n"
            "store = MilvusStore.from_url(sys.argv[1], schema=schema)\n"
            "for turn in range(1000):\n"
            "    store.upsert([Document(f'{turn}-{n}') for n in range(20)], corpus.vectors(schema, 20))\n"
            "    print(turn, flush=True)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        done = [int(process.stdout.readline()) for _ in range(8)][-1]
        os.kill(process.pid, signal.SIGKILL)
        done = max([done, *map(int, process.stdout.read().split())])
        process.wait()
        with MilvusStore.open(url) as store:
            names = set(scan_ids(store))
            assert {f"{turn}-{n}" for turn in range(done + 1) for n in range(20)} <= names
            assert len(names) % 20 == 0, "a batch is written whole or not at all"
            assert store.count() == len(names)


class TestErrors:
    def test_a_server_that_does_not_answer(self, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(
            StoreUnavailable, match=r"milvus://127\.0\.0\.1:1/pages does not answer"
        ) as caught:
            MilvusStore.open("milvus://user:s3cret@127.0.0.1:1/pages", timeout=0.5)
        assert "s3cret" not in str(caught.value)
        assert "s3cret" not in repr(caught.value.__cause__)
        assert capfd.readouterr() == ("", ""), "pymilvus would write a traceback"

    def test_a_refused_request_is_our_error_and_writes_nothing_to_the_terminal(
        self, store: MilvusStore, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with (
            pytest.raises(StoreError, match=r"Milvus refused a request to milvus\+file://"),
            store._calling(),
        ):
            store._table.count("no such ( expression")
        assert capfd.readouterr() == ("", "")
        assert store.count() == 0

    def test_secrets_are_taken_out_of_what_milvus_says(
        self, store: MilvusStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address, _ = parse_url("milvus://user:s3cret@host/pages", {})
        monkeypatch.setattr(store._connection, "address", address)
        with pytest.raises(StoreError, match="auth failed") as caught, store._connection.calling():
            raise pymilvus.MilvusException(1100, "auth failed for user:s3cret, s3cret")
        assert "s3cret" not in str(caught.value)
        monkeypatch.undo()

    def test_versions_of_milvus_lite_that_are_not_exact_are_refused(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "version", lambda _: "3.2.1")
        with pytest.raises(StoreError, match=r"3\.2\.1.*pip install"):
            MilvusStore.create(url, schema=SCHEMA)

    def test_missing_package_says_the_pip_line(self) -> None:
        script = "import sys; sys.modules['pymilvus'] = None\nimport m3_integrations.milvus"
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        expected = (
            "MissingExtra: pymilvus is not installed; install it with: pip install 'm3-retrieval[milvus]'"
        )
        assert run.stderr.strip().splitlines()[-1].endswith(expected)

    def test_missing_milvus_lite_says_the_pip_line(self, url: str) -> None:
        script = (
            "import sys; sys.modules['milvus_lite'] = None\n"
            "from m3_integrations.milvus import MilvusStore; MilvusStore.open(sys.argv[1])"
        )
        Path(url[14:] + ".db").mkdir()
        run = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True)
        assert "pip install 'm3-retrieval[milvus]'" in run.stderr.strip().splitlines()[-1]


class TestWhatIsStored:
    def test_empty_lexical_weights_are_a_sentinel_that_nobody_sees(self, store: MilvusStore) -> None:
        empty = M3Vectors(dense=vectors(1).dense, sparse=corpus.sparse_rows([{}], 500))
        store.upsert([Document("a")], empty)
        raw = store._connection.client.query("documents", filter='id == "a"', output_fields=["sparse"])
        assert list(raw[0]["sparse"]) == [2**32 - 2]
        record = store.get(["a"], vectors=[SPARSE])[0]
        assert record is not None
        assert record.vectors is not None
        assert record.vectors.sparse is not None
        assert record.vectors.sparse.nnz == 0
        assert store.score(vectors(1), SPARSE, [["a"]])[0].tolist() == [0.0]

    def test_the_collection_says_whose_it_is(self, store: MilvusStore) -> None:
        described = store._connection.client.describe_collection("documents")
        assert '"fingerprint": "m3"' in described["properties"][PROPERTY]

    def test_another_vocabulary_is_refused(self, store: MilvusStore) -> None:
        other = M3Vectors(dense=vectors(1).dense, sparse=corpus.sparse_rows([{3: 1.0}], 501))
        for call in (
            lambda: store.upsert([Document("a")], other),
            lambda: store.search(other, {SPARSE: 1}),
            lambda: store.score(other, SPARSE, [[]]),
        ):
            with pytest.raises(StoreError, match=r"501.*500"):
                call()
        assert store.check(Schema(dense=8, sparse=501))[0].what.endswith(
            "over 500 tokens, this model makes 501"
        )


class TestConversions:
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.integers(1, 30_000))
    def test_split_texts_join_to_the_same(self, part: str, times: int) -> None:
        pieces = convert.split_text(part * times)
        assert "".join(pieces) == part * times
        assert all(len(piece.encode()) <= 65_535 for piece in pieces)
        assert len(pieces) <= len((part * times).encode()) // 65_532 + 1

    @given(st.lists(st.text(max_size=20), max_size=20), st.integers(1, 60))
    def test_batches_keep_order_and_size(self, texts: list[str], limit: int) -> None:
        rows = [{"t": text} for text in texts]
        found = list(convert.batches(rows, limit))
        assert [row for batch in found for row in batch] == rows
        assert all(len(batch) == 1 or convert.size_of(batch) <= limit for batch in found)
        assert all(found)

    def test_sparse_cells(self) -> None:
        cell = convert.sparse_cell(np.array([3, 1, 3]), np.array([0.5, 0.0, 0.25], np.float32))
        assert cell == {3: 0.75}
        assert convert.sparse_cell(np.array([1]), np.array([0.0], np.float32)) == {2**32 - 2: 1e-30}

    def test_sparse_rows_are_cut_at_the_width(self) -> None:
        rows = [{"w": {9: 1.0, 2: 0.5}}, {"w": {2**32 - 2: 1e-30}}, {"w": {10: 3.0}}]
        found = convert.vectors_of(rows, [SPARSE], {SPARSE: "w"}, width=10).sparse
        assert found is not None
        assert found.shape == (3, 10)
        assert found.indices.tolist() == [2, 9]
        assert found.indptr.tolist() == [0, 2, 2, 2]

    def test_ids_become_digests(self) -> None:
        assert convert.hashed("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
        assert convert.hashed("\ud800") != convert.hashed("\ud801"), "asking for an impossible id is no error"
