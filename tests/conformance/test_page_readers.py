"""One suite for every page reader: the bytes of a plain file read, whatever is asked, whatever fails."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import storage as oracle

from annserve.errors import CorruptionError, InputError, NotFoundError, ReadError
from annserve.storage.pagefile import PageFile
from annserve.storage.reader import PageReader, aligned_frames, open_reader
from annserve.storage.uring import UringReader

KINDS = ["uring", "pread", "mmap", "auto"]
N_PAGES, OFFSET = 500, 8_192


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "pages.bin"
    content = np.random.default_rng(3).integers(0, 256, OFFSET + N_PAGES * 4_096 + 100, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    return path


def opened(kind: str, path: Path, page_bytes: int = 4_096, n_pages: int = N_PAGES) -> PageReader:
    """Open a reader, or skip where this machine has none of its kind."""
    try:
        return open_reader(path, OFFSET, page_bytes, n_pages, kind)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(params=KINDS)
def reader(request: pytest.FixtureRequest, page_path: Path) -> Iterator[PageReader]:
    reader = opened(request.param, page_path)
    yield reader
    reader.close()


@pytest.fixture(params=["uring", "pread", "mmap"])
def open_own(request: pytest.FixtureRequest) -> Callable[..., PageReader]:
    """Give a function that opens a file of the test's own."""
    return lambda path, **facts: opened(request.param, path, **facts)


def check(reader: PageReader, path: Path, page_ids: np.ndarray, page_bytes: int = 4_096) -> None:
    """Read, and compare bytes and number of operations with the oracle; later frames stay untouched."""
    frames = aligned_frames(len(page_ids) + 1, page_bytes)
    frames[:] = 0xAB
    n_reads = reader.read(page_ids, frames)
    assert np.array_equal(frames[:-1], oracle.read_pages(path, OFFSET, page_bytes, page_ids))
    assert (frames[-1] == 0xAB).all()
    assert n_reads == oracle.count_reads(page_ids, 65_536 // page_bytes)


def test_what_it_is_can_be_told(reader):
    assert reader.name in ("uring", "pread", "mmap")
    assert (reader.page_bytes, reader.n_pages) == (4_096, N_PAGES)
    assert ("O_DIRECT" in reader.describe()) == reader.direct


@given(page_ids=st.lists(st.integers(0, N_PAGES - 1), max_size=300))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_pages_in_any_order_come_back(reader, page_path, page_ids):
    check(reader, page_path, np.array(page_ids, np.uint32))


@pytest.mark.parametrize(
    "page_ids",
    [
        [],
        [0],
        [N_PAGES - 1],
        [7] * 200,
        list(range(N_PAGES)),
        list(range(N_PAGES))[::-1],
        [3, 4, 5, 9, 8, 10, 11, 5, 6],
        list(range(10, 26)) + list(range(26, 43)),
    ],
    ids=["none", "first", "last", "repeats", "all", "backwards", "mixed", "adjacent"],
)
def test_edges_of_a_request_come_back(reader, page_path, page_ids):
    check(reader, page_path, np.array(page_ids, np.uint32))


def test_more_pages_than_fit_in_flight_come_back(reader, page_path, rng):
    check(reader, page_path, rng.integers(0, N_PAGES, 5_000).astype(np.uint32))


@pytest.mark.parametrize("page_bytes", [8_192, 65_536, 131_072])
def test_larger_pages_come_back(open_own, page_path, page_bytes, rng):
    n_pages = N_PAGES * 4_096 // page_bytes
    reader = open_own(page_path, page_bytes=page_bytes, n_pages=n_pages)
    check_ids = rng.integers(0, n_pages, 40).astype(np.uint32)
    frames = aligned_frames(40, page_bytes)
    assert reader.read(check_ids, frames) == oracle.count_reads(check_ids, max(1, 65_536 // page_bytes))
    assert np.array_equal(frames, oracle.read_pages(page_path, OFFSET, page_bytes, check_ids))


def test_read_only_and_strided_ids_and_inner_frames_are_fine(reader, page_path):
    page_ids = np.arange(20, dtype=np.uint32)[::2]
    page_ids.flags.writeable = False
    frames = aligned_frames(30, 4_096)
    reader.read(page_ids, frames[5:20])
    assert np.array_equal(frames[5:15], oracle.read_pages(page_path, OFFSET, 4_096, page_ids))
    assert not frames[:5].any()
    assert not frames[15:].any()


@given(
    page_ids=st.lists(st.integers(0, N_PAGES - 1), max_size=200),
    seed=st.integers(0, 2**32 - 1),
    spread=st.integers(0, 3),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_come_to_the_frames_that_were_named(reader, page_path, page_ids, seed, spread):
    """Frames that weren't named stay untouched; neighbours share an operation only where their frames are too."""
    ids, n_frames = np.array(page_ids, np.uint32), len(page_ids) + spread
    places = np.random.default_rng(seed).permutation(n_frames)[: len(ids)]
    if seed % 2:
        places.sort()
    frames = aligned_frames(n_frames, 4_096)
    frames[:] = 0xAB
    expected = frames.copy()
    expected[places] = oracle.read_pages(page_path, OFFSET, 4_096, ids)
    assert reader.start(ids, frames, places).finish() == oracle.count_reads(ids, 16, places)
    assert np.array_equal(frames, expected)


@pytest.mark.parametrize("places", [np.array([0, 4]), np.array([-1, 0]), np.array([0]), np.array([0, 1], np.int32)])
def test_places_that_are_no_frames_are_refused(reader, places):
    frames = aligned_frames(4, 4_096)
    with pytest.raises(InputError, match="places"):
        reader.start(np.array([3, 5], np.uint32), frames, places)
    assert not frames.any()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)])
@pytest.mark.parametrize("n", [0, 1, 30, 700])
def test_batches_in_flight_together_are_finished_in_any_order(reader, page_path, rng, n, order):
    """Every frame is right whichever batch is waited for first, and a read in between disturbs none."""
    ids = [rng.integers(0, N_PAGES, n).astype(np.uint32) for _ in order]
    frames = [aligned_frames(n, 4_096) for _ in order]
    pending = {i: reader.start(ids[i], frames[i]) for i in order[1:]}
    check(reader, page_path, ids[0])
    pending[order[0]] = reader.start(ids[order[0]], frames[order[0]])
    for i in sorted(pending):
        assert pending[i].finish() == oracle.count_reads(ids[i], 16)
        assert np.array_equal(frames[i], oracle.read_pages(page_path, OFFSET, 4_096, ids[i]))


def test_a_batch_in_flight_outlives_its_reader(open_own, page_path, rng):
    reader = open_own(page_path)
    page_ids, frames = rng.integers(0, N_PAGES, 200).astype(np.uint32), aligned_frames(200, 4_096)
    pending = reader.start(page_ids, frames)
    reader.close()
    del reader
    pending.finish()
    assert np.array_equal(frames, oracle.read_pages(page_path, OFFSET, 4_096, page_ids))


def test_a_batch_that_fails_leaves_the_others_alone(open_own, page_path, tmp_path):
    """The file is cut below some pages of the second batch; the first needs only what is left."""
    path = tmp_path / "pages.bin"
    path.write_bytes(page_path.read_bytes())
    reader = open_own(path)
    good, bad = np.arange(0, 90, 2, dtype=np.uint32), np.arange(50, 400, 3, dtype=np.uint32)
    frames = [aligned_frames(len(good), 4_096), aligned_frames(len(bad), 4_096)]
    os.truncate(path, OFFSET + 200 * 4_096)
    pending = [reader.start(bad, frames[1]), reader.start(good, frames[0])]
    with pytest.raises(ReadError, match="at byte"):
        pending[0].finish()
    if reader.name != "mmap":  # a map looks at the whole file
        assert pending[1].finish() == len(good)
        assert np.array_equal(frames[0], oracle.read_pages(page_path, OFFSET, 4_096, good))
    path.write_bytes(page_path.read_bytes())
    for _ in range(8):  # what failed is free again
        check(reader, path, good)


def test_threads_read_in_parallel_without_mixing(reader, page_path):
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            random = np.random.default_rng(seed)
            for _ in range(10):
                check(reader, page_path, random.integers(0, N_PAGES, 150).astype(np.uint32))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_forked_child_reads_by_itself(reader, page_path):
    # Long enough for a pool to start all its threads, none of which the child will have.
    page_ids = np.resize(np.arange(0, 300, 2, dtype=np.uint32), 5_000)
    check(reader, page_path, page_ids)
    child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(30)
        try:
            check(reader, page_path, page_ids)
            status = 0
        finally:
            os._exit(status)
    check(reader, page_path, page_ids)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("page_id", [N_PAGES, 2**32 - 1])
def test_a_page_that_is_not_there_is_refused_before_any_read(reader, page_id):
    frames = aligned_frames(2, 4_096)
    with pytest.raises(InputError, match=f"page {page_id} .* {N_PAGES} pages"):
        reader.read(np.array([0, page_id], np.uint32), frames)
    assert not frames.any()


def test_requests_that_do_not_fit_are_refused(reader):
    two = np.arange(2, dtype=np.uint32)
    frames = aligned_frames(2, 4_096)
    read_only = frames.view()
    read_only.flags.writeable = False
    for page_ids, target in [
        (two, frames[:1]),
        (two, aligned_frames(2, 8_192)),
        (two, frames.view(np.int8)),
        (two, read_only),
        (two, aligned_frames(3, 4_096).reshape(-1)[8 : 8 + 2 * 4_096].reshape(2, 4_096)),
        (two, aligned_frames(2, 8_192)[:, :4_096]),
        (two.astype(np.int64), frames),
        (two.reshape(1, 2), frames),
    ]:
        with pytest.raises(InputError):
            reader.read(page_ids, target)
    assert not frames.any()


@pytest.mark.parametrize("size", [OFFSET + 300 * 4_096, OFFSET + 300 * 4_096 + 1_000, OFFSET, 0])
def test_a_file_that_shrinks_is_a_read_error_and_the_next_read_works(open_own, page_path, tmp_path, size):
    path = tmp_path / "pages.bin"
    content = page_path.read_bytes()
    path.write_bytes(content)
    reader = open_own(path)
    os.truncate(path, size)
    frames = aligned_frames(400, 4_096)
    with pytest.raises(ReadError, match="at byte") as caught:
        reader.read(np.arange(400, dtype=np.uint32)[::-1].copy(), frames)
    assert caught.value.path == path
    assert caught.value.offset is not None
    assert size <= caught.value.offset <= OFFSET + 400 * 4_096
    path.write_bytes(content)
    check(reader, path, np.arange(0, N_PAGES, 3, dtype=np.uint32))


def test_a_closed_descriptor_is_a_read_error(page_path, tmp_path):
    """Only readers that use the descriptor can notice; a map doesn't need it."""
    for kind in ("uring", "pread"):
        reader = opened(kind, page_path)
        file = reader._file
        kept, file.fd = file.fd, os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(ReadError, match="at byte"):
            reader.read(np.array([3, 1], np.uint32), aligned_frames(2, 4_096))
        os.close(file.fd)
        with pytest.raises(ReadError, match="bad file descriptor"):
            reader.read(np.array([3, 1], np.uint32), aligned_frames(2, 4_096))
        file.fd = kept
        check(reader, page_path, np.array([3, 1], np.uint32))


def test_a_closed_reader_says_so(reader):
    reader.close()
    reader.close()
    with pytest.raises(ReadError, match="closed"):
        reader.read(np.array([0], np.uint32), aligned_frames(1, 4_096))


def test_closing_while_others_read_ends_well(open_own, page_path):
    """Every read of the other thread is right or says that the reader is closed."""
    reader = open_own(page_path)
    ends: list[str] = []
    started = threading.Event()

    def work() -> None:
        try:
            while True:
                check(reader, page_path, np.arange(0, 300, 2, dtype=np.uint32))
                started.set()
        except ReadError as error:
            ends.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    started.wait(30)
    reader.close()
    thread.join(30)
    assert len(ends) == 1
    assert "closed" in ends[0]


def test_a_file_without_pages_can_be_opened(open_own, tmp_path):
    (tmp_path / "pages.bin").write_bytes(bytes(OFFSET))
    reader = open_own(tmp_path / "pages.bin", n_pages=0)
    assert reader.read(np.zeros(0, np.uint32), aligned_frames(0, 4_096)) == 0
    with pytest.raises(InputError):
        reader.read(np.zeros(1, np.uint32), aligned_frames(1, 4_096))


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_opened_is_told_apart(kind, page_path):
    with pytest.raises(NotFoundError):
        open_reader(page_path.with_name("missing"), OFFSET, 4_096, 1, kind)
    with pytest.raises(CorruptionError, match="ends at byte"):
        open_reader(page_path, OFFSET, 4_096, N_PAGES + 1, kind)


def test_an_unknown_reader_is_refused(page_path):
    with pytest.raises(InputError, match="auto, uring, pread, mmap"):
        open_reader(page_path, OFFSET, 4_096, N_PAGES, "spdk")


def without_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: UringReader) -> None:
        raise ReadError("io_uring isn't available: function not implemented")

    monkeypatch.setattr(UringReader, "take_ring", refuse)


def without_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PageFile.__init__

    def init(self: PageFile, *facts: object, direct: bool) -> None:
        if direct:
            raise ReadError("invalid argument")
        real(self, *facts, direct=direct)

    monkeypatch.setattr(PageFile, "__init__", init)


def test_auto_goes_down_the_ladder(page_path, monkeypatch):
    without_ring(monkeypatch)
    best = open_reader(page_path, OFFSET, 4_096, N_PAGES, "pread")
    assert best.passed_over == ""
    assert "fall-back" not in best.describe()
    reader = open_reader(page_path, OFFSET, 4_096, N_PAGES)
    assert reader.name == "pread"
    assert "a fall-back, for uring past the page cache: io_uring isn't available" in reader.describe()
    without_direct(monkeypatch)
    reader = open_reader(page_path, OFFSET, 4_096, N_PAGES)
    assert (reader.name, reader.direct) == ("pread", False)
    assert "pread past the page cache: invalid argument" in reader.describe()
    check(reader, page_path, np.array([1, 2, 9], np.uint32))


def test_a_reader_that_is_not_available_says_why(page_path, monkeypatch):
    without_ring(monkeypatch)
    with pytest.raises(InputError, match="function not implemented"):
        open_reader(page_path, OFFSET, 4_096, N_PAGES, "uring")


def test_a_ring_that_gives_wrong_bytes_is_not_chosen(page_path, monkeypatch):
    real = UringReader.read

    def read(self: UringReader, page_ids: np.ndarray, frames: np.ndarray) -> int:
        n_reads = real(self, page_ids, frames)
        frames[0, 17] ^= 1
        return n_reads

    monkeypatch.setattr(UringReader, "read", read)
    assert open_reader(page_path, OFFSET, 4_096, N_PAGES).name == "pread"
