"""The auditor sees what recall is delivered, gives way to searches, and cures an index whose calibration is off."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from audit.spoilt import vectors

import annserve
from annserve.audit import Auditor, Effort, Ledger, measure_recall
from annserve.audit import auditor as module
from annserve.confidence import RecallBounds, recall_bounds
from annserve.errors import CorruptionError, NotFoundError

K = 10


class Server:
    """Searches one collection as a server does, with an auditor beside."""

    def __init__(self, path: Path, **settings) -> None:
        self.index = annserve.open(path, threads=1)
        self.snapshot = self.index.info()["snapshot"]
        self.auditor = Auditor(self.pin, **settings)

    @contextmanager
    def pin(self, name: str):
        if name != "notes":
            raise NotFoundError(f"no collection {name}")
        yield self.snapshot, self.index

    def search(self, queries: np.ndarray, target: float, k: int = K) -> annserve.results.SearchResult:
        asked = self.auditor.asked("notes", target)
        result = self.index.search(queries, k, recall_target=asked)
        self.auditor.observe("notes", self.snapshot, queries, target, result)
        return result

    def serve(self, n_queries: int, target: float, seed: int) -> float:
        """Serve queries, auditing all that is sampled; give their true recall."""
        queries, hits = vectors(n_queries, seed), 0
        for first in range(0, n_queries, 32):
            block = queries[first : first + 32]
            found = self.search(block, target)
            truth = self.index.search_exact(block, K)
            hits += (found.ids[:, :, None] == truth.ids[:, None, :]).any(2).sum()
            self.auditor.audit("notes")
        return hits / (n_queries * K)


@pytest.fixture
def serve(request):
    opened = []

    def make(path: Path, **settings) -> Server:
        opened.append(Server(path, **settings))
        return opened[-1]

    yield make
    for server in opened:
        server.auditor.stop()
        server.index.close()


def test_a_sound_index_is_found_sound(index, serve):
    server = serve(index)
    true = server.serve(320, 0.95, seed=5)
    (finding,) = server.auditor.found("notes")
    assert (finding.recall_target, finding.asked_target, finding.bounds.queries) == (0.95, 0.95, 320)
    assert finding.bounds.recall == pytest.approx(true)
    assert finding.bounds.low <= true <= finding.bounds.high
    assert finding.bounds.high >= 0.95


def test_a_spoilt_calibration_is_seen_and_left_alone(spoilt, serve):
    told = []
    server = serve(spoilt, on_found=lambda *what: told.append(what))
    true = server.serve(320, 0.95, seed=5)
    (finding,) = server.auditor.found("notes")
    assert true < 0.93
    assert finding.bounds.low <= true <= finding.bounds.high < 0.95
    assert finding.asked_target == 0.95
    assert told[-1] == ("notes", 32)


def test_a_spoilt_calibration_is_cured_where_that_is_wanted(spoilt, serve, caplog):
    server = serve(spoilt, adjust=True)
    before = server.serve(320, 0.95, seed=5)
    server.serve(640, 0.95, seed=6)
    after = server.serve(320, 0.95, seed=7)
    assert before < 0.94 < after
    (finding,) = server.auditor.found("notes")
    assert 0.95 < finding.asked_target <= 0.99
    assert finding.bounds.high >= 0.95
    assert [record for record in caplog.records if record.message == "recall is corrected"]


def test_a_sound_index_is_not_corrected(index, serve):
    server = serve(index, adjust=True)
    server.serve(640, 0.9, seed=5)
    (finding,) = server.auditor.found("notes")
    assert finding.asked_target == 0.9


def test_a_new_version_begins_anew(spoilt, serve):
    server = serve(spoilt, adjust=True)
    server.serve(96, 0.95, seed=5)
    assert server.auditor.asked("notes", 0.95) > 0.95
    server.search(vectors(8, 1), 0.95)
    server.snapshot += 1  # what the old version answered says nothing of the new one
    assert server.auditor.audit("notes") == 0
    assert server.auditor.found("notes") == []
    assert server.auditor.asked("notes", 0.95) == 0.95
    server.search(vectors(8, 2), 0.95)
    assert server.auditor.audit("notes") == 8


def test_what_was_answered_with_another_effort_says_nothing_of_this_one(index, serve):
    server = serve(index)
    server.search(vectors(8, 1), 0.95)
    assert server.auditor.audit("notes") == 8
    server.search(vectors(8, 1), 0.95)
    server.auditor._watched["notes"].effort._asked[0.95] = 0.98
    assert server.auditor.audit("notes") == 0


def test_recall_targets_and_numbers_of_neighbours_are_told_apart(index, serve):
    server = serve(index)
    server.search(vectors(8, 1), 0.8)
    server.search(vectors(8, 2), 0.99, k=5)
    server.search(vectors(8, 3), 0.99, k=20)
    server.search(vectors(4, 4), 1.0)  # exact answers need no audit
    assert server.auditor.audit("notes") == 24
    low, high = server.auditor.found("notes")
    assert (low.recall_target, low.bounds.queries) == (0.8, 8)
    assert (high.recall_target, high.bounds.queries) == (0.99, 16)
    assert low.bounds.recall < high.bounds.recall


def test_searches_go_first_and_a_scan_goes_on_a_batch_at_a_time(index, serve, monkeypatch):
    monkeypatch.setattr("annserve.search.engine.SCAN_PAGES", 8)
    monkeypatch.setattr("annserve.search.exact.SCAN_PAGES", 8)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.02)
    looks = []

    def never_rest(seconds: float) -> bool:
        looks.append(seconds)
        time.sleep(0.005)
        return False

    server = serve(index, give_way=never_rest)
    server.search(vectors(4, 1), 0.95)
    begun = time.monotonic()
    assert server.auditor.audit("notes") == 4
    batches = -(-server.index.info()["pages"] // 8)
    assert batches > 5
    assert time.monotonic() - begun >= batches * 0.02
    assert len(looks) > batches


def test_an_auditor_works_by_itself_and_stops_in_the_midst_of_a_scan(index, serve, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    server = serve(index)
    server.auditor.start()
    found = threading.Event()
    deadline = time.monotonic() + 20
    while not server.auditor.found("notes") and time.monotonic() < deadline:
        server.search(vectors(8, 1), 0.95)
        found.wait(0.02)
    assert server.auditor.found("notes")
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 60.0)
    server.auditor._searches_rest = lambda seconds: time.sleep(seconds)
    server.search(vectors(8, 2), 0.95)
    time.sleep(0.2)
    begun = time.monotonic()
    server.auditor.stop()
    assert time.monotonic() - begun < 5


def test_a_collection_that_fails_is_logged_and_the_next_audited(index, serve, monkeypatch, caplog):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    server = serve(index)
    queries = vectors(4, 1)
    result = server.index.search(queries, K)
    server.auditor.observe("gone", 1, queries, 0.95, result)
    with caplog.at_level(logging.WARNING, "annserve.audit"):
        server.search(queries, 0.95)
        server.auditor.start()
        deadline = time.monotonic() + 20
        while not server.auditor.found("notes") and time.monotonic() < deadline:
            time.sleep(0.02)
    assert server.auditor.found("notes")
    assert any(record.message == "audit failed" and record.collection == "gone" for record in caplog.records)


def test_live_queries_are_given_newest_last_and_a_forgotten_collection_has_none(index, serve):
    server = serve(index)
    queries = vectors(20, 1)
    server.search(queries, 0.95)
    assert server.auditor.live_queries("notes", 5) == []
    server.auditor.audit("notes")
    np.testing.assert_array_equal(np.stack(server.auditor.live_queries("notes", 5)), queries[-5:])
    server.auditor.forget("notes")
    assert (server.auditor.live_queries("notes", 5), server.auditor.found("notes")) == ([], [])


class TestMeasuring:
    def test_recall_on_demand_is_the_share_of_true_neighbours(self, index):
        queries = vectors(70, 9)
        with annserve.open(index, threads=1) as opened:
            pauses = []
            measured = measure_recall(opened, queries, K, 0.9, between=lambda: pauses.append(1))
            found, truth = opened.search(queries, K, recall_target=0.9), opened.search_exact(queries, K)
            hits = (found.ids[:, :, None] == truth.ids[:, None, :]).any(2).sum(1)
            assert measured.bounds == recall_bounds(hits, np.full(70, K))
            np.testing.assert_allclose(measured.query_recalls, hits / K)
            assert measured.pages_mean == found.stats.pages_read.mean()
            assert len(pauses) >= 3

    def test_a_row_as_near_as_the_last_neighbour_is_as_right(self):
        """Both of two rows at one distance; which of them comes back is up to the ids."""

        class Tied:
            def search_exact(self, queries, k, *, between):
                return annserve.results.SearchResult(
                    np.array([[1, 2]], np.uint64), np.array([[1, 4]], np.float32), annserve.results.SearchStats()
                )

            def search(self, queries, k, *, recall_target):
                ids, distances = np.array([[1, 9]], np.uint64), np.array([[1, 4]], np.float32)
                counts = {"pages_read": np.ones(1, np.int64)}
                return annserve.results.SearchResult(ids, distances, annserve.results.SearchStats(**counts))

        assert measure_recall(Tied(), np.zeros((1, 2)), 2, 0.9).bounds.recall == 1.0

    def test_a_damaged_page_is_told(self, index, tmp_path):
        copy = Path(shutil.copytree(index, tmp_path / "copy"))
        pages = next(copy.rglob("pages.bin"))
        content = bytearray(pages.read_bytes())
        content[-2_000] ^= 1
        pages.write_bytes(content)
        with annserve.open(copy, threads=1) as opened, pytest.raises(CorruptionError):
            measure_recall(opened, vectors(2, 1), K, 0.9)


def bounds(low: float, recall: float, high: float) -> RecallBounds:
    return RecallBounds(100, recall, low, high, 0.95)


class TestEffort:
    def test_more_is_asked_on_evidence_alone_and_never_less_than_declared(self):
        effort = Effort()
        assert not effort.heed(0.9, bounds(0.85, 0.88, 0.91))
        assert not effort.heed(0.9, bounds(0.95, 0.97, 0.99))
        assert effort.asked(0.9) == 0.9
        assert effort.heed(0.9, bounds(0.75, 0.8, 0.85))
        assert 0.9 < effort.asked(0.9) < 0.95
        assert effort.asked(0.95) == 0.95

    def test_what_is_asked_never_leaves_what_an_index_can_plan_for(self):
        effort = Effort()
        for _ in range(20):
            effort.heed(0.95, bounds(0.0, 0.05, 0.1))
        assert effort.asked(0.95) == 0.99
        assert not effort.heed(0.95, bounds(0.0, 0.05, 0.1))
        assert effort.adjusted() == {0.95: 0.99}

    def test_less_is_asked_again_once_more_than_enough_is_delivered(self):
        effort = Effort()
        effort.heed(0.9, bounds(0.6, 0.7, 0.8))
        asked = effort.asked(0.9)
        assert effort.heed(0.9, bounds(0.97, 0.98, 0.99))
        assert 0.9 <= effort.asked(0.9) < asked

    @pytest.mark.parametrize("off", [0.3, 1.0, 3.0, 6.0])
    @pytest.mark.parametrize("target", [0.8, 0.9, 0.95, 0.98])
    def test_an_index_that_misses_by_any_factor_comes_to_deliver(self, target, off):
        """A simulated index that misses `off` times what it may, and 400 queries a step."""
        rng, effort = np.random.default_rng(3), Effort()
        for _ in range(40):
            recall = 1 - min((1 - effort.asked(target)) * off, 1)
            found = recall_bounds(rng.binomial(K, recall, 400), np.full(400, K))
            effort.heed(target, found)
        recall = 1 - (1 - effort.asked(target)) * off
        reachable = 1 - (1 - 0.99) * off
        assert recall >= min(target, reachable) - 0.02
        if off <= 1:
            assert effort.asked(target) <= target + 0.02


class TestLedger:
    def test_old_queries_are_forgotten(self):
        ledger = Ledger(window=3)
        ledger.add(0.9, [(0, 10)] * 3)
        ledger.add(0.9, [(10, 10)] * 3)
        assert (ledger.sums(0.9).hits, ledger.sums(0.9).queries) == (30, 3)

    def test_a_hostile_number_of_targets_takes_no_memory_and_no_room_from_what_is_asked_often(self):
        ledger = Ledger()
        for i in range(50):
            ledger.add(0.8 + i / 1_000, [(9, 10)])
        assert len(ledger.targets()) == 8
        assert ledger.add(0.95, [(9, 10)] * 3)
        for i in range(50):
            ledger.add(0.8 + i / 1_000, [(9, 10)])
        assert (len(ledger.targets()), ledger.sums(0.95).queries) == (8, 3)
        for i in range(8):
            ledger.add(0.9 + i / 1_000, [(9, 10)] * 2)
        assert not ledger.add(0.8, [(9, 10)])
        assert ledger.sums(0.8).queries == 0
        ledger.forget(0.95)
        assert ledger.add(0.8, [(9, 10)])
