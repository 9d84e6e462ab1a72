"""Packed pages: the same bytes come back, they take fewer, and they lie as their table says."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.packed import predictions, read_packed
from surface import surface_rows

from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.index.segment import Segment
from annserve.index.snapshot import open_snapshot
from annserve.packed.packer import Packer

#: Metric, type of rows, elements; not all a multiple of 8.
KINDS = [
    ("l2", "uint8", 52),
    ("cosine", "float32", 64),
    ("cosine", "int8", 44),
    ("ip", "float32", 60),
    ("l2", "float32", 48),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def segment(request, tmp_path_factory) -> Segment:
    metric, dtype, dim = request.param
    folder = tmp_path_factory.mktemp("packed")
    rows = surface_rows(2_500, dim, seed=3)
    if dtype == "int8":
        rows = (rows.astype(np.int16) - 128).astype(np.int8)
    elif dtype == "float32":
        rows = (rows.astype(np.float32) - 120) / 40
    np.save(folder / "rows.npy", rows)
    options = BuildOptions(threads=2, metric=metric, calibration_queries=300)
    build(folder / "rows.npy", folder / "index", options)
    return open_snapshot(folder / "index").segments[0]


def pages_of(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """Give all pages of a segment, and their numbers."""
    page_bytes = segment.layout.page_bytes
    pages = np.fromfile(segment.pages_path, np.uint8, segment.n_pages * page_bytes, offset=segment.pages_offset)
    return pages.reshape(-1, page_bytes), np.arange(segment.n_pages, dtype=np.uint32)


def test_every_page_comes_back_to_the_bit_and_takes_less(segment):
    pages, page_ids = pages_of(segment)
    packer, frames = Packer(segment), pages.copy()
    sizes = packer.pack(page_ids, frames)
    assert sizes.mean() < 0.85 * pages.shape[1]
    for frame, size in zip(frames, sizes):
        # What a frame held before it was filled doesn't matter.
        frame[size:] = 0xA5
    packer.unpack(page_ids, np.arange(len(page_ids)), frames)
    assert (frames == pages).all()
    packer.unpack(page_ids, np.arange(len(page_ids)), frames)
    assert (frames == pages).all()


def test_packed_pages_lie_as_their_table_says(segment):
    pages, page_ids = pages_of(segment)
    packer, frames, layout = Packer(segment), pages.copy(), segment.layout
    sizes = packer.pack(page_ids, frames)
    keeps_gains = segment.spec.metric == "cosine" and not layout.has_factors
    for page in range(0, segment.n_pages, 7):
        read = read_packed(
            frames[page, : sizes[page]], layout.dim, has_factors=layout.has_factors, keeps_gains=keeps_gains
        )
        count = read.count
        whole = pages[page]
        assert count == int(segment.codes.row_counts[page])
        assert read.flags & 0x3FFF == int(whole[10:12].view(np.uint16)[0])
        assert read.ids.tolist() == whole[layout.ids_offset :][: 8 * count].view(np.uint64).tolist()
        rows = whole[layout.rows_offset :][: count * layout.dim].view(layout.dtype).reshape(count, -1).astype(np.int64)
        if layout.has_factors:
            gains = 1 / whole[layout.factors_offset :][: 4 * count].view(np.float32)
        else:
            gains = read.gains if keeps_gains else np.ones(count, np.float32)
        bounds = np.iinfo(layout.dtype)
        guesses = np.clip(predictions(segment, page, layout.dim) * gains[:, None], bounds.min, bounds.max)
        # Sums are rounded in another order here, so that a guess may fall to the other side of a half.
        apart = (rows - read.differences - np.rint(guesses).astype(np.int64) + 128) % 256 - 128
        assert np.abs(apart).max() <= 1
        assert (apart == 0).mean() > 0.99


def test_rows_that_codes_say_nothing_of_are_no_longer_packed_than_whole(segment, rng):
    pages, page_ids = pages_of(segment)
    layout = segment.layout
    rows = pages[:, layout.rows_offset : layout.rows_offset + layout.capacity * layout.dim]
    rows[:] = rng.integers(0, 256, rows.shape)
    pages[:, layout.ids_offset + 7] = 0x80
    frames, packer = pages.copy(), Packer(segment)
    sizes = packer.pack(page_ids, frames)
    full = segment.codes.row_counts == layout.capacity
    assert (sizes[full] == layout.page_bytes).all()
    assert (frames[full] == pages[full]).all()


def test_ids_of_more_than_32_bits_come_back(segment):
    pages, page_ids = pages_of(segment)
    pages[:, segment.layout.ids_offset + 7] = 0x80
    frames = pages.copy()
    packer = Packer(segment)
    packer.pack(page_ids, frames)
    packer.unpack(page_ids, np.arange(len(page_ids)), frames)
    assert (frames == pages).all()
