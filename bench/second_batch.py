"""Measure what a second batch of reads, and pruning by the true radii of postings, could save.

    python bench/second_batch.py INDEX QUERIES BASE TRUTH --json bench/results/<date>-engine/second-batch.json

The engine's own ratings, row by row in NumPy; nothing is read. *One batch* takes pages by falling worth until they
promise the wanted recall. *Two batches* first reads until a share of that, then knows the k-th distance of what it
read, works out the worth of the others with it, and goes on until what is left promises less than the wanted recall
leaves. Each is run over a grid of promises; pages are compared at equal delivered recall. *Radii* counts the pages
that one batch reads of postings which the true k-th distance proves empty: the most that pruning could save.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.codes.encode import decode_components
from annserve.codes.layout import SCAN_SLACK_BYTES
from annserve.kernels.expected import solve_threshold
from annserve.metric import queries_to_space
from annserve.pages.check import check_pages
from annserve.search.clock import Clock
from annserve.search.read_plan import ReadPlan
from annserve.vectors.formats import open_vectors, read_matrix, read_truth

K, TARGET = 10, 0.98
PROMISES = (0.86, 0.89, 0.92, 0.94, 0.96, 0.975, 0.985, 0.992)
FIRST_SHARES = (0.6, 0.75, 0.9)
COMPARED_AT = (0.90, 0.95, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate a second batch of reads.")
    for name in ("index", "queries", "base", "truth"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--asked", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    queries = read_matrix(options.queries)[: options.asked]
    truth, _ = read_truth(options.truth)
    with annserve.open(options.index, threads=1) as index:
        cases = [Case(index._engine, query[None], options.base, truth[i]) for i, query in enumerate(queries)]
    curves: dict[str, list[tuple[float, float]]] = {
        "one batch": [average(c.one_batch(p) for c in cases) for p in PROMISES]
    }
    for share in FIRST_SHARES:
        curves[f"two batches, {share:.0%} first"] = [average(c.two_batches(p, share) for c in cases) for p in PROMISES]
    at = {
        name: {f"{recall:.2f}": float(np.interp(recall, *np.array(curve)[:, ::-1].T)) for recall in COMPARED_AT}
        for name, curve in curves.items()
    }
    empty = [c.provably_empty(0.95) for c in cases]
    report = {
        "queries": len(cases),
        "pages_at_recall": at,
        "pages_of_postings_proven_empty_at_0.95": float(np.mean(empty)),
        "curves": {name: [{"recall": r, "pages": p} for p, r in curve] for name, curve in curves.items()},
    }
    print(json.dumps({name: report[name] for name in list(report)[:3]}, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def average(pairs: Any) -> tuple[float, float]:
    """Mean pages and mean recall."""
    pages, recall = np.mean(list(pairs), axis=0)
    return float(pages), float(recall)


class Case:
    """One query: the rows of its rated pages, with estimates, errors, true distances, and which are true neighbours."""

    def __init__(self, engine: Any, query: np.ndarray, base: Path, truth: np.ndarray) -> None:
        segment, tiers = engine.segment, engine.segment.codes
        space = queries_to_space(query, segment.spec, engine.norm_max)
        plan = ReadPlan.of(segment.plan)
        heads = plan.heads_wanted(K, TARGET, segment.heads.n_heads)
        rating, _ = engine.chooser.rate(space, K, heads, plan.skip(K, TARGET), Clock())
        size = int(rating.sizes[0])
        self.pages = rating.pages[0, :size].astype(np.int64)
        frames = np.empty((size, segment.layout.page_bytes), np.uint8)
        frames[:] = np.memmap(segment.pages_path, np.uint8, "r")[
            segment.pages_offset
            + self.pages[:, None] * segment.layout.page_bytes
            + np.arange(segment.layout.page_bytes)
        ]
        ids, problems = check_pages(frames, rating.pages[0, :size], segment.layout, segment.salt)
        assert problems == []
        counts = tiers.row_counts[self.pages].astype(np.int64)
        self.owner = np.repeat(np.arange(size), counts)
        slot = np.concatenate([np.arange(count) for count in counts])
        capacity = tiers.row_factors.shape[2]
        codes = tiers.row_codes[:-SCAN_SLACK_BYTES].reshape(-1, tiers.row_book.code_bytes, capacity)
        own = np.ascontiguousarray(codes[self.pages[self.owner], :, slot])
        shifted = (space[0] - tiers.estimate.origin).astype(np.float64)
        projected = tiers.estimate.gains * (tiers.row_book.synthesis @ shifted)
        inner = decode_components(tiers.row_book, own) @ projected + tiers.row_book.mean @ shifted
        constant, shrink = tiers.row_factors[self.pages[self.owner], :, slot].T
        estimate = tiers.estimate
        length = rating.distances[0, :size].astype(np.float64)[self.owner]
        self.estimates = (
            estimate.distance_scale * length
            + estimate.constant_min
            + estimate.constant_step * constant
            - 2 * estimate.shrinks[shrink] * inner
        )
        self.errors = estimate.spreads[shrink] * length**estimate.spread_power
        rows = np.stack([open_base(base)[int(i)] for i in ids]).astype(np.float64)
        self.distances = ((rows - space[0]) ** 2).sum(axis=1)
        self.hits = np.isin(ids, truth[:K])
        last = ((open_base(base)[int(truth[K - 1])].astype(np.float64) - space[0]) ** 2).sum()
        self.worths = self._worths(self._threshold())
        self._near_heads = self._empty_pages(segment, space[0], float(np.sqrt(last)))

    def one_batch(self, promise: float) -> tuple[float, float]:
        """Give pages and recall."""
        return self._result(self._best(self.worths, promise * K))

    def two_batches(self, promise: float, share: float) -> tuple[float, float]:
        """Give pages and recall."""
        first = self._best(self.worths, share * promise * K)
        seen = np.isin(self.owner, first)
        kth = np.sort(self.distances[seen])[K - 1] if seen.sum() >= K else np.inf
        worths = self._worths(min(kth, self._threshold()) if np.isfinite(kth) else self._threshold(), ~seen)
        worths[first] = 0
        order = np.argsort(-worths, kind="stable")
        # What is left after each further page must promise no more than the wanted recall leaves.
        left = worths.sum() - np.concatenate(([0], np.cumsum(worths[order])))
        further = int(np.argmax(left <= (1 - promise) * K))
        return self._result(np.concatenate((first, order[:further])))

    def provably_empty(self, promise: float) -> float:
        """Give the pages of one batch that the true k-th distance proves empty by the radius of their posting."""
        return float(np.isin(self._best(self.worths, promise * K), self._near_heads).sum())

    def _result(self, chosen: np.ndarray) -> tuple[float, float]:
        return float(len(chosen)), float(self.hits[np.isin(self.owner, chosen)].sum()) / K

    def _best(self, worths: np.ndarray, hits: float) -> np.ndarray:
        order = np.argsort(-worths, kind="stable")
        return order[: int(np.searchsorted(np.cumsum(worths[order]), hits)) + 1]

    def _threshold(self) -> float:
        low, high = (self.estimates - 5 * self.errors).min(), np.sort(self.estimates)[2 * K]
        near = self.estimates - 5 * self.errors < high
        given = self.estimates[near].astype(np.float32), self.errors[near].astype(np.float32)
        return float(solve_threshold(*given, int(near.sum()), K, np.float32(low), np.float32(high)))

    def _worths(self, threshold: float, rows: np.ndarray | None = None) -> np.ndarray:
        z = np.clip((threshold - self.estimates) / self.errors, -8, 8)
        # The normal distribution, to 0.0002.
        chance = 1 / (1 + np.exp(-1.5976 * z - 0.07056 * z**3))
        if rows is not None:
            chance = chance * rows
        return np.bincount(self.owner, weights=chance, minlength=len(self.pages))

    def _empty_pages(self, segment: Any, query: np.ndarray, kth: float) -> np.ndarray:
        """Give the places of pages whose posting lies farther than its radius beyond the k-th neighbour."""
        head = np.searchsorted(segment.page_offsets.astype(np.int64), self.pages, side="right") - 1
        centres = segment.heads.vectors()[head] * segment.heads.scale
        gap = np.sqrt(((centres - query) ** 2).sum(axis=1)) - segment.radii[head]
        return np.flatnonzero(gap > kth)


_BASES: dict[Path, np.ndarray] = {}


def open_base(path: Path) -> np.ndarray:
    """Read the base once."""
    if path not in _BASES:
        with open_vectors(path) as source:
            _BASES[path] = source.read(0, source.count)
    return _BASES[path]


if __name__ == "__main__":
    main()
