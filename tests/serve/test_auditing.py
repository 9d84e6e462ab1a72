"""What the auditors of several workers found is told as one: counts add up, and bounds are those of all queries."""

from __future__ import annotations

from types import SimpleNamespace

import fake
import numpy as np
import pytest

from annserve.audit import Finding, of_all_targets
from annserve.catalog.auditing import auditor_of, found_by_all
from annserve.catalog.catalog import Catalog, Standing, State, Version
from annserve.client import Client
from annserve.confidence import RecallSums, recall_bounds
from annserve.errors import InputError
from annserve.serve import Server
from annserve.serve.run_folder import RunFolder
from annserve.serve.shown import collections_of
from annserve.serve.worker import Told, told_by_all
from annserve.services.limits import Limits

HITS = {0.9: np.array([9, 10, 8, 10, 7, 10, 9, 9]), 0.95: np.array([10, 10, 9, 10])}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def worker(run: RunFolder, number: int, snapshot: int = 3) -> Told:
    told = Told(run, number)
    told.note(Standing("notes", State.READY, version=Version("notes", None, snapshot, {"count": 1})))
    return told


def findings(part: slice, snapshot: int = 3) -> list[Finding]:
    """What the auditor of one of two workers found."""
    shares = {target: RecallSums.of(hits[part], np.full(len(hits[part]), 10)) for target, hits in HITS.items()}
    return [Finding(snapshot, target, target, sums) for target, sums in shares.items() if sums.queries]


def test_what_two_workers_found_bounds_as_if_one_had_found_it_all(run):
    for number, part in enumerate((slice(0, 6), slice(6, 8))):
        worker(run, number).audited("notes", findings(part))
    found = found_by_all(told_by_all(run, 2), "notes")
    for one in found:
        hits = HITS[one.recall_target]
        assert one.bounds == recall_bounds(hits, np.full(len(hits), 10)), "the second has seen no query at 0.95"
    assert [one.recall_target for one in found] == [0.9, 0.95]
    every = np.concatenate(list(HITS.values()))
    bounds = recall_bounds(every, np.full(12, 10))
    assert of_all_targets(found) == bounds
    (shown,) = collections_of(told_by_all(run, 2))
    assert shown["recall"] == {"low": bounds.low, "recall": bounds.recall, "queries": 12}


def test_what_was_found_of_another_version_says_nothing_of_this_one(run):
    first, second = worker(run, 0), worker(run, 1)
    first.audited("notes", findings(slice(0, 6)))
    second.note(Standing("notes", State.READY, version=Version("notes", None, 4, {"count": 1})))
    second.audited("notes", findings(slice(6, 8), snapshot=3))
    assert found_by_all(told_by_all(run, 2), "notes")[0].sums.queries == 6, "nothing of version 4 is known yet"
    second.audited("notes", findings(slice(6, 8), snapshot=4))
    assert [one.sums.queries for one in found_by_all(told_by_all(run, 2), "notes")] == [2]


def test_a_newest_version_that_is_refused_leaves_what_is_known_of_the_one_that_is_served(run):
    told = worker(run, 0)
    told.audited("notes", findings(slice(0, 6)))
    version = Version("notes", None, 3, {"count": 1})
    told.note(Standing("notes", State.READY, "version 4 is damaged", version))
    assert found_by_all(told_by_all(run, 1), "notes")[0].sums.queries == 6
    assert found_by_all(told_by_all(run, 1), "none") == []


def test_where_nothing_was_audited_nothing_is_claimed(run):
    worker(run, 0)
    (shown,) = collections_of(told_by_all(run, 2))
    assert shown["recall"] is None


def test_a_collection_that_was_removed_leaves_nothing_to_another_one_of_its_name(photos):
    """Whose versions are counted from 1, too."""
    catalog, served = Catalog(), fake.open(photos)
    auditor = auditor_of(catalog, SimpleNamespace(give_way=lambda seconds: True), share=0.5)
    catalog.serve("photos", served)
    queries = np.zeros((4, 24), np.float32)
    auditor.observe("photos", 1, queries, 0.9, served.search(queries, 5))
    assert auditor.audit("photos") == 4
    assert auditor.found("photos")[0].sums.queries == 4
    catalog.remove("photos")
    assert (auditor.found("photos"), auditor.live_queries("photos", 9)) == ([], [])


def test_recall_is_measured_within_the_limits_of_searches(photos):
    with Server("127.0.0.1:0", limits=Limits(k=5)) as server, Client(str(server.address)) as client:
        server.start(Catalog({"photos": fake.open(photos)}))
        assert client.measure_recall(np.zeros(24), 5).recall == 1.0
        with pytest.raises(InputError, match="at most 5"):
            client.measure_recall(np.zeros(24), 6)


def test_live_queries_of_another_dimension_are_of_no_use_to_the_version_that_is_served_now(tmp_path, photos):
    other = fake.write(tmp_path / "photos", np.eye(20, 9, dtype=np.uint8))
    catalog = Catalog({"photos": fake.open(photos)})
    with Server("127.0.0.1:0") as server, Client(str(server.address)) as client:
        auditor = auditor_of(catalog, server.scheduler, share=0.1)
        server.start(catalog, auditor=auditor)
        client.search(np.zeros((3, 24)), 2)
        auditor.audit("photos")
        assert client.measure_recall(live=2).queries == 2
        catalog.serve("photos", fake.open(other))
        with pytest.raises(InputError, match="no query of 'photos' has been sampled"):
            client.measure_recall(live=2)
        client.search(np.zeros((3, 9)), 2)
        auditor.audit("photos")
        assert client.measure_recall(live=9).queries == 3


def test_a_collection_that_is_gone_leaves_no_queue_behind(photos):
    catalog = Catalog({"photos": fake.open(photos)})
    with Server("127.0.0.1:0") as server, Client(str(server.address)) as client:
        server.start(catalog)
        client.search(np.zeros(24), 1)
        assert set(server.scheduler.load()) == {"photos"}
        catalog.remove("photos")
        assert server.scheduler.load() == {}
