"""The page cache: the right bytes or none, within its bound, by the policy of its plain twin."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.page_cache import PlainCache

from annserve.errors import InputError
from annserve.kernels.jit import kernel
from annserve.sizes import bytes_of
from annserve.storage import cache_kernels, keep_kernels
from annserve.storage.cache import PageCache
from annserve.storage.reader import aligned_frames

PAGE = 4_096


def cache_of(n_slots: int, n_pages: int) -> PageCache:
    return PageCache.of_pages(n_slots, PAGE, n_pages)


def fetch(cache: PageCache, page_ids: np.ndarray, frames: np.ndarray, session: int = 0) -> np.ndarray:
    """Fetch pages for two queries, and say which are held."""
    offsets = np.array([0, len(page_ids) // 2, len(page_ids)])
    absent = cache.fetch(page_ids, offsets, frames, session)
    assert (page_ids[absent.places] == absent.page_ids).all()
    assert (absent.offsets == np.searchsorted(absent.places, offsets)).all()
    held = np.ones(len(page_ids), bool)
    held[absent.places] = False
    return held


def content(page_ids: np.ndarray, frames: np.ndarray) -> None:
    """Write what the pages hold on the device: their own number."""
    frames[: len(page_ids)].view(np.uint32)[:] = page_ids[:, None]


@given(
    whole=st.integers(2, 40),
    n_pages=st.integers(1, 80),
    skew=st.integers(1, 4),
    packed=st.sampled_from([0.0, 0.5, 1.0]),
    sessions=st.sampled_from([1, 3, 40]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=90)
def test_it_holds_what_its_plain_twin_holds_and_gives_the_right_bytes(whole, n_pages, skew, packed, sessions, seed):
    """Streams long enough to fill the cache, fade the counts and decide many ties; some pages are packed."""
    random = np.random.default_rng(seed)
    cache = cache_of(whole, n_pages)
    whole = max(min(whole, n_pages), 2)
    twin = PlainCache(whole, n_pages)
    frames = aligned_frames(12, PAGE)
    for _ in range(150):
        page_ids = (n_pages * random.random(random.integers(0, 13)) ** skew).astype(np.uint32)
        session, half = int(random.integers(0, sessions)), len(page_ids) // 2
        held = fetch(cache, page_ids, frames, session)
        assert held.tolist() == twin.fetch([page_ids[:half].tolist(), page_ids[half:].tolist()], session)
        words = frames[: len(page_ids)].view(np.uint32)
        for page, its in zip(page_ids[held], words[held]):
            assert (its[: twin.units[page] * PAGE // 64] == page).all()
        missing = np.flatnonzero(~held)
        words[missing] = page_ids[missing, None]
        settled = cache.keep(page_ids[missing], missing, frames)
        assert settled.tolist() == twin.keep(page_ids[missing].tolist())
        pages, whole_ones = cache.copied(settled)
        assert pages.tolist() == [page for page in settled if page in twin]
        assert (whole_ones.view(np.uint32) == pages[:, None]).all()
        sizes = np.where(random.random(len(pages)) < packed, random.integers(1, PAGE + 1, len(pages)), PAGE)
        cache.shrink(pages, whole_ones, sizes)
        for page, size in zip(pages.tolist(), sizes.tolist()):
            twin.shrink(page, -(-16 * size // PAGE))
        assert cache.n_held == len(twin.units) <= 2 * whole


def test_counts_fade_so_that_old_fame_ends():
    """Pages that were asked for often long ago make room for those that are asked for now."""
    n_pages = 200
    cache = cache_of(20, n_pages)
    frames = aligned_frames(10, PAGE)
    old, new = np.arange(10, dtype=np.uint32), np.arange(100, 110, dtype=np.uint32)
    for page_ids, times in ((old, 150), (new, 1_000)):
        for _ in range(times):
            missing = np.flatnonzero(~fetch(cache, page_ids, frames))
            content(page_ids, frames)
            cache.keep(page_ids[missing], missing, frames)
            others = np.random.default_rng(0).integers(110, n_pages, 10).astype(np.uint32)
            missing = np.flatnonzero(~fetch(cache, others, frames))
            content(others, frames)
            cache.keep(others[missing], missing, frames)
    assert fetch(cache, new, frames).all()


def test_of_a_large_cache_policies_are_judged_by_a_sample():
    """What was asked for long ago comes back, so that counts win; the twin simulates the same half of the pages."""
    random, n_pages = np.random.default_rng(3), 1_500
    cache, twin = cache_of(300, n_pages), PlainCache(300, n_pages)
    frames = aligned_frames(16, PAGE)
    leaders = set()
    for turn in range(600):
        spread = (n_pages * random.random(16) ** 3).astype(np.uint32)
        page_ids = spread if turn < 300 else np.arange(16 * turn, 16 * turn + 16, dtype=np.uint32) % 280
        held = fetch(cache, page_ids, frames)
        assert held.tolist() == twin.fetch([page_ids.tolist()], 0)
        missing = np.flatnonzero(~held)
        assert cache.keep(page_ids[missing], missing, frames).tolist() == twin.keep(page_ids[missing].tolist())
        leaders.add(twin.leader)
    assert len(leaders) > 1
    assert max(map(len, twin.shadows)) == 150


def test_what_followed_in_other_sessions_is_kept():
    """Four sessions at once, each of a while about one of 16 topics, which are regions that lie far apart."""
    n_pages, n_topics = 1_280, 16
    frames, missed = aligned_frames(2, PAGE), {}
    for told in (False, True):
        cache, random = cache_of(100, n_pages), np.random.default_rng(4)
        topics, missed[told] = [0] * 4, 0
        for turn in range(12_000):
            who = int(random.integers(0, 4))
            if random.random() < 0.05:
                topics[who] = int(random.integers(0, n_topics))
            part, rank = random.integers(0, 5), int(16 * random.random() ** 2)
            page_ids = np.array([256 * part + 16 * topics[who] + rank], np.uint32)
            held = fetch(cache, page_ids, frames, (who + 1) * told)
            missing = np.flatnonzero(~held)
            cache.keep(page_ids[missing], missing, frames)
            missed[told] += len(missing) * (turn > 4_000)
    assert missed[True] < 0.95 * missed[False]


def test_memory_stays_within_the_bound_tables_included():
    for n_bytes in (100_000, 1 << 20, 5_000_001):
        cache = PageCache(n_bytes, PAGE, 3_000)
        assert n_bytes - 1.1 * PAGE < cache.ram_bytes <= n_bytes
    assert PageCache(1 << 30, PAGE, 10).ram_bytes < 11 * PAGE
    # Tables take 7 of 100 bytes of a cache of a tenth of the pages, and 4 of one of all.
    assert cache_of(1_000, 10_000).ram_bytes < 1.07 * 1_000 * PAGE
    assert cache_of(10_000, 10_000).ram_bytes < 1.04 * 10_000 * PAGE


def test_a_cache_without_room_for_a_page_is_refused_with_the_least_that_it_takes():
    with pytest.raises(InputError, match=r"at least 18449 bytes") as caught:
        PageCache(18_448, PAGE, 1_000)
    assert caught.value.field == "cache_bytes"
    assert PageCache(18_449, PAGE, 1_000).ram_bytes == 18_449


def test_a_cache_larger_than_the_machine_is_refused():
    with pytest.raises(InputError, match="larger than this machine's RAM") as caught:
        PageCache(1 << 60, PAGE, 10)
    assert caught.value.field == "cache_bytes"


@kernel
def _evicts(memory, bytes_, place):
    tables = cache_kernels.opened(memory, bytes_)
    if tables.state[cache_kernels.N_USED] > place:
        keep_kernels._evict(tables, place)


def test_who_finds_a_slot_just_before_its_page_goes_gets_nothing():
    """A slot that was freed, and not yet taken again: its version is even, and nothing in it is the page's any more."""
    cache, frames = cache_of(4, 10), aligned_frames(4, PAGE)
    pages = np.arange(4, dtype=np.uint32)
    content(pages, frames)
    cache.keep(pages, np.arange(4), frames)
    slot_of = cache_kernels.opened.py_func(*cache.views[:2]).slot_of
    before = slot_of.copy()
    _evicts(*cache.views[:2], 2)
    (gone,) = np.flatnonzero(slot_of != before)
    slot_of[gone] = before[gone]
    pages, _ = cache.copied(pages)
    assert pages.tolist() == [page for page in range(4) if page != gone]


def test_threads_share_it_without_mixing_pages():
    """Few slots, so that pages are overwritten, and shrunk to some of their bytes, while others copy them."""
    n_pages = 500
    cache = cache_of(20, n_pages)
    wrong: list[int] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        frames = aligned_frames(64, PAGE)
        for _ in range(500):
            page_ids = (n_pages * random.random(64) ** 3).astype(np.uint32)
            held = fetch(cache, page_ids, frames)
            words = frames.view(np.uint32)
            # Each page is shrunk to the same bytes by everybody; the last of them tells a torn copy.
            some = words[np.arange(64), : PAGE // 8]
            wrong.extend(page_ids[held & (some != page_ids[:, None]).any(axis=1)].tolist())
            missing = np.flatnonzero(~held)
            words[missing] = page_ids[missing, None]
            pages, whole = cache.copied(cache.keep(page_ids[missing], missing, frames))
            cache.shrink(pages, whole, np.full(len(pages), PAGE // 2))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 20 <= cache.n_held <= 40


def test_a_page_that_is_written_while_it_is_copied_counts_as_absent():
    """Pages of 4 MiB, so that a copy takes long enough to meet the writer every time."""
    page_bytes, n_pages = 1 << 22, 6
    cache = PageCache.of_pages(2, page_bytes, n_pages)
    tables = cache_kernels.opened.py_func(*cache.views[:2])
    done = threading.Event()

    def write() -> None:
        frames = aligned_frames(n_pages, page_bytes)
        frames[:] = np.arange(n_pages, dtype=np.uint8)[:, None]
        pages, places = np.arange(n_pages, dtype=np.uint32), np.arange(n_pages)
        turn = 0
        while not done.is_set():
            # A page goes every time, and another one has room: what pages promise has no say in it.
            _evicts(*cache.views[:2], 0)
            cache.keep(np.roll(pages, turn), np.roll(places, turn), frames)
            turn += 1
        cache.keep(pages, places, frames)

    frame, one = aligned_frames(1, page_bytes), np.arange(2)

    def fetched(page: int) -> tuple[bool, bool, bool]:
        """Say of a page whether it is held, whether anything was copied, and whether that is no page whole."""
        frame[0, ::4_096] = 255
        held = not len(cache.fetch(np.array([page], np.uint32), one, frame).places)
        return held, bool((frame[0, ::4_096] != 255).any()), bool((frame[0, ::4_096] != page).any())

    writer = threading.Thread(target=write)
    writer.start()
    met, deadline = 0, time.monotonic() + 60
    try:
        while met < 5 and time.monotonic() < deadline:
            # The page that goes next, unless it has just gone.
            page = min(int(tables.page_of[tables.slots[0]]), n_pages - 1)
            held, copied, torn = fetched(page)
            assert not (held and torn)
            met += copied and torn
    finally:
        done.set()
        writer.join()
    assert met == 5
    last = [fetched(page) for page in range(n_pages)]
    assert sum(held for held, _, _ in last) >= 2
    assert not any(held and torn for held, _, torn in last)


def test_a_slot_that_is_being_written_is_not_looked_at():
    cache, frames = cache_of(4, 10), aligned_frames(4, PAGE)
    pages = np.arange(4, dtype=np.uint32)
    content(pages, frames)
    cache.keep(pages, np.arange(4), frames)
    versions = cache_kernels.opened.py_func(*cache.views[:2]).versions
    held = fetch(cache, pages, frames)
    assert held.any()
    versions += np.uint32(1)
    assert not fetch(cache, pages, frames).any()
    versions += np.uint32(1)
    assert (fetch(cache, pages, frames) == held).all()


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [("0", 0), ("4096", 4_096), ("1KiB", 1_024), ("1.5 mib", 1_572_864), ("2GB", 1 << 31), ("3T", None), ("7B", 7)],
)
def test_sizes_are_read_as_people_write_them(size, n_bytes):
    if n_bytes is None:
        with pytest.raises(InputError, match="cache is '3T'"):
            bytes_of(size, "cache")
    else:
        assert bytes_of(size, "cache") == n_bytes


@pytest.mark.parametrize("size", ["", "-1MiB", "many", "1.2.3GiB", "1e9", "nan", "256MiBs"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(InputError, match="256MiB"):
        bytes_of(size, "cache")
