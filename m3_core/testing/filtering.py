"""Contract: filters mean the same in every store."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from m3_core.errors import FilterError, Unsupported
from m3_core.filters import Filter
from m3_core.store import Store
from m3_core.testing import corpus
from m3_core.testing.base import ContractBase, Filled, scan_ids
from m3_core.testing.filter_cases import CASES, METADATA
from m3_core.types import Document


class FilterContract(ContractBase):
    """The table of meanings, and random filters over random documents."""

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
        """The documents of the table of filter cases, for tests that only read."""
        store = cls().make_store(cls.schema(), tmp_path_factory.mktemp("table") / "store")
        documents = [Document(name, "", metadata) for name, metadata in METADATA.items()]
        store.upsert(documents, cls.vectors(len(documents)))
        yield store
        store.close()

    @pytest.mark.parametrize(("where", "expected"), CASES, ids=[repr(where) for where, _ in CASES])
    def test_filter_means(self, table: Store, where: Mapping[str, Any], expected: frozenset[str]) -> None:
        if self.is_unsupported(table, where):
            return
        found = scan_ids(table, where=where)
        assert set(found) == expected
        assert len(found) == len(expected)
        assert table.count(where=where) == len(expected)

    @pytest.mark.parametrize("row", range(150))
    def test_random_filter_selects_what_it_matches(self, filled: Filled, row: int) -> None:
        where = corpus.random_filters(150)[row]
        if self.is_unsupported(filled.store, where):
            return
        condition = Filter.parse(where)
        assert condition is not None
        expected = {document.id for document in filled.documents if condition.matches(document.metadata)}
        assert set(scan_ids(filled.store, where=where)) == expected, where
        assert filled.store.count(where=where) == len(expected), where

    @pytest.mark.parametrize("row", range(0, 150, 10))
    def test_filtered_search_finds_the_best_that_match(self, filled: Filled, row: int) -> None:
        where = corpus.random_filters(150)[row]
        if self.is_unsupported(filled.store, where):
            return
        queries = self.vectors(2, seed=row + 1)
        for k in (3, 60):
            found = filled.store.search(queries, dict.fromkeys(self.representations, k), where=where)
            whole = filled.reference.search(queries, dict.fromkeys(self.representations, 60), where=where)
            for kind in self.representations:
                for hits, ranking in zip(found[kind], whole[kind], strict=True):
                    self.assert_hits(hits, ranking, k, kind)

    def test_delete_by_filter_deletes_what_matches(self, store: Store) -> None:
        names = list(METADATA)
        store.upsert([Document(name, "", METADATA[name]) for name in names], self.vectors(len(names)))
        wheres: list[dict[str, Any]] = [
            {"v": 1},
            {"v": {"$lt": 0.5}},
            {"v": {"$exists": False}},
            {"v": {"$ne": "a"}},
        ]
        for where in wheres:
            if self.is_unsupported(store, where):
                continue
            condition = Filter.parse(where)
            assert condition is not None
            doomed = {name for name in names if condition.matches(METADATA[name])}
            assert doomed, "the test needs a filter that still matches something"
            store.delete(where=where)
            names = [name for name in names if name not in doomed]
            assert sorted(scan_ids(store)) == sorted(names)

    def test_parsed_filter_is_the_same_as_its_dictionary(self, table: Store) -> None:
        where = {"v": {"$gte": 1}}
        if not self.is_unsupported(table, where):
            assert set(scan_ids(table, where=Filter.parse(where))) == set(scan_ids(table, where=where))

    @pytest.mark.parametrize(
        "where",
        [{"$nor": []}, {"v": {"$regex": "a"}}, {"v'] or true": 1}, {"v": [1]}, {"v": {"$gt": "1"}}, {"": 1}],
        ids=repr,
    )
    def test_bad_filter_is_refused(self, store: Store, where: Mapping[str, Any]) -> None:
        store.upsert([Document("kept", "", {"v": 1})], self.vectors(1))
        with pytest.raises(FilterError):
            store.count(where=where)
        with pytest.raises(FilterError):
            store.scan(where=where)
        with pytest.raises(FilterError):
            store.search(self.vectors(1), {self.any_channel(): 1}, where=where)
        with pytest.raises(FilterError):
            store.delete(where=where)
        assert scan_ids(store) == ["kept"]

    def is_unsupported(self, store: Store, where: Mapping[str, Any]) -> bool:
        """Whether the engine says that it cannot do an operator of the filter; then it has to refuse it."""
        if not store.capabilities.unsupported_filters & set(operators(where)):
            return False
        with pytest.raises(Unsupported):
            store.count(where=where)
        return True


def operators(where: Any) -> Iterator[str]:
    """Every operator in a filter's dictionary; a plain value is ``$eq``, and null asks for existence."""
    if isinstance(where, Mapping):
        for key, value in where.items():
            if key.startswith("$"):
                yield key
            elif not isinstance(value, Mapping):
                yield "$exists" if value is None else "$eq"
            yield from operators(value)
    elif isinstance(where, list):
        for item in where:
            yield from operators(item)
