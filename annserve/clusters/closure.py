"""Rows → replicas: a row near a border is filed under heads beyond it too, so that fewer postings hold the answers.

The rule is SPANN's closure: among the heads near a row, nearest first, one is passed over if a head that already has
the row lies nearer to it than the row does (RNG rule: whoever comes from that side has met the row). Two things are
done otherwise. The rule has a *slack*, found so that rows ask for about twice the room there is: without it rows of
many dimensions ask for one replica, whatever room there is. And a posting with too little room takes those rows that
are hardly nearer to their home, not those nearest to itself: they are the ones that queries miss.

Invariants: every row stays on its home's posting, which nothing cuts; no posting has a row twice, or more rows than
its pages hold; the result depends on rows, heads and their candidates alone.

Peak RAM beside the rows: 8 bytes for each of the `most` offers a row may make, and some 40 for each that it makes.

References
----------
[1] Chen et al., "SPANN: Highly-efficient Billion-scale Approximate Nearest Neighbor Search", NeurIPS 2021, section
    3.2 (closure assignment, RNG rule).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.clusters import closure_kernels as kernels
from annserve.clusters.hierarchy import Packing

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

#: Offers made for each place there is. Measured on 125,000 SIFT descriptors at 0.95, 20 rows at home: of two pages a
#: posting, 1.2 offers a place give 42 pages, 2.8 give 38, 3.4 give 44.
OFFERS_PER_PLACE = 2.0
#: Slacks that are tried: below the lower one hardly any row is offered, above the upper one any head takes any row.
_SLACK_MIN, _SLACK_MAX, _HALVINGS = 0.5, 8.0, 10


@dataclass(frozen=True)
class Offers:
    """Heads that rows may be filed under beside their homes.

    Attributes
    ----------
    heads : (n, most) int32
        −1 where there are no more.
    margins : (n, most) float32
        How much farther each lies than the row's home, in squared distance.
    """

    heads: npt.NDArray[np.int32]
    margins: F32


def offer_rows(
    rows: npt.NDArray[Any],
    homes: npt.NDArray[np.int32],
    candidates: npt.NDArray[np.int32],
    heads: F32,
    most: int,
    slack: float,
) -> Offers:
    """Offer rows to the heads around them.

    Parameters
    ----------
    rows : (n, d) array of uint8, int8 or float32
        In the index space; a block of all rows.
    homes : (n,) int32
        Head of each row's posting.
    candidates : (n, w) int32
        Heads near each row, nearest first; −1 where there are no more.
    heads : (h, d) float32
        Centroids of all postings.
    most : int
        Offers that a row may make.
    slack : float
        Factor on the squared distance between two heads; see above.
    """
    offers = Offers(np.full((len(rows), most), -1, np.int32), np.zeros((len(rows), most), np.float32))
    vectors = np.ascontiguousarray(rows, dtype=np.float32)
    kernels.offer(vectors, homes, candidates, heads, np.float32(slack), offers.heads, offers.margins)
    return offers


def find_slack(
    rows: npt.NDArray[Any],
    homes: npt.NDArray[np.int32],
    candidates: npt.NDArray[np.int32],
    heads: F32,
    most: int,
    places: float,
) -> float:
    """Find the slack with which a sample of rows makes `OFFERS_PER_PLACE` times `places` offers a row, or nearly all.

    Parameters
    ----------
    rows, homes, candidates, heads, most
        As for `offer_rows`.
    places : float
        Free places of postings, a row.
    """
    wanted = min(OFFERS_PER_PLACE * places, 0.9 * most) * len(rows)
    low, high = np.log(_SLACK_MIN), np.log(_SLACK_MAX)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        made = int((offer_rows(rows, homes, candidates, heads, most, float(np.exp(middle))).heads >= 0).sum())
        low, high = (middle, high) if made < wanted else (low, middle)
    return float(np.exp(high))


def file_replicas(packing: Packing, offers: Offers, pages_per_posting: int, page_capacity: int) -> Packing:
    """Give the places that postings have left to the rows that miss their home by least.

    Parameters
    ----------
    packing : Packing
        Homes alone: each posting with at most ``pages_per_posting * page_capacity`` rows.
    offers : Offers
        Of all rows.
    pages_per_posting, page_capacity : int
        Most pages of a posting with its replicas, and rows of a page.

    Returns
    -------
    Packing
        In each posting first the rows at home, in their order, then replicas; its pages are full but for the last.
    """
    starts = packing.page_offsets[packing.posting_offsets]
    at_home = np.diff(starts)
    row, column = np.nonzero(offers.heads >= 0)
    head = offers.heads[row, column].astype(np.int64)
    # Ties go by row: nonzero gave rows in ascending order, and a stable sort keeps it.
    best_first = np.lexsort((offers.margins[row, column], head))
    row, head = row[best_first], head[best_first]
    place = np.arange(len(head)) - np.searchsorted(head, head)
    taken = place < (pages_per_posting * page_capacity - at_home)[head]
    row, head = row[taken], head[taken]

    copies = np.bincount(head, minlength=len(at_home))
    counts = at_home + copies
    offsets = np.concatenate(([0], np.cumsum(counts)))
    order = np.empty(offsets[-1], np.int64)
    home_of_position = np.repeat(np.arange(len(at_home)), at_home)
    order[np.arange(len(packing.order)) + (offsets[:-1] - starts[:-1])[home_of_position]] = packing.order[:]
    order[np.arange(len(row)) + np.repeat(offsets[:-1] + at_home - (np.cumsum(copies) - copies), copies)] = row

    pages = -(-counts // page_capacity)
    posting_offsets = np.concatenate(([0], np.cumsum(pages)))
    posting = np.repeat(np.arange(len(pages)), pages)
    first = (np.arange(posting_offsets[-1]) - posting_offsets[posting]) * page_capacity
    rows_on_page = np.minimum(counts[posting] - first, page_capacity)
    replicas = rows_on_page - np.clip(at_home[posting] - first, 0, rows_on_page)
    return Packing(order, np.concatenate(([0], np.cumsum(rows_on_page))), posting_offsets, replicas)


def postings_of_rows(packing: Packing) -> npt.NDArray[np.int32]:
    """Give the heads that file each row, ascending, as (n, r) int32 with −1 where there are no more."""
    pages = np.repeat(np.arange(len(packing.posting_offsets) - 1), np.diff(packing.posting_offsets))
    head = np.repeat(pages, np.diff(packing.page_offsets))
    order = packing.order[:]
    by_row = np.argsort(order, kind="stable")
    row = order[by_row]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    postings = np.full((packing.n_rows, place.max() + 1), -1, np.int32)
    postings[row, place] = head[by_row]
    return postings
