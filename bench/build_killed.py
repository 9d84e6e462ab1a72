"""Kill a build with SIGKILL at random moments, resume it each time, and hold the index against an undisturbed one.

    python bench/build_killed.py --json bench/results/<date>-killed/generated.json [--kills 20] [--count 60000]

Rows are generated. Each run ends at a moment drawn evenly from the time that the undisturbed build took, or when it is
done; a build that ended is compared, and the next begins in a new folder, until there were as many kills as asked for.
Heads, codes, pages and plan must be the same to the byte; reports differ in their times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.build.steps import unfinished_steps
from annserve.index import names
from annserve.measure.machine import describe_machine
from annserve.vectors.synthetic import SyntheticOptions, generate

FILES = (names.HEADS, names.CODES, names.PAGES, names.PLAN)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a build at random moments and resume it.")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        report = measure(Path(place), options.count, options.kills, options.seed)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    if not report["all_the_same"]:
        raise SystemExit("a resumed build made another index")


def measure(place: Path, count: int, kills: int, seed: int) -> dict[str, Any]:
    """Build undisturbed, then kill and resume."""
    generate(place / "set", SyntheticOptions(count=count, dim=128, dtype="uint8", queries=10, k=10))
    command = [sys.executable, "-m", "annserve", "build", str(place / "set" / "base.u8bin"), "--threads", "2"]
    command += ["--calibration-queries", "100", "--resume", "--out"]
    began = time.monotonic()
    subprocess.run([*command, str(place / "undisturbed")], check=True)
    took = time.monotonic() - began
    expected = digests(place / "undisturbed")
    draw = np.random.default_rng(seed)
    moments, finished = [], []
    number = 0
    while len(moments) < kills or not finished:
        folder = place / f"killed-{number}"
        build = subprocess.Popen([*command, str(folder)])
        try:
            build.wait(draw.uniform(0, took) if len(moments) < kills else None)
        except subprocess.TimeoutExpired:
            build.kill()
            build.wait()
            work = folder / names.BUILD_FOLDER
            moments.append({"build": number, "steps_behind": unfinished_steps(work) if work.exists() else []})
            print(len(moments), moments[-1], file=sys.stderr)
            continue
        if build.returncode:
            raise SystemExit(f"a resumed build ended with {build.returncode}")
        finished.append({"build": number, "the_same": digests(folder) == expected})
        shutil.rmtree(folder)
        number += 1
    return {
        "rows": count,
        "undisturbed_seconds": took,
        "kills": moments,
        "finished": finished,
        "all_the_same": all(one["the_same"] for one in finished),
        "files_compared": FILES,
        "version": annserve.__version__,
        "machine": describe_machine(),
    }


def digests(folder: Path) -> dict[str, str]:
    """Sum up the files that decide answers."""
    place = folder / names.segment_name(1)
    return {name: hashlib.blake2b((place / name).read_bytes()).hexdigest() for name in FILES}


if __name__ == "__main__":
    main()
