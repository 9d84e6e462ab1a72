"""Build larger and larger sets under one cap of RAM: time and memory of each step, and how they grow.

    python bench/build_scale.py --out bench/results/<date>-scale --work /data/scale --counts 1000000 3000000 10000000
    python bench/build_scale.py --out … --work /data/scale --counts 1000000 --dim 768 --dtype float32

Rows are generated (intrinsic dimension 16, clusters of a power law), with exact neighbours of 1,000 queries. The build
is `annserve build` in a process of its own, whose resident set is watched from outside too; then the index is asked all
queries at recall target 0.95. A set or an index that stands under --work is taken as it is.
Each set writes <kind>-<count>.json; <kind>-growth.json fits the exponent over all that lie in --out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.measure.machine import describe_machine
from annserve.vectors.formats import open_vectors, read_truth
from annserve.vectors.synthetic import SyntheticOptions, generate

_SUFFIX = {"uint8": "u8bin", "float32": "fbin"}
_PREDICTED = (100_000_000, 1_000_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build larger and larger sets under one cap of RAM.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", required=True)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--dtype", choices=_SUFFIX, default="uint8")
    parser.add_argument("--ram-build", default="2GiB")
    parser.add_argument("--ram", default="25%")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    kind = f"{options.dim}d-{options.dtype}"
    options.out.mkdir(parents=True, exist_ok=True)
    for count in options.counts:
        result = measure(options, options.work / f"{kind}-{count}", count)
        write(options.out / f"{kind}-{count}.json", result)
    write(options.out / f"{kind}-growth.json", growth(options.out, kind))


def measure(options: argparse.Namespace, folder: Path, count: int) -> dict[str, Any]:
    """Make a set, build its index, ask it."""
    if not (folder / "set").exists():
        folder.mkdir(parents=True, exist_ok=True)
        asked = SyntheticOptions(count=count, dim=options.dim, dtype=options.dtype, intrinsic_dim=16.0, k=10)
        generate(folder / "set", asked)
    base = folder / "set" / f"base.{_SUFFIX[options.dtype]}"
    index = folder / "index"
    if not (index / "CURRENT").exists():
        command = [sys.executable, "-m", "annserve", "build", str(base), "--out", str(index), "--resume"]
        command += ["--ram-build", options.ram_build, "--ram", options.ram, "--threads", str(options.threads)]
        witness = watched(command)
        (folder / "witness.json").write_text(json.dumps(witness))
    # An index that somebody else built, or that was gone on with, wasn't watched from its beginning.
    witnessed = folder / "witness.json"
    truth, _ = read_truth(folder / "set" / "gt.ibin")
    with open_vectors(folder / "set" / f"query.{_SUFFIX[options.dtype]}") as source:
        queries = source.read(0, source.count)
    with annserve.open(index) as opened:
        report = opened.report
        found = opened.search(queries, 10, recall_target=0.95)
        facts = opened.info()
    return {
        "rows": count,
        "dim": options.dim,
        "dtype": options.dtype,
        "input_bytes": base.stat().st_size,
        "witness": json.loads(witnessed.read_text()) if witnessed.exists() else None,
        "report": report,
        "ram_bytes_per_vector": facts["ram_bytes_per_vector"],
        "asked": {
            "recall_target": 0.95,
            "queries": len(queries),
            "recall": float((found.ids[:, :, None] == truth[:, None, :10].astype(np.uint64)).any(axis=2).mean()),
            "pages": float(found.stats.pages_read.mean()),
        },
        "machine": describe_machine(),
    }


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command; give the largest resident set seen from outside, five times a second, and its CPU time."""
    process = subprocess.Popen(command)
    largest = 0
    while process.poll() is None:
        with suppress(OSError, StopIteration):
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            largest = max(largest, int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"rss_bytes": largest, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def growth(out: Path, kind: str) -> dict[str, Any]:
    """Fit CPU seconds, which a busy machine leaves alone, as rows to a power, and say what that promises of more."""
    results = [json.loads(path.read_text()) for path in out.glob(f"{kind}-*[0-9].json")]
    results.sort(key=lambda one: one["rows"])
    rows, seconds = [one["rows"] for one in results], [one["report"]["seconds"] for one in results]
    if len(results) < 2:
        return {"rows": rows, "seconds": seconds}
    cpu = [one["report"]["cpu_seconds"] for one in results]
    exponent, at_one = np.polyfit(np.log(rows), np.log(cpu), 1)
    return {
        "rows": rows,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_rss_bytes": [one["report"]["peak_rss_bytes"] for one in results],
        "pages": [one["asked"]["pages"] for one in results],
        "recall": [one["asked"]["recall"] for one in results],
        "cpu_exponent": float(exponent),
        "predicted_cpu_seconds": {str(n): float(np.exp(at_one + exponent * np.log(n))) for n in _PREDICTED},
    }


def write(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    print(path)


if __name__ == "__main__":
    main()
