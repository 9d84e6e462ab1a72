"""Measure storage: random 4 KB reads a second by reader and depth, and the checksum of a page.

    python bench/storage.py --json bench/results/<date>-storage/storage.json

Each reader reads batches of `depth` random pages, all in flight together, from a file of 1 GiB that is
written to `--folder` and removed. Pages never repeat within a run, and the page cache is emptied of the file
before each, so that readers through the page cache are measured on the device too. Readers take turns in every
round; the table shows the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from annserve.kernels.jit import kernel
from annserve.storage import crc_kernels
from annserve.storage.probe import empty_cache, file_of_pages, measure_reads
from annserve.storage.reader import open_reader

PAGE_BYTES = 4_096
DEPTHS = (1, 8, 32, 128, 1_024)
KINDS = ("uring", "pread", "mmap")
NAMES = ("reads_per_second", "batch_us_mean", "cpu_us_per_read")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure page readers and the page checksum.")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the file is written")
    parser.add_argument("--mib", type=int, default=1_024, help="size of the file")
    parser.add_argument("--seconds", type=float, default=1.5, help="time of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()

    report: dict[str, Any] = {"machine": machine(), "options": {"mib": options.mib, "rounds": options.rounds}}
    with file_of_pages(options.folder, options.mib) as path:
        n_pages = (options.mib << 20) // PAGE_BYTES
        report["reads"] = measure_readers(path, n_pages, options.seconds, options.rounds)
    report["checksum"] = measure_checksum()
    print_report(report)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def measure_readers(path: Path, n_pages: int, seconds: float, rounds: int) -> list[dict[str, Any]]:
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    direct: dict[str, bool] = {}
    for round_number in range(rounds):
        random = np.random.default_rng(round_number)
        for depth in DEPTHS:
            for kind in KINDS:
                # Mapped pages stay in the cache: no reader may be open when it is emptied.
                empty_cache(path)
                reader = open_reader(path, 0, PAGE_BYTES, n_pages, kind)
                direct[kind] = reader.direct
                page_ids = random.permutation(n_pages).astype(np.uint32)
                found = measure_reads(reader, page_ids, depth, seconds)
                runs.setdefault((kind, depth), []).append(dict(zip(NAMES, found)))
                reader.close()
                del reader
    return [
        {
            "reader": kind,
            "direct": direct[kind],
            "depth": depth,
            **{name: statistics.median(run[name] for run in found) for name in found[0]},
            "rounds": found,
        }
        for (kind, depth), found in runs.items()
    ]


@kernel
def sum_pages(pages: np.ndarray, n_times: int, portable: bool) -> int:
    total = np.uint32(0)
    for i in range(n_times):
        page = pages[i % len(pages)]
        if portable:
            total ^= crc_kernels.crc32c_of_portable(page, 4, len(page), np.uint32(0))
        else:
            total ^= crc_kernels.crc32c_of(page, 4, len(page), np.uint32(0))
    return total


def measure_checksum() -> list[dict[str, Any]]:
    """Sum 64 pages (256 KB, in the L2 cache, as after a read) over and over; the best of five runs."""
    pages = np.random.default_rng(0).integers(0, 256, (64, PAGE_BYTES), dtype=np.uint8)
    found = []
    for portable in (False, True):
        sum_pages(pages, 1, portable)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            sum_pages(pages, 50_000, portable)
            seconds.append(time.perf_counter() - start)
        page_ns = 1e9 * min(seconds) / 50_000
        name = "tables" if portable else "instruction" if crc_kernels.HAS_CRC_INSTRUCTION else "tables (no SSE4.2)"
        found.append({"kernel": name, "page_ns": page_ns, "gb_per_second": (PAGE_BYTES - 4) / page_ns})
    return found


def machine() -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "linux": platform.release(),
        "python": platform.python_version(),
    }


def print_report(report: dict[str, Any]) -> None:
    print(f"random {PAGE_BYTES} B reads a second, by pages in one batch")
    print("reader  " + "".join(f"{depth:>10,}" for depth in DEPTHS))
    for kind in KINDS:
        rates = [entry["reads_per_second"] for entry in report["reads"] if entry["reader"] == kind]
        print(f"{kind:8}" + "".join(f"{rate:>10,.0f}" for rate in rates))
    print("CPU microseconds a read")
    for kind in KINDS:
        costs = [entry["cpu_us_per_read"] for entry in report["reads"] if entry["reader"] == kind]
        print(f"{kind:8}" + "".join(f"{cost:>10.1f}" for cost in costs))
    for entry in report["checksum"]:
        print(f"crc32c, {entry['kernel']}: {entry['page_ns']:.0f} ns a page, {entry['gb_per_second']:.1f} GB/s")


if __name__ == "__main__":
    main()
