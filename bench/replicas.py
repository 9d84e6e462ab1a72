"""Which rows to file twice, and which postings to probe: rules compared at equal RAM, in hindsight.

    python bench/replicas.py --rows 125000 --out bench/results/2026-11-21-spann/rules.json

Heads of postings with 20 rows at home, 11.8 bytes a vector, are kept; what is filed under them beside the homes varies:
nothing, SPANN's closure (RNG rule, the nearest rows first), the closure as built (slack, the rows that miss their home
by least first), and SOAR's one spilled copy (lambda 1). For each, the postings of queries in order of their heads'
distance, all heads compared; and for the closure as built, three rules of how many to probe. Every number of postings
is the least that gives the recall on these very queries, so only what is compared differs. Needs the set sift-photos.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from annserve.build.replicate import CANDIDATES
from annserve.clusters.closure import Offers, file_replicas, find_slack, offer_rows, postings_of_rows
from annserve.clusters.hierarchy import pack_rows
from annserve.heads.graph import join_heads
from annserve.heads.navigate import WalkScratch, nearest_heads
from annserve.search.reach_plan import reaches
from annserve.vectors.formats import read_matrix
from annserve.vectors.truth import exact_neighbours

SHARED = Path(os.environ.get("ANNSERVE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
ROWS_AT_HOME, PAGE_CAPACITY, HEAD_BYTES, REPLICAS, K = 20, 30, 232, 8, 10
RECALLS = (0.90, 0.95, 0.98)
Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=125_000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    base = read_matrix(SHARED / "sift-photos" / "base.u8bin")
    rows = np.ascontiguousarray(base[:: len(base) // arguments.rows][: arguments.rows])
    queries = read_matrix(SHARED / "sift-photos" / "query.u8bin").astype(np.float32)
    truth, _ = exact_neighbours(rows, queries, K, "l2", threads=2)

    packing = pack_rows(rows, ROWS_AT_HOME, threads=2)
    starts = packing.page_offsets[:-1]
    centroids = np.add.reduceat(rows[packing.order].astype(np.float64), starts) / np.diff(packing.page_offsets)[:, None]
    heads = join_heads(centroids, np.dtype(np.uint8))
    homes = postings_of_rows(packing)[:, 0]
    blocks = [rows[first : first + 8_192].astype(np.float32) for first in range(0, len(rows), 8_192)]
    near = np.concatenate([nearest_heads(heads, block, CANDIDATES, WalkScratch(heads.n_heads))[0] for block in blocks])
    vectors = centroids.astype(np.float32)
    to_heads = (queries**2).sum(1)[:, None] - 2 * queries @ vectors.T + (vectors**2).sum(1)
    order = np.argsort(to_heads, axis=1, kind="stable")
    distances = np.take_along_axis(to_heads, order, axis=1).astype(np.float64)
    rank_of = np.argsort(order, axis=1)

    found: list[dict[str, Any]] = []

    def measure(rule: str, pages: int, offers: Offers | None) -> Array:
        filed = packing if offers is None else file_replicas(packing, offers, pages, PAGE_CAPACITY)
        postings = postings_of_rows(filed)[truth]
        ranks = np.where(postings >= 0, np.take_along_axis(rank_of[:, None, :], np.maximum(postings, 0), axis=2), 10**9)
        first = ranks.min(axis=2)
        probes = [int(np.sort(first, axis=None)[int(np.ceil(recall * first.size)) - 1]) + 1 for recall in RECALLS]
        copies = len(filed.order) / filed.n_rows
        found.append(
            {"rule": rule, "copies": round(copies, 2), "postings": probes, "pages": [pages * probe for probe in probes]}
        )
        print(found[-1], flush=True)
        return first

    measure("one copy", 1, None)
    spill = soar(rows, homes, near, vectors)
    for pages in (1, 2):
        places = pages * PAGE_CAPACITY * heads.n_heads / len(rows) - 1
        closure = offer_rows(rows, homes, near, vectors, REPLICAS - 1, 1.0)
        own = ((rows - vectors[homes]) ** 2).sum(axis=1)
        measure("RNG, nearest first", pages, Offers(closure.heads, closure.margins + own[:, None]))
        measure("RNG, least margin first", pages, closure)
        measure("SOAR", pages, spill)
        slack = find_slack(rows, homes, near, vectors, REPLICAS - 1, places)
        first = measure(
            f"RNG, slack {slack:.2f}, least margin first",
            pages,
            offer_rows(rows, homes, near, vectors, REPLICAS - 1, slack),
        )
        rules = {
            "one number for all": np.tile(np.arange(distances.shape[1]) + 1.0, (len(queries), 1)),
            "epsilon of the nearest head": distances / distances[:, :1],
            "reach": reaches(distances),
        }
        for name, effort in rules.items():
            needed = np.sort(np.take_along_axis(effort, first, axis=1), axis=None)
            limits = [needed[int(np.ceil(recall * len(needed))) - 1] for recall in RECALLS]
            postings = [round(float((effort <= limit).sum(axis=1).mean()), 1) for limit in limits]
            found.append({"rule": f"… probed by {name}", "pages_per_posting": pages, "postings": postings})
            print(found[-1], flush=True)
    ram = HEAD_BYTES * heads.n_heads / len(rows)
    facts = {"rows": len(rows), "queries": len(queries), "heads": heads.n_heads, "ram_bytes_per_vector": round(ram, 2)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({**facts, "recalls": RECALLS, "found": found}, indent=1) + "\n")


def soar(rows: Array, homes: Array, near: Array, vectors: Array) -> Offers:
    """Offer each row to one more head: the one of least |r'|² + (r' · r / |r|)², r and r' the residuals."""
    heads, losses = np.full((len(rows), 1), -1, np.int32), np.zeros((len(rows), 1), np.float32)
    for first in range(0, len(rows), 4_096):
        block = slice(first, first + 4_096)
        other = rows[block, None].astype(np.float32) - vectors[near[block]]
        own = rows[block] - vectors[homes[block]]
        along = np.einsum("iwd,id->iw", other, own) ** 2 / np.maximum((own**2).sum(axis=1), 1e-9)[:, None]
        loss = np.where(near[block] == homes[block, None], np.inf, (other**2).sum(axis=2) + along)
        best = loss.argmin(axis=1)[:, None]
        heads[block] = np.take_along_axis(near[block], best, axis=1)
        losses[block] = np.take_along_axis(loss, best, axis=1)
    return Offers(heads, losses)


if __name__ == "__main__":
    main()
