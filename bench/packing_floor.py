"""Count the pages that no planner could do without: the floor of an index's packing.

    python bench/packing_floor.py INDEX TRUTH --json bench/results/<date>-floor/sift.json

An oracle that knows every page's true hits reads, over all queries, the pages with the most hits first, until the
mean recall is reached. Whatever codes and planner are there, one batch over the same pages reads no fewer. What an
index reads beyond its floor is the planner's; the floor itself is the packing's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.index.snapshot import open_snapshot
from annserve.pages.check import check_rows
from annserve.storage.reader import aligned_frames, open_reader
from annserve.vectors.formats import read_truth

RECALLS = (0.90, 0.95, 0.98)
_BATCH_PAGES = 1_024


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the pages that no planner could do without.")
    parser.add_argument("index", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    truth, _ = read_truth(options.truth)
    pages = page_of_rows(options.index)
    floor = floors(pages[truth[:, : options.k].astype(np.int64)])
    report = {"index": options.index.name, "queries": len(truth), "k": options.k, "pages_at_recall": floor}
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def page_of_rows(folder: Path) -> npt.NDArray[np.int64]:
    """Give the page that each row is at home on, (n,) int64; ids must be row numbers."""
    segment = open_snapshot(folder).segments[0]
    reader = open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)
    frames = aligned_frames(_BATCH_PAGES, segment.spec.page_bytes)
    home = np.full(segment.n_rows, -1, np.int64)
    for first in range(0, segment.n_pages, _BATCH_PAGES):
        page_ids = np.arange(first, min(first + _BATCH_PAGES, segment.n_pages), dtype=np.uint32)
        reader.read(page_ids, frames)
        for page_id in page_ids:
            rows, _ = check_rows(
                frames[page_id - first : page_id - first + 1],
                page_ids[page_id - first :][:1],
                segment.layout,
                segment.salt,
            )
            home[rows.ids[rows.at_home].astype(np.int64)] = page_id
    reader.close()
    return home


def floors(pages: npt.NDArray[np.int64]) -> dict[str, float]:
    """Give the least mean pages at each mean recall; `pages` is (nq, k), the page of each true neighbour."""
    n_queries, k = pages.shape
    _, hits = np.unique(pages + (np.arange(n_queries)[:, None] << 32), return_counts=True)
    best = np.sort(hits)[::-1]
    recall = np.cumsum(best) / (n_queries * k)
    return {f"{r:.2f}": float((np.searchsorted(recall, r) + 1) / n_queries) for r in RECALLS}


if __name__ == "__main__":
    main()
