"""Measure the recall auditor: does it see what is delivered, what does it cost, and does it cure a spoilt plan?

    python bench/auditor.py --out bench/results/<date>-audit/audit.json INDEX=QUERIES …

Seen: many samples of queries are judged, and their bounds held against the recall of all queries, which is exact.
Cured: the same index with a plan that asks too little of each target (``tests/audit/spoilt.py``) is asked all queries
again and again, audited as a server would; recall and pages before and after. CPU time of the process, on a busy
machine too high rather than too low.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.audit import Auditor
from annserve.audit.exact import hits_of
from annserve.confidence import recall_bounds
from annserve.measure.machine import describe_machine
from annserve.vectors.formats import read_matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from audit.spoilt import spoil

K, TARGETS, QUERIES_MAX, SAMPLES, CONFIDENCE = 10, (0.90, 0.95), 400, 400, 0.95
SAMPLE_SIZES, BLOCK, AUDITED_MAX = (100, 300), 32, 800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="INDEX=QUERIES")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {"machine": describe_machine(), "indexes": [measure(*pair.split("=")) for pair in options.pairs]}
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(json.dumps(found["indexes"], indent=1))


def measure(path: str, queries_path: str) -> dict[str, Any]:
    queries = read_matrix(Path(queries_path))[:QUERIES_MAX]
    with annserve.open(path, threads=1) as index:
        hits, cost = judged(index, queries)
        seen = [seen_of(target, hits[target]) for target in TARGETS]
        observing = observed(index, queries)
    with tempfile.TemporaryDirectory() as folder:  # on the disk of the index, whose files it links
        cured = cure(spoil(Path(path), Path(folder) / "spoilt"), queries)
    told = {"name": Path(path).name, "rows": index.n_rows, "queries": len(queries), "k": K}
    return {**told, **cost, "observe_us": observing, "seen": seen, "cured": cured}


def judged(index: Any, queries: np.ndarray) -> tuple[dict[float, np.ndarray], dict[str, float]]:
    """Hits of each query at each target, and what a query takes to be held against every row."""
    begun, hits = time.process_time(), {}
    for target in TARGETS:
        found = index.search(queries, K, recall_target=target)
        begun = time.process_time()
        hits[target] = hits_of(index, queries, found.ids, found.distances, lambda: None)
    return hits, {"audit_cpu_ms_a_query": (time.process_time() - begun) / len(queries) * 1e3}


def seen_of(target: float, hits: np.ndarray) -> dict[str, Any]:
    """How often the bounds of samples hold the recall of all."""
    rng, true = np.random.default_rng(7), float(hits.mean() / K)
    rows = []
    for size in SAMPLE_SIZES:
        right, width = 0, 0.0
        for _ in range(SAMPLES):
            drawn = rng.choice(hits, size, replace=True)
            bounds = recall_bounds(drawn, np.full(size, K), CONFIDENCE)
            right += bounds.low <= true <= bounds.high
            width += bounds.high - bounds.low
        rows.append({"sample": size, "right": right / SAMPLES, "width_mean": width / SAMPLES})
    return {"recall_target": target, "recall": true, "confidence": CONFIDENCE, "samples": rows}


class Served:
    """An index as a server asks it, with an auditor beside."""

    def __init__(self, index: Any, adjust: bool) -> None:
        self.index = index
        self.auditor = Auditor(self._pin, adjust=adjust)

    @contextmanager
    def _pin(self, name: str):
        yield 1, self.index

    def search(self, queries: np.ndarray, target: float) -> Any:
        asked = self.auditor.asked("one", target)
        found = self.index.search(queries, K, recall_target=asked)
        self.auditor.observe("one", 1, queries, target, found)
        return found


def observed(index: Any, queries: np.ndarray) -> float:
    """Microseconds that a call of one query pays for being sampled."""
    served = Served(index, adjust=False)
    found = index.search(queries[:1], K)
    for rounds in (50_000, 20_000):
        begun = time.process_time()
        for _ in range(rounds):
            served.auditor.observe("one", 1, queries[:1], 0.95, found)
    return (time.process_time() - begun) / rounds * 1e6


def cure(path: Path, queries: np.ndarray) -> list[dict[str, Any]]:
    """Recall and pages of a spoilt index, before, after, and after how many audited queries."""
    rows = []
    with annserve.open(path, threads=1) as index:
        for target in (0.90, 0.95):
            served, steps = Served(index, adjust=True), []
            before = index.search(queries, K, recall_target=target)
            rng, audited = np.random.default_rng(3), 0
            while audited < AUDITED_MAX:
                served.search(queries[rng.permutation(len(queries))[:BLOCK]], target)
                audited += served.auditor.audit("one")
                asked = served.auditor.asked("one", target)
                if not steps or steps[-1]["asked"] != asked:
                    steps.append({"audited": audited, "asked": asked})
            after = index.search(queries, K, recall_target=asked)
            counted = {}
            for name, found in (("before", before), ("after", after)):
                hits = hits_of(index, queries, found.ids, found.distances, lambda: None)
                counted[name] = {"recall": hits.mean() / K, "pages": float(found.stats.pages_read.mean())}
            rows.append({"declared": target, **counted, "steps": steps})
    return rows


if __name__ == "__main__":
    main()
