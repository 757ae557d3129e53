"""Qdrant: whether a collection fits what it is opened for, without an engine; options and URLs."""

from typing import Any

import pytest

from m3_core.errors import DimensionMismatch, FingerprintMismatch, InputError, SchemaMismatch
from m3_core.filters import check_field
from m3_core.store import Fields, Schema
from m3_core.types import Representation
from m3_integrations.qdrant import options as opt
from m3_integrations.qdrant.connection import split_place
from m3_integrations.qdrant.layout import (
    Layout,
    Note,
    SparseInfo,
    VectorInfo,
    findings,
    new_fields,
    raise_first,
)

SCHEMA = Schema(dense=8, sparse=100, multi=4, fingerprint="ours")
DENSE, MULTI = VectorInfo(8, "dot"), VectorInfo(4, "dot", multi=True)
GOOD = Layout({"dense": DENSE, "multi": MULTI}, {"sparse": SparseInfo()}, Note("1", "ours", 100, Fields()))


def said(layout: Layout, names: Fields, schema: Schema | None = None, *, chosen: bool = True) -> str:
    """All problems in one line."""
    return " | ".join(f"{p.what} -> {p.remedy}" for _, p in findings(layout, names, schema, chosen=chosen))


def test_nothing_is_wrong() -> None:
    assert findings(GOOD, Fields(), SCHEMA) == []
    assert findings(GOOD, Fields()) == []
    raise_first([], "pages")


@pytest.mark.parametrize(
    ("layout", "names", "expected"),
    [
        (
            GOOD,
            Fields(dense="text"),
            "no vector named 'text' for dense; there is 'dense' (8 dimensions, dot)",
        ),
        (GOOD, Fields(sparse="bm25"), "no sparse index named 'bm25'"),
        (GOOD, Fields(multi="dense"), "'dense' holds one vector per document, not multi-vectors"),
        (GOOD, Fields(dense="multi"), "'multi' holds multi-vectors"),
        (Layout({"dense": VectorInfo(8, "euclid")}), Fields(sparse=None, multi=None), "compares by euclid"),
        (Layout({}, {"sparse": SparseInfo(idf=True)}), Fields(dense=None, multi=None), "IDF"),
        (
            Layout({"dense": VectorInfo(8, "dot", datatype="uint8")}),
            Fields(sparse=None, multi=None),
            "keeps uint8",
        ),
    ],
)
def test_settings_that_do_not_fit(layout: Layout, names: Fields, expected: str) -> None:
    assert expected in said(layout, names)
    with pytest.raises(SchemaMismatch, match="pages does not fit"):
        raise_first(findings(layout, names), "pages")


def test_cosine_is_the_inner_product_of_unit_vectors() -> None:
    layout = Layout({"dense": VectorInfo(8, "cosine")})
    assert findings(layout, Fields(sparse=None, multi=None), SCHEMA.only([Representation.DENSE])) == []


@pytest.mark.parametrize(
    ("schema", "error", "expected"),
    [
        (
            Schema(9, 100, 4, "ours"),
            DimensionMismatch,
            "'dense' has 8 dimensions, the model's dense vectors have 9",
        ),
        (Schema(8, 100, 5, "ours"), DimensionMismatch, "'multi' has 4 dimensions"),
        (Schema(8, 99, 4, "ours"), DimensionMismatch, "'sparse' was made for 100 tokens, the model has 99"),
        (Schema(8, 100, 4, "theirs"), FingerprintMismatch, "model ours, this model is theirs"),
        (Schema(8, 100, None, "ours"), SchemaMismatch, "holds multi vectors and the model makes none"),
    ],
)
def test_models_that_do_not_fit(schema: Schema, error: type[Exception], expected: str) -> None:
    assert expected in said(GOOD, Fields(), schema)
    with pytest.raises(error, match="pages does not fit"):
        raise_first(findings(GOOD, Fields(), schema), "pages")


def test_everything_is_said_at_once() -> None:
    with pytest.raises(DimensionMismatch) as caught:
        raise_first(findings(GOOD, Fields(), Schema(9, 100, 5, "theirs")), "pages")
    for part in ("'dense' has 8", "'multi' has 4", "theirs", "another collection"):
        assert part in str(caught.value)


def test_a_missing_channel_is_a_problem_only_if_nobody_decided_so() -> None:
    foreign = Layout({"dense": DENSE})
    names = foreign.fields(None)
    assert names == Fields(sparse=None, multi=None)
    assert not foreign.chosen(None)
    assert "no vector for sparse" in said(foreign, names, SCHEMA, chosen=False)
    assert foreign.chosen({"sparse": None})
    assert not foreign.chosen({"text": "page_content"})
    assert said(foreign, names, SCHEMA) == ""
    assert Layout({"dense": DENSE}, note=Note(fields=names)).chosen(None)


def test_names() -> None:
    own = Fields(dense="d", sparse="s", multi=None, text="body")
    noted = Layout({"d": DENSE}, {"s": SparseInfo()}, Note(fields=own))
    assert noted.fields(None) == own
    assert noted.fields({"text": "t"}) == Fields(dense="d", sparse="s", multi=None, text="t")
    assert noted.fields({"sparse": None}) == Fields(dense="d", sparse=None, multi=None, text="body")
    assert noted.fields({"dense": "d", "id": None}) == Fields(dense="d", sparse=None, multi=None, id=None)
    assert noted.fields(Fields()) == Fields()
    assert GOOD.fields(None) == Fields()
    with pytest.raises(SchemaMismatch, match=r"'' \(8 dimensions, dot\)"):
        Layout({"": DENSE}).fields(None)
    with pytest.raises(SchemaMismatch, match="no vectors"):
        Layout().fields(None)
    swapped = Layout({"dense": MULTI, "multi": DENSE}, {"sparse": SparseInfo()})
    assert swapped.fields(None).representations == {Representation.SPARSE}


def test_names_of_a_new_collection() -> None:
    assert new_fields(Fields(), SCHEMA) == Fields()
    assert new_fields(Fields(dense="d"), Schema(dense=8)) == Fields(dense="d", sparse=None, multi=None)
    with pytest.raises(InputError, match="no channel in common"):
        new_fields(Fields(dense=None), Schema(dense=8))
    with pytest.raises(InputError, match="same name"):
        new_fields(Fields(dense="v", multi="v"), SCHEMA)
    with pytest.raises(InputError, match="same name"):
        new_fields(Fields(text="id"), SCHEMA)


def test_schema_of_a_collection() -> None:
    assert GOOD.schema(Fields()) == SCHEMA
    assert Layout({"d": DENSE}, {"s": SparseInfo()}).schema(Fields("d", "s", None)) == Schema(
        dense=8, sparse=2**32
    )


def test_what_is_approximate_and_what_is_rounded() -> None:
    names = Fields(sparse=None)
    assert not GOOD.approximate(names)
    assert GOOD.tolerance(names) == 0
    for changed in (VectorInfo(8, "dot", graph=True), VectorInfo(8, "dot", quantized=True)):
        layout = Layout({"dense": changed, "multi": MULTI})
        assert layout.approximate(names)
        assert not layout.approximate(Fields(dense=None, sparse=None))
    half = Layout({"dense": DENSE, "multi": VectorInfo(4, "dot", multi=True, datatype="float16")})
    assert half.tolerance(names) == 1e-3
    assert half.tolerance(Fields(sparse=None, multi=None)) == 0


def test_notes_come_back() -> None:
    assert Note.from_json(GOOD.note.to_json()) == GOOD.note
    assert Note.from_json(None) == Note()
    later = {"id": "1", "fingerprint": "ours", "color": "red", "fields": {"dense": "d", "smell": "s"}}
    assert Note.from_json(later) == Note("1", "ours", None, Fields(dense="d"))


def test_options() -> None:
    known: dict[str, Any] = {"exact": opt.flag, "payload_indexes": opt.indexes, "timeout": int}
    place, merged = opt.split_url(
        "qdrant://h:1/c?exact=true&text=body&multi=none&metadata=&timeout=5", {"timeout": 7}
    )
    assert place == "h:1/c"
    fields, settings = opt.read_options(merged, known)
    assert fields == {"text": "body", "multi": None, "metadata": ""}
    assert settings == {"exact": True, "timeout": 7}
    assert opt.read_options({"fields": Fields(id=None)}, known) == (Fields(id=None), {})
    assert opt.read_options({}, known) == (None, {})
    _, settings = opt.read_options({"payload_indexes": "lang:keyword,year:float,a.b"}, known)
    assert settings == {"payload_indexes": {"lang": "keyword", "year": "float", "a.b": "keyword"}}
    for bad, said_of_it in (
        ({"exakt": "true"}, "unknown option 'exakt'; there are dense, exact"),
        ({"exact": "maybe"}, "exact='maybe' cannot be read: it is true or false"),
        ({"timeout": "soon"}, "timeout='soon' cannot be read"),
    ):
        with pytest.raises(InputError, match=said_of_it):
            opt.read_options(bad, known)


def test_indexes_that_keep_filters_exact() -> None:
    wanted = {"lang": "keyword", "a.b": "float"}
    assert opt.index_paths(wanted, Fields()) == {"metadata.lang": "keyword", "metadata.a.b": "float"}
    assert opt.index_paths(wanted, Fields(metadata="")) == {"lang": "keyword", "a.b": "float"}
    assert opt.index_paths(None, Fields()) == {}
    for kind in ("integer", "text", "datetime", ""):
        with pytest.raises(InputError, match="keyword, float, bool"):
            opt.index_paths({"year": kind}, Fields())
    with pytest.raises(InputError):
        opt.index_paths({"a b": "keyword"}, Fields())
    assert check_field("a.b") == "a.b"


def test_places() -> None:
    assert split_place("host:6333/pages", {"https": False}) == ("http://host:6333", "pages")
    assert split_place("host/behind/a%20b", {"https": True}) == ("https://host/behind", "a b")
    assert split_place(":memory:/pages", {"https": False}) == (":memory:", "pages")
    assert opt.folder_of("index/pages") == "index/pages"
    assert opt.folder_of("/abs/my%20pages") == "/abs/my pages"
    for bad in ("host", "host/", "", "/pages"):
        with pytest.raises(InputError, match="names no collection"):
            split_place(bad, {"https": False})
    with pytest.raises(InputError, match="no credentials") as caught:
        split_place("user:secret@host/pages", {"https": False})
    assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="no folder"):
        opt.folder_of("")
