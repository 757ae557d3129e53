"""Qdrant: documents and vectors as points, and back, without an engine."""

import json
import math
import uuid
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_core.errors import InputError, StoreError
from m3_core.store import Fields, Schema
from m3_core.testing import corpus
from m3_core.types import ALL_REPRESENTATIONS, Document, M3Vectors, Ragged, Representation
from m3_integrations.qdrant import convert
from m3_integrations.qdrant.engine import Found, Point, Sparse
from m3_integrations.qdrant.filters import quoted, slack, survives
from m3_integrations.qdrant.requests import Requests

OWN, NATIVE, FLAT = Fields(), Fields(id=None), Fields(metadata="")
SCHEMA = Schema(dense=4, sparse=100, multi=3)
keys = st.text(min_size=1, max_size=8).filter(lambda key: "." not in key)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
metadata = st.dictionaries(
    keys,
    st.recursive(
        scalars | st.text(max_size=8),
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
        max_leaves=8,
    ),
    max_size=5,
)


def read(document: Document, fields: Fields) -> Document:
    """The document as it comes back from an engine that keeps JSON to the last bit."""
    payload = json.loads(json.dumps(convert.to_payload(document, fields)))
    return convert.to_document(Found(convert.writable_id(document.id, fields), payload, {}), fields)


class TestIds:
    def test_point_ids_never_change(self) -> None:
        assert convert.point_id("doc-1", OWN) == "9290a3a6-ac9a-5ccf-a263-056098a0feb9"

    @given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
    def test_different_documents_are_different_points(self, one: str, other: str) -> None:
        same = convert.point_id(one, OWN) == convert.point_id(other, OWN)
        assert same == (one == other)

    @pytest.mark.parametrize(
        "name", ["0", "7", "18446744073709551615", "550e8400-e29b-41d4-a716-446655440000"]
    )
    def test_the_engines_own_ids_are_document_ids(self, name: str) -> None:
        point = convert.writable_id(name, NATIVE)
        assert str(point) == name
        assert isinstance(point, int) == name.isdigit()
        assert convert.to_document(Found(point, {"text": "t"}, {}), NATIVE).id == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "a",
            "-1",
            "1.0",
            "007",
            "٣",
            "²",
            "18446744073709551616",
            "9" * 5000,
            "550E8400-E29B-41D4-A716-446655440000",
            "550e8400e29b41d4a716446655440000",
            "{550e8400-e29b-41d4-a716-446655440000}",
            "\ud800",
        ],
    )
    def test_what_is_no_id_of_the_engine_is_nowhere_and_cannot_be_written(self, name: str) -> None:
        assert convert.point_id(name, NATIVE) is None
        with pytest.raises(InputError, match="unsigned integer or a UUID"):
            convert.writable_id(name, NATIVE)

    def test_lone_surrogate_is_nowhere(self) -> None:
        assert convert.point_id("\ud800", OWN) is None


class TestPayload:
    def test_names_of_fields(self) -> None:
        fields = Fields(text="page_content", id="_id", metadata="meta")
        payload = convert.to_payload(Document("a", "t", {"n": 1}), fields)
        assert payload == {"page_content": "t", "_id": "a", "meta": {"n": 1}}
        assert convert.to_payload(Document("a", "t", {"n": 1}), FLAT) == {"text": "t", "id": "a", "n": 1}
        assert convert.to_payload(Document("7", "t"), NATIVE) == {"text": "t", "metadata": {}}

    @given(metadata)
    def test_documents_come_back_as_they_went_in(self, value: dict[str, object]) -> None:
        document = Document("a", "text", value)
        assert read(document, OWN) == document
        if not {"text", "id", convert.LAST_DIGITS} & value.keys():
            assert read(document, FLAT) == document

    @pytest.mark.parametrize("name", ["text", "id"])
    def test_metadata_beside_the_text_cannot_have_its_name(self, name: str) -> None:
        with pytest.raises(InputError, match=name):
            convert.to_payload(Document("a", "t", {name: 1}), FLAT)
        assert convert.to_payload(Document("a", "t", {name: 1}), OWN)["metadata"] == {name: 1}

    def test_last_digits_come_back(self) -> None:
        exact = {"a": [{"b": 0.1 + 0.2}, 1 / 7], "c": 2.5, "d": 1e300}
        payload = convert.to_payload(Document("a", "", exact), OWN)
        payload["metadata"] = {
            "a": [{"b": 0.3000000000000001}, 0.14285714285714288],
            "c": 2.5,
            "d": 1.0000000000000002e300,
        }
        assert convert.to_document(Found(1, payload, {}), OWN).metadata == exact

    def test_metadata_changed_by_others_stay_changed(self) -> None:
        payload = convert.to_payload(Document("a", "", {"a": 1 / 7, "b": {"c": 1 / 7}, "d": [1 / 7]}), OWN)
        changed = {"a": 0.1429, "b": 1 / 3, "d": []}
        payload["metadata"] = changed
        assert convert.to_document(Found(1, payload, {}), OWN).metadata == changed

    def test_numbers_people_write_need_no_help(self) -> None:
        payload = convert.to_payload(
            Document("a", "", {"a": [19.99, 0.1, 1e-9, -2.0, 1234567.25], "b": 1732233600.5}), OWN
        )
        assert convert.LAST_DIGITS not in payload

    def test_what_others_wrote(self) -> None:
        assert convert.to_document(Found(7, {"text": None, "metadata": None}, {}), NATIVE) == Document(
            "7", "", {}
        )
        assert convert.to_document(Found("u", {"id": 5, "metadata": [1]}, {}), OWN) == Document("5", "", {})
        assert convert.to_document(
            Found(7, {"a": 1, "text": "t"}, {}), Fields(id=None, metadata="")
        ) == Document("7", "t", {"a": 1})
        with pytest.raises(StoreError, match="'id'"):
            convert.to_document(Found(7, {"text": "t"}, {}), OWN)


class TestNumbers:
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_what_survives_one_rounding_survives(self, value: float) -> None:
        """The engine multiplies or divides the digits by a power of ten, each an exact float or rounded once."""
        digits, _, exponent = repr(value).lstrip("-").partition("e")
        whole, _, fraction = digits.partition(".")
        power = int(exponent or 0) - len(fraction)
        parsed = float(int(whole + fraction))
        try:
            parsed = parsed * 10.0**power if power >= 0 else parsed / 10.0**-power
        except (OverflowError, ZeroDivisionError):
            parsed = math.nan
        if survives(value):
            assert math.copysign(parsed, value) == value
            assert slack(value) == 0
        else:
            assert slack(value) == 4 * math.ulp(value)

    @given(st.integers(-(2**53), 2**53))
    def test_integers_are_exact(self, value: int) -> None:
        assert slack(value) == 0

    @given(st.integers(-(10**15), 10**15), st.integers(0, 15))
    def test_fifteen_digits_are_exact(self, digits: int, places: int) -> None:
        assert (
            survives(digits / 10**places) or repr(digits / 10**places).count("e") or abs(digits) > 9 * 10**14
        )


class TestVectors:
    def test_vectors_come_back(self) -> None:
        vectors = corpus.vectors(SCHEMA, 3)
        for row in range(3):
            named = convert.to_vectors(vectors, row, OWN)
            assert set(named) == {"dense", "sparse", "multi"}
            found = Found(1, {"id": "a"}, named)
            record = convert.to_record(found, OWN, ALL_REPRESENTATIONS, SCHEMA)
            assert record.vectors is not None
            assert vectors.dense is not None
            assert vectors.multi is not None
            assert vectors.sparse is not None
            assert record.vectors.dense is not None
            assert record.vectors.multi is not None
            assert record.vectors.sparse is not None
            np.testing.assert_array_equal(record.vectors.dense[0], vectors.dense[row])
            np.testing.assert_array_equal(record.vectors.multi[0], vectors.multi[row])
            assert record.vectors.sparse.shape == (1, 100)
            for found_part, part in zip(record.vectors.sparse_row(0), vectors.sparse_row(row), strict=True):
                np.testing.assert_array_equal(found_part, part)

    def test_unsorted_tokens_are_sorted(self) -> None:
        found = Found(1, {"id": "a"}, {"sparse": Sparse([9, 2], [0.5, 0.25])})
        record = convert.to_record(found, OWN, [Representation.SPARSE], SCHEMA)
        assert record.vectors is not None
        tokens, weights = record.vectors.sparse_row(0)
        assert (tokens.tolist(), weights.tolist()) == ([2, 9], [0.25, 0.5])

    def test_what_a_point_lacks_its_record_lacks(self) -> None:
        record = convert.to_record(
            Found(1, {"id": "a"}, {"dense": [1.0] * 4}), OWN, ALL_REPRESENTATIONS, SCHEMA
        )
        assert record.vectors is not None
        assert record.vectors.representations == {Representation.DENSE}
        assert convert.to_record(Found(1, {"id": "a"}, {}), OWN, (), SCHEMA).vectors is None

    def test_channels_without_a_name_are_left_out(self) -> None:
        vectors = corpus.vectors(SCHEMA, 1)
        assert set(convert.to_vectors(vectors, 0, Fields(dense="text-dense", sparse=None))) == {
            "text-dense",
            "multi",
        }

    def test_empty_lexical_weights_and_no_multi_vectors(self) -> None:
        vectors = M3Vectors(
            sparse=corpus.sparse_rows([{}, {3: 0.0, 4: 0.5}], 100),
            multi=Ragged.from_rows([np.zeros((0, 3), np.float32), np.ones((1, 3), np.float32)], dimension=3),
        )
        assert convert.to_vectors(vectors, 0, OWN) == {"sparse": Sparse([], [])}
        assert convert.to_vectors(vectors, 1, OWN) == {
            "sparse": Sparse([4], [0.5]),
            "multi": [[1.0, 1.0, 1.0]],
        }


class TestSizes:
    @given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
    def test_batches_hold_everything_in_order_and_no_more_than_the_budget(
        self, sizes: list[int], budget: int
    ) -> None:
        runs = list(convert.batches(sizes, budget))
        assert [place for run in runs for place in run] == list(range(len(sizes)))
        for run, following in zip_longest(runs, runs[1:]):
            total = sum(sizes[place] for place in run)
            assert len(run) == 1 or total <= budget
            if following is not None:
                assert total + sizes[following[0]] > budget, "another one would have fitted"

    @pytest.mark.parametrize(
        ("schema", "text", "above"),
        [
            (Schema(dense=1024, sparse=250_002, multi=1024), 'é\n"x"' * 100, 1.15),
            (Schema(dense=2), "", 1.6),
            (Schema(sparse=100), "", 1.6),
            (Schema(dense=2, sparse=100, multi=3), "", 1.6),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("update", [False, True])
    def test_sizes_are_not_below_json_and_not_far_above(
        self, schema: Schema, text: str, above: float, update: bool
    ) -> None:
        vectors = corpus.vectors(schema, 20)
        for row in range(20):
            payload = convert.to_payload(Document(str(row), text, {"a": ["b"] * 20} if text else {}), OWN)
            point = Point(
                convert.writable_id(str(row), OWN),
                convert.to_vectors(vectors, row, OWN),
                {} if update else payload,
            )
            plain = {
                name: {"indices": vector.indices, "values": vector.values}
                if isinstance(vector, Sparse)
                else vector
                for name, vector in point.vectors.items()
            }
            sent = {"id": point.id, "vector": plain} | ({} if update else {"payload": payload})
            exact = len(json.dumps(sent, ensure_ascii=False, separators=(",", ":")).encode())
            assert 0.99 * exact < convert.json_size(point) < above * exact

    def test_writes_are_sent_in_batches_by_size(self) -> None:
        sent: list[list[int]] = []
        points = [Point(number, {"dense": [0.5] * 300_000}) for number in range(10)]
        engine: Any = None  # it is not asked
        Requests(engine, OWN, exact=True).write(
            points, lambda batch: sent.append([int(point.id) for point in batch])
        )
        assert sent == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]

    def test_large_multi_vectors_are_refused_or_cut(self) -> None:
        multi = Ragged.from_rows([np.full((size, 4), size, np.float32) for size in (3, 6, 5, 9)], dimension=4)
        vectors = M3Vectors(multi=multi)
        names = ["a", "b", "c", "d"]
        with pytest.raises(InputError, match=r"2 documents.*5 multi-vectors.*'b' has 6.*long_multi='cut'"):
            convert.fit_multi(vectors, names, 23, cut=False)
        with pytest.warns(UserWarning, match=r"'b' has 6; the first 5 are kept"):
            kept = convert.fit_multi(vectors, names, 23, cut=True)
        assert kept.multi is not None
        assert [len(rows) for rows in kept.multi] == [3, 5, 5, 5]
        assert [rows[0, 0] for rows in kept.multi] == [3, 6, 5, 9]
        assert convert.fit_multi(vectors, names, 36, cut=False) is vectors


def test_keys_in_paths() -> None:
    assert quoted("page-content_1") == "page-content_1"
    assert quoted("page content") == '"page content"'
    assert quoted("a.b") == '"a.b"'
    with pytest.raises(InputError, match="double quote"):
        quoted('a"b')


def test_uuid_namespace_is_a_uuid() -> None:
    assert isinstance(convert.NAMESPACE, uuid.UUID)
