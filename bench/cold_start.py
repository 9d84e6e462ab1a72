"""How long a fresh process takes to open an index and answer its first query, and to compile the kernels for it.

    python bench/cold_start.py INDEX QUERIES --out bench/results/2026-11-21-calibration/cold-start.json

Each run is a process of its own: with compiled kernels in the cache, and with an empty cache. CPU seconds are given
beside wall seconds, since other work on the machine stretches only these.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

STEPS = """
import json, sys, time
marks = [(0.0, 0.0)]
begun = time.perf_counter()
def mark():
    marks.append((time.perf_counter() - begun, time.process_time()))
marks[0] = (0.0, time.process_time())
import annserve
import numpy as np
annserve.open
mark()
queries = np.array(np.load(sys.argv[2], mmap_mode="r")[:2])
index = annserve.open(sys.argv[1], threads=1)
mark()
index.search(queries[:1], 10)
mark()
index.search(queries[1:2], 10)
mark()
names = ("import", "open", "first_query", "second_query")
steps = {n: {"wall_s": b[0] - a[0], "cpu_s": b[1] - a[1]} for n, a, b in zip(names, marks, marks[1:])}
whole = {"wall_s": marks[3][0], "cpu_s": marks[3][1]}
print(json.dumps({**steps, "open_and_first_query_in_a_fresh_process": whole}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path, help="an npy file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "ANNSERVE_CACHE_DIR": cache}
        empty = run(arguments, environment)
        cached = [run(arguments, environment) for _ in range(arguments.repetitions)]
    result = {
        "index": arguments.index.name,
        "with_empty_cache": empty,
        "with_kernels_cached_median": {
            step: {unit: median(one[step][unit] for one in cached) for unit in ("wall_s", "cpu_s")} for step in empty
        },
        "repetitions": arguments.repetitions,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(arguments: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-c", STEPS, str(arguments.index), str(arguments.queries)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
