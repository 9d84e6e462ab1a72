"""Journeys under way together: all end, in turns, and an error leaves none half-way."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journeys.doors import build_index

import annserve as product
from annserve.collection import Collection
from annserve.errors import CorruptionError, DeadlineError, InputError, ReadError
from annserve.search import engine
from annserve.search.overlap import Journey, abreast, overlapped


def waiting(times: int, number: int) -> Journey[str]:
    for _ in range(times):
        yield
    return f"result {number}"


@given(waits=st.lists(st.integers(0, 4), max_size=20), width=st.integers(1, 5))
def test_every_journey_ends_with_its_own_result(waits, width):
    journeys = ((i, waiting(times, i)) for i, times in enumerate(waits))
    assert dict(overlapped(journeys, width)) == {i: f"result {i}" for i in range(len(waits))}


@given(waits=st.lists(st.integers(1, 3), min_size=1, max_size=12), width=st.integers(1, 4))
def test_so_many_are_under_way_and_no_more(waits, width):
    under_way: set[int] = set()
    most = 0

    def watched(number: int, times: int) -> Journey[int]:
        nonlocal most
        under_way.add(number)
        most = max(most, len(under_way))
        yield from waiting(times, number)
        under_way.remove(number)
        return number

    assert len(list(overlapped(((i, watched(i, times)) for i, times in enumerate(waits)), width))) == len(waits)
    assert most == min(width, len(waits))
    assert under_way == set()


def test_the_longest_under_way_goes_on_first():
    steps: list[str] = []

    def told(number: int) -> Journey[None]:
        steps.append(f"begin {number}")
        yield
        steps.append(f"end {number}")

    list(overlapped(((i, told(i)) for i in range(3)), 2))
    assert steps == ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "end 2"]


@pytest.mark.parametrize("failing_close", [False, True])
def test_an_error_ends_all_the_others(failing_close):
    closed: list[int] = []

    def journey(number: int) -> Journey[None]:
        try:
            yield
            if number == 0:
                raise CorruptionError("page 0 is damaged")
        finally:
            closed.append(number)
            if failing_close and number:
                raise ReadError("the device fails too")

    with pytest.raises(CorruptionError, match="page 0 is damaged"):
        list(overlapped(((i, journey(i)) for i in range(9)), 3))
    assert closed == [0, 1, 2]


def test_journeys_abreast_wait_together_and_end_with_their_own_results():
    steps: list[str] = []

    def told(number: int, times: int) -> Journey[int]:
        for step in range(times):
            steps.append(f"{number}.{step}")
            yield
        return number

    both = overlapped([(7, abreast([told(0, 1), told(1, 3), told(2, 0)])), (8, abreast([told(3, 1)]))], 2)
    assert dict(both) == {7: [0, 1, 2], 8: [3]}
    assert steps == ["0.0", "1.0", "3.0", "1.1", "1.2"]
    assert dict(overlapped([(0, abreast([]))], 1)) == {0: []}


def test_an_error_of_one_abreast_ends_the_others():
    closed: list[int] = []

    def journey(number: int) -> Journey[None]:
        try:
            yield
            if number == 1:
                raise CorruptionError("page 0 is damaged")
            yield
        finally:
            closed.append(number)

    with pytest.raises(CorruptionError):
        list(overlapped([(0, abreast([journey(i) for i in range(3)]))], 1))
    assert sorted(closed) == [0, 1, 2]


class Watched:
    """A reader that counts what is in flight, and may fail at a batch."""

    def __init__(self, reader: object, fail_at: int = -1) -> None:
        self._reader = reader
        self._fail_at = fail_at
        self._lock = threading.Lock()
        self.started = self.in_flight = self.most = 0

    def start(self, page_ids: np.ndarray, frames: np.ndarray, places: np.ndarray | None = None) -> Watched.Pending:
        with self._lock:
            fails = self.started == self._fail_at
            self.started += 1
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        return Watched.Pending(self, self._reader.start(page_ids, frames, places), fails)

    class Pending:
        def __init__(self, watched: Watched, pending: object, fails: bool) -> None:
            self.watched, self.pending, self.fails = watched, pending, fails

        def finish(self) -> int:
            with self.watched._lock:
                self.watched.in_flight -= 1
            n_reads = self.pending.finish()
            if self.fails:
                raise ReadError("the device fails at byte 4096")
            return n_reads


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    random = np.random.default_rng(5)
    return random.integers(0, 255, (40, 16))[random.integers(0, 40, 4_000)].astype(np.float32) + random.normal(
        0, 20, (4_000, 16)
    ).astype(np.float32)


@pytest.fixture(scope="module")
def index(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overlap")
    np.save(folder / "rows.npy", rows)
    return build_index(folder / "rows.npy", folder / "index", "--calibration-queries", "200", "--rerank", "none")


@pytest.fixture
def open_watched(index: Path) -> Iterator[Callable[..., tuple[Collection, Watched]]]:
    opened: list[Collection] = []

    def make(fail_at: int = -1, io: str = "auto") -> tuple[Collection, Watched]:
        collection = product.open(index, io=io, threads=1)
        opened.append(collection)
        watched = Watched(collection._engine.reader, fail_at)
        collection._engine.reader = watched  # type: ignore[assignment]
        return collection, watched

    yield make
    for collection in opened:
        collection.close()


def test_one_thread_has_several_blocks_in_flight_and_answers_the_same(open_watched, rows, monkeypatch):
    collection, watched = open_watched()
    found = collection.search(rows[:100] + 1, 5)
    assert watched.most == engine.BLOCKS_UNDER_WAY
    assert watched.in_flight == 0
    monkeypatch.setattr(engine, "BLOCKS_UNDER_WAY", 1)
    monkeypatch.setattr(engine, "BLOCK_QUERIES", 7)
    watched.most = 0
    alone = collection.search(rows[:100] + 1, 5)
    assert watched.most == 1
    np.testing.assert_array_equal(found.ids, alone.ids)
    np.testing.assert_array_equal(found.distances, alone.distances)
    for name in found.stats.COUNTS:
        np.testing.assert_array_equal(getattr(found.stats, name), getattr(alone.stats, name))


@pytest.mark.parametrize("io", ["auto", "pread", "mmap"])
@pytest.mark.parametrize("fail_at", [0, 2, 5])
def test_a_failing_read_leaves_nothing_in_flight_and_the_next_search_works(open_watched, rows, fail_at, io):
    collection, watched = open_watched(fail_at, io)
    expected, _ = open_watched()
    with pytest.raises(ReadError, match="byte 4096"):
        collection.search(rows[:300], 5)
    assert watched.in_flight == 0
    assert watched.started < 300 / engine.BLOCK_QUERIES_LEAST
    found = collection.search(rows[:300], 5)
    np.testing.assert_array_equal(found.ids, expected.search(rows[:300], 5).ids)


def test_a_deadline_that_passes_during_a_read_leaves_nothing_in_flight(open_watched, rows, monkeypatch):
    collection, watched = open_watched()
    collection.search(rows[:100], 5)
    real = Watched.start

    def slow(self: Watched, page_ids: np.ndarray, frames: np.ndarray, places: np.ndarray | None) -> Watched.Pending:
        pending = real(self, page_ids, frames, places)
        time.sleep(0.3 * (self.in_flight == 2))
        return pending

    monkeypatch.setattr(Watched, "start", slow)
    with pytest.raises(DeadlineError):
        collection.search(rows[:100], 5, deadline=time.monotonic() + 0.25)
    assert watched.in_flight == 0


def test_a_search_of_many_threads_gives_up_at_the_first_error(index, rows):
    with product.open(index, threads=3) as collection:
        watched = Watched(collection._engine.reader, fail_at=0)
        collection._engine.reader = watched  # type: ignore[assignment]
        with pytest.raises(ReadError):
            collection.search(np.tile(rows, (3, 1)), 5)
        assert watched.in_flight == 0
        assert watched.started < 100


@pytest.mark.parametrize("cache_bytes", ["60KB", "300KB", "1GiB"])
def test_a_page_cache_changes_what_is_read_and_nothing_else(index, rows, cache_bytes):
    """Whatever it holds or throws out: the same answers, and each page is either read or cached."""
    queries = rows[np.random.default_rng(1).integers(0, 150, 400)] + 1
    with (
        product.open(index, threads=1) as without,
        product.open(index, threads=2, cache_bytes=cache_bytes) as cached,
    ):
        expected = without.search(queries, 5)
        for target in (0.95, 1.0, 0.95):
            part = queries if target < 1 else queries[:20]
            # Answers that are kept would need no pages at all.
            found = cached.search(part, 5, recall_target=target, bypass_cache=True)
            expected = without.search(part, 5, recall_target=target)
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.distances, expected.distances)
            pages = found.stats.pages_read + found.stats.pages_cached
            np.testing.assert_array_equal(pages, expected.stats.pages_read)
            assert (found.stats.reads <= found.stats.pages_read).all()
        assert found.stats.pages_cached.sum() > 0
        assert not expected.stats.pages_cached.any()
        if cache_bytes == "1GiB":  # room for all, and all were read
            assert not found.stats.pages_read.any()
        limit = {"60KB": 60 << 10, "300KB": 300 << 10, "1GiB": 1 << 30}[cache_bytes]
        assert 0 < cached.info()["ram_tiers"]["cache"] <= limit
        assert "cache" not in without.info()["ram_tiers"]


def test_a_damaged_page_is_never_kept(index, rows, tmp_path):
    copy = Path(shutil.copytree(index, tmp_path / "copy"))
    path = copy / "segment-000001" / "pages.bin"
    content = path.read_bytes()
    spoiled = bytearray(content)
    spoiled[4_096 + 3 * 4_096 + 100] ^= 1
    path.write_bytes(spoiled)
    with product.open(copy, threads=1, cache_bytes="1GiB") as collection:
        for _ in range(2):
            with pytest.raises(CorruptionError):
                collection.search(rows, 5)
        path.write_bytes(content)
        collection.search(rows, 5)


@pytest.mark.parametrize("io", ["uring", "pread", "mmap"])
def test_a_file_that_is_cut_fails_the_query_by_name_and_byte_and_the_index_lives_on(index, rows, tmp_path, io):
    """The device ends before the pages do, under an open index; then it is whole again."""
    copy = Path(shutil.copytree(index, tmp_path / "copy"))
    path = copy / "segment-000001" / "pages.bin"
    content = path.read_bytes()
    try:
        collection = product.open(copy, io=io, threads=2)
    except InputError as error:
        pytest.skip(str(error))
    with collection:
        expected = collection.search(rows[:200], 5)
        os.truncate(path, 4_096)
        with pytest.raises(ReadError, match=r"pages\.bin .* byte") as caught:
            collection.search(rows[:200], 5)
        assert caught.value.path == path
        assert 4_096 <= caught.value.offset <= len(content)
        path.write_bytes(content)
        found = collection.search(rows[:200], 5)
    np.testing.assert_array_equal(found.ids, expected.ids)
