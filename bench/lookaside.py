"""Measure the lookaside cache on traces: grades, SSD pages, and that no bit of an answer differs.

    python bench/lookaside.py sgd=INDEX clinc=INDEX squad=INDEX --data DATA --out bench/results/<date>-cache/traces.json

Each trace goes query by query through the engine, without a cache and with one of 5, 10 and 20 % of the index's bytes
on disk, whose pages are whole, or packed. Traces: the dialogues of ``sgd-minilm`` as recorded, and 32 of them at once;
the intents of ``clinc-minilm``; and questions of ``squad-minilm`` that hop: each next query is the last one moved
halfway to one of its two best hits, three hops deep (seven queries a question, a session each). ``lru`` is a plain LRU
of pages in the same bytes, without tables; beside whole pages it is run and timed too. Who comes first changes from
query to query.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lookaside_lru import with_lru

from annserve import collection
from annserve.measure.cache_policies import belady, lru
from annserve.measure.cache_trace import CacheTrace, predictions, record_trace
from annserve.results import GRADES, SearchResult

K, RECALL = 10, 0.95
SHARES = (0.05, 0.1, 0.2)
WIDTH = 32
HITS, HOPS, STEP = 2, 3, 0.5


class Trace(NamedTuple):
    index: Path
    queries: np.ndarray
    sessions: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the lookaside cache on traces.")
    parser.add_argument("indexes", nargs="+", metavar="SET=INDEX")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="queries of each trace at most")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    indexes = dict(one.split("=", 1) for one in options.indexes)
    report: dict[str, Any] = {"k": K, "recall_target": RECALL, "traces": {}}
    for name, trace in traces({name: Path(path) for name, path in indexes.items()}, options.data).items():
        limit = options.limit or len(trace.queries)
        report["traces"][name] = measure(trace._replace(queries=trace.queries[:limit], sessions=trace.sessions[:limit]))
        print(name, text_of(report["traces"][name]), sep="\n", flush=True)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")


def traces(indexes: dict[str, Path], data: Path) -> dict[str, Trace]:
    found = {}
    if "sgd" in indexes:
        queries = np.load(data / "sgd-minilm" / "queries.f16.npy").astype(np.float32)
        sessions = np.load(data / "sgd-minilm" / "session.npy")
        found["dialogues"] = Trace(indexes["sgd"], queries, sessions)
        order = interleaved(sessions)
        found[f"dialogues, {WIDTH} at once"] = Trace(indexes["sgd"], queries[order], sessions[order])
    if "clinc" in indexes:
        queries = np.load(data / "clinc-minilm" / "queries.f16.npy").astype(np.float32)
        found["intents"] = Trace(indexes["clinc"], queries, np.zeros(len(queries), np.int32))
    if "squad" in indexes:
        folder = data / "squad-minilm"
        questions = np.load(folder / "queries.f16.npy").astype(np.float32)
        found["hops"] = hops(indexes["squad"], questions, np.load(folder / "base.f16.npy").astype(np.float32))
    return found


def interleaved(sessions: np.ndarray) -> np.ndarray:
    """Turns of so many dialogues at a time, each next one of any of them."""
    random = np.random.default_rng(0)
    left = {one: np.flatnonzero(sessions == one).tolist() for one in dict.fromkeys(sessions.tolist())}
    waiting = list(left)[::-1]
    active = [waiting.pop() for _ in range(WIDTH)]
    order = []
    while active:
        at = int(random.integers(len(active)))
        order.append(left[active[at]].pop(0))
        if not left[active[at]]:
            if waiting:
                active[at] = waiting.pop()
            else:
                active.pop(at)
    return np.array(order)


def hops(index: Path, questions: np.ndarray, base: np.ndarray) -> Trace:
    """Let each question branch towards its best hits, found in the index."""
    queries, sessions = [], []
    with collection.open(index, threads=1) as opened:
        for session, question in enumerate(questions):
            level = [question / np.linalg.norm(question)]
            for hop in range(HOPS):
                queries += level
                sessions += [session] * len(level)
                if hop < HOPS - 1:
                    found = opened.search(np.array(level), HITS, recall_target=RECALL).ids
                    moved = [(1 - STEP) * q + STEP * base[id_] for q, ids in zip(level, found) for id_ in ids]
                    level = [(one / np.linalg.norm(one)).astype(np.float32) for one in moved]
    return Trace(index, np.array(queries, np.float32), np.array(sessions, np.int32))


def measure(trace: Trace) -> dict[str, Any]:
    plan = record_trace(trace.index, trace.queries, K, RECALL, trace.sessions)
    with collection.open(trace.index, threads=1) as off:
        disk = off.info()["disk_bytes"]
        expected = off.search(trace.queries, K, recall_target=RECALL)
    sizes = {
        f"{share:.0%}{' packed' * packed}": with_cache(trace, plan, int(share * disk), packed, expected)
        for share in SHARES
        for packed in (False, True)
    }
    return {
        "queries": len(trace.queries),
        "disk_bytes": disk,
        "pages": plan.n_pages,
        "pages_per_query": float(expected.stats.pages_read.mean()),
        "repeats": float((plan.first != np.arange(len(plan))).mean()),
        "caches": sizes,
    }


def with_cache(trace: Trace, plan: CacheTrace, n_bytes: int, packed: bool, expected: Any) -> dict[str, Any]:
    grades: Counter[str] = Counter()
    read, differing, lru_read = 0, 0, 0
    seconds = np.empty((3, len(trace.queries)))
    with (
        collection.open(trace.index, threads=1) as off,
        collection.open(trace.index, threads=1, cache_bytes=n_bytes, cache_packed=packed) as on,
        with_lru(collection.open(trace.index, threads=1), n_bytes) as beside,
    ):
        indexes = [off, on] if packed else [off, on, beside]
        for i, query in enumerate(trace.queries):
            session = f"{trace.sessions[i]}"
            for turn in range(len(indexes)):
                which = (i + turn) % len(indexes)
                index = indexes[which]
                seconds[which, i], found = timed(
                    lambda q=query, s=session, of=index: of.search(q, K, recall_target=RECALL, session=s)
                )
                same = (found.ids[0] == expected.ids[i]).all() and (found.distances[0] == expected.distances[i]).all()
                differing += not same
                if index is on:
                    grades[found.stats.cache[0]] += 1
                    read += int(found.stats.pages_read[0])
                elif index is beside:
                    lru_read += int(found.stats.pages_read[0])
        counts = on.cache_counts()
        used = on.info()["ram_tiers"]["cache"]
    slots, n_queries = n_bytes // plan.page_bytes, len(trace.queries)
    asked = plan.stream(np.ones(n_queries, np.bool_), predictions(plan))
    plain, best = lru(asked, slots), belady(asked, slots)
    return {
        "bytes": n_bytes,
        "bytes_used": used,
        "grades": {grade: grades[grade] / n_queries for grade in GRADES[1:]},
        "pages_per_query": read / n_queries,
        "fewer_than_none": 1 - read / len(plan.pages),
        "fewer_than_lru": 1 - read / plain,
        "lru_to_belady_closed": (plain - read) / (plain - best),
        "lru_pages_per_query": plain / n_queries,
        "belady_pages_per_query": best / n_queries,
        "answers_that_differ": differing,
        "without_us": told(seconds[0]),
        "with_us": told(seconds[1]),
        **({} if packed else {"lru_us": told(seconds[2]), "lru_pages_per_query_run": lru_read / n_queries}),
        "counts": counts,
    }


def timed(search: Callable[[], SearchResult]) -> tuple[float, SearchResult]:
    begun = time.perf_counter()
    found = search()
    return time.perf_counter() - begun, found


def told(seconds: np.ndarray) -> dict[str, float]:
    """Give percentiles and mean in microseconds."""
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e6
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "mean": round(float(seconds.mean() * 1e6), 1)}


def text_of(found: dict[str, Any]) -> str:
    lines = [f"  {found['queries']:,} queries, {found['pages_per_query']:.2f} pages each without a cache"]
    for size, one in found["caches"].items():
        grades = ", ".join(f"{share:.1%} {grade}" for grade, share in one["grades"].items() if share)
        lines.append(
            f"  {size}: {one['pages_per_query']:.2f} pages, {one['fewer_than_none']:.1%} fewer than none, "
            f"{one['fewer_than_lru']:.1%} fewer than LRU, {one['answers_that_differ']} differ; {grades}; "
            f"us p50/p99 {one['without_us']['p50']:.0f}/{one['without_us']['p99']:.0f} without, "
            f"{one['with_us']['p50']:.0f}/{one['with_us']['p99']:.0f} with"
            + (f", {one['lru_us']['p50']:.0f}/{one['lru_us']['p99']:.0f} with LRU" if "lru_us" in one else "")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
