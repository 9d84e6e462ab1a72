"""From homes to replicas: heads near each row by the graph, offers to them, places filled.

Peak RAM: 8 bytes for each offer that a row may make (``clusters.closure``), and per thread one block of rows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.clusters.closure import Offers, file_replicas, find_slack, offer_rows
from annserve.clusters.hierarchy import Packing
from annserve.events import Listener, StageProgressed, ignore
from annserve.heads.layout import HeadNodes
from annserve.heads.navigate import WalkScratch, nearest_heads
from annserve.vectors.source import Rows

#: Heads looked at around a row, as many as SPANN's.
CANDIDATES = 64
_SAMPLE_ROWS = 4_096
_BLOCK_ROWS = 8_192


def replicate(
    rows: Rows,
    packing: Packing,
    heads: HeadNodes,
    centroids: npt.NDArray[np.float64],
    page_capacity: int,
    pages_per_posting: int,
    replicas: int,
    *,
    seed: int,
    threads: int,
    listener: Listener = ignore,
) -> Packing:
    """File rows under further heads, where their postings have room.

    Parameters
    ----------
    rows : (n, d) rows
        In the index space.
    packing : Packing
        Homes alone.
    heads : HeadNodes
        With the graph that candidates are found by.
    centroids : (h, d) float64
        Of the rows at home in each posting.
    page_capacity, pages_per_posting : int
        Most rows of a page, and pages of a posting.
    replicas : int
        Most copies of a row, its home counted.
    seed : int
        Fixes the sample that the slack is found on.
    threads : int
        Blocks worked on at a time.
    listener : callable
        Hears ``StageProgressed("replicate", rows)``.

    Returns
    -------
    Packing
    """
    n_rows, n_heads, most = packing.n_rows, heads.n_heads, replicas - 1
    vectors = centroids.astype(np.float32)
    homes = np.empty(n_rows, np.int32)
    at_home = np.diff(packing.page_offsets[packing.posting_offsets])
    homes[packing.order[:]] = np.repeat(np.arange(n_heads), at_home)

    def candidates(some: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        found, _, _ = nearest_heads(heads, some.astype(np.float32), min(CANDIDATES, n_heads), WalkScratch(n_heads))
        return found

    drawn = np.sort(np.random.default_rng(seed).choice(n_rows, min(_SAMPLE_ROWS, n_rows), replace=False))
    places = (n_heads * pages_per_posting * page_capacity - n_rows) / n_rows
    sample = rows[drawn]
    slack = find_slack(sample, homes[drawn], candidates(sample), vectors, most, places)

    offers = Offers(np.empty((n_rows, most), np.int32), np.empty((n_rows, most), np.float32))

    def offer(first: int) -> int:
        block = slice(first, min(first + _BLOCK_ROWS, n_rows))
        some = rows[block]
        made = offer_rows(some, homes[block], candidates(some), vectors, most, slack)
        offers.heads[block], offers.margins[block] = made.heads, made.margins
        return block.stop

    with ThreadPoolExecutor(threads) as pool:
        for done in pool.map(offer, range(0, n_rows, _BLOCK_ROWS)):
            listener(StageProgressed("replicate", done))
    return file_replicas(packing, offers, pages_per_posting, page_capacity)
