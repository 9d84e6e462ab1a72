"""The io_uring kernels against a device played in Python, and against the real one with batches in parallel.

The played device answers each request as a script says: whole, short, interrupted, failing, in any order. So
what a healthy disk never does is tested as often as what it does.
"""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import storage as oracle

from annserve.errors import InputError
from annserve.storage import kernels
from annserve.storage.reader import aligned_frames, open_reader

DEPTH, PAGE, OFFSET = 8, 64, 128


class PlayedDevice:
    """A ring in plain memory, and the other side of it: takes requests, copies bytes, posts completions."""

    def __init__(self, content: np.ndarray) -> None:
        self.content = content
        self.heads = np.zeros(3, np.uint32)  # submission tail, completion head, completion tail
        self.numbers = np.zeros(DEPTH, np.uint32)
        self.requests = np.zeros((DEPTH, 8), np.int64)
        self.completions = np.zeros((2 * DEPTH, 2), np.int64)
        control = np.zeros(kernels.CONTROL_WORDS, np.int64)
        at = self.heads.ctypes.data
        control[kernels.SQ_TAIL], control[kernels.CQ_HEAD], control[kernels.CQ_TAIL] = at, at + 4, at + 8
        control[kernels.SQ_MASK], control[kernels.CQ_MASK] = DEPTH - 1, 2 * DEPTH - 1
        control[kernels.SQ_ARRAY] = self.numbers.ctypes.data
        control[kernels.SQES] = self.requests.ctypes.data
        control[kernels.CQES] = self.completions.ctypes.data
        control[kernels.N_FREE] = DEPTH
        slots = np.zeros((DEPTH, kernels.SLOT_WORDS), np.int64)
        slots[:, kernels.FREE] = np.arange(DEPTH)
        self.ring = kernels.Ring(control, slots)
        self.taken = 0
        self.waiting: list[np.ndarray] = []

    def start_near_the_wrap(self) -> None:
        """Heads and tails are 32-bit counters that wrap; begin just before."""
        self.heads[:] = 2**32 - 3
        self.taken = 2**32 - 3

    def take(self) -> None:
        """Accept what is queued."""
        while self.taken != int(self.heads[0]):
            self.waiting.append(self.requests[self.numbers[self.taken % DEPTH]].copy())
            self.taken = (self.taken + 1) % 2**32
        self.ring.control[kernels.N_QUEUED] = 0
        assert len(self.waiting) <= DEPTH

    def answer(self, index: int, result: int) -> None:
        """Complete one waiting request: `result` bytes of it (at most all), or −errno."""
        request = self.waiting.pop(index)
        opcode, offset, address, length = int(request[0]) & 0xFF, *(int(word) for word in request[1:4])
        assert opcode == 22
        if result > 0:
            piece = self.content[offset : offset + min(result, length)]
            result = len(piece)
            target = (ctypes.c_uint8 * length).from_address(address)
            np.frombuffer(target, np.uint8)[:result] = piece
        tail = int(self.heads[2])
        self.completions[tail % (2 * DEPTH)] = int(request[4]), result & 0xFFFFFFFF
        self.heads[2] = (tail + 1) % 2**32


def play(device: PlayedDevice, page_ids: np.ndarray, frames: np.ndarray, script) -> None:
    """Carry a batch to its end: `script` gives (which waiting request, its result) for each answer."""
    batch = device.ring.control
    batch[kernels.NEXT : kernels.CONTROL_WORDS] = 0
    while True:
        if batch[kernels.ERROR] == 0:
            kernels._fill(device.ring, 5, page_ids, np.arange(len(page_ids)), len(page_ids), frames, OFFSET, 4)
        device.take()
        if batch[kernels.PENDING] == 0:
            break
        device.answer(*script(len(device.waiting)))
        kernels.uring_reap(device.ring)
    assert device.waiting == []
    assert device.ring.control[kernels.N_FREE] == DEPTH
    assert sorted(device.ring.slots[:, kernels.FREE]) == list(range(DEPTH))


@pytest.fixture(scope="module")
def content() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, OFFSET + 100 * PAGE, dtype=np.uint8)


def pages_of(content: np.ndarray) -> np.ndarray:
    return content[OFFSET:].reshape(-1, PAGE)


@given(
    page_ids=st.lists(st.integers(0, 99), max_size=60),
    choices=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([1, 7, 64, 100, 10**6, -errno.EAGAIN, -errno.EINTR])),
        max_size=200,
    ),
    wrap=st.booleans(),
)
@settings(max_examples=150)
def test_short_and_interrupted_reads_are_completed(content, page_ids, choices, wrap):
    device = PlayedDevice(content)
    if wrap:
        device.start_near_the_wrap()
    ids = np.array(page_ids, np.uint32)
    frames = np.zeros((len(ids), PAGE), np.uint8)
    steps = iter(choices)

    def script(n_waiting: int) -> tuple[int, int]:
        which, result = next(steps, (0, 10**6))
        return which % n_waiting, result

    play(device, ids, frames, script)
    batch = device.ring.control
    assert batch[kernels.ERROR] == 0
    assert batch[kernels.N_READS] == oracle.count_reads(ids, 4)
    assert np.array_equal(frames, pages_of(content)[ids])


@pytest.mark.parametrize("failing", [0, 3, 20])
@pytest.mark.parametrize(
    ("result", "told"), [(-errno.EIO, errno.EIO), (0, kernels.END_OF_FILE), (-errno.EBADF, errno.EBADF)]
)
def test_a_failed_read_is_told_with_its_byte_and_the_rest_is_drained(content, failing, result, told):
    device = PlayedDevice(content)
    ids = np.arange(0, 80, 2, dtype=np.uint32)
    frames = np.zeros((len(ids), PAGE), np.uint8)
    answers = iter(range(1_000))
    offsets = []

    def script(n_waiting: int) -> tuple[int, int]:
        if next(answers) != failing:
            return 0, 10**6
        offsets.append(int(device.waiting[0][1]))
        return 0, result

    play(device, ids, frames, script)
    batch = device.ring.control
    assert (batch[kernels.ERROR], batch[kernels.ERROR_OFFSET]) == (told, offsets[0])
    assert batch[kernels.NEXT] < len(ids)
    play(device, ids, frames, lambda n_waiting: (n_waiting - 1, 10**6))
    assert np.array_equal(frames, pages_of(content)[ids])


def test_the_byte_that_is_told_is_behind_what_a_short_read_gave(content):
    device = PlayedDevice(content)
    results = iter([10, -errno.EIO])
    play(device, np.array([5], np.uint32), np.zeros((1, PAGE), np.uint8), lambda _: (0, next(results)))
    assert device.ring.control[kernels.ERROR_OFFSET] == OFFSET + 5 * PAGE + 10


def test_a_device_that_only_ever_says_again_is_an_error(content):
    device = PlayedDevice(content)
    play(device, np.array([5], np.uint32), np.zeros((1, PAGE), np.uint8), lambda _: (0, -errno.EAGAIN))
    assert device.ring.control[kernels.ERROR] == errno.EAGAIN


@pytest.fixture(scope="module")
def uring(tmp_path_factory):
    """A real reader of 3,000 pages, its path, and what they hold."""
    path = tmp_path_factory.mktemp("ring") / "pages.bin"
    pages = np.random.default_rng(2).integers(0, 256, (3_000, 4_096), dtype=np.uint8)
    path.write_bytes(pages.tobytes())
    try:
        return open_reader(path, 0, 4_096, 3_000, "uring"), pages
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("n", [1, 20, 100, 2_000])
def test_a_ring_is_used_again_by_whichever_thread_comes_next(uring, rng, n):
    """Each batch has a ring of its own while it is in flight; there are never more rings than batches were at once."""
    reader, pages = uring

    def read_two() -> None:
        ids = rng.integers(0, 3_000, (2, n)).astype(np.uint32)
        frames = [aligned_frames(n, 4_096) for _ in ids]
        pending = [reader.start(which, into) for which, into in zip(ids, frames)]
        for one, which, into in zip(pending, ids, frames):
            assert one.finish() == oracle.count_reads(which, 16)
            assert np.array_equal(into, pages[which])

    read_two()
    rings = {reader.take_ring(), reader.take_ring()}
    for ring in rings:
        assert ring.arrays.control[kernels.N_FREE] == len(ring.arrays.slots)
        reader.give_ring(ring)
    for _ in range(3):
        thread = threading.Thread(target=read_two)
        thread.start()
        thread.join()
    assert {reader.take_ring(), reader.take_ring()} == rings
    for ring in rings:
        reader.give_ring(ring)


def test_a_batch_that_fails_gives_its_ring_back(uring, rng):
    reader, pages = uring
    ring, file = reader.take_ring(), reader.file()
    good, bad = rng.integers(0, 3_000, 50).astype(np.uint32), np.array([7, 5_000, 9], np.uint32)
    frames, other = aligned_frames(50, 4_096), aligned_frames(3, 4_096)
    assert kernels.uring_start(ring.arrays, file.fd, bad, np.arange(3), 3, other, 0, 16) == 0
    assert kernels.uring_finish(ring.arrays, file.fd, bad, np.arange(3), 3, other, 0, 16) == -kernels.END_OF_FILE
    assert ring.arrays.control[kernels.ERROR_OFFSET] == 5_000 * 4_096
    reader.give_ring(ring)
    assert reader.read(good, frames) == oracle.count_reads(good, 16)
    assert np.array_equal(frames, pages[good])
    assert reader.take_ring() is ring
    reader.give_ring(ring)


def test_a_broken_ring_is_told_and_replaced(uring):
    reader, pages = uring
    frames = aligned_frames(2, 4_096)
    ids = np.array([1, 2], np.uint32)
    broken = reader.take_ring()
    reader.give_ring(broken)
    kept = int(broken.arrays.control[kernels.RING_FD])
    broken.arrays.control[kernels.RING_FD] = reader.file().fd
    with pytest.raises(OSError, match=r"io_uring .* failed"):
        reader.read(ids, frames)
    broken.arrays.control[kernels.RING_FD] = kept
    assert reader.take_ring() is not broken
    reader.read(ids, frames)
    assert np.array_equal(frames, pages[ids])


PROGRAM = """
import sys
import numpy as np
from annserve.storage import crc_kernels, kernels
from annserve.storage.reader import aligned_frames, open_reader

for kind in ("auto", "pread"):
    reader = open_reader(sys.argv[1], 0, 4096, 8, kind)
    reader.read(np.arange(8, dtype=np.uint32), aligned_frames(8, 4096))
crc_kernels.crc32c_of(np.zeros(9, np.uint8), 0, 9, np.uint32(0))
found = {**vars(kernels), **vars(crc_kernels)}
compiled = {name: value for name, value in found.items() if hasattr(value, "stats")}
print(sorted(name for name, value in compiled.items() if sum(value.stats.cache_misses.values())))
"""


def test_compiled_kernels_are_kept_for_the_next_process(tmp_path):
    """A second process loads every kernel that the first compiled: nothing in them ties them to a process."""
    path = tmp_path / "pages.bin"
    path.write_bytes(bytes(8 * 4_096))
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(path)]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert outputs[1].strip() == "[]"
