"""What only Elasticsearch does, on real nodes: limits, faults with their remedies, and other people's indices."""

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import elasticsearch as es
import numpy as np
import pytest
from servers.elasticsearch import VARIABLE, is_complete, url_of

from m3_core.errors import (
    FingerprintMismatch,
    InputError,
    StoreError,
    StoreNotFound,
    StoreUnavailable,
    Unsupported,
)
from m3_core.memory import MemoryStore
from m3_core.store import Fields, Schema, open_store
from m3_core.testing import corpus
from m3_core.testing.base import scan, scan_ids
from m3_core.types import Document, M3Vectors, Representation
from m3_integrations.elasticsearch import DroppedTokensWarning, ElasticsearchStore
from m3_integrations.elasticsearch.connection import Refresh

pytestmark = pytest.mark.slow  # a node starts in 5 to 10 s

DENSE, SPARSE = Representation.DENSE, Representation.SPARSE
LEXICAL = Schema(sparse=5000, fingerprint="model-a")
VECTORS = Schema(dense=8, fingerprint="model-a")


@pytest.fixture(scope="module")
def lexical() -> Iterator[es.Elasticsearch]:
    with es.Elasticsearch(url_of("lexical"), request_timeout=120) as client:
        yield client


@pytest.fixture(scope="module", params=["dense", "dense-newest"])
def dense(request: pytest.FixtureRequest) -> Iterator[es.Elasticsearch]:
    with es.Elasticsearch(url_of(request.param), request_timeout=120) as client:
        yield client


@pytest.fixture
def index(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for an index, which is deleted in the end."""
    name = f"m3-nodes-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**9}"
    yield name
    for fixture in ("lexical", "dense"):
        if fixture in request.fixturenames:
            client = request.getfixturevalue(fixture)
            for setting in ("write", "read_only_allow_delete"):
                client.options(ignore_status=[404, 400]).indices.put_settings(
                    index=name, settings={f"index.blocks.{setting}": None}
                )
            client.options(ignore_status=404).indices.delete(index=name)


def make(client: es.Elasticsearch, index: str, schema: Schema, **options: Any) -> ElasticsearchStore:
    return ElasticsearchStore.create(client, index, schema=schema, shards=1, replicas=0, **options)


def weights(*rows: dict[int, float]) -> M3Vectors:
    return M3Vectors(sparse=corpus.sparse_rows(rows, 5000))


def units(n: int, seed: int = 0) -> M3Vectors:
    return corpus.vectors(VECTORS, n, seed=seed)


def requests_of(client: es.Elasticsearch, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The method and path of every request that the client makes from now on."""
    made: list[str] = []
    perform = client.transport.perform_request

    def recording(method: str, target: str, **rest: Any) -> Any:
        made.append(f"{method} {target.partition('?')[0]}")
        return perform(method, target, **rest)

    monkeypatch.setattr(client.transport, "perform_request", recording)
    return made


def test_scores_are_cut_to_nine_binary_digits_and_exact_by_score(
    lexical: es.Elasticsearch, index: str
) -> None:
    with make(lexical, index, LEXICAL) as store:
        store.upsert([Document("a"), Document("b")], weights({12: 0.5, 7: 0.25}, {12: 0.1}))
        query = weights({12: 2.0, 7: 1.5})
        found = {hit.id: hit.score for hit in store.search(query, {SPARSE: 2})[SPARSE][0]}
        assert found == {"a": 1.375, "b": pytest.approx(0.19970703)}
        assert store.score(query, SPARSE, [["a", "b"]])[0].tolist() == pytest.approx([1.375, 0.2], abs=1e-7)


@pytest.mark.skipif(
    is_complete(), reason="the limit of clauses is set low only where the tests start the node"
)
def test_the_lightest_tokens_are_dropped_at_the_cluster_limit(lexical: es.Elasticsearch, index: str) -> None:
    """The node of the tests takes 256 clauses; two are left for what surrounds the tokens."""
    with make(lexical, index, LEXICAL) as store:
        store.upsert(
            [Document("heavy", "", {"n": 1}), Document("light", "", {"n": 1})], weights({400: 1.0}, {1: 1.0})
        )
        query = weights({token: token / 400 for token in range(1, 401)})
        with pytest.warns(
            DroppedTokensWarning, match=r"256 clauses.* 146 lightest query tokens of 1 of 1 searches"
        ):
            hits = store.search(query, {SPARSE: 5})[SPARSE][0]
        assert [(hit.id, hit.score) for hit in hits] == [("heavy", 1.0)]
        with pytest.warns(DroppedTokensWarning, match=r" 147 lightest"):
            assert len(store.search(query, {SPARSE: 5}, where={"n": 1})[SPARSE][0]) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(store.search(weights({1: 1.0, 400: 1.0}), {SPARSE: 5})[SPARSE][0]) == 2
        with pytest.raises(StoreError, match="max_clause_count"):
            store.search(query, {SPARSE: 5}, where={"$or": [{"n": n} for n in range(300)]})


def test_one_round_trip_for_all_queries_and_never_the_version(
    lexical: es.Elasticsearch, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = requests_of(lexical, monkeypatch)
    with make(lexical, index, LEXICAL) as store:
        store.upsert([Document("a")], weights({1: 1.0}))
        store.count()
        made.clear()
        store.search(weights({1: 1.0}, {}, {2: 1.0}), {SPARSE: 2})
        assert made == [f"POST /{index}/_msearch"]
        store.update_vectors(["a"], weights({2: 1.0}))
        store.get(["a"], vectors=[SPARSE])
        store.delete(where={})
    assert "GET /" not in made
    assert not any("_nodes" in one or "_license" in one or "_cluster" in one for one in made)


def test_written_documents_are_refreshed_once_before_the_next_read(
    lexical: es.Elasticsearch, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(lexical, index, LEXICAL) as store:
        made = requests_of(lexical, monkeypatch)
        for name in "abc":
            store.upsert([Document(name)], weights({1: 1.0}))
        assert sum("_refresh" in one for one in made) == 0
        assert (store.count(), store.count()) == (3, 3)
        assert sum("_refresh" in one for one in made) == 1
    policies: tuple[Refresh, ...] = ("write", "wait")
    for policy in policies:
        with ElasticsearchStore.open(lexical, index, refresh=policy) as store:
            made.clear()
            store.upsert([Document(policy)], weights({1: 1.0}))
            assert store.get([policy])[0] is not None
            assert not any("_refresh" in one for one in made)
    with pytest.raises(InputError, match="refresh"):
        ElasticsearchStore.open(lexical, index, refresh="often")  # type: ignore[arg-type]


def test_faults_have_a_remedy_that_works(lexical: es.Elasticsearch, index: str) -> None:
    """The line of code in each message is executed, and the call succeeds after it."""
    document, vector = Document("a"), weights({1: 1.0})
    with make(lexical, index, LEXICAL) as store:
        calls: list[Callable[[], object]] = [lambda: store.upsert([document], vector), store.count]
        faults: list[tuple[Callable[[], object], list[Callable[[], object]]]] = [
            (lambda: lexical.indices.close(index=index), calls),
            (
                lambda: lexical.indices.put_settings(index=index, settings={"index.blocks.write": True}),
                calls[:1],
            ),
            (
                lambda: lexical.indices.put_settings(
                    index=index, settings={"index.blocks.read_only_allow_delete": True}
                ),
                calls[:1],
            ),
        ]
        for fault, broken in faults:
            fault()
            for call in broken:
                with pytest.raises(StoreError) as caught:
                    call()
                assert type(caught.value) is StoreError
                assert "\n" not in str(caught.value)
            remedy = str(caught.value)
            line = remedy[remedy.index("client.") :].partition("; ")[0]
            eval(line, {"client": lexical})
            for call in calls:
                call()
        assert store.count() == 1


def test_an_index_that_is_gone_is_not_made_again_by_a_write(lexical: es.Elasticsearch, index: str) -> None:
    with make(lexical, index, LEXICAL) as store:
        lexical.indices.delete(index=index)
        for call in (
            lambda: store.upsert([Document("a")], weights({1: 1.0})),
            lambda: store.delete(["a"]),
            store.count,
        ):
            with pytest.raises(StoreNotFound, match=index):
                call()
    assert not lexical.indices.exists(index=index)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/") as caught:
        open_store("elasticsearch://127.0.0.1:1/pages?retries=1", api_key="c2VjcmV0")
    assert "c2VjcmV0" not in str(caught.value)


def test_stores_by_url(lexical: es.Elasticsearch, index: str) -> None:
    url = url_of("lexical").replace("http", "elasticsearch", 1) + f"/{index}?replicas=0&text=body"
    with pytest.raises(StoreNotFound, match=index):
        open_store(url)
    with open_store(url, schema=LEXICAL) as made:
        made.upsert([Document("a", "words")], weights({1: 1.0}))
        identity = made.identity
    with open_store(url, schema=LEXICAL) as store:
        assert store.identity == identity
        assert scan_ids(store) == ["a"]
    assert lexical.get(index=index, id="a")["_source"]["body"] == "words"
    with pytest.raises(FingerprintMismatch, match="model-b"):
        open_store(url, schema=Schema(sparse=5000, fingerprint="model-b"))
    with pytest.raises(StoreError, match="already"):
        make(lexical, index, LEXICAL)


def test_a_client_of_the_caller_stays_open(lexical: es.Elasticsearch, index: str) -> None:
    make(lexical, index, LEXICAL).close()
    assert lexical.indices.exists(index=index)


def test_a_missing_channel_is_added_by_the_line_in_the_check(dense: es.Elasticsearch, index: str) -> None:
    """And the vectors that are there survive the update of others (on 9.5 they are no part of the document's source)."""
    dense.indices.create(
        index=index,
        mappings={"properties": {"body": {"type": "text"}, "old": {"type": "dense_vector", "dims": 8}}},
        settings={"number_of_replicas": 0},
    )
    old = units(1, seed=3).dense
    assert old is not None
    dense.index(index=index, id="a", document={"body": "b", "n": 1.0, "old": old[0].tolist()}, refresh=True)
    fields = Fields(dense="dense", sparse=None, text="body", id=None, metadata="")
    with ElasticsearchStore.open(dense, index, fields=fields) as store:
        (problem,) = store.check(VECTORS)
    line = problem.remedy[problem.remedy.index("client.") :].replace("{'type': 'dense_vector'}", repr(_SPEC))
    eval(line, {"client": dense})
    with ElasticsearchStore.open(dense, index, fields=fields, schema=VECTORS) as store:
        assert np.isnan(store.score(units(1), DENSE, [["a"]])[0]).all()
        store.update_vectors(["a"], units(1))
        assert store.score(units(1), DENSE, [["a"]])[0] == pytest.approx(1.0)
        assert store.search(units(1), {DENSE: 1})[DENSE][0][0].id == "a"
    with ElasticsearchStore.open(
        dense, index, fields=Fields(dense="old", sparse=None, text="body", id=None, metadata="")
    ) as other:
        (record,) = other.get(["a"], vectors=[DENSE])
        assert record is not None
        assert record.document == Document(
            "a", "b", {"n": 1.0} | {"dense": record.document.metadata["dense"]}
        )
        assert record.vectors is not None
        assert record.vectors.dense is not None
        assert np.allclose(record.vectors.dense, old, atol=1e-6)


_SPEC = {
    "type": "dense_vector",
    "dims": 8,
    "index": True,
    "similarity": "dot_product",
    "index_options": {"type": "flat"},
}


@pytest.mark.parametrize("similarity", ["cosine", "dot_product", "max_inner_product"])
def test_inner_products_by_every_similarity(dense: es.Elasticsearch, index: str, similarity: str) -> None:
    spec = {**_SPEC, "similarity": similarity}
    dense.indices.create(
        index=index, mappings={"properties": {"dense": spec}}, settings={"number_of_replicas": 0}
    )
    with ElasticsearchStore.open(dense, index) as store:
        assert store.capabilities.exact
        reference = MemoryStore(VECTORS)
        for target in (store, reference):
            target.upsert([Document(str(n)) for n in range(30)], units(30))
        queries = units(3, seed=9)
        found, expected = (target.search(queries, {DENSE: 10})[DENSE] for target in (store, reference))
        for hits, best in zip(found, expected, strict=True):
            assert [hit.id for hit in hits] == [hit.id for hit in best]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in best], abs=1e-5)


def test_vectors_that_are_not_of_unit_length_are_refused_with_the_document_named(
    dense: es.Elasticsearch, index: str
) -> None:
    with make(dense, index, VECTORS) as store:
        vectors = units(3)
        assert vectors.dense is not None
        vectors.dense[1] *= 3
        with pytest.raises(InputError, match=r"1 of 3 .*'b'.*unit-length"):
            store.upsert([Document(name) for name in "abc"], vectors)
        assert scan_ids(store) == ["a", "c"]


def test_pages_of_an_index_without_an_id_field(dense: es.Elasticsearch, index: str) -> None:
    dense.indices.create(
        index=index,
        mappings={"properties": {"dense": _SPEC}},
        settings={"number_of_replicas": 0, "number_of_shards": 2},
    )
    with ElasticsearchStore.open(dense, index) as store:
        store.upsert([Document(f"d{n}", str(n), {"n": n}) for n in range(23)], units(23))
        for size in (1, 5, 23, 100):
            records = scan(store, size=size, vectors=[DENSE])
            assert sorted(record.id for record in records) == sorted(f"d{n}" for n in range(23))
            assert all(record.vectors is not None for record in records)
        store.delete(where={"n": {"$lt": 20}})
        assert sorted(scan_ids(store)) == ["d20", "d21", "d22"]
        with pytest.raises(InputError, match="cursor"):
            store.scan(cursor="nonsense")


def test_a_search_takes_no_more_than_the_window(lexical: es.Elasticsearch, index: str) -> None:
    with make(lexical, index, LEXICAL, settings={"max_result_window": 20}) as store:
        store.upsert([Document(f"{n:02}") for n in range(30)], weights(*[{1: 1.0}] * 30))
        with pytest.raises(InputError, match="20 hits"):
            store.search(weights({1: 1.0}), {SPARSE: 21})
        assert len(store.search(weights({1: 1.0}), {SPARSE: 20})[SPARSE][0]) == 20
        assert scan_ids(store, size=25) == [f"{n:02}" for n in range(30)]


@pytest.mark.skipif(not is_complete(), reason=f"no node of the tests holds both channels; set {VARIABLE}")
def test_both_channels_in_one_round_trip(
    lexical: es.Elasticsearch, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = Schema(dense=8, sparse=5000)
    with make(lexical, index, schema) as store:
        store.upsert([Document("a")], corpus.vectors(schema, 1))
        store.count()
        made = requests_of(lexical, monkeypatch)
        found = store.search(corpus.vectors(schema, 2), {DENSE: 1, SPARSE: 1})
        assert made == [f"POST /{index}/_msearch"]
        assert found[DENSE][0][0].id == "a"


# Metadata that is mapped field by field.


def test_mapped_metadata_filters_and_conflicts(lexical: es.Elasticsearch, index: str) -> None:
    documents = [
        Document(
            "a", "", {"lang": "ja", "year": 2020, "ok": True, "tags": ["x", "y"], "by": {"name": "Ann"}}
        ),
        Document("b", "", {"lang": "de", "year": 2020.5, "ok": False, "tags": [], "long": "z" * 9000}),
        Document("c", "", {"lang": None, "year": [1999, 2024], "odd key": 1}),
    ]
    with make(lexical, index, LEXICAL, metadata_mapping="mapped") as store:
        store.upsert(documents, weights(*[{1: 1.0}] * 3))
        for where in (
            {"lang": "ja"},
            {"lang": {"$ne": "ja"}},
            {"year": 2020.0},
            {"year": {"$gt": 2020}},
            {"year": {"$gt": 2000, "$lt": 2000}},
            {"ok": False},
            {"tags": {"$in": ["y", 1]}},
            {"tags": {"$exists": False}},
            {"by.name": "Ann"},
            {"long": {"$exists": True}},
            {"lang": 1},
            {"new": None},
        ):
            reference = MemoryStore(LEXICAL)
            reference.upsert(documents, weights(*[{1: 1.0}] * 3))
            assert sorted(scan_ids(store, where=where)) == sorted(scan_ids(reference, where=where)), where
        with pytest.raises(Unsupported, match=r"'metadata\.long'"):
            store.count(where={"long": "z" * 9000})
        mapping = lexical.indices.get_mapping(index=index)[index]["mappings"]["properties"]["metadata"][
            "properties"
        ]
        assert (mapping["year"]["type"], mapping["lang"]["type"], mapping["ok"]["type"]) == (
            "double",
            "keyword",
            "boolean",
        )
        with pytest.raises(InputError, match=r"'metadata.year' of document 'd' is a string, but a number"):
            store.upsert([Document("d", "", {"year": "2020"})], weights({1: 1.0}))
        # A second writer, who does not know of the conflict: the index says it, item by item.
        lexical.indices.put_mapping(
            index=index, properties={"metadata": {"properties": {"v": {"type": "date"}}}}
        )
        with pytest.raises(InputError, match=r"1 of 2 documents were refused.*'e'"):
            store.upsert([Document("e", "", {"v": "no date"}), Document("f")], weights({1: 1.0}, {1: 1.0}))
        assert sorted(scan_ids(store)) == ["a", "b", "c", "f"]
