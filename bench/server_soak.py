"""Hours of a server: open-loop load on several collections, new versions published meanwhile, every answer checked.

    python bench/server_soak.py photos=INDEX:QUERIES talks=INDEX:QUERIES --seconds 3600 --json FILE

Tells by the minute what was answered, how fast, and what memory each process of the server has: its anonymous memory
(what it alone has made), what it shares with nobody, and its share of everything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from server import K, loaded, message_of, outcomes, started, total
from server_memory import family_of, memory_of

import annserve
from annserve.index.manifest import read_current
from annserve.index.publish import publish
from annserve.measure.machine import describe_machine
from annserve.rpc import search_pb2
from annserve.vectors.formats import read_matrix

QUERIES = 3_000


def places_of(text: str) -> tuple[str, Path, Path]:
    """Take ``NAME=INDEX:QUERIES`` apart."""
    name, _, places = text.partition("=")
    index, _, queries = places.partition(":")
    return name, Path(index), Path(queries)


@dataclass(frozen=True)
class Served:
    """A collection under load: its name, the index, its requests, each with the ids that are to come."""

    name: str
    index: Path
    lines: list[str]

    @classmethod
    def of(cls, text: str) -> Served:
        """Read ``NAME=INDEX:QUERIES``, and ask the index for what is right."""
        name, index, queries = places_of(text)
        rows = read_matrix(queries)[:QUERIES]
        with annserve.open(index, threads=1) as opened:
            ids = opened.search(rows, K).ids
        lines = []
        for i in range(len(rows)):
            request = search_pb2.SearchRequest.FromString(message_of(rows[i : i + 1]))
            request.collection = name
            lines.append(f"{request.SerializeToString().hex()} {ids[i].tobytes().hex()}")
        return cls(name, index, lines)


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Load the server for so long and tell what came of it."""
    served = [Served.of(text) for text in options.collections]
    lines = [line for group in zip(*(one.lines for one in served)) for line in group]
    slice_seconds = min(60.0, options.seconds / 5)
    with copied(served, options.scratch) as folders, serving(options, folders) as (process, address):
        loads = loaded(
            options, lines, options.loads, address=address, rate=options.rate, seconds=options.seconds, timeout=5.0,
            slice_seconds=slice_seconds, through=options.through.split(","),
        )  # fmt: skip
        begun, swapped, samples = time.monotonic() + 3, 0, []
        while any(load.poll() is None for load in loads):
            time.sleep(min(slice_seconds / 12, 5.0))
            passed = time.monotonic() - begun
            if passed > len(samples) * slice_seconds / 6:
                told = {"seconds": round(passed, 1), "cores": cores_of(process), "stolen": stolen(cores_of(process))}
                samples.append({**told, "processes": memory_of(process)})
                if options.show:
                    print(json.dumps(samples[-1]), flush=True)
            if swapped < options.swaps and passed > (swapped + 1) * options.seconds / (options.swaps + 1):
                swap(folders[swapped % len(folders)])
                swapped += 1
        found = outcomes(loads)
        versions = [read_current(folder).snapshot for folder in folders]
    return {
        "swaps": swapped,
        "versions": versions,
        "sent": sum(one["sent"] for one in found),
        "answered": total(found),
        "wrong": sum(one["wrong"] for one in found),
        "slice_seconds": slice_seconds,
        "loads": found,
        "memory": samples,
        "growth_of_workers": growth(samples, options.seconds / (options.swaps + 1)),
    }


def growth(samples: list[dict[str, Any]], swap_seconds: float) -> dict[str, dict[str, float]]:
    """Give by how much workers grew until the last fifth of the time, medians each.

    Against the time before the first swap, that between the first and the second, and the second fifth.
    """
    fifth = len(samples) // 5
    since = {
        "start": [one for one in samples if one["seconds"] < swap_seconds],
        "first_swap": [one for one in samples if swap_seconds + 5 < one["seconds"] < 2 * swap_seconds],
        "second_fifth": samples[fifth : 2 * fifth],
    }

    def median(which: list[dict[str, Any]], size: str) -> float:
        return float(np.median([sum(one[size] for one in sample["processes"][2:]) for sample in which]))

    return {
        name: {
            size: median(samples[-fifth:], size) / median(which, size) - 1
            for size in ("rss_bytes", "uss_bytes", "anonymous_bytes")
        }
        for name, which in since.items()
        if fifth and which
    }


def swap(folder: Path) -> None:
    """Publish the version that there is under the next number."""
    manifest = read_current(folder)
    publish(folder, replace(manifest, snapshot=manifest.snapshot + 1))


def cores_of(process: subprocess.Popen[str]) -> list[int]:
    """Give the cores that the last worker may use: on a machine that others measure on, they change."""
    return list(family_of(process)[-1].cpu_affinity())


def stolen(cores: list[int]) -> list[float]:
    """Give the seconds that the host has taken from each core so far, for other machines."""
    lines = dict(line.split(maxsplit=1) for line in Path("/proc/stat").read_text().splitlines())
    return [int(lines[f"cpu{core}"].split()[7]) / os.sysconf("SC_CLK_TCK") for core in cores]


@contextmanager
def copied(served: list[Served], scratch: Path | None) -> Iterator[list[Path]]:
    """Copy the indexes to where new versions may be published."""
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folders = [Path(place) / one.name for one in served]
        for one, folder in zip(served, folders):
            subprocess.run(["cp", "-r", str(one.index), str(folder)], check=True)
        yield folders


def serving(options: argparse.Namespace, folders: list[Path]) -> Any:
    """Serve each folder under its name."""
    places = [f"{folder.name}={folder}" for folder in folders]
    settings = ("--listen", "127.0.0.1:0", "--workers", str(options.workers), "--threads", "1")
    waiting = ("--waiting-max", str(options.waiting_max))
    return started(options.server_cores, "-m", "annserve", "serve", *places, *settings, *waiting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", metavar="NAME=INDEX:QUERIES")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=3_600.0)
    parser.add_argument("--rate", type=float, default=300.0, help="Calls a second.")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--waiting-max", type=int, default=128, help="Calls of a collection that may wait.")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--through", default="grpc,client", help="Of the processes of load, in turn: bare calls, ours.")
    parser.add_argument("--loads", type=int, default=2, help="Processes of load.")
    parser.add_argument("--server-cores", default="3")
    parser.add_argument("--load-cores", default="2")
    parser.add_argument("--scratch", type=Path, help="Where the indexes are copied that get new versions.")
    parser.add_argument("--show", action="store_true", help="Print memory as it is sampled.")
    options = parser.parse_args()
    found = soak(options)
    given = {name: value for name, value in vars(options).items() if name not in ("json", "scratch", "show")}
    given["collections"] = [f"{name}={index.name}" for name, index, _ in map(places_of, options.collections)]
    machine = describe_machine(places_of(options.collections[0])[1])
    told = {"machine": machine, "options": given, **found}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name not in ("loads", "memory")}, indent=1))


if __name__ == "__main__":
    main()
