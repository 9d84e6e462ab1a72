"""The stage that puts the codes of rows on the SSD: which rows stand in the vicinity of which page.

Each row ranks the pages around it by the distance of their decoded centroids. A vicinity takes the rows of its own
page, then those to which it is the nearest page, then those to which it is the second nearest, and so on until it is
full; among rows of one rank, the nearest. Taking the nearest rows whatever their rank starves rows in sparse regions,
which then stand in their own vicinity alone: recall 0.95 took 47 pages so, 39 by ranks (sift-photos, 15-byte codes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.clusters.hierarchy import Packing
from annserve.codes.encode import decode
from annserve.codes.layout import unflatten_postings
from annserve.codes.tiers import CodeTiers
from annserve.codes.vicinities import pack_vicinities
from annserve.codes.vicinity_layout import NO_PLACE, VicinityLayout, check_places
from annserve.events import Listener, StageProgressed, ignore
from annserve.heads.layout import HeadNodes
from annserve.heads.navigate import WalkScratch, nearest_heads
from annserve.index.vicinities import Vicinities, open_vicinities, vicinities_writer
from annserve.vectors.source import Rows

F32 = npt.NDArray[np.float32]

#: Postings around a row's own whose pages it ranks.
_NEAR_HEADS = 32
#: Ranks that are looked at, as a multiple of the vicinities that a row stands in on average.
_RANKS = 3
_WRITE_PAGES = 1_024


def write_vicinities(
    path: Path,
    space: Rows,
    packing: Packing,
    heads: HeadNodes,
    tiers: CodeTiers,
    layout: VicinityLayout,
    salt: int,
    listener: Listener = ignore,
) -> Vicinities:
    """Fill the vicinities of all pages and write them.

    Parameters
    ----------
    path : Path
    space : (n, d) rows
        In the index space, page by page.
    packing : Packing
    heads : HeadNodes
    tiers : CodeTiers
        With the codes of rows.
    layout : VicinityLayout
    salt : int
    listener : callable
        Hears ``StageProgressed("spread", pages)``.

    Returns
    -------
    Vicinities
        Of the file that was written.

    Raises
    ------
    InputError
        If there are more places than a vicinity can name.
    OutputError
        If the device refuses.

    Notes
    -----
    Some 20 ranks a row of 8 bytes each are held beside the rows, and a float32 for each coordinate of each page.
    """
    n_pages = len(packing.page_offsets) - 1
    check_places(n_pages, layout.page_capacity)
    copies = -(-layout.capacity // layout.page_capacity)
    pages, distances = _near_pages(space, packing, heads, tiers, _RANKS * copies)
    places = fill(packing.page_offsets, pages, distances, layout)
    with vicinities_writer(path, layout) as writer:
        for first in range(0, n_pages, _WRITE_PAGES):
            some = places[first : first + _WRITE_PAGES]
            writer.append(pack_vicinities(some, tiers, layout, first_page_id=first, salt=salt))
            listener(StageProgressed("spread", first + len(some)))
        writer.end()
    return open_vicinities(path, n_pages, layout)


def fill(
    page_offsets: npt.NDArray[np.int64], pages: npt.NDArray[np.uint32], distances: F32, layout: VicinityLayout
) -> npt.NDArray[np.uint32]:
    """Choose the rows of each vicinity.

    Parameters
    ----------
    page_offsets : (p + 1,) int64
        Rows of page i, which stand in page order: ``page_offsets[i] … page_offsets[i + 1] - 1``.
    pages : (n, r) uint32
        Pages near each row, nearest first.
    distances : (n, r) float32
        Their distances.
    layout : VicinityLayout

    Returns
    -------
    (p, layout.capacity) uint32
        Places, ascending; `NO_PLACE` behind the last.
    """
    counts = np.diff(page_offsets)
    n_pages = len(counts)
    home = np.repeat(np.arange(n_pages), counts)
    slot = np.arange(len(home)) - page_offsets[home]
    place = (home * layout.page_capacity + slot).astype(np.uint32)
    places = np.full((n_pages, layout.capacity), NO_PLACE, np.uint32)
    places[home, slot] = place
    held = counts.copy()
    for rank in range(pages.shape[1]):
        page = pages[:, rank].astype(np.int64)
        rows = np.flatnonzero((page != home) & (held[page] < layout.capacity))
        rows = rows[np.lexsort((distances[rows, rank], page[rows]))]
        page = page[rows]
        at = held[page] + np.arange(len(rows)) - np.searchsorted(page, page)
        room = at < layout.capacity
        places[page[room], at[room]] = place[rows[room]]
        held += np.bincount(page[room], minlength=n_pages)
    places.sort(axis=1)
    return places


def _near_pages(
    space: Rows, packing: Packing, heads: HeadNodes, tiers: CodeTiers, n_ranks: int
) -> tuple[npt.NDArray[np.uint32], F32]:
    """Rank the pages near each row, in page order: pages and distances, both (n, r)."""
    vectors = heads.vectors().astype(np.float32) * np.float32(heads.scale)
    centroids = np.repeat(vectors, np.diff(packing.posting_offsets), axis=0)
    page_codes = unflatten_postings(tiers.page_codes, tiers.page_book.code_bytes, packing.posting_offsets)
    centroids += decode(tiers.page_book, page_codes)
    lengths = np.einsum("ij,ij->i", centroids, centroids)
    n_ranks = min(n_ranks, len(centroids))
    pages = np.empty((len(space), n_ranks), np.uint32)
    distances = np.empty((len(space), n_ranks), np.float32)
    scratch = WalkScratch(heads.n_heads)
    for head in range(heads.n_heads):
        wanted = min(_NEAR_HEADS, heads.n_heads)
        near, _, _ = nearest_heads(heads, vectors[head : head + 1], wanted, scratch)
        candidates = _pages_of(np.union1d(near[near >= 0], head), packing.posting_offsets)
        first, stop = packing.page_offsets[packing.posting_offsets[head : head + 2]]
        if len(candidates) < n_ranks:
            candidates = np.arange(len(centroids))
        rows = space[packing.order[first:stop]].astype(np.float32)
        found = lengths[candidates] - 2 * (rows @ centroids[candidates].T)
        found += np.einsum("ij,ij->i", rows, rows)[:, None]
        order = np.argpartition(found, n_ranks - 1, axis=1)[:, :n_ranks]
        order = np.take_along_axis(order, np.argsort(np.take_along_axis(found, order, axis=1), axis=1), axis=1)
        pages[first:stop] = candidates[order]
        distances[first:stop] = np.take_along_axis(found, order, axis=1)
    return pages, distances


def _pages_of(heads: npt.NDArray[Any], posting_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give all pages of some heads."""
    return np.concatenate([np.arange(posting_offsets[head], posting_offsets[head + 1]) for head in heads])
