"""What goes to Elasticsearch and comes from it, without a node: documents, vectors, bulk answers, URLs, mappings."""

import json
from typing import Any

import elasticsearch
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_core.errors import (
    InputError,
    SchemaMismatch,
    StoreError,
    StoreNotFound,
    StoreUnavailable,
    Unsupported,
)
from m3_core.store import Fields, Schema
from m3_core.testing import corpus
from m3_core.types import Document, M3Vectors, Representation
from m3_integrations.elasticsearch import ElasticsearchStore, bulk, convert
from m3_integrations.elasticsearch.creation import new_mappings, problems
from m3_integrations.elasticsearch.errors import cause, refusal
from m3_integrations.elasticsearch.layout import Layout, read_layout
from m3_integrations.elasticsearch.options import make_client, place_of, split_url

DENSE, SPARSE = Representation.DENSE, Representation.SPARSE
SCHEMA = Schema(dense=4, sparse=500, fingerprint="model-a")
PLACE = "elasticsearch://localhost:9200/pages"


def described(mappings: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"pages": {"aliases": {}, "mappings": mappings, "settings": {"index": {"uuid": "u1", **settings}}}}


def own(schema: Schema = SCHEMA, fields: Fields = Fields(), **options: Any) -> Layout:
    made = new_mappings(
        schema, fields, index=options.pop("index", "hnsw"), metadata=options.pop("metadata", "any")
    )
    return read_layout(described(made), None)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_shortest_decimals_are_read_back_as_the_same_numbers(values: list[float]) -> None:
    array = np.array(values, np.float32)
    written = json.dumps(convert.shortest(array))
    assert np.array_equal(np.array(json.loads(written), np.float32), array)


def test_shortest_is_short() -> None:
    assert json.dumps(convert.shortest(np.array([0.1, -0.30000001, 1], np.float32))) == "[0.1, -0.3, 1.0]"


def test_document_and_vectors_as_they_are_stored() -> None:
    layout = own()
    vectors = M3Vectors(
        dense=np.array([[0.5, 0.5, 0.5, 0.5]], np.float32),
        sparse=corpus.sparse_rows([{7: 0.25, 12: 0.5, 3: 0.0}], 500),
    )
    document = Document("a", "text", {"n": (1, 1.0), "none": None})
    source = convert.to_source(document, layout) | convert.vector_cells(vectors, 0, layout)
    assert source == {
        "id": "a",
        "text": "text",
        "metadata": {"n": [1, 1.0], "none": None},
        "m3_terms": ["n", "n:bff00000000000008" + "00"],
        "dense": [0.5, 0.5, 0.5, 0.5],
        "sparse": [{"7": 0.25, "12": 0.5}],
    }
    hit = {"_id": "a", "_source": source}
    assert convert.to_document(hit, layout) == Document("a", "text", {"n": [1, 1.0], "none": None})
    back = convert.vectors_of([hit], [DENSE, SPARSE], layout, width=500)
    assert back.sparse_row(0)[0].tolist() == [7, 12]
    assert back.dense is not None
    assert np.array_equal(back.dense, np.array([[0.5, 0.5, 0.5, 0.5]], np.float32))


def test_lexical_weights_that_are_too_small_for_the_engine_are_left_out() -> None:
    tokens, weights = np.array([1, 2, 3, 3]), np.array([1e-39, 1.2e-38, 0.25, 0.5], np.float32)
    assert convert.sparse_cell(tokens, weights) == {"2": pytest.approx(1.2e-38), "3": 0.75}


@pytest.mark.parametrize(
    "cell", [{"12": 0.5, "7": 1}, [{"12": 0.5}, {"7": 1}], [{"7": 1, "12": 0.5, "word": 2}]]
)
def test_lexical_weights_are_read_as_an_object_or_a_list_of_them(cell: Any) -> None:
    vectors = convert.vectors_of([{"_id": "a", "_source": {"sparse": cell}}], [SPARSE], own(), width=100)
    tokens, weights = vectors.sparse_row(0)
    assert (tokens.tolist(), weights.tolist()) == ([7, 12], [1.0, 0.5])


def test_other_peoples_documents() -> None:
    mappings = {
        "properties": {
            "body": {"type": "text"},
            "deep": {"properties": {"vector": {"type": "dense_vector", "dims": 2}}},
        }
    }
    fields = Fields(dense="deep.vector", sparse=None, text="body", id=None, metadata="")
    layout = read_layout(described(mappings), fields)
    hit = {"_id": "7", "_source": {"body": ["no string"], "deep": {"vector": [0.6, 0.8]}, "lang": "ja"}}
    assert convert.to_document(hit, layout).text == ""
    assert convert.to_document(hit, layout).metadata["lang"] == "ja"
    assert convert.has(hit, DENSE, layout)
    dotted = {"_id": "8", "_source": {"body": "t", "deep.vector": [1.0, 0.0]}}
    assert convert.has(dotted, DENSE, layout)
    assert layout.schema.dense == 2


@pytest.mark.parametrize(
    ("similarity", "product", "score"),
    [
        ("dot_product", -0.5, 0.25),
        ("cosine", 1.0, 1.0),
        ("max_inner_product", 2.0, 3.0),
        ("max_inner_product", -1.0, 0.5),
    ],
)
def test_inner_products_from_scores(similarity: str, product: float, score: float) -> None:
    """The formulas of Elasticsearch's manual: (1 + dot) / 2; dot + 1 where it is not negative, else 1 / (1 - dot)."""
    assert convert.inner_product(score, similarity) == pytest.approx(product)


# Mappings.


def test_mapping_of_a_new_index() -> None:
    made = new_mappings(SCHEMA, Fields(), index={"type": "int8_hnsw", "m": 32}, metadata="any")
    assert made["dynamic"] is False
    assert made["properties"]["dense"] == {
        "type": "dense_vector",
        "dims": 4,
        "index": True,
        "similarity": "dot_product",
        "index_options": {"type": "int8_hnsw", "m": 32},
    }
    assert made["properties"]["sparse"] == {"type": "rank_features"}
    assert made["_meta"]["m3"]["fingerprint"] == "model-a"
    layout = read_layout(described(made), None)
    assert layout.schema == SCHEMA
    assert (layout.exact, own(index="flat").exact, own(SCHEMA.only([SPARSE])).exact) == (False, True, True)
    assert problems(layout, SCHEMA, "model-a") == []


@pytest.mark.parametrize(
    "fields", [Fields(text="dense"), Fields(text="a.b"), Fields(metadata=""), Fields(text="m3_terms")]
)
def test_names_of_a_new_index_are_checked(fields: Fields) -> None:
    with pytest.raises(InputError, match="name"):
        new_mappings(SCHEMA, fields, index="hnsw", metadata="any")


def test_an_index_needs_a_channel() -> None:
    with pytest.raises(Unsupported):
        new_mappings(Schema(multi=4), Fields(), index="hnsw", metadata="any")
    with pytest.raises(Unsupported):
        new_mappings(SCHEMA, Fields(dense=None, sparse=None), index="hnsw", metadata="any")


@pytest.mark.parametrize(
    ("mapping", "what"),
    [
        ({"dense": {"type": "dense_vector", "dims": 4, "similarity": "l2_norm"}}, "l2_norm"),
        ({"dense": {"type": "dense_vector", "dims": 4, "index": False}}, "not indexed"),
        ({"dense": {"type": "float"}}, "mapped as float"),
        ({"other": {"type": "keyword"}}, "no field 'dense'"),
        ({"dense": {"type": "dense_vector", "dims": 5}}, "5 dimensions"),
    ],
)
def test_problems_say_what_does_not_fit(mapping: dict[str, Any], what: str) -> None:
    fields = Fields(sparse=None, id=None, metadata="")
    found = problems(read_layout(described({"properties": mapping}), fields), SCHEMA.only([DENSE]), None)
    assert [what in problem.what for problem in found] == [True]
    assert found[0].remedy


def test_a_missing_channel_comes_with_the_line_that_adds_it() -> None:
    layout = own(SCHEMA.only([SPARSE]))
    (problem,) = problems(layout, SCHEMA, "model-a")
    assert (
        "client.indices.put_mapping(index='pages', properties={'dense': {'type': 'dense_vector', 'dims': 4"
        in problem.remedy
    )


def test_indices_behind_an_alias_must_agree() -> None:
    a = described({"properties": {"dense": {"type": "dense_vector", "dims": 4}}})
    b = {"more": described({"properties": {"dense": {"type": "dense_vector", "dims": 5}}})["pages"]}
    with pytest.raises(SchemaMismatch, match=r"more and pages|pages and more"):
        read_layout({**a, **b}, None)


def test_a_missing_id_field_is_named() -> None:
    with pytest.raises(SchemaMismatch, match="'key'"):
        read_layout(
            described({"properties": {"dense": {"type": "dense_vector", "dims": 4}}}), Fields(id="key")
        )


# Bulk.


def test_batches_are_packed_by_bytes_and_keep_order() -> None:
    items = [
        bulk.index_item(str(n), {"text": "x" * size}) for n, size in enumerate([10, 500, 10, 10, 2000, 10])
    ]
    found = list(bulk.batches(items, limit=700))
    assert [[item.id for item in batch] for batch in found] == [["0", "1", "2", "3"], ["4"], ["5"]]
    assert all(len(batch) == 1 or sum(item.size for item in batch) <= 700 for batch in found)
    assert [len(batch) for batch in bulk.batches(bulk.delete_item(str(n)) for n in range(2500))] == [
        1000,
        1000,
        500,
    ]


def answer(*results: tuple[str, int, dict[str, Any] | None]) -> dict[str, Any]:
    return {
        "items": [
            {action: {"status": status, **({} if error is None else {"error": error})}}
            for action, status, error in results
        ]
    }


def test_items_are_sorted_into_done_again_and_refused() -> None:
    items = [bulk.index_item(name, {}) for name in "abcdef"] + [bulk.delete_item("g")]
    busy = {"type": "es_rejected_execution_exception", "reason": "queue is full"}
    bad = {
        "type": "mapper_parsing_exception",
        "reason": "no number",
        "caused_by": {"reason": "For input 'x'"},
    }
    full = {
        "type": "cluster_block_exception",
        "reason": "blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded];",
    }
    again, refused = bulk.read_items(
        items,
        answer(
            ("index", 201, None),
            ("index", 429, busy),
            ("index", 400, bad),
            ("index", 503, {"type": "unavailable_shards_exception", "reason": "primary is not active"}),
            ("index", 429, full),
            ("index", 200, None),
            ("delete", 404, None),
        ),
        PLACE,
    )
    assert [item.id for item in again] == ["b", "d"]
    assert {name: type(error) for name, error in refused.items()} == {
        "b": StoreUnavailable,
        "c": InputError,
        "d": StoreUnavailable,
        "e": StoreError,
    }
    assert "no number: For input 'x'" in str(refused["c"])
    assert "read_only_allow_delete" in str(refused["e"])
    error = bulk.failure(refused, 7, PLACE)
    assert isinstance(error, InputError)
    assert "4 of 7" in str(error)
    assert all(f"'{name}'" in str(error) for name in "bcde")
    assert isinstance(bulk.failure({"b": refused["b"]}, 7, PLACE), StoreUnavailable)


def test_an_answer_about_other_items_is_an_error() -> None:
    with pytest.raises(StoreError, match="2 items"):
        bulk.read_items([bulk.delete_item("a"), bulk.delete_item("b")], answer(("delete", 200, None)), PLACE)


# Errors and URLs.


@pytest.mark.parametrize(
    ("status", "kind", "reason", "expected", "said"),
    [
        (404, "index_not_found_exception", "no such index", StoreNotFound, "ingesting"),
        (400, "index_closed_exception", "closed", StoreError, "client.indices.open(index='pages')"),
        (
            403,
            "cluster_block_exception",
            "[FORBIDDEN/8/index write (api)];",
            StoreError,
            "'index.blocks.write': None",
        ),
        (
            503,
            "cluster_block_exception",
            "[SERVICE_UNAVAILABLE/1/state not recovered];",
            StoreUnavailable,
            "state",
        ),
        (401, "security_exception", "unable to authenticate", StoreError, "ELASTICSEARCH_API_KEY"),
        (429, "circuit_breaking_exception", "too large", StoreUnavailable, "too large"),
        (502, "", "bad gateway", StoreUnavailable, "bad gateway"),
        (404, "", "not here", StoreError, "address of an Elasticsearch server"),
        (400, "parsing_exception", "what?", StoreError, "what?"),
    ],
)
def test_refusals_have_a_class_and_a_remedy(
    status: int, kind: str, reason: str, expected: type, said: str
) -> None:
    error = refusal(status, kind, reason, PLACE)
    assert type(error) is expected
    assert said in str(error)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"root_cause": [{"type": "a", "reason": "b"}], "type": "x", "reason": "y"}}, ("a", "b")),
        (
            {
                "error": {
                    "type": "a",
                    "reason": "b",
                    "caused_by": {"reason": "c", "caused_by": {"reason": "d"}},
                }
            },
            ("a", "b: d"),
        ),
        ({"error": "just text"}, ("", "just text")),
        ("<html>", ("", "<html>")),
        (b'{"error": {"type": "a", "reason": "b"}}', ("a", "b")),
        (None, ("", "")),
    ],
)
def test_causes(body: Any, expected: tuple[str, str]) -> None:
    assert cause(body) == expected


def test_urls() -> None:
    address, index, options = split_url(
        "elasticsearch+https://es.example/proxy/a%20b?text=body&multi=none&timeout=5&dense_index=flat&verify_certs=false",
        {},
    )
    assert (address, index) == ("https://es.example:9200/proxy", "a b")
    assert options.fields == {"text": "body", "multi": None}
    assert options.connecting == {"timeout": 5.0, "verify_certs": False}
    assert options.creating == {"dense_index": "flat"}
    assert split_url("elasticsearch://[::1]:9201/x", {})[0] == "http://[::1]:9201"


@pytest.mark.parametrize(
    "url",
    [
        "elasticsearch://localhost:9200",
        "elasticsearch:///pages",
        "elasticsearch://user:SECRET@localhost/pages",
        "elasticsearch://localhost:port/pages",
        "elasticsearch://localhost/pages?unheard=of",
        "elasticsearch://localhost/pages?timeout=SECRET",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(InputError) as caught:
        split_url(url, {"password": "SECRET2"})
    assert "SECRET@" not in str(caught.value)
    assert "SECRET2" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["pages*", "pages,others", "_all", "-pages", "<pages-{now/d}>", "far:pages", "a b", "*", "..", ""]
)
def test_what_would_reach_other_indices_is_no_name_of_an_index(name: str) -> None:
    """Refused before any request: the client given here cannot make one."""
    with elasticsearch.Elasticsearch("http://127.0.0.1:1") as client:
        for make in (
            lambda: ElasticsearchStore.open(client, name),
            lambda: ElasticsearchStore.create(client, name, schema=Schema(sparse=9)),
        ):
            with pytest.raises(InputError, match="not the name of one index"):
                make()


def test_credentials_come_from_the_environment_and_stay_out_of_the_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ELASTICSEARCH_API_KEY", "c2VjcmV0")
    with make_client("http://localhost:9200") as client:
        assert client._headers["authorization"] == "ApiKey c2VjcmV0"
        assert place_of(client, "pages") == PLACE
    with make_client("https://localhost:9200", username="me", password="pass") as client:
        assert client._headers["authorization"].startswith("Basic ")
        assert place_of(client, "pages") == "elasticsearch+https://localhost:9200/pages"
    with pytest.raises(InputError, match="unheard"):
        make_client("http://localhost:9200", unheard="of")
