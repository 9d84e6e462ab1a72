"""Page caches as plain as can be: how many pages of a stream each policy has to read.

A stream is pages in the order they are asked for; each comes with a bit that says whether it may be needless to keep.
Names are those of the literature, but for ``counts``, the product's own cache (``storage.cache``), and

- ``discard``, paging with one-bit predictions [1]: on a miss a page whose latest bit is 1 goes, and if there is none,
  all go (*FlushWhenAll0s*). Where that missed more than LRU of late, LRU is followed: wrong bits cost little;
- ``phase``, its other form, which marks: of the pages not asked for in this phase, one whose bit is 1 goes first
  (*Mark&Predict*), guarded in the same way;
- ``belady``, which looks ahead, and bounds them all.

References
----------
[1] Antoniadis et al., "Paging with Succinct Predictions", ICML 2023.
[2] Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023; Zhang et al., "SIEVE", NSDI 2024.
[3] Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM TOS 2017.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from annserve.storage.cache import PageCache


class Stream(NamedTuple):
    """Pages in the order they are asked for.

    Attributes
    ----------
    pages, bits : sequence of int
        Page by page; the latter as of ``predictions``.
    offsets : sequence of int
        Query i asks for ``pages[offsets[i] : offsets[i + 1]]``.
    sessions : sequence of int
        Of each query; 0 for nobody in particular.
    """

    pages: Sequence[int]
    bits: Sequence[int]
    offsets: Sequence[int]
    sessions: Sequence[int]


Policy = Callable[[Stream, int], int]
#: Contents don't matter here: pages are as small as frames may be.
_FRAME_BYTES = 4_096
#: What misses count of when as many pages were asked for as a cache holds.
_FADING = 0.9


def lru(stream: Stream, size: int) -> int:
    """Evict what was asked for least recently."""
    held: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for page in stream.pages:
        if page in held:
            held.move_to_end(page)
            continue
        misses += 1
        if len(held) == size:
            held.popitem(last=False)
        held[page] = None
    return misses


def clock(stream: Stream, size: int) -> int:
    """Evict the oldest; one that was asked for again goes round once more."""
    again: dict[int, bool] = {}
    queue: deque[int] = deque()
    misses = 0
    for page in stream.pages:
        if page in again:
            again[page] = True
            continue
        misses += 1
        if len(again) == size:
            while again[oldest := queue.popleft()]:
                again[oldest] = False
                queue.append(oldest)
            del again[oldest]
        again[page] = False
        queue.append(page)
    return misses


def sieve(stream: Stream, size: int) -> int:
    """Evict as CLOCK does, but let what stays keep its place [2]."""
    visited: dict[int, bool] = {}
    order: list[int] = []  # oldest first
    hand = misses = 0
    for page in stream.pages:
        if page in visited:
            visited[page] = True
            continue
        misses += 1
        if len(order) == size:
            hand %= size
            while visited[order[hand]]:
                visited[order[hand]] = False
                hand = (hand + 1) % size
            del visited[order.pop(hand)]
        visited[page] = False
        order.append(page)
    return misses


def s3fifo(stream: Stream, size: int) -> int:
    """Three queues: new pages prove themselves in a small one, and those that left it lately are remembered [2]."""
    small_size = max(size // 10, 1)
    counts: dict[int, int] = {}
    small: deque[int] = deque()
    main: deque[int] = deque()
    ghost: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for page in stream.pages:
        if page in counts:
            counts[page] = min(counts[page] + 1, 3)
            continue
        misses += 1
        while len(counts) >= size:
            if len(small) >= small_size or not main:
                oldest = small.popleft()
                if counts[oldest]:
                    counts[oldest] = 0
                    main.append(oldest)
                    continue
                del counts[oldest]
                ghost[oldest] = None
                if len(ghost) > size:
                    ghost.popitem(last=False)
            elif counts[oldest := main.popleft()]:
                counts[oldest] -= 1
                main.append(oldest)
            else:
                del counts[oldest]
        counts[page] = 0
        (main if page in ghost else small).append(page)
        ghost.pop(page, None)
    return misses


def wtinylfu(stream: Stream, size: int) -> int:
    """A small LRU window before a segmented LRU, which takes in what was asked for more often than its victim [3]."""
    window_size = max(size // 100, 1)
    safe_size = int(0.8 * (size - window_size))
    window: OrderedDict[int, None] = OrderedDict()
    trial: OrderedDict[int, None] = OrderedDict()
    safe: OrderedDict[int, None] = OrderedDict()
    counts: Counter[int] = Counter()
    misses = 0
    for n, page in enumerate(stream.pages):
        counts[page] += 1
        if n % (10 * size) == 10 * size - 1:
            counts = Counter({one: count // 2 for one, count in counts.items()})
        if page in window:
            window.move_to_end(page)
        elif page in safe:
            safe.move_to_end(page)
        elif page in trial:
            del trial[page]
            safe[page] = None
            if len(safe) > safe_size:
                trial[safe.popitem(last=False)[0]] = None
        else:
            misses += 1
            window[page] = None
            if len(window) > window_size:
                leaving = window.popitem(last=False)[0]
                if len(trial) + len(safe) >= size - window_size:
                    part = trial or safe
                    victim = next(iter(part))
                    if counts[victim] >= counts[leaving]:
                        continue
                    del part[victim]
                trial[leaving] = None
    return misses


def counts(stream: Stream, size: int) -> int:
    """Ask the product's own cache, with room for so many whole pages."""
    pages, offsets = np.array(stream.pages, np.uint32), np.array(stream.offsets)
    cache = PageCache.of_pages(size, _FRAME_BYTES, int(pages.max(initial=0)) + 1)
    frame = np.zeros((int(np.diff(offsets).max(initial=1)), _FRAME_BYTES), np.uint8)
    misses = 0
    for i, session in enumerate(stream.sessions):
        its = pages[offsets[i] : offsets[i + 1]]
        absent = cache.fetch(its, np.array([0, len(its)]), frame, session)
        misses += len(absent.places)
        cache.keep(absent.page_ids, absent.places, frame)
    return misses


def _flush_when_all_are_kept(held: dict[int, int], marked: set[int], chance: random.Random) -> None:
    victim = next((page for page, bit in held.items() if bit), None)
    if victim is None:
        held.clear()
    else:
        del held[victim]


def _mark_and_predict(held: dict[int, int], marked: set[int], chance: random.Random) -> None:
    free = [page for page in held if page not in marked]
    if not free:
        marked.clear()
        free = list(held)
    needless = [page for page in free if held[page]]
    del held[chance.choice(needless or free)]


def _guarded(stream: Stream, size: int, evict: Callable[..., None]) -> int:
    """Follow a predicted policy or LRU, whichever missed less of late; both are simulated beside what is held."""
    predicted: dict[int, int] = {}  # page → its latest bit
    marked: set[int] = set()
    recent: OrderedDict[int, None] = OrderedDict()
    held: set[int] = set()
    chance = random.Random(1)
    missed_predicted = missed_recent = 0.0
    misses = 0
    for n, (page, bit) in enumerate(zip(stream.pages, stream.bits)):
        if page not in predicted:
            missed_predicted += 1
            if len(predicted) == size:
                evict(predicted, marked, chance)
        predicted[page] = bit
        marked.add(page)
        if page not in recent:
            missed_recent += 1
            if len(recent) == size:
                recent.popitem(last=False)
        recent[page] = None
        recent.move_to_end(page)
        if page not in held:
            misses += 1
            if len(held) == size:
                followed = predicted if missed_predicted <= missed_recent else recent
                held.remove(next(one for one in held if one not in followed))
            held.add(page)
        if n % size == size - 1:
            missed_predicted, missed_recent = missed_predicted * _FADING, missed_recent * _FADING
    return misses


def discard(stream: Stream, size: int) -> int:
    """Evict what its bit calls needless; flush if there is none."""
    return _guarded(stream, size, _flush_when_all_are_kept)


def phase(stream: Stream, size: int) -> int:
    """Evict of the unmarked pages one that its bit calls needless, or any."""
    return _guarded(stream, size, _mark_and_predict)


def belady(stream: Stream, size: int) -> int:
    """Evict what is asked for again last, or don't take in what comes."""
    asked = stream.pages
    never = len(asked)
    following, last = [never] * len(asked), dict[int, int]()
    for i in range(len(asked) - 1, -1, -1):
        following[i] = last.get(asked[i], never)
        last[asked[i]] = i
    next_of: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    misses = 0
    for i, page in enumerate(asked):
        if page not in next_of:
            misses += 1
            if len(next_of) == size:
                while next_of.get((top := heapq.heappop(heap))[1]) != -top[0]:
                    pass
                if following[i] >= -top[0]:
                    heapq.heappush(heap, top)
                    continue
                del next_of[top[1]]
        next_of[page] = following[i]
        heapq.heappush(heap, (-following[i], page))
    return misses


POLICIES: dict[str, Policy] = {
    "lru": lru,
    "clock": clock,
    "sieve": sieve,
    "s3-fifo": s3fifo,
    "w-tinylfu": wtinylfu,
    "discard": discard,
    "phase": phase,
    "counts": counts,
    "belady": belady,
}
