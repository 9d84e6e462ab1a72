"""Measure page caches: the share of pages that a query stream finds in RAM, by policy and size.

    python bench/page_cache.py INDEX QUERIES --out bench/results/<date>-io/page-cache-<set>.json

The pages of each query are chosen by the index as in a search; the policies are plain simulations over that stream,
and ``shipped`` is the product's own cache. Streams: the queries in their order, and drawn by Zipf's law
(``--skew``), most popular first, as crowds ask. Belady's optimum looks ahead and bounds them all.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from annserve import collection
from annserve.metric import queries_to_space
from annserve.search.clock import Clock
from annserve.spec import check_vectors
from annserve.storage.cache import PageCache
from annserve.vectors.formats import read_matrix

#: Contents don't matter here: only which pages are held.
PAGE_BYTES = 4_096
SHARES = (0.01, 0.05, 0.1, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure hit rates of page caches.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--skew", type=float, nargs="*", default=[0.7, 1.0], help="exponents of Zipf's law")
    parser.add_argument("--count", type=int, default=12_000, help="queries of a drawn stream")
    parser.add_argument("--out", type=Path, help="write the numbers here too")
    options = parser.parse_args()

    pages, n_pages = chosen_pages(options.index, read_matrix(options.queries), options.k, options.recall)
    random = np.random.default_rng(7)
    order = random.permutation(len(pages))
    streams: dict[str, list[np.ndarray]] = {"in order": pages}
    for skew in options.skew:
        weights = 1 / np.arange(1, len(pages) + 1) ** skew
        drawn = order[random.choice(len(pages), options.count, p=weights / weights.sum())]
        streams[f"zipf {skew:g}"] = [pages[i] for i in drawn]
    report: dict[str, Any] = {
        "pages": n_pages,
        "k": options.k,
        "recall_target": options.recall,
        "streams": {name: measure(stream, n_pages) for name, stream in streams.items()},
    }
    for name, found in report["streams"].items():
        print(f"\n{name}: {found['queries']:,} queries, {found['pages_per_query']:.2f} pages each")
        names = [*POLICIES, "shipped"]
        print("cache    " + "".join(f"{policy:>10}" for policy in names))
        for share, rates in found["hit_rates"].items():
            print(f"{share:<9}" + "".join(f"{rates[policy]:>10.3f}" for policy in names))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def chosen_pages(index: Path, queries: np.ndarray, k: int, recall_target: float) -> tuple[list[np.ndarray], int]:
    """Give the pages of each query, as a search would read them, and the pages of the index."""
    found: list[np.ndarray] = []
    with collection.open(index, threads=1) as opened:
        engine = opened._engine
        for start in range(0, len(queries), 64):
            block = check_vectors(queries[start : start + 64], opened.spec)
            space = queries_to_space(block, opened.spec, engine.norm_max)
            selection = engine.chooser.choose(space, k, recall_target, Clock()).selection
            found += np.split(selection.page_ids, selection.offsets[1:-1])
        return found, engine.segment.n_pages


def measure(stream: list[np.ndarray], n_pages: int) -> dict[str, Any]:
    asked = np.concatenate(stream).tolist()
    rates: dict[str, dict[str, float]] = {}
    for share in SHARES:
        size = max(int(share * n_pages), 1)
        rates[f"{share:.0%}"] = {name: policy(asked, size) / len(asked) for name, policy in POLICIES.items()}
        rates[f"{share:.0%}"]["shipped"] = shipped(stream, size, n_pages) / len(asked)
    return {
        "queries": len(stream),
        "pages_per_query": len(asked) / len(stream),
        "pages_seen_share": len(set(asked)) / n_pages,
        "hit_rates": rates,
    }


def shipped(stream: list[np.ndarray], size: int, n_pages: int) -> int:
    """Ask the product's cache, query by query."""
    cache = PageCache(size * (PAGE_BYTES + 12) + 7 * n_pages + 76, PAGE_BYTES, n_pages)
    page = np.zeros((256, PAGE_BYTES), np.uint8)
    hits = 0
    for page_ids in stream:
        for start in range(0, len(page_ids), 256):
            part = page_ids[start : start + 256]
            found = cache.fetch(part, page[: len(part)])
            hits += int(found.sum())
            cache.keep(part[~found], np.flatnonzero(~found), page)
    return hits


def fifo(asked: list[int], size: int) -> int:
    held, queue, hits = set(), deque(), 0
    for page in asked:
        if page in held:
            hits += 1
            continue
        if len(held) == size:
            held.remove(queue.popleft())
        held.add(page)
        queue.append(page)
    return hits


def lru(asked: list[int], size: int) -> int:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for page in asked:
        if page in held:
            hits += 1
            held.move_to_end(page)
            continue
        if len(held) == size:
            held.popitem(last=False)
        held[page] = None
    return hits


def clock(asked: list[int], size: int) -> int:
    """Second chance: a page that was asked for again goes round once more."""
    asked_again: dict[int, bool] = {}
    queue, hits = deque(), 0
    for page in asked:
        if page in asked_again:
            hits += 1
            asked_again[page] = True
            continue
        if len(asked_again) == size:
            while asked_again[oldest := queue.popleft()]:
                asked_again[oldest] = False
                queue.append(oldest)
            del asked_again[oldest]
        asked_again[page] = False
        queue.append(page)
    return hits


def lfu(asked: list[int], size: int) -> int:
    """Least frequently asked for, with counts kept for ever, of pages that aren't held too."""
    counts: dict[int, int] = {}
    held: set[int] = set()
    heap: list[tuple[int, int]] = []
    hits = 0
    for page in asked:
        counts[page] = counts.get(page, 0) + 1
        if page in held:
            hits += 1
            continue
        if len(held) == size:
            while True:
                count, rarest = heapq.heappop(heap)
                if counts[rarest] == count:
                    break
                heapq.heappush(heap, (counts[rarest], rarest))
            # One that is asked for less often than all that are held isn't taken in.
            if count > counts[page]:
                heapq.heappush(heap, (count, rarest))
                continue
            held.remove(rarest)
        held.add(page)
        heapq.heappush(heap, (counts[page], page))
    return hits


def s3fifo(asked: list[int], size: int, small_share: float = 0.1, threshold: int = 1) -> int:
    """Three queues: new pages prove themselves in a small one, and those that left it lately are remembered [1].

    [1] Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
    """
    small_size = max(int(small_share * size), 1)
    counts: dict[int, int] = {}
    small, main, ghost = deque(), deque(), OrderedDict()
    hits = 0
    for page in asked:
        if page in counts:
            hits += 1
            counts[page] = min(counts[page] + 1, 3)
            continue
        while len(counts) >= size:
            if len(small) >= small_size or not main:
                oldest = small.popleft()
                if counts[oldest] >= threshold:
                    counts[oldest] = 0
                    main.append(oldest)
                    continue
                del counts[oldest]
                ghost[oldest] = None
                if len(ghost) > size:
                    ghost.popitem(last=False)
            else:
                oldest = main.popleft()
                if counts[oldest] > 0:
                    counts[oldest] -= 1
                    main.append(oldest)
                else:
                    del counts[oldest]
        counts[page] = 0
        if page in ghost:
            del ghost[page]
            main.append(page)
        else:
            small.append(page)
    return hits


def belady(asked: list[int], size: int) -> int:
    """Evict what is asked for again last."""
    never = len(asked)
    following, last = [never] * len(asked), {}
    for i in range(len(asked) - 1, -1, -1):
        following[i] = last.get(asked[i], never)
        last[asked[i]] = i
    next_of: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    hits = 0
    for i, page in enumerate(asked):
        if page in next_of:
            hits += 1
        elif len(next_of) == size:
            while next_of.get((top := heapq.heappop(heap))[1]) != -top[0]:
                pass
            if following[i] >= -top[0]:  # what comes is needed later than all that is held
                heapq.heappush(heap, top)
                continue
            del next_of[top[1]]
        next_of[page] = following[i]
        heapq.heappush(heap, (-following[i], page))
    return hits


POLICIES: dict[str, Callable[[list[int], int], int]] = {
    "fifo": fifo,
    "lru": lru,
    "clock": clock,
    "lfu": lfu,
    "s3-fifo": s3fifo,
    "belady": belady,
}

if __name__ == "__main__":
    main()
