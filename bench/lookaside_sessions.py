"""Let a million sessions ask a cache, each something of its own, and watch what memory that takes.

    python bench/lookaside_sessions.py INDEX QUERIES --out bench/results/<date>-cache/sessions.json

Every session asks twice, a query that nobody asked and the same again, so that each leaves an answer, an owner's count
and a place in a ring. The first fiftieth is left out: until then libraries and scratch grow.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

from annserve import collection
from annserve.vectors.formats import read_matrix

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Let a million sessions ask a cache.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--cache-bytes", default="64MiB")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    queries = read_matrix(options.queries).astype(np.float32)
    process, begun = psutil.Process(), time.monotonic()
    grades: Counter[str] = Counter()
    rss: list[int] = []
    step = max(options.sessions // 50, 1)
    with collection.open(options.index, threads=1, cache_bytes=options.cache_bytes) as index:
        for number in range(options.sessions):
            query = queries[number % len(queries)] * np.float32(1 + number / (1 << 22))
            for _ in range(2):
                grades[index.search(query, K, session=b"session %d" % number).stats.cache[0]] += 1
            if number % step == step - 1:
                rss.append(process.memory_info().rss)
        held = index.info()["ram_tiers"]["cache"]
    report = {
        "sessions": options.sessions,
        "cache_bytes_given": options.cache_bytes,
        "cache_bytes_held": held,
        "grades": dict(grades),
        "rss_after_a_50th": rss[0],
        "rss_at_the_end": rss[-1],
        "rss_growth": round(rss[-1] / rss[0] - 1, 4),
        "rss": rss,
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps({name: value for name, value in report.items() if name != "rss"}, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
