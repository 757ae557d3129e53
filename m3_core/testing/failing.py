"""Contract: mistakes give this library's errors and change nothing; closed is closed; opening checks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3_core.errors import (
    DimensionMismatch,
    FingerprintMismatch,
    InputError,
    StoreError,
    StoreLocked,
    StoreNotFound,
)
from m3_core.store import Store
from m3_core.testing import corpus
from m3_core.testing.base import ContractBase, assert_same_document, scan, scan_ids
from m3_core.types import Document, Representation


class FailureContract(ContractBase):
    """Bad input, closing, and opening again."""

    @pytest.mark.parametrize(
        "document",
        [
            Document(""),
            Document("i" * 513),
            Document("é" * 257),
            Document("\ud800"),
            Document(7),  # type: ignore[arg-type]  # what people pass all the same
            Document("a", "\udfff"),
            Document("a", None),  # type: ignore[arg-type]
            Document("a", "", {"n": float("nan")}),
            Document("a", "", {"n": 2**64}),
            Document("a", "", {"a.b": 1}),
            Document("a", "", {"": 1}),
            Document("a", "", {"set": {1, 2}}),
            Document("a", "", {1: 1}),  # type: ignore[dict-item]
        ],
        ids=lambda document: repr(document)[:50],
    )
    def test_bad_document_is_refused_and_the_batch_is_not_written(
        self, store: Store, document: Document
    ) -> None:
        with pytest.raises(InputError):
            store.upsert([Document("good"), document], self.vectors(2))
        assert scan_ids(store) == []

    def test_numbers_of_documents_and_vectors_must_agree(self, store: Store) -> None:
        with pytest.raises(InputError, match=r"2.*3"):
            store.upsert([Document("a"), Document("b")], self.vectors(3))

    @pytest.mark.parametrize("kind", list(Representation))
    def test_every_channel_of_the_store_must_be_given(self, store: Store, kind: Representation) -> None:
        self.needs(kind)
        lacking = self.full_vectors(1).only(set(Representation) - {kind})
        with pytest.raises(InputError, match=kind.value):
            store.upsert([Document("a")], lacking)
        assert store.count() == 0

    @pytest.mark.parametrize("kind", [Representation.DENSE, Representation.MULTI])
    def test_vectors_of_another_dimension_are_refused(self, store: Store, kind: Representation) -> None:
        self.needs(kind)
        store.upsert([Document("a")], self.vectors(1))
        wider = replace(
            self.vectors(1), **{kind.value: getattr(corpus.vectors(self.wider_schema(), 1), kind)}
        )
        with pytest.raises(DimensionMismatch):
            store.upsert([Document("b")], wider)
        with pytest.raises(DimensionMismatch):
            store.update_vectors(["a"], wider.only([kind]))
        assert scan_ids(store) == ["a"]

    def test_vectors_that_are_no_numbers_are_refused(self, store: Store) -> None:
        for kind in self.representations:
            bad = self.vectors(2)
            for array in (bad.dense, getattr(bad.multi, "values", None), getattr(bad.sparse, "data", None)):
                if array is not None:
                    array[-1] = np.nan
            with pytest.raises(InputError):
                store.upsert([Document("a"), Document("b")], bad)
            with pytest.raises(InputError):
                store.search(bad, {kind: 1})
        assert store.count() == 0

    def test_negative_lexical_weights_are_refused(self, store: Store) -> None:
        self.needs(Representation.SPARSE)
        bad = replace(self.vectors(1), sparse=corpus.sparse_rows([{3: -0.5}], 500))
        with pytest.raises(InputError):
            store.upsert([Document("a")], bad)
        assert store.count() == 0

    def test_fingerprint_is_kept(self, store: Store) -> None:
        assert store.fingerprint == self.schema().fingerprint

    def test_capabilities_say_what_the_class_says(self, store: Store) -> None:
        assert store.capabilities.representations == self.representations
        assert store.capabilities.exact == self.exact
        assert store.capabilities.score_tolerance <= self.tolerance
        assert isinstance(store, Store)

    def test_identity_is_its_own(self, store: Store, tmp_path: Path) -> None:
        with self.make_store(self.schema(), tmp_path / "other") as other:
            assert other.identity != store.identity
            assert "\n" not in store.identity

    def test_closed_store_refuses_and_closes_twice(self, folder: Path) -> None:
        store = self.make_store(self.schema(), folder)
        store.upsert([Document("a")], self.vectors(1))
        store.close()
        store.close()
        kind = self.any_channel()
        calls: list[Callable[[], object]] = [
            lambda: store.upsert([Document("b")], self.vectors(1)),
            lambda: store.update_vectors(["a"], self.vectors(1)),
            lambda: store.delete(["a"]),
            lambda: store.get(["a"]),
            lambda: store.scan(),
            lambda: store.search(self.vectors(1), {kind: 1}),
            lambda: store.score(self.vectors(1), kind, [["a"]]),
            lambda: store.count(),
        ]
        for call in calls:
            with pytest.raises(StoreError):
                call()

    def test_with_closes(self, folder: Path) -> None:
        with self.make_store(self.schema(), folder) as store:
            assert store.count() == 0
        with pytest.raises(StoreError):
            store.count()

    def test_reopened_store_holds_what_was_written(self, folder: Path) -> None:
        self.needs_reopen()
        documents, vectors = corpus.documents(20), self.vectors(20)
        with self.make_store(self.schema(), folder) as store:
            store.upsert(documents, vectors)
            identity = store.identity
        for schema in (None, self.schema(), replace(self.schema(), fingerprint=None)):
            with self.reopen(schema, folder) as store:
                assert store.fingerprint == self.schema().fingerprint
                assert store.identity == identity
                assert store.capabilities.representations == self.representations
                for record in scan(store, vectors=sorted(self.representations), size=6):
                    row = int(record.id[4:])
                    assert_same_document(record.document, documents[row])
                    self.assert_vectors(record, vectors, row)
                assert store.count() == 20
        with self.reopen(None, folder) as store:
            store.upsert([Document("more", "", {"n": 1})], self.vectors(1, seed=1))
            store.delete(["doc-0"])
            assert store.count(where={"n": 1}) == 1
        with self.reopen(None, folder) as store:
            assert store.count() == 20
            kind = self.any_channel()
            assert store.search(vectors.take([5]), {kind: 1})[kind][0][0].id == "doc-5"

    def test_opening_for_another_model_is_refused(self, folder: Path) -> None:
        self.needs_reopen()
        self.make_store(self.schema(), folder).close()
        with pytest.raises(
            FingerprintMismatch, match=r"m3-contract.*another-model|another-model.*m3-contract"
        ):
            self.reopen(replace(self.schema(), fingerprint="another-model"), folder)
        self.reopen(None, folder).close()

    def test_opening_for_another_dimension_is_refused(self, folder: Path) -> None:
        self.needs_reopen()
        self.make_store(self.schema(), folder).close()
        wider = self.wider_schema()
        if wider == self.schema():
            pytest.skip("lexical weights have no dimension to check")
        with pytest.raises(DimensionMismatch):
            self.reopen(wider, folder)
        self.reopen(None, folder).close()

    def test_opening_what_is_not_there(self, folder: Path) -> None:
        self.needs_reopen()
        with pytest.raises(StoreNotFound):
            self.reopen(None, folder)

    def test_open_collection_is_locked_until_it_is_closed(self, folder: Path) -> None:
        if not self.locks_folder:
            pytest.skip("the store has no folder to lock")
        store = self.make_store(self.schema(), folder)
        store.upsert([Document("a")], self.vectors(1))
        with pytest.raises(StoreLocked):
            self.reopen(None, folder)
        assert store.count() == 1
        store.close()
        with self.reopen(None, folder) as again:
            assert scan_ids(again) == ["a"]

    def needs_reopen(self) -> None:
        """Skip a test about opening again."""
        if not self.can_reopen:
            pytest.skip("the store cannot be opened again")
