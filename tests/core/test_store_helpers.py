"""The checks that every store makes, and stores by URL."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy.sparse import csr_array

from m3_core import backfill, copy_store, ingest
from m3_core.checks import (
    check_channels,
    check_dimensions,
    check_fingerprint,
    check_held,
    check_ids,
    check_score,
    check_search,
    check_size,
    check_update,
    check_upsert,
)
from m3_core.compose import SplitStore, UnionStore
from m3_core.encoder import M3Encoder
from m3_core.errors import (
    DimensionMismatch,
    FingerprintMismatch,
    InputError,
    MissingExtra,
    StoreNotFound,
    Unsupported,
)
from m3_core.extras import require
from m3_core.memory import MemoryStore
from m3_core.store import Capabilities, Fields, FusedSearch, Schema, SearchResult, Store, open_store
from m3_core.testing import corpus
from m3_core.types import Document, M3Vectors, Representation

DENSE, SPARSE, MULTI = Representation
SCHEMA = Schema(dense=4, sparse=50, multi=3, fingerprint="one")


def vectors(n: int, seed: int = 0) -> M3Vectors:
    return corpus.vectors(SCHEMA, n, seed=seed)


def test_upsert_keeps_the_last_of_equal_ids_in_the_order_of_the_batch() -> None:
    documents = [Document(name, str(row)) for row, name in enumerate("abacb")]
    given = vectors(5)
    batch = check_upsert(documents, given, SCHEMA)
    assert [document.text for document in batch.documents] == ["2", "3", "4"]
    assert batch.dropped == 2
    assert batch.vectors.dense is not None
    assert given.dense is not None
    assert batch.vectors.dense.tolist() == given.dense[[2, 3, 4]].tolist()


def test_upsert_leaves_out_channels_that_are_not_held() -> None:
    batch = check_upsert([Document("a")], vectors(1), SCHEMA.only([SPARSE]))
    assert batch.vectors.representations == {SPARSE}
    assert batch.dropped == 0


def test_upsert_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="2 documents came with vectors for 1 texts"):
        check_upsert([Document("a"), Document("b")], vectors(1), SCHEMA)
    with pytest.raises(InputError, match=r"holds dense, sparse, multi.*lack sparse"):
        check_upsert([Document("a")], vectors(1).only([DENSE, MULTI]), SCHEMA)
    with pytest.raises(DimensionMismatch, match="dense vectors have 4 dimensions, the collection holds 5"):
        check_upsert([Document("a")], vectors(1), Schema(dense=5))
    with pytest.raises(DimensionMismatch, match="multi vectors have 3 dimensions, the collection holds 5"):
        check_upsert([Document("a")], vectors(1), Schema(multi=5))


def test_dimensions_are_checked_only_where_they_are_known() -> None:
    check_dimensions(vectors(1), Schema())
    check_dimensions(M3Vectors(), SCHEMA)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(value: float) -> None:
    dense = np.zeros((3, 4), np.float32)
    dense[2, 1] = value
    with pytest.raises(InputError, match=r"dense vectors hold NaN or infinity .*row 2"):
        check_dimensions(M3Vectors(dense=dense), SCHEMA)
    with pytest.raises(InputError, match="sparse"):
        check_dimensions(M3Vectors(sparse=csr_array(np.array([[0, value]], np.float32))), SCHEMA)


def test_lexical_weights_are_not_negative() -> None:
    with pytest.raises(InputError, match="at least 0"):
        check_dimensions(M3Vectors(sparse=csr_array(np.array([[0, -0.1]], np.float32))), SCHEMA)


def test_update_checks() -> None:
    check_update(["a", "b"], vectors(2), SCHEMA)
    check_update(["a"], vectors(1).only([DENSE]), SCHEMA)
    with pytest.raises(InputError, match="1 ids came with vectors for 2 texts"):
        check_update(["a"], vectors(2), SCHEMA)
    with pytest.raises(InputError, match="'b' is given twice"):
        check_update(["a", "b", "b"], vectors(3), SCHEMA)
    with pytest.raises(Unsupported, match="holds dense, not sparse, multi"):
        check_update(["a"], vectors(1), SCHEMA.only([DENSE]))
    with pytest.raises(DimensionMismatch):
        check_update(["a"], vectors(1).only([DENSE]), Schema(dense=5))


def test_ids_are_a_list_of_strings() -> None:
    check_ids([])
    check_ids(["a", ""])
    check_ids(("a",))
    with pytest.raises(InputError, match=r"write \['abc'\]"):
        check_ids("abc")
    with pytest.raises(InputError, match="not int: 1"):
        check_ids(["a", 1])  # type: ignore[list-item]


@pytest.mark.parametrize("size", [0, -1, True, 1.0, "1", None])
def test_sizes_are_integers_of_at_least_one(size: int) -> None:
    check_size(1, "k")
    with pytest.raises(InputError, match=f"k must be an integer of at least 1, not {size!r}"):
        check_size(size, "k")


def test_search_checks() -> None:
    check_search(vectors(2), {DENSE: 1, MULTI: 3}, SCHEMA)
    check_search(vectors(2), {}, SCHEMA)
    with pytest.raises(Unsupported, match="holds dense, not multi"):
        check_search(vectors(1), {DENSE: 1, MULTI: 1}, SCHEMA.only([DENSE]))
    with pytest.raises(InputError, match=r"k for sparse must be .* not 0"):
        check_search(vectors(1), {SPARSE: 0}, SCHEMA)
    with pytest.raises(InputError, match="no sparse vectors"):
        check_search(vectors(1).only([DENSE]), {DENSE: 1, SPARSE: 1}, SCHEMA)
    with pytest.raises(DimensionMismatch):
        check_search(vectors(1), {MULTI: 1}, Schema(dense=5, multi=5))
    check_search(vectors(1), {MULTI: 1}, Schema(dense=5, multi=3))


def test_score_checks() -> None:
    check_score(vectors(2), DENSE, [["a"], []], SCHEMA)
    with pytest.raises(InputError, match="2 queries came with 1 lists of ids"):
        check_score(vectors(2), DENSE, [["a"]], SCHEMA)
    with pytest.raises(InputError, match=r"\['doc'\]"):
        check_score(vectors(1), DENSE, ["doc"], SCHEMA)
    with pytest.raises(Unsupported):
        check_score(vectors(1), MULTI, [["a"]], SCHEMA.only([DENSE]))


def test_channel_checks_by_capabilities() -> None:
    held = Capabilities(frozenset({DENSE}))
    check_channels([DENSE], vectors(1), held)
    with pytest.raises(Unsupported, match="holds dense, not sparse"):
        check_channels([SPARSE], vectors(1), held)
    with pytest.raises(InputError, match="no dense vectors"):
        check_channels([DENSE], vectors(1).only([SPARSE]), held)
    with pytest.raises(Unsupported, match="holds nothing, not multi"):
        check_held([MULTI], [])


def test_fingerprints_must_agree_where_both_are_known() -> None:
    check_fingerprint("a", "a", "pages")
    check_fingerprint(None, "a", "pages")
    check_fingerprint("a", None, "pages")
    with pytest.raises(FingerprintMismatch, match=r"pages holds vectors of the model a, .* model is b"):
        check_fingerprint("a", "b", "pages")


def test_schema_and_fields_say_their_channels() -> None:
    assert SCHEMA.representations == {DENSE, SPARSE, MULTI}
    assert SCHEMA.only([DENSE]) == Schema(dense=4, fingerprint="one")
    assert Schema().representations == frozenset()
    fields = Fields(dense="vector", multi=None)
    assert fields.representations == {DENSE, SPARSE}
    assert [fields.name_of(kind) for kind in Representation] == ["vector", "sparse", None]


def test_search_result_is_a_dictionary_with_a_mark() -> None:
    result = SearchResult({DENSE: [[]]}, ["there"])
    assert result == {DENSE: [[]]}
    assert result.missing == ("there",)
    assert SearchResult({}).missing == ()


def test_memory_store_by_url() -> None:
    store = open_store("memory://", schema=SCHEMA)
    assert isinstance(store, MemoryStore)
    assert isinstance(store, Store)
    assert not isinstance(store, FusedSearch)
    assert store.fingerprint == "one"
    assert open_store("memory://", schema=SCHEMA).identity != store.identity


@pytest.mark.parametrize("url", ["nowhere://x", "memory", "", "index/pages", "://"])
def test_url_without_a_store_names_those_there_are(url: str) -> None:
    with pytest.raises(StoreNotFound, match="memory://"):
        open_store(url, schema=SCHEMA)


def test_memory_store_refuses_what_it_cannot_do() -> None:
    with pytest.raises(StoreNotFound, match="schema"):
        MemoryStore.from_url("memory://")
    with pytest.raises(InputError, match="memory://pages"):
        MemoryStore.from_url("memory://pages", schema=SCHEMA)
    with pytest.raises(InputError, match="'path'"):
        MemoryStore.from_url("memory://", schema=SCHEMA, path="x")
    with pytest.raises(InputError, match="no channel"):
        MemoryStore(Schema())


def test_missing_extra_is_the_pip_line() -> None:
    assert require("json", extra="dev").dumps([1]) == "[1]"
    with pytest.raises(MissingExtra, match=r"pip install 'm3-retrieval\[qdrant\]'"):
        require("no_such_package_anywhere.client", extra="qdrant")


def test_import_error_inside_a_package_that_is_there_is_not_hidden(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken_package.py").write_text("import needed_by_broken_package")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(ModuleNotFoundError, match="needed_by_broken_package") as caught:
        require("broken_package", extra="qdrant")
    assert not isinstance(caught.value, MissingExtra)


def test_a_url_is_no_store(tiny_model_folder: Path) -> None:
    """And is not opened on the way, because nobody would close it."""
    encoder = M3Encoder.load(tiny_model_folder, device="cpu")
    store, wrong = MemoryStore(encoder.schema()), cast(Store, "qdrant://me:secret@db/pages?api_key=secret")
    calls: list[Callable[[], object]] = [
        lambda: ingest([], encoder, wrong),
        lambda: backfill(wrong, encoder),
        lambda: copy_store(wrong, store),
        lambda: copy_store(store, wrong),
        lambda: SplitStore(dense=wrong),
        lambda: UnionStore([store, wrong]),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"as open_store\(\.\.\.\) returns it, not 'qdrant://db/pages'$"):
            call()


@pytest.mark.parametrize("client", [None, object(), Path("index/pages")])
def test_a_client_is_no_url(client: Any) -> None:
    with pytest.raises(InputError, match="a store's URL is a string"):
        open_store(client)
