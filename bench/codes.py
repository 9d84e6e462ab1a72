"""Codes of equal length compared by what they are for: pages a query reads at equal recall.

    python bench/codes.py --out bench/results/2026-11-21-codes [--set sgd] [--rows 125000] [--bytes 16 32]

Every code is of the same residuals (row minus the centroid of its page) and rates the same pages. A row's squared
distance is estimated from its code, with an error scale fitted to it; a page is worth the hits that its rows promise;
the best pages are read until they promise a share of k that, in hindsight, delivers the recall. So calibration is
perfect for every code, and what is left is the code and its estimate:

own       transform codes: the product's, with a gain per component. PQ, OPQ: |u − G|², asymmetric distance [1, 2].
          RaBitQ: the unbiased ⟨u, G⟩·|r|² / ⟨r, G⟩ [3, 4], within the components that it keeps
fitted    the product's regression without gains, for every code: how much of a lead is the estimate's

u is query minus centroid, r the residual, G what the code keeps of it. Factors a row (two bytes in the product) aren't
rounded and aren't counted. RaBitQ with b bits takes 8 · bytes / b principal components, all where they are so many, and
rotates them at random; the grid is scaled to each row (b > 1).

[1] Jégou, Douze, Schmid 2011. [2] Ge, He, Ke, Sun 2013. [3] Gao, Long 2024. [4] Gao, Gou, Xu, Yang, Long, Wong 2025.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from annserve.clusters.hierarchy import pack_rows
from annserve.codes.encode import decode, decode_components, encode
from annserve.codes.estimate import fit_estimate
from annserve.codes.layout import Codebook
from annserve.codes.train import second_moment, train_codebook
from annserve.kernels.expected import solve_threshold
from annserve.measure.machine import describe_machine, describe_software
from annserve.vectors.formats import read_matrix
from annserve.vectors.truth import exact_neighbours

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ANNSERVE_SHARED", ROOT.parent / "shared")) / "data"
BYTES = (8, 16, 28, 44, 64)
RECALLS = (0.90, 0.95, 0.98)
K = 10
GRID = np.linspace(-6, 6, 4_097)
PHI = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in GRID])
TRAIN_ROWS = 30_000
NEAR_PAGES = 200
FIT_QUERIES = 300
#: Rows so many rough errors around the threshold are what estimates are fitted on.
REACH = 3.0
F32 = np.ndarray[Any, np.dtype[np.float32]]
F64 = np.ndarray[Any, np.dtype[np.float64]]
Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Case:
    """Rows by page, queries, and the pages near each query."""

    rows: F32
    page_of: Rows
    centroids: F32
    members: Rows  # (pages, capacity), −1 where there is no row
    queries: F32
    near: Rows
    truth: Rows
    stand_ins: Rows
    stand_ins_near: Rows

    @property
    def residuals(self) -> F32:
        return self.rows - self.centroids[self.page_of]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=("sift", "sgd"), default="sift")
    parser.add_argument("--rows", type=int, default=125_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--bytes", type=int, nargs="*", default=list(BYTES))
    parser.add_argument("--threads", type=int, default=1, help="more slow faiss down on a busy machine")
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    case = make_case(options.set, options.rows, options.queries, options.threads)
    results: list[dict[str, Any]] = []
    for n_bytes in options.bytes:
        for name, code in codes_of(case.rows.shape[1], n_bytes):
            kept, parts = code(case, n_bytes)
            for estimate in ("own", "fitted"):
                pages = pages_at_recall(case, kept, parts, name, estimate)
                results.append({"code": name, "bytes": n_bytes, "estimate": estimate, "pages": pages})
                print(f"{options.set} {n_bytes} B {name:14s} {estimate:7s} {pages}", flush=True)
        report = {
            "set": options.set,
            "rows": len(case.rows),
            "queries": len(case.queries),
            "recalls": RECALLS,
            "machine": describe_machine(),
            "software": describe_software(),
            "results": results,
        }
        (options.out / f"{options.set}.json").write_text(json.dumps(report, indent=1) + "\n")


def make_case(name: str, n_rows: int, n_queries: int, threads: int) -> Case:
    """Read a set, pack it into pages, find the pages near its queries and near rows that stand in for queries."""
    if name == "sift":
        base, queries = (read_matrix(SHARED / "sift-photos" / f"{part}.u8bin") for part in ("base", "query"))
        capacity = 30
    else:
        base, queries = (read_matrix(SHARED / "sgd-minilm" / f"{part}.f16.npy") for part in ("base", "queries"))
        capacity = 10
    rows, queries = base[:n_rows].astype(np.float32), queries[:n_queries].astype(np.float32)
    if name == "sgd":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    packing = pack_rows(rows, capacity, 16, threads=threads)
    counts = np.diff(packing.page_offsets)
    page_of = np.empty(len(rows), np.int64)
    page_of[packing.order] = np.repeat(np.arange(len(counts)), counts)
    members = np.full((len(counts), capacity), -1)
    members[np.arange(capacity) < counts[:, None]] = packing.order
    sums = np.add.reduceat(rows[packing.order].astype(np.float64), packing.page_offsets[:-1])
    centroids = (sums / counts[:, None]).astype(np.float32)
    truth, _ = exact_neighbours(rows, queries, K, "l2", threads=threads)
    stand_ins = np.random.default_rng(0).choice(len(rows), FIT_QUERIES, replace=False)
    near = nearest(queries, centroids)
    return Case(rows, page_of, centroids, members, queries, near, truth, stand_ins, nearest(rows[stand_ins], centroids))


def nearest(queries: F32, centroids: F32) -> Rows:
    squares = (centroids**2).sum(axis=1)
    count = min(NEAR_PAGES, len(centroids) - 1)
    return np.stack([np.argpartition(squares - 2 * centroids @ query, count)[:count] for query in queries])


def codes_of(dim: int, n_bytes: int) -> list[tuple[str, Callable[[Case, int], tuple[F32, Any]]]]:
    """Name the codes that exist at this length."""
    found: list[tuple[str, Callable[[Case, int], tuple[F32, Any]]]] = [("transform", transform)]
    found += [(f"rabitq {b} bit", rabitq(b)) for b in (1, 2, 4) if 8 * n_bytes / b <= dim]
    return [*found, ("pq", product), ("opq", rotated_product)]


def transform(case: Case, n_bytes: int) -> tuple[F32, Codebook]:
    drawn = sample(case)
    offsets = case.rows[case.stand_ins][:, None] - case.centroids[case.stand_ins_near]
    book = train_codebook(case.residuals[drawn], n_bytes, second_moment(offsets.reshape(-1, offsets.shape[-1])))
    codes = encode(book, case.residuals)
    return decode(book, codes), (book, codes)


def rabitq(bits: int) -> Callable[[Case, int], tuple[F32, Any]]:
    def code(case: Case, n_bytes: int) -> tuple[F32, Any]:
        residuals = case.residuals
        n_components = 8 * n_bytes // bits
        axes = np.linalg.eigh(second_moment(residuals[sample(case)]))[1][:, ::-1][:, :n_components]
        turn = np.linalg.qr(np.random.default_rng(1).standard_normal((n_components, n_components)))[0]
        basis = (axes @ turn).astype(np.float32)
        components = residuals @ basis
        return np.asarray(to_grid(components, bits) @ basis.T, np.float32), dots(components, components)

    return code


def to_grid(components: F32, bits: int) -> F32:
    """Give each row's point of the grid {±½, ±1½, …} whose angle to the row is least, over scales of the grid."""
    if bits == 1:
        return np.sign(components).astype(np.float32)
    most = 2 ** (bits - 1) - 0.5
    best, best_angle = np.empty_like(components), np.full(len(components), -np.inf)
    for reach in np.linspace(0.4, 1.0, 13):
        scale = most / (reach * np.abs(components).max(axis=1, keepdims=True) + 1e-20)
        point = np.clip(np.floor(components * scale) + 0.5, -most, most).astype(np.float32)
        angle = np.einsum("ij,ij->i", point, components) / np.linalg.norm(point, axis=1)
        better = angle > best_angle
        best[better], best_angle[better] = point[better], angle[better]
    return best


def product(case: Case, n_bytes: int) -> tuple[F32, Any]:
    return quantize_parts(case.residuals, sample(case), n_bytes), None


def rotated_product(case: Case, n_bytes: int) -> tuple[F32, Any]:
    residuals, dim = case.residuals, case.rows.shape[1]
    padded = -(-dim // n_bytes) * n_bytes
    turn = faiss.OPQMatrix(dim, n_bytes, padded)
    turn.niter, turn.niter_pq = 8, 4
    drawn = sample(case)
    turn.train(residuals[drawn[:15_000]])
    turned = turn.apply(residuals)
    return np.asarray(turn.reverse_transform(quantize_parts(turned, drawn, n_bytes)), np.float32), None


def quantize_parts(rows: F32, drawn: Rows, n_bytes: int) -> F32:
    """Quantize equal parts of a row to 256 centroids each; dimensions that don't divide are padded with zeros."""
    dim = rows.shape[1]
    wide = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -dim % n_bytes))))
    quantizer = faiss.ProductQuantizer(wide.shape[1], n_bytes, 8)
    quantizer.train(wide[drawn])
    return np.asarray(quantizer.decode(quantizer.compute_codes(wide))[:, :dim], np.float32)


def sample(case: Case) -> Rows:
    return np.random.default_rng(2).permutation(len(case.rows))[:TRAIN_ROWS]


@dataclass
class Shape:
    """|r|², |G|², scale of G nearest to r, and what the scaled G leaves out of |r|², for each row."""

    norms: F64
    kept_norms: F64
    scale: F64
    missed: F64

    @classmethod
    def of(cls, residuals: F32, kept: F32) -> Shape:
        norms, kept_norms, both = (
            np.einsum("ij,ij->i", left, right, dtype=np.float64)
            for left, right in ((residuals, residuals), (kept, kept), (residuals, kept))
        )
        scale = both / np.maximum(kept_norms, 1e-12)
        return cls(norms, kept_norms, scale, np.maximum(norms - scale * both, 1e-3 * norms.mean()))

    def terms(self, rows: Rows, lengths: F64, inner: F64) -> F64:
        """Give the terms of the product's regression of ⟨u, r⟩, for rows with |u|² and ⟨u, G⟩."""
        scale, norms = self.scale[rows], self.norms[rows]
        ratio = np.minimum(norms / np.maximum(norms - self.missed[rows], 1e-12), 4)
        return np.column_stack((inner, inner * scale, inner * scale * ratio, norms, lengths, np.ones(len(rows))))


def pages_at_recall(case: Case, kept: F32, parts: Any, name: str, estimate: str) -> list[float]:
    """Fit the estimate on stand-ins, ask the queries, and give the pages at each recall."""
    residuals = case.residuals
    shape = Shape.of(residuals, kept)
    rows, offsets = pairs_that_matter(case, kept, shape)
    lengths, wanted = dots(offsets, offsets), dots(offsets, residuals[rows])
    if name == "transform" and estimate == "own":
        book, codes = parts
        origin = case.centroids.mean(axis=0)
        found = fit_estimate(book, residuals[rows], codes[rows], offsets, case.centroids[case.page_of[rows]], origin)
        kept = ((decode_components(book, codes) * found.gains) @ book.synthesis + book.mean).astype(np.float32)
        numbers = ((1 - found.norm_scale) / 2, (1 - found.distance_scale) / 2, -found.offset / 2)
        weights = np.concatenate((found.shrink_terms, numbers))
    elif estimate == "fitted":
        design = shape.terms(rows, lengths, dots(offsets, kept[rows]))
        weights = np.linalg.lstsq(design / lengths.mean(), wanted / lengths.mean(), rcond=None)[0]

    def product_of(rows: Rows, lengths: F64, inner: F64) -> F64:
        """Estimate ⟨u, r⟩."""
        if estimate == "fitted" or name == "transform":
            return np.asarray(shape.terms(rows, lengths, inner) @ weights)
        norms, kept_norms = shape.norms[rows], shape.kept_norms[rows]
        if name.startswith("rabitq"):
            return inner * parts[rows] / (shape.scale[rows] * kept_norms)
        return inner + (norms - kept_norms) / 2

    errors = fit_errors(wanted - product_of(rows, lengths, dots(offsets, kept[rows])), lengths, shape.missed[rows])
    promised, found_hits = [], []
    for query, near, truth in zip(case.queries, case.near, case.truth):
        rows, page, lengths, inner = scan(case, kept, query, near)
        distances = lengths + shape.norms[rows] - 2 * product_of(rows, lengths, inner)
        worths = page_worths(distances, errors(lengths, shape.missed[rows]), page, len(near))
        order = np.argsort(-worths, kind="stable")
        promised.append(np.cumsum(worths[order]) / K)
        found_hits.append(np.cumsum((near[order][:, None] == case.page_of[truth]).sum(axis=1)) / K)
    return pages_by_expected_recall(np.array(promised), np.array(found_hits))


def scan(case: Case, kept: F32, query: F32, near: Rows) -> tuple[Rows, Rows, F64, F64]:
    """Give the rows of the near pages: number, page (its place in `near`), |u|² and ⟨u, G⟩."""
    rows = case.members[near]
    page, slot = np.nonzero(rows >= 0)
    offsets = query - case.centroids[near]
    lengths = dots(offsets, offsets)[page]
    chosen = rows[page, slot]
    inner = kept[chosen] @ query - dots(kept[chosen], case.centroids[near][page])
    return chosen, page, lengths, np.asarray(inner, np.float64)


def pairs_that_matter(case: Case, kept: F32, shape: Shape) -> tuple[Rows, F32]:
    """Find rows that a first estimate puts near the k-th neighbour of a stand-in; give them and u for each."""
    found_rows, found_offsets = [], []
    for own, near in zip(case.stand_ins, case.stand_ins_near):
        rows, page, lengths, inner = scan(case, kept, case.rows[own], near)
        others = rows != own
        rows, page, lengths, inner = rows[others], page[others], lengths[others], inner[others]
        distances = lengths + shape.norms[rows] - 2 * shape.scale[rows] * inner
        errors = 1.6 * np.sqrt(lengths * shape.missed[rows] / case.rows.shape[1]) + 1e-6
        matter = np.abs(distances - threshold_of(distances, errors)) < REACH * errors
        found_rows.append(rows[matter])
        found_offsets.append(case.rows[own] - case.centroids[near][page[matter]])
    return np.concatenate(found_rows), np.concatenate(found_offsets)


def fit_errors(errors: F64, lengths: F64, missed: F64) -> Callable[[F64, F64], F64]:
    """Fit log variance of a squared distance, linear in log |u|² and log missed, by iterated least squares."""

    def design(lengths: F64, missed: F64) -> F64:
        return np.column_stack((np.ones(len(lengths)), np.log(lengths), np.log(missed)))

    rows = design(lengths, missed)
    weights = np.array([np.log(np.mean(errors**2)), 0.0, 0.0])
    for _ in range(30):
        ratio = np.minimum(errors**2 / np.exp(rows @ weights), 100) - 1
        step = np.linalg.lstsq(rows, ratio, rcond=None)[0]
        weights = weights + step * min(1.0, 1 / np.abs(step).max())
    return lambda lengths, missed: 2 * np.exp(design(lengths, missed) @ weights / 2)


def threshold_of(distances: F64, errors: F64) -> float:
    high = np.partition(distances, 2 * K)[2 * K]
    return float(
        solve_threshold(
            distances.astype(np.float32),
            errors.astype(np.float32),
            len(distances),
            K,
            np.float32((distances - 5 * errors).min()),
            np.float32(high),
        )
    )


def page_worths(distances: F64, errors: F64, page: Rows, n_pages: int) -> F64:
    z = (threshold_of(distances, errors) - distances) / errors
    return np.bincount(page, np.interp(z, GRID, PHI), minlength=n_pages)


def pages_by_expected_recall(promised: F64, found: F64) -> list[float]:
    """Give the mean pages at each recall, by the least expected recall that delivers it in hindsight."""
    reach = 1 - np.geomspace(0.5, 0.0005, 80)
    counts = np.minimum((promised[:, :, None] < reach).sum(axis=1), promised.shape[1] - 1)
    recall = np.take_along_axis(found, counts, axis=1).mean(axis=0)
    pages = (counts + 1).mean(axis=0)
    return [round(float(np.exp(np.interp(-np.log1p(-r), -np.log1p(-recall), np.log(pages)))), 2) for r in RECALLS]


def dots(left: F32, right: F32) -> F64:
    return np.asarray(np.einsum("ij,ij->i", left, right), np.float64)


if __name__ == "__main__":
    main()
