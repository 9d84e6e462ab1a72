"""The main job, measured: build, verify, serve in another process, ask through the client, ask every row for itself.

    python bench/main_job.py --out bench/results/2026-11-21-main [--only sift-20B …] [--threads 2]

Each case is one JSON file: what ``annserve bench search`` reports from this process and through a server, the build
report, and how many rows found themselves. The bundled set is in the repository; the others are read from the folder
that ANNSERVE_SHARED names (default ../shared), or left out where it is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.vectors.formats import read_matrix

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ANNSERVE_SHARED", ROOT.parent / "shared")) / "data"
Rows = np.ndarray[Any, np.dtype[Any]]
MINILM = ("base.f16.npy", "queries.f16.npy", "gt.ids.npy", "cosine")
#: Set → folder, base, queries, truth, metric.
SETS = {
    "stdlib": (ROOT / "datasets/stdlib-minilm", *MINILM),
    "sift": (SHARED / "sift-photos", "base.u8bin", "query.u8bin", "gt.ibin100", "l2"),
    "squad": (SHARED / "squad-minilm", *MINILM),
    "sgd": (SHARED / "sgd-minilm", *MINILM),
    "clinc": (SHARED / "clinc-minilm", *MINILM),
}
CASES = {
    f"{name}-{ram}": (name, ram)
    for name, budgets in (
        ("stdlib", ("none", "64B", "25%")),
        ("sift", ("none", "12B", "20B", "32B", "48B", "80B")),
        ("squad", ("48B", "64B", "25%")),
        ("sgd", ("48B", "64B")),
        ("clinc", ("48B", "64B")),
    )
    for ram in budgets
}
RECALL = "0.80,0.90,0.95,0.98,0.99"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="cases; all by default")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repetitions", default="3", help="passes over the queries; counts need one")
    parser.add_argument("--rows-asked", type=int, help="ask so many rows for themselves; all by default")
    parser.add_argument("--keep", type=Path, help="keep the indexes here, and use those that are there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in arguments.only or CASES:
        name, ram = CASES[case]
        if not SETS[name][0].is_dir():
            print(f"{case}: left out, there is no {SETS[name][0]}")
            continue
        folder = arguments.keep or Path(tempfile.mkdtemp())
        measured = measure(case, name, ram, folder / case, arguments)
        text = json.dumps(measured, indent=1) + "\n"
        # Where things lay on this machine is no one's business.
        for place, told in ((SHARED, "SHARED"), (folder, "INDEXES"), (ROOT, ".")):
            text = text.replace(str(place), told)
        (arguments.out / f"{case}.json").write_text(text)
        if not arguments.keep:
            shutil.rmtree(folder)


def measure(case: str, name: str, ram: str, index: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do one case from file to answers."""
    place, base, queries, truth, metric = SETS[name]
    budget = ("--codes", "none", "--ram", "100%") if ram == "none" else ("--ram", ram)
    if not index.exists():
        run("build", str(place / base), "--out", str(index), "--metric", metric, *budget)
    verified = json.loads(run("verify", str(index), "--json"))
    asked = ("--queries", str(place / queries), "--truth", str(place / truth), "--recall", RECALL)
    asked += ("--repetitions", options.repetitions)
    local = bench(str(index), *asked, "--threads", options.threads)
    with annserve.open(index) as opened:
        report = opened.report
        rows = read_matrix(place / base)
        asked_rows = rows[: options.rows_asked]
        lost = not_found(opened, asked_rows, rows, 0.95)
        # What the target lets slip must be found by looking everywhere.
        lost_for_good = [row for row in lost if not_found(opened, rows[row : row + 1], rows, 1.0, row)]
    with served(index) as address:
        remote = bench("--address", address, *asked, "--threads", "1")
    for row in local["results"]:
        if row["threads"] == 1:
            print(
                f"{case}: target {row['recall_target']}: recall {row['recall_10_at_10']:.4f}, "
                f"{row['pages_read_mean']:.1f} pages, {row['reads_mean']:.1f} reads"
            )
    print(
        f"{case}: {len(asked_rows) - len(lost)} of {len(asked_rows)} rows find themselves at 0.95, "
        f"{len(lost_for_good)} aren't found at 1; {verified['rows']} rows proven on pages",
        flush=True,
    )
    return {
        "case": case,
        "set": name,
        "ram": ram,
        "local": local,
        "remote": remote,
        "build": report,
        "verified": verified,
        "rows_asked": len(asked_rows),
        "rows_found_at_0.95": len(asked_rows) - len(lost),
        "rows_lost": len(lost_for_good),
    }


def not_found(index: annserve.Collection, asked: Rows, rows: Rows, recall_target: float, first: int = 0) -> list[int]:
    """Ask rows for their 10 nearest; give those that are not among them, nor a twin of theirs.

    Rows of several index vectors that are equal are twins: any of them will do.
    """
    lost = []
    for start in range(0, len(asked), 8_192):
        block = asked[start : start + 8_192]
        ids = index.search(block, 10, recall_target=recall_target).ids.astype(np.int64)
        own = first + start + np.arange(len(block))
        for i in np.flatnonzero(~(ids == own[:, None]).any(axis=1)):
            if not any(np.array_equal(rows[id_], block[i]) for id_ in ids[i]):
                lost.append(int(own[i]))
    return lost


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "annserve", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def bench(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("bench", "search", *arguments, "--json", "-"))
    return found


class served:  # noqa: N801
    """Serve an index on a free port until the block ends."""

    def __init__(self, index: Path) -> None:
        self.port_file = index.with_suffix(".port")
        self.port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "annserve", "serve", str(index), "--listen", "127.0.0.1:0"]
        command += ["--port-file", str(self.port_file)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> str:
        while not self.port_file.exists():
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}")
            time.sleep(0.05)
        return f"127.0.0.1:{self.port_file.read_text().strip()}"

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.port_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
