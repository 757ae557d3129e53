"""Servers that fail in passing, over real sockets: nothing is lost and nothing is there twice.

A proxy (`servers.flaky`) spoils requests on their way to a real Elasticsearch node, and to a REST front that serves
Qdrant's endpoints from its client's engine in memory (`servers.qdrant_front`).
"""

import logging
import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import elasticsearch as es
import pytest
from qdrant_client import models
from servers.elasticsearch import Kind, url_of
from servers.flaky import ANY_REQUEST, Fault, FlakyProxy, Plan
from servers.qdrant_front import QdrantFront
from servers.workload import Tolerance, VectorsOfTexts, Workload, compare, documents

from m3_core import ingest
from m3_core.errors import IngestStopped, StoreUnavailable
from m3_core.memory import MemoryStore
from m3_core.store import Fields, Schema, Store
from m3_core.testing import corpus
from m3_core.testing.base import scan, scan_ids
from m3_core.types import Document, Representation
from m3_integrations.elasticsearch import ElasticsearchStore
from m3_integrations.qdrant import QdrantStore

FULL = Schema(dense=8, sparse=200, multi=4, fingerprint=VectorsOfTexts.fingerprint)
BATCHES = 1_000
MOST = {Fault.WAIT: 4, Fault.HANGING: 2}
"""Of a fault that takes a second or more."""
MANY = 20
"""Of each other fault, at least."""
DOWN = [range(at, at + 10) for at in (300, 700, 1_000)]
"""Outages that last longer than a store tries again by itself, by the numbers of the requests."""


ONE_BY_ONE = [fault for fault in ANY_REQUEST if fault not in (*MOST, Fault.SLOW)]
"""The faults after which a request has to be made again, but for those that take long."""


def often(rate: float, faults: Collection[Fault] = ANY_REQUEST, **options: Any) -> Plan:
    """A plan for a long run, with each fault in this part of the requests it is for."""
    rates = {fault: 2.5 * rate if fault is Fault.ITEMS else rate for fault in faults}
    return Plan(rates=rates, most=MOST, **options)


def check_faults(proxy: FlakyProxy) -> None:
    """Every fault happened, most of them often; prints the figures for those who run the tests with ``-s``."""
    faults = proxy.faults()
    figures = ", ".join(f"{fault.name.lower()} {faults[fault]}" for fault in proxy.plan.rates)
    print(f"\n{len(proxy.log)} requests, {faults.total()} spoiled: {figures}")
    assert all(faults[fault] >= MOST.get(fault, MANY) for fault in proxy.plan.rates), figures
    check_pauses(proxy)


def check_pauses(proxy: FlakyProxy) -> None:
    """A server that asked to wait was not asked again before."""
    assert len(proxy.pauses()) == proxy.faults()[Fault.WAIT] > 0
    assert all(waited >= asked for waited, asked in proxy.pauses()), proxy.pauses()


class TestQdrant:
    """Dense, sparse and multi-vectors through the front."""

    TIMEOUT, HANGING = 2, 2.5

    @pytest.fixture
    def front(self) -> Iterator[QdrantFront]:
        with QdrantFront() as front:
            yield front

    @contextmanager
    def flaky(
        self, front: QdrantFront, plan: Plan, **options: Any
    ) -> Iterator[tuple[FlakyProxy, QdrantStore]]:
        """A new store behind a proxy."""
        options = {"timeout": self.TIMEOUT, **options}
        with (
            FlakyProxy(front.url, plan, hanging=self.HANGING) as proxy,
            QdrantStore.create(proxy.url, "pages", schema=FULL, exact=True, **options) as store,
        ):
            yield proxy, store

    def test_a_few_batches(self, front: QdrantFront) -> None:
        """Every fourth request is spoiled, in each way but the one that takes long."""
        faults = [fault for fault in ANY_REQUEST if fault is not Fault.HANGING]
        plan = Plan(first=[None, *(step for fault in 2 * faults for step in (None, None, None, fault))])
        with self.flaky(front, plan) as (proxy, store):
            workload = Workload(store, FULL)
            workload.run(40)
            assert proxy.faults() == dict.fromkeys(faults, 2)
            check_pauses(proxy)
            workload.compare()

    @pytest.mark.slow
    def test_writes_and_reads(self, front: QdrantFront) -> None:
        with self.flaky(front, often(0.015)) as (proxy, store):
            workload = Workload(store, FULL)
            workload.run(BATCHES)
            check_faults(proxy)
            workload.compare()
        assert all(received.status < 400 for received in front.log)

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ONE_BY_ONE)
    def test_every_request_is_spoiled_once(self, front: QdrantFront, fault: Fault) -> None:
        """That which makes the collection, too."""
        with self.flaky(front, Plan(first=[fault, None] * 200)) as (proxy, store):
            story(store, FULL)
            assert proxy.faults()[fault] == len(proxy.log) // 2 > 10

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ONE_BY_ONE)
    def test_vectors_are_added_to_a_collection_of_others(self, front: QdrantFront, fault: Fault) -> None:
        """Each request is spoiled once, those that add the vectors and note the model, too."""
        dense = models.VectorParams(size=3, distance=models.Distance.COSINE)
        front.client.create_collection("theirs", {"title": dense})
        points = [
            models.PointStruct(
                id=row, vector={"title": [1.0, 0.0, float(row)]}, payload={"body": f"text {row}", "n": row}
            )
            for row in range(20)
        ]
        front.client.upsert("theirs", points)
        before = front.client.scroll("theirs", limit=20, with_vectors=["title"])
        names = {"text": "body", "dense": "d", "sparse": "s", "multi": "m"}
        rows = corpus.vectors(FULL, 20)
        with (
            FlakyProxy(front.url, Plan(first=[fault, None] * 200)) as proxy,
            QdrantStore.open(proxy.url, "theirs", fields=names, partial=True, exact=True) as store,
        ):
            store.extend(FULL)
            store.update_vectors([str(row) for row in range(20)], rows)
            found = scan(store, vectors=sorted(Representation), size=7)
            assert proxy.faults()[fault] == len(proxy.log) // 2 >= 10
        assert [record.id for record in found] == [str(row) for row in range(20)]
        reference = MemoryStore(FULL)
        reference.upsert([record.document for record in found], rows)
        with QdrantStore.open(front.url, "theirs", exact=True) as store:
            assert store.fingerprint == FULL.fingerprint
            compare(store, reference)
        assert front.client.scroll("theirs", limit=20, with_vectors=["title"]) == before

    @pytest.mark.slow
    def test_patience_ends_and_the_next_run_goes_on(self, front: QdrantFront, tmp_path: Path) -> None:
        encoder, journal = VectorsOfTexts(FULL), tmp_path / "journal"
        with self.flaky(front, Plan(), retries=1) as (proxy, store):
            proxy.plan = Plan(rates={Fault.LOST: 0.1}, down=[range(20, 1_000)])
            with pytest.raises(IngestStopped, match=r"50\d") as stopped:
                ingest(documents(200), encoder, store, journal=journal, batch_size=5, patience=1.5)
            assert isinstance(stopped.value.__cause__, StoreUnavailable)
            written = stopped.value.summary.written
            assert 0 < written < 200
            proxy.heal()
            summary = ingest(documents(200), encoder, store, journal=journal, batch_size=5)
            assert (summary.written, summary.skipped) == (200 - written, written)
            reference = MemoryStore(FULL)
            ingest(documents(200), encoder, reference)
            compare(store, reference)

    @pytest.mark.slow
    def test_ingest(self, front: QdrantFront, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with self.flaky(front, often(0.03, down=DOWN)) as (proxy, store):
            ingest_twice(proxy, store, FULL, tmp_path / "journal", caplog)


@pytest.mark.slow
class TestElasticsearch:
    """Real nodes: dense vectors on 8.19, lexical weights on 7.17."""

    TIMEOUT, HANGING = 8.0, 9.0
    TOLERANCE = Tolerance(scores=0.01)
    """The index keeps 9 binary digits of a lexical weight."""

    @contextmanager
    def flaky(self, kind: Kind, plan: Plan) -> Iterator[tuple[FlakyProxy, ElasticsearchStore, Schema]]:
        """A store behind a proxy, and what it holds; it is made without one."""
        schema = FULL.only({Representation.DENSE if kind == "dense" else Representation.SPARSE})
        index = f"m3-flaky-{os.getpid()}"
        with (
            es.Elasticsearch(url_of(kind), request_timeout=120) as client,
            FlakyProxy(url_of(kind), plan, hanging=self.HANGING) as proxy,
        ):
            try:
                ElasticsearchStore.create(
                    client, index, schema=schema, shards=1, replicas=0, dense_index="flat"
                ).close()
                with ElasticsearchStore.open(proxy.url, index, schema=schema, timeout=self.TIMEOUT) as store:
                    yield proxy, store, schema
            finally:
                client.options(ignore_status=404).indices.delete(index=index)

    def test_writes_and_reads(self) -> None:
        with self.flaky("dense", often(0.011, tuple(Fault))) as (proxy, store, schema):
            workload = Workload(store, schema, tolerance=self.TOLERANCE)
            workload.run(BATCHES)
            check_faults(proxy)
            workload.compare()

    def test_ingest(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with self.flaky("lexical", often(0.014, tuple(Fault), down=DOWN)) as (proxy, store, schema):
            ingest_twice(proxy, store, schema, tmp_path / "journal", caplog)

    @pytest.mark.parametrize("fault", ONE_BY_ONE)
    def test_every_request_is_spoiled_once(self, fault: Fault) -> None:
        """That which makes the index, and those that open and close a point in time, too."""
        schema, index = FULL.only({Representation.DENSE}), f"m3-flaky-{os.getpid()}"
        with (
            es.Elasticsearch(url_of("dense"), request_timeout=120) as client,
            FlakyProxy(url_of("dense"), Plan(first=[fault, None] * 200)) as proxy,
        ):
            try:
                with ElasticsearchStore.create(
                    proxy.url, index, schema=schema, fields=Fields(id=None), shards=2, replicas=0
                ) as store:
                    story(store, schema)
                assert any(passage.method == "DELETE" and "_pit" in passage.path for passage in proxy.log)
                assert proxy.faults()[fault] == len(proxy.log) // 2 > 10
            finally:
                client.options(ignore_status=404).indices.delete(index=index)


def story(store: Store, schema: Schema) -> None:
    """Every method of a store once."""
    rows, reference = corpus.vectors(schema, 4), MemoryStore(schema)
    pages = [Document(name, name, {"n": place}) for place, name in enumerate("abcd")]
    (kind, *_) = sorted(schema.representations)
    for target in (store, reference):
        target.upsert(pages, rows)
        target.update_vectors(["a"], rows.take([3]).only([kind]))
        target.delete(["b"])
        target.delete(where={"n": 2})
    assert store.count() == 2
    assert sorted(scan_ids(store, size=1)) == ["a", "d"]
    assert [record and record.id for record in store.get(["d", "b"])] == ["d", None]
    query = rows.take([3])
    assert [hit.id for hit in store.search(query, {kind: 3})[kind][0]] == ["a", "d"]
    assert store.score(query, kind, [["d", "b"]])[0] == pytest.approx([1.0, math.nan], abs=1e-4, nan_ok=True)
    compare(store, reference)


def ingest_twice(
    proxy: FlakyProxy,
    store: Store,
    schema: Schema,
    journal: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thousand batches, then the same source with changes and gaps; both with faults, and outages of ten requests."""
    encoder, reference = VectorsOfTexts(schema), MemoryStore(schema)
    with caplog.at_level(logging.WARNING):
        summary = ingest(documents(3 * BATCHES), encoder, store, journal=journal, batch_size=3)
    assert (summary.written, summary.rejected) == (3 * BATCHES, 0)
    assert len([record for record in caplog.records if "trying again in" in record.message]) >= len(DOWN)
    ingest(documents(3 * BATCHES), encoder, reference)
    compare(store, reference)
    check_faults(proxy)
    proxy.plan = replace(proxy.plan, most=dict.fromkeys(MOST, 0), down=())
    again = ingest(
        documents(2_900, version=3), encoder, store, journal=journal, batch_size=30, delete_missing=True
    )
    changed = len([number for number in range(2_900) if number % 7 == 0])
    assert (again.written, again.changed, again.deleted) == (changed, changed, 100)
    proxy.heal()
    reference = MemoryStore(schema)
    ingest(documents(2_900, version=3), encoder, reference)
    compare(store, reference)
