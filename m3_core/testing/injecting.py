"""Contract: no string is read as anything but itself, be it an id, a value or the name of a field."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from m3_core.errors import FilterError, InputError
from m3_core.memory import MemoryStore
from m3_core.store import Store
from m3_core.testing import hostile
from m3_core.testing.base import ContractBase, Filled, assert_same_document, scan_ids
from m3_core.types import Document, Json, Representation

BYSTANDERS: Mapping[str, Mapping[str, Json]] = {
    "one": {"v": "one", "n": 1, "list": ["one", 2]},
    "two": {"v": 2, "n": 2, "meta": {"author": "two"}},
    "three": {"v": None, "list": []},
    "four": {},
    "five": {"v": True, "w": "five", "id": "five", "text": "five", "_id": "five"},
}
"""Documents that no hostile string is about."""


class InjectionBase(ContractBase):
    """What the parts share. For a collection that others made, its class overrides what cannot be there."""

    ids: ClassVar[Sequence[str]] = hostile.IDS
    """Ids that the collection's documents can have."""

    strings: ClassVar[Sequence[str]] = hostile.STRINGS
    """Values that the metadata field ``v`` can have."""

    longer: ClassVar[Sequence[str]] = ("y" * 1_000_000,)
    """Values that a filter may ask for, though ``v`` may not be able to hold them."""

    lists: ClassVar[bool] = True
    """Whether ``v`` may be a list of values, too."""

    others: ClassVar[Mapping[str, Mapping[str, Json]]] = BYSTANDERS
    """Documents with their metadata that are there, and alike, after each test."""

    @pytest.fixture
    def bystanders(self, store: Store) -> Store:
        """The store with the others in it."""
        documents = [Document(name, name, metadata) for name, metadata in self.others.items()]
        store.upsert(documents, self.vectors(len(documents), seed=60))
        return store

    def assert_bystanders(self, store: Store) -> None:
        """The others are there as they were written, and nothing else is."""
        assert sorted(scan_ids(store)) == sorted(self.others)
        vectors = self.vectors(len(self.others), seed=60)
        for row, record in enumerate(store.get(list(self.others), vectors=self.representations)):
            assert record is not None
            assert_same_document(record.document, Document(record.id, record.id, self.others[record.id]))
            self.assert_vectors(record, vectors, row)


class IdInjection(InjectionBase):
    """Hostile strings as ids."""

    def test_hostile_ids_are_kept_and_found(self, store: Store) -> None:
        names, kind = list(self.ids), self.any_channel()
        vectors = self.vectors(len(names), seed=62)
        documents = [Document(name, name, {"v": name}) for name in names]
        store.upsert(documents, vectors)
        assert sorted(scan_ids(store, size=100)) == sorted(names)
        for row, record in enumerate(store.get(names, vectors=[kind])):
            assert record is not None, names[row]
            assert_same_document(record.document, documents[row])
            self.assert_vectors(record, vectors.only([kind]), row)
        hits = store.search(vectors.take([0]), {kind: len(names)})[kind][0]
        if kind is not Representation.SPARSE:
            assert {hit.id for hit in hits} == set(names)
        reference = MemoryStore(self.schema())
        reference.upsert(documents, vectors)
        each = [[name] for name in names]
        found, expected = (target.score(vectors, kind, each) for target in (store, reference))
        for name, score, wanted in zip(names, found, expected, strict=True):
            assert score[0] == pytest.approx(wanted[0], abs=self.tolerance), name

    def test_hostile_ids_update_and_delete_only_their_own_document(self, store: Store) -> None:
        names = list(self.ids)
        old, new = self.vectors(len(names), seed=63), self.vectors(len(names), seed=64)
        store.upsert([Document(name) for name in names], old)
        store.update_vectors(names[::2], new.take(range(0, len(names), 2)))
        for row, record in enumerate(store.get(names, vectors=self.representations)):
            self.assert_vectors(record, old if row % 2 else new, row)
        for row, name in enumerate(names):
            store.delete([name])
            assert store.count() == len(names) - row - 1, name
        assert scan_ids(store) == []

    def test_hostile_ids_that_are_not_there_reach_nothing(self, bystanders: Store) -> None:
        names, kind = list(self.ids), self.any_channel()
        assert bystanders.get(names) == [None] * len(names)
        queries = self.vectors(2, seed=65)
        for scores in bystanders.score(queries, kind, [names, names]):
            assert np.isnan(scores).all()
        with pytest.raises(InputError):
            bystanders.update_vectors(names, self.vectors(len(names), seed=66))
        bystanders.delete(names)
        for name in names:
            bystanders.delete([name])
        self.assert_bystanders(bystanders)


class ValueInjection(InjectionBase):
    """Hostile strings as values."""

    @pytest.fixture(scope="class")
    @classmethod
    def valued(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
        """A document for each string, whose value and text it is, and the bystanders."""
        documents = [
            Document(f"doc {row}", value[:512], {"v": value, "all": 1})
            for row, value in enumerate(cls.strings)
        ]
        documents += [Document(name, name, metadata) for name, metadata in cls.others.items()]
        vectors, reference = cls.vectors(len(documents), seed=61), MemoryStore(cls.schema())
        store = cls().make_store(cls.schema(), tmp_path_factory.mktemp("hostile") / "store")
        for target in (store, reference):
            target.upsert(documents, vectors)
        yield Filled(store, reference, documents, vectors)
        store.close()

    def test_hostile_value_matches_only_itself(self, valued: Filled) -> None:
        for row, value in enumerate(self.strings):
            assert scan_ids(valued.store, where={"v": value}) == [f"doc {row}"], value[:80]

    def test_hostile_values_are_told_apart(self, valued: Filled) -> None:
        """Any two are in different halves once, so that a value that was read as another would be seen."""
        strings = list(self.strings)
        halves = [
            [value for row, value in enumerate(strings) if row >> bit & 1]
            for bit in range(len(strings).bit_length())
        ]
        wheres: list[dict[str, Any]] = [{"v": {name: half}} for half in halves for name in ("$in", "$nin")]
        wheres += [
            {"$or": [{"v": value} for value in halves[0]]},
            *({"$and": [{"v": {"$ne": value}} for value in half]} for half in halves[:2]),
            {"$not": {"$or": [{"v": halves[2][0]}, {"v": {"$nin": halves[2]}}]}},
            {"v": {"$exists": True}, "all": 1},
            {"v": {"$exists": False}},
        ]
        for where in wheres:
            found, expected = (
                sorted(scan_ids(target, where=where)) for target in (valued.store, valued.reference)
            )
            assert found == expected
        kind = self.any_channel()
        hits = valued.store.search(self.vectors(1), {kind: 400}, where={"v": {"$nin": strings}})
        assert {hit.id for hit in hits[kind][0]} <= set(self.others)

    def test_hostile_values_come_back_as_they_went_in(self, valued: Filled) -> None:
        for document, record in zip(
            valued.documents, valued.store.get([document.id for document in valued.documents]), strict=True
        ):
            assert record is not None
            assert_same_document(record.document, document)

    def test_hostile_values_that_are_not_there_match_nothing(self, bystanders: Store) -> None:
        strings = [*self.strings, *self.longer]
        for name in ("v", "list", "meta.author", "id", "text", "_id", "nowhere"):
            assert bystanders.count(where={name: {"$in": strings}}) == 0
            assert bystanders.count(where={name: {"$nin": strings}}) == len(self.others)
        bystanders.delete(where={"v": {"$in": strings}})
        for value in strings:
            bystanders.delete(where={"v": value})
        self.assert_bystanders(bystanders)

    def test_delete_by_hostile_values_deletes_only_what_matches(self, store: Store) -> None:
        documents = [
            Document(f"doc {row}", "", {"v": [value, "other"] if self.lists and row % 2 else value})
            for row, value in enumerate(self.strings)
        ]
        left = {document.id for document in documents}
        store.upsert(documents, self.vectors(len(documents), seed=67))
        for row, value in enumerate(self.strings[:-20]):
            store.delete(where={"v": value})
            left.remove(f"doc {row}")
            assert store.count() == len(left), value[:80]
        assert set(scan_ids(store)) == left
        store.delete(where={"v": {"$nin": list(self.strings[-10:])}})
        assert sorted(scan_ids(store)) == sorted(f"doc {row}" for row in range(len(documents))[-10:])


class NameInjection(InjectionBase):
    """Hostile strings as names of fields, and as cursors."""

    def test_hostile_field_names_are_refused_by_name_and_touch_nothing(self, bystanders: Store) -> None:
        queries, kind = self.vectors(1), self.any_channel()
        for name in hostile.NO_FIELDS:
            named = re.escape(repr(name[:60])[:-1])
            for where in ({name: "one"}, {"$or": [{"v": "one"}, {"$not": {name: {"$exists": False}}}]}):
                with pytest.raises(FilterError, match=named):
                    bystanders.count(where=where)
                with pytest.raises(FilterError, match=named):
                    bystanders.scan(where=where)
                with pytest.raises(FilterError, match=named):
                    bystanders.search(queries, {kind: 1}, where=where)
                with pytest.raises(FilterError, match=named):
                    bystanders.delete(["one", "two"], where=where)
        self.assert_bystanders(bystanders)

    def test_field_names_with_a_meaning_elsewhere_have_none(self, store: Store) -> None:
        documents = [Document(f"doc {row}", "", _nested(name)) for row, name in enumerate(hostile.FIELDS)]
        documents += [Document(name, "", metadata) for name, metadata in self.others.items()]
        reference = MemoryStore(self.schema())
        for target in (store, reference):
            target.upsert(documents, self.vectors(len(documents), seed=68))
        for name in hostile.FIELDS:
            for where in ({name: "here"}, {name: {"$exists": True}}, {name: {"$nin": ["here", "one", 2]}}):
                found, expected = (sorted(scan_ids(target, where=where)) for target in (store, reference))
                assert found == expected, where

    def test_hostile_keys_of_metadata_are_kept_and_lead_nowhere(self, store: Store) -> None:
        keys = [key for key in self.ids if key not in self.others and "." not in key]
        documents = [Document(f"doc {row}", "", {key: "one", "w": key}) for row, key in enumerate(keys)]
        documents += [Document(name, name, metadata) for name, metadata in self.others.items()]
        reference = MemoryStore(self.schema())
        for target in (store, reference):
            target.upsert(documents, self.vectors(len(documents), seed=69))
        for document, record in zip(
            documents, store.get([document.id for document in documents]), strict=True
        ):
            assert record is not None
            assert_same_document(record.document, document)
        wheres: list[dict[str, Any]] = [{"v": "one"}, {"v": {"$exists": True}}, {"w": {"$in": keys[::2]}}]
        for where in (*wheres, {"v": {"$ne": "one"}}, {"w": {"$exists": False}}):
            found, expected = (sorted(scan_ids(target, where=where)) for target in (store, reference))
            assert found == expected, where

    def test_hostile_cursors_are_refused_or_lead_to_documents_of_the_store(self, bystanders: Store) -> None:
        for cursor in self.strings:
            try:
                page = bystanders.scan(where={"v": "one"}, cursor=cursor)
            except InputError:
                continue
            assert {record.id for record in page.records} <= {"one"}, cursor[:80]
        self.assert_bystanders(bystanders)


class InjectionContract(IdInjection, ValueInjection, NameInjection):
    """All three."""


def _nested(path: str) -> dict[str, Json]:
    """The metadata in which the path leads to "here"."""
    first, _, rest = path.partition(".")
    return {first: _nested(rest) if rest else "here"}
