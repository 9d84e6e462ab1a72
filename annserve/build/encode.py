"""The stage that fills RAM with codes: pages and rows → codebooks, codes, estimator, factors.

Everything is learned from the base: queries near the data are base rows that stand in for queries, and what an
estimate must get right are the rows near their k-th neighbour. Peak RAM: the codes, the sample that is trained on, and
a block of rows; what a first estimate needs of each row goes to a file, and pages' centroids are decoded when they are
needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.build.drafts import Drafts
from annserve.build.steps import Steps
from annserve.clusters.hierarchy import Packing
from annserve.codes.encode import decode, decode_components, encode
from annserve.codes.estimate import (
    FACTOR_BYTES,
    centroid_constants,
    fit_estimate,
    row_factors,
    with_constants_of,
)
from annserve.codes.layout import PAGE_CODE_BYTES, Codebook, flat_with_slack, flatten_postings
from annserve.codes.tiers import CodeTiers
from annserve.codes.train import second_moment, train_codebook, training_rows
from annserve.events import StageProgressed
from annserve.heads.layout import HeadNodes
from annserve.kernels.expected import solve_threshold
from annserve.vectors.source import Rows

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

#: Base rows that stand in for queries, and the near pages that are looked at for each.
_QUERIES = 800
_BLOCK_QUERIES = 16
_NEAR_PAGES = 300
_DIRECTION_PAGES = 200
#: Neighbours that estimates are fitted around.
_NEIGHBOURS = 10
#: Rows within so many errors of the threshold matter for it.
_REACH = 3.0
#: Of rows as float32 that are worked on at a time.
_BLOCK_BYTES = 4 << 20


def encode_rows(
    rows: Rows,
    packing: Packing,
    heads: HeadNodes,
    page_capacity: int,
    code_bytes: int,
    steps: Steps,
    *,
    seed: int,
) -> CodeTiers:
    """Learn and write the codes of all pages and rows.

    Parameters
    ----------
    rows : (n, d) rows
        In the index space, page by page.
    packing : Packing
        Of these rows: its order is 0 … n−1.
    heads : HeadNodes
        One per posting; what a page code is relative to.
    page_capacity : int
    code_bytes : int
        Of a row's code; two bytes of factors come on top.
    steps : Steps
        Of which ``encode`` is being taken; codes on their way are left in its folder.
    seed : int

    Returns
    -------
    CodeTiers
    """
    rng = np.random.default_rng(seed)
    offsets = packing.page_offsets
    counts = np.diff(offsets)
    n_rows, n_pages = len(rows), len(counts)
    origin = _mean(rows)
    anchors = _Anchors(heads, packing)
    page_book, page_codes = _encode_pages(rows, offsets, anchors, rng)
    centroids = _Centroids(anchors, page_book, page_codes)

    def residuals(numbers: npt.NDArray[np.int64]) -> F32:
        page = np.searchsorted(offsets, numbers, side="right") - 1
        return np.asarray(rows[numbers].astype(np.float32) - centroids[page], np.float32)

    stand_ins = rng.choice(n_rows, min(_QUERIES, n_rows), replace=False)
    queries = rows[stand_ins].astype(np.float32)
    drawn = np.sort(rng.choice(n_rows, min(training_rows(rows.shape[1]), n_rows), replace=False))
    row_book = train_codebook(residuals(drawn), code_bytes, _directions(queries, centroids))

    with Drafts(steps, n_pages, n_rows, row_book.code_bytes, page_capacity) as drafts:
        for block in _blocks(rows, offsets, drafts.pages_done):
            references = centroids[block.first : block.last][block.page - block.first]
            own = block.rows - references
            codes = encode(row_book, own)
            of_pages = np.zeros((block.last - block.first, row_book.code_bytes, page_capacity), np.uint8)
            of_pages[block.page - block.first, :, block.slot] = codes
            squares = np.add.reduceat(np.einsum("ij,ij->i", own, own), block.starts)
            spreads = np.log(np.maximum(squares / counts[block.first : block.last], 1e-12)).astype(np.float32)
            estimates = _estimates(own, decode(row_book, codes), references - origin)
            drafts.write(block.first, block.start, of_pages, spreads, estimates)
            steps.listener(StageProgressed("encode", block.last))
        pages, spreads = drafts.codes(), drafts.spreads()
        near, asked = _rows_that_matter(
            queries, stand_ins, centroids, offsets, row_book, pages, drafts.estimates, origin
        )
    some = slice(None, None, max(1, -(-len(near) // training_rows(rows.shape[1]))))
    near, asked = near[some], asked[some]

    def codes_of(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        page = np.searchsorted(offsets, numbers, side="right") - 1
        return pages[page, :, numbers - offsets[page]], page

    if len(near):
        near_codes, page_of_near = codes_of(near)
        references = centroids[page_of_near]
        directions = queries[asked] - references
    else:
        # No row has another near it, such as a single one: fit to rows asked for as they are.
        near, (near_codes, page_of_near) = drawn, codes_of(drawn)
        references, directions = centroids[page_of_near], residuals(drawn)
    estimate = fit_estimate(row_book, residuals(near), near_codes, directions, references, origin)
    drawn_codes, page_of_drawn = codes_of(drawn)
    estimate = with_constants_of(estimate, row_book, residuals(drawn), drawn_codes, centroids[page_of_drawn])

    factors = np.zeros((n_pages, FACTOR_BYTES, page_capacity), np.uint8)
    for block in _blocks(rows, offsets):
        references = centroids[block.first : block.last][block.page - block.first]
        own, codes = block.rows - references, pages[block.page, :, block.slot]
        factors[block.page, :, block.slot] = row_factors(estimate, row_book, own, codes, references)
    return CodeTiers(
        page_book=page_book,
        page_codes=flatten_postings(page_codes, packing.posting_offsets),
        page_constants=np.concatenate(
            [
                centroid_constants(page_book, page_codes[some], anchors[some], origin)
                for some in _page_blocks(n_pages, rows.shape[1])
            ]
        ),
        page_spreads=spreads,
        row_book=row_book,
        row_codes=flat_with_slack(pages),
        row_counts=counts.astype(np.uint16),
        row_factors=factors,
        estimate=estimate,
    )


@dataclass(frozen=True)
class _Block:
    """Rows of some pages, as float32.

    Attributes
    ----------
    rows : (m, d) float32
    first, last : int
        Pages, `last` left out.
    start, stop : int
        Rows, `stop` left out.
    starts : (pages,) int64
        First row of each page, counted from `start`.
    page, slot : (m,) int64
        Of each row.
    """

    rows: F32
    first: int
    last: int
    start: int
    stop: int
    starts: npt.NDArray[np.int64]
    page: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int64]


def _blocks(rows: Rows, offsets: npt.NDArray[np.int64], begin: int = 0) -> Iterator[_Block]:
    """Give all rows from page `begin` on, block by block."""
    n_pages = len(offsets) - 1
    step = _pages_at_once(len(rows) / n_pages * rows.shape[1])
    for first in range(begin, n_pages, step):
        last = min(first + step, n_pages)
        start, stop = int(offsets[first]), int(offsets[last])
        page = np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1]))
        slot = np.arange(start, stop) - offsets[page]
        own = rows[start:stop].astype(np.float32)
        yield _Block(own, first, last, start, stop, offsets[first:last] - start, page, slot)


def _mean(rows: Rows) -> F32:
    total = np.zeros(rows.shape[1])
    step = max(1, _BLOCK_BYTES // (4 * rows.shape[1]))
    for first in range(0, len(rows), step):
        total += rows[first : first + step].sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(rows), np.float32)


class _Anchors:
    """The head of each page, as it is stored; (pages, d) float32 by number or slice."""

    def __init__(self, heads: HeadNodes, packing: Packing) -> None:
        self._vectors, self._scale = heads.vectors(), np.float32(heads.scale)
        self._head = np.repeat(np.arange(heads.n_heads, dtype=np.int32), np.diff(packing.posting_offsets))

    def __len__(self) -> int:
        return len(self._head)

    def __getitem__(self, pages: npt.NDArray[np.int64] | slice) -> F32:
        return np.asarray(self._vectors[self._head[pages]].astype(np.float32) * self._scale)


class _Centroids:
    """The decoded centroid of each page; (pages, d) float32 by number or slice."""

    def __init__(self, anchors: _Anchors, book: Codebook, codes: npt.NDArray[np.uint8]) -> None:
        self._anchors, self._book, self._codes = anchors, book, codes
        self.dim = book.dim

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, pages: npt.NDArray[np.int64] | slice) -> F32:
        return np.asarray(self._anchors[pages] + decode(self._book, self._codes[pages]), np.float32)


def _pages_at_once(elements: float) -> int:
    """Give how many pages of so many elements are worked on at a time."""
    return max(1, int(_BLOCK_BYTES / (4 * elements)))


def _page_blocks(n_pages: int, dim: int) -> Iterator[slice]:
    """Give ranges of pages whose centroids are worked on at a time."""
    step = _pages_at_once(dim)
    for first in range(0, n_pages, step):
        yield slice(first, min(first + step, n_pages))


def _encode_pages(
    rows: Rows, offsets: npt.NDArray[np.int64], anchors: _Anchors, rng: np.random.Generator
) -> tuple[Codebook, npt.NDArray[np.uint8]]:
    """Give codebook and codes of all pages."""

    def relative(some: Iterable[_Block]) -> Iterator[tuple[_Block, F32]]:
        for block in some:
            sums = np.add.reduceat(block.rows.astype(np.float64), block.starts)
            mean = (sums / np.diff(offsets[block.first : block.last + 1])[:, None]).astype(np.float32)
            yield block, mean - anchors[block.first : block.last]

    n_pages = len(offsets) - 1
    drawn = np.sort(rng.choice(n_pages, min(training_rows(rows.shape[1]), n_pages), replace=False))
    sample = [
        centroids[drawn[(drawn >= block.first) & (drawn < block.last)] - block.first]
        for block, centroids in relative(_blocks(rows, offsets))
    ]
    book = train_codebook(np.concatenate(sample), PAGE_CODE_BYTES)
    codes = [encode(book, centroids) for _, centroids in relative(_blocks(rows, offsets))]
    return book, np.concatenate(codes)


def _nearest_pages(queries: F32, centroids: _Centroids, count: int) -> npt.NDArray[np.int64]:
    """Give the `count` nearest decoded centroids of each query, in no order, (nq, count)."""
    count = min(count, len(centroids))
    pages = np.empty((len(queries), 0), np.int64)
    distances = np.empty((len(queries), 0), np.float32)
    for some in _page_blocks(len(centroids), centroids.dim):
        block = centroids[some]
        near = np.einsum("ij,ij->i", block, block) - 2 * (queries @ block.T)
        numbers = np.broadcast_to(np.arange(some.start, some.stop), near.shape)
        pages, distances = np.hstack((pages, numbers)), np.hstack((distances, near))
        if pages.shape[1] > count:
            kept = np.argpartition(distances, count - 1, axis=1)[:, :count]
            pages, distances = np.take_along_axis(pages, kept, axis=1), np.take_along_axis(distances, kept, axis=1)
    return pages


def _directions(queries: F32, centroids: _Centroids) -> F64:
    """Give the second moment of query minus centroid, over pages near the queries."""
    moment = np.zeros((centroids.dim, centroids.dim))
    nearest = _nearest_pages(queries, centroids, _DIRECTION_PAGES)
    for first in range(0, len(queries), _BLOCK_QUERIES):
        block = slice(first, first + _BLOCK_QUERIES)
        near = centroids[nearest[block].ravel()].reshape(*nearest[block].shape, centroids.dim)
        offsets = queries[block, None] - near
        moment += second_moment(offsets.reshape(-1, offsets.shape[-1]))
    return moment


def _estimates(residuals: F32, kept: F32, references: F32) -> F32:
    """Give what a first estimate of distances needs of each row, between plain and unbiased: good enough to choose by.

    Returns
    -------
    (n, 3) float32
        Constant, shrink and squared norm of what the code has left out.
    """
    norms, lengths_kept = (np.einsum("ij,ij->i", of, of) for of in (residuals, kept))
    lengths_kept = np.maximum(lengths_kept, 1e-12)
    scale = np.einsum("ij,ij->i", residuals, kept) / lengths_kept
    projected = np.maximum(scale**2 * lengths_kept, 1e-12)
    shrink = (0.8 + 0.2 * np.minimum(norms / projected, 4)) * scale
    constant = norms + 2 * shrink * np.einsum("ij,ij->i", references, kept)
    missed = np.maximum(norms - projected, 1e-6 * norms.mean() + 1e-12)
    return np.column_stack((constant, shrink, missed)).astype(np.float32)


def _rows_that_matter(
    queries: F32,
    stand_ins: npt.NDArray[np.int64],
    decoded: _Centroids,
    offsets: npt.NDArray[np.int64],
    book: Codebook,
    codes_of_pages: npt.NDArray[np.uint8],
    estimates: Rows,
    origin: F32,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find rows whose estimated distance is about that of the k-th neighbour.

    Chosen by estimates, not by true distances: a choice by what is to be predicted would bias the regression.

    Returns
    -------
    numbers : (m,) int64
        Of rows.
    asked : (m,) int64
        The query that each matters to.
    """
    dim = decoded.dim
    found, asked = [], []
    nearest_pages = _nearest_pages(queries, decoded, _NEAR_PAGES)
    for number, (query, own, near_pages) in enumerate(zip(queries, stand_ins, nearest_pages)):
        pages = np.sort(near_pages)
        counts = offsets[pages + 1] - offsets[pages]
        positions = np.repeat(offsets[pages] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        offset = query - decoded[pages]
        page = np.repeat(np.arange(len(pages)), counts)
        squares = np.einsum("ij,ij->i", offset, offset)[page]
        constants, shrink, missed = estimates[positions].T
        centred = query - origin
        # Not a product of the library: its threads wait for each other longer than so small a product takes.
        codes = codes_of_pages[pages[page], :, positions - offsets[pages[page]]]
        inner = np.einsum("ij,j->i", decode_components(book, codes), np.einsum("ij,j->i", book.synthesis, centred))
        inner += np.einsum("i,i", book.mean, centred)
        estimated = (squares + constants - 2 * shrink * inner).astype(np.float32)
        errors = (1.6 * np.sqrt(squares * missed / dim) + 1e-6).astype(np.float32)
        estimated[positions == own] = np.inf
        finite = np.isfinite(estimated)
        # Half of each of the nearest 2k rows is expected within the farthest of them.
        nearest = np.sort(estimated[finite])[: 2 * _NEIGHBOURS]
        enough = len(nearest) == 2 * _NEIGHBOURS
        high = np.float32(nearest.max(initial=0) + (0 if enough else 5 * errors.max()))
        threshold = solve_threshold(
            estimated[finite],
            errors[finite],
            int(finite.sum()),
            _NEIGHBOURS,
            np.float32(estimated.min() - 5 * errors.max()),
            high,
        )
        near = np.abs(estimated - threshold) < _REACH * errors
        found.append(positions[near])
        asked.append(np.full(int(near.sum()), number))
    return np.concatenate(found), np.concatenate(asked)
