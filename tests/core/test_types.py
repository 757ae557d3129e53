"""The values: slicing and joining lose nothing, and documents that no store could keep are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from m3_core.errors import InputError
from m3_core.types import (
    ALL_REPRESENTATIONS,
    Document,
    M3Vectors,
    Ragged,
    Record,
    Representation,
    check_document,
    check_id,
)

DENSE, SPARSE, MULTI = Representation


@st.composite
def vectors(draw: st.DrawFn, kinds: frozenset[Representation] | None = None) -> M3Vectors:
    """Vectors of 0 to 5 texts, with rows that tell each other apart."""
    n = draw(st.integers(0, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    chance = np.random.default_rng(seed)
    if kinds is None:
        kinds = draw(st.frozensets(st.sampled_from(list(Representation)), min_size=1))
    sparse = np.where(chance.random((n, 7)) < 0.4, chance.random((n, 7)), 0).astype(np.float32)
    rows = [chance.random((int(chance.integers(0, 4)), 3)).astype(np.float32) for _ in range(n)]
    return M3Vectors(
        dense=chance.random((n, 4)).astype(np.float32) if DENSE in kinds else None,
        sparse=csr_array(sparse) if SPARSE in kinds else None,
        multi=Ragged.from_rows(rows, dimension=3) if MULTI in kinds else None,
        truncated=chance.random(n) < 0.5,
    )


def plain(held: M3Vectors) -> list[list[object]]:
    """Each text's vectors as lists, to compare."""
    sparse = None if held.sparse is None else held.sparse.toarray()
    return [
        [
            None if held.dense is None else held.dense[row].tolist(),
            None if sparse is None else sparse[row].tolist(),
            None if held.multi is None else held.multi[row].tolist(),
            bool(held.truncated[row]),
        ]
        for row in range(len(held))
    ]


@given(st.data())
def test_take_brings_the_named_rows_in_their_order(data: st.DataObject) -> None:
    whole = data.draw(vectors())
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)) if len(whole) else []
    taken = whole.take(rows)
    assert plain(taken) == [plain(whole)[row] for row in rows]
    assert taken.representations == whole.representations


@given(st.data())
def test_concat_joins_and_take_undoes_it(data: st.DataObject) -> None:
    kinds = data.draw(st.frozensets(st.sampled_from(list(Representation)), min_size=1))
    parts = data.draw(st.lists(vectors(kinds), min_size=1, max_size=4))
    whole = M3Vectors.concat(parts)
    assert plain(whole) == [row for part in parts for row in plain(part)]
    start = 0
    for part in parts:
        again = whole.take(range(start, start + len(part)))
        assert plain(again) == plain(part)
        start += len(part)


@given(vectors(ALL_REPRESENTATIONS), st.frozensets(st.sampled_from(list(Representation))))
def test_only_keeps_the_named_representations(whole: M3Vectors, kinds: frozenset[Representation]) -> None:
    some = whole.only(kinds)
    assert some.representations == kinds
    assert some.truncated.tolist() == whole.truncated.tolist()
    if DENSE in kinds:
        assert some.dense is whole.dense


@given(st.lists(st.integers(0, 4), max_size=6), st.data())
def test_ragged_keeps_rows_of_any_length(lengths: list[int], data: st.DataObject) -> None:
    rows = [np.full((length, 2), row, np.float32) for row, length in enumerate(lengths)]
    ragged = Ragged.from_rows(rows, dimension=2)
    assert len(ragged) == len(rows)
    assert [row.tolist() for row in ragged] == [row.tolist() for row in rows]
    assert ragged.values.shape == (sum(lengths), 2)
    if rows:
        wanted = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=6))
        assert [row.tolist() for row in ragged.take(wanted)] == [rows[row].tolist() for row in wanted]


@pytest.mark.parametrize("row", [2, -3, 100])
def test_ragged_has_no_rows_beyond_its_end(row: int) -> None:
    ragged = Ragged.from_rows([np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)], dimension=2)
    with pytest.raises(IndexError):
        ragged[row]


def test_sparse_row_is_ascending_and_may_be_empty() -> None:
    held = M3Vectors(sparse=csr_array(np.array([[0, 0.5, 0, 2], [0, 0, 0, 0]], np.float32)))
    tokens, weights = held.sparse_row(0)
    assert tokens.tolist() == [1, 3]
    assert weights.tolist() == [0.5, 2.0]
    assert [part.tolist() for part in held.sparse_row(1)] == [[], []]
    with pytest.raises(InputError, match="sparse"):
        M3Vectors(dense=np.ones((1, 2), np.float32)).sparse_row(0)


def test_sparse_row_of_unsorted_rows_is_ascending() -> None:
    unsorted = csr_array((np.array([1, 2], np.float32), np.array([3, 0]), np.array([0, 2])), shape=(1, 4))
    tokens, weights = M3Vectors(sparse=unsorted).sparse_row(0)
    assert tokens.tolist() == [0, 3]
    assert weights.tolist() == [2.0, 1.0]


def test_representations_must_have_equally_many_rows() -> None:
    dense = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match=r"'dense': 2.*'sparse': 3"):
        M3Vectors(dense=dense, sparse=csr_array(np.eye(3, dtype=np.float32)))
    with pytest.raises(InputError, match="truncated"):
        M3Vectors(dense=dense, truncated=np.zeros(3, np.bool_))


def test_truncated_defaults_to_none_of_them() -> None:
    assert M3Vectors(dense=np.ones((2, 3), np.float32)).truncated.tolist() == [False, False]
    assert len(M3Vectors()) == 0


def test_concat_refuses_different_representations_and_nothing() -> None:
    dense = M3Vectors(dense=np.ones((1, 3), np.float32))
    sparse = M3Vectors(sparse=csr_array(np.eye(1, dtype=np.float32)))
    with pytest.raises(InputError, match=r"dense.*sparse"):
        M3Vectors.concat([dense, sparse])
    with pytest.raises(InputError, match="no parts"):
        M3Vectors.concat([])


@pytest.mark.parametrize("name", ["a", "é" * 256, "i" * 512, "\n", "\x00"])
def test_ids_of_1_to_512_bytes_are_kept(name: str) -> None:
    assert check_id(name) == name
    assert Record(Document(name)).id == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "has 0"),
        ("i" * 513, "has 513"),
        ("é" * 257, "has 514"),
        ("\ud800", "surrogate"),
        (7, "not int: 7"),
        (b"a", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_other_ids_are_refused(name: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_id(name)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc '\"$", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), JSON, max_size=4))
def test_json_metadata_passes(metadata: dict[str, object]) -> None:
    check_document(Document("a", "text", metadata))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"n": float("nan")}, "'n'.*nan"),
        ({"n": float("inf")}, "'n'.*inf"),
        ({"n": 2**63}, f"{2**63}.*64 bits"),
        ({"n": -(2**63) - 1}, "64 bits"),
        ({"a.b": 1}, "'a.b'.*dot"),
        ({"": 1}, "empty"),
        ({1: "a"}, "key 1 is int"),
        ({"a": {"b": [1, {"c": object}]}}, "'a', field 'b', field 'c'"),
        ({"a": b"bytes"}, "bytes"),
        ({"a": {1, 2}}, "set"),
        ({"a": "\ud800"}, "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        ([("a", 1)], "list, not a dictionary"),
        (None, "NoneType"),
        ({"a": np.float32(1)}, "float32"),
    ],
)
def test_other_metadata_is_refused_by_name(metadata: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_document(Document("doc", "", metadata))


@pytest.mark.parametrize("text", [None, b"bytes", 7, "\udfff"])
def test_other_texts_are_refused_by_id(text: str) -> None:
    with pytest.raises(InputError, match="'doc'"):
        check_document(Document("doc", text))


def test_metadata_nested_without_end_is_refused() -> None:
    deep: list[object] = [1]
    for _ in range(62):
        deep = [deep]
    check_document(Document("doc", "", {"a": deep}))
    with pytest.raises(InputError, match="64 levels"):
        check_document(Document("doc", "", {"a": [deep]}))
    metadata: dict[str, object] = {}
    metadata["self"] = metadata
    with pytest.raises(InputError, match="'doc'"):
        check_document(Document("doc", "", metadata))
