"""Codes of an index: every row and page has its own, and the same input gives the same ones."""

from __future__ import annotations

import numpy as np
import pytest
from surface import surface_rows

from annserve.build.encode import encode_rows
from annserve.build.pipeline import build
from annserve.build.steps import Steps
from annserve.clusters.hierarchy import pack_rows
from annserve.codes.encode import decode
from annserve.codes.layout import SCAN_SLACK_BYTES, unflatten_postings, unpack_page
from annserve.design.options import BuildOptions
from annserve.events import ignore
from annserve.heads.graph import join_heads
from annserve.index.snapshot import open_snapshot
from annserve.pages.check import check_pages
from annserve.storage.container import open_container


def test_each_slot_has_the_code_of_the_row_on_its_page(built):
    """Pages say which row lies where; its code, decoded from the page's centroid, leaves a small part of it."""
    segment = open_snapshot(built.folder).segments[0]
    tiers = segment.codes
    with open_container(segment.pages_path, b"ANNPAGES") as file:
        pages = np.array(file.section("pages"))
    ids, problems = check_pages(pages, np.arange(len(pages), dtype=np.uint32), segment.layout, segment.salt)
    assert problems == []
    assert tiers.row_counts.sum() == len(ids) == len(built.rows)
    head_of_page = np.repeat(np.arange(segment.heads.n_heads), np.diff(segment.page_offsets.astype(int)))
    heads = segment.heads.vectors()[head_of_page] * segment.heads.scale
    page_codes = unflatten_postings(tiers.page_codes, tiers.page_book.code_bytes, segment.page_offsets)
    centroids = heads + decode(tiers.page_book, page_codes)
    capacity = tiers.row_factors.shape[2]
    codes = tiers.row_codes[:-SCAN_SLACK_BYTES].reshape(len(pages), -1, capacity)
    rows = np.split(built.rows[ids.astype(int)].astype(float), np.cumsum(tiers.row_counts)[:-1])
    left = total = 0.0
    for page, members in enumerate(rows):
        residuals = members - centroids[page]
        own = unpack_page(codes, page, len(members))
        left += ((residuals - decode(tiers.row_book, own)) ** 2).sum()
        total += (residuals**2).sum()
        assert tiers.page_spreads[page] == pytest.approx(np.log((residuals**2).sum(axis=1).mean()), abs=1e-3)
        # The decoded centroid is about the mean of its page.
        assert np.abs(residuals.mean(axis=0)).max() < 3
        assert not codes[page, :, len(members) :].any()
    # Sixteen bytes for 64 dimensions of rows that vary in eight.
    assert left < 0.15 * total


def test_the_same_rows_give_the_same_files_whatever_the_threads(tmp_path):
    """Codes and plan to the byte; another seed gives others."""
    np.save(tmp_path / "rows.npy", surface_rows(900, 24, seed=2))
    files = []
    for number, (seed, threads) in enumerate(((0, 1), (0, 3), (1, 1))):
        folder = tmp_path / f"index-{number}"
        options = BuildOptions(ram="50%", seed=seed, threads=threads, calibration_queries=60)
        build(tmp_path / "rows.npy", folder, options)
        place = folder / "segment-000001"
        files.append([(place / name).read_bytes() for name in ("codes.bin", "plan.json")])
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]


@pytest.mark.parametrize("kind", ["one row", "all alike", "two places", "integers at their limits"])
def test_degenerate_rows_have_codes(tmp_path, kind):
    rng = np.random.default_rng(3)
    rows = {
        "one row": np.full((1, 5), 9, np.uint8),
        "all alike": np.full((70, 5), 200, np.uint8),
        "two places": np.repeat(np.array([[0] * 5, [255] * 5], np.uint8), 40, axis=0),
        "integers at their limits": rng.choice(np.array([0, 255], np.uint8), (80, 5)),
    }[kind]
    packing = pack_rows(rows, 10, 4, threads=1)
    starts = packing.page_offsets[packing.posting_offsets]
    members = np.add.reduceat(rows[packing.order].astype(float), starts[:-1]) / np.diff(starts)[:, None]
    heads = join_heads(members, np.dtype(np.uint8))
    steps = Steps(tmp_path, {"annserve_version": "1", "options": {}, "inputs": {}}, ignore)
    tiers = encode_rows(rows, packing, heads, 10, 4, steps, seed=0)
    assert tiers.row_counts.sum() == len(rows)
    for name, array in tiers.as_arrays().items():
        assert np.isfinite(array).all(), name
