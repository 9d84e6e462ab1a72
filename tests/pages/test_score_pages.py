"""Scores are the metric's, the k nearest are the k nearest, and a wrong page never gives an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import pages as oracle

from annserve.errors import CorruptionError
from annserve.metric import METRIC_CODES
from annserve.pages.check import check_pages
from annserve.pages.layout import HEADER, PageLayout
from annserve.pages.pack import pack_pages
from annserve.pages.rows import quantize_queries, quantize_rows
from annserve.pages.score import NO_ID, Frames, PageFacts
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c
from annserve.storage.reader import aligned_frames

SALT = 0x5EED_CAFE
PATH = Path("somewhere/pages.bin")


def frames_of(pages, layout):
    memory = aligned_frames(max(len(pages), 1), layout.page_bytes)
    memory[: len(pages)] = pages
    return Frames(memory, layout)


def score(frames, page_ids, offsets, queries, k, metric, **options):
    return frames.score(
        np.asarray(page_ids, np.uint32),
        np.asarray(offsets, np.int64),
        quantize_queries(queries),
        k,
        PageFacts(frames.layout, METRIC_CODES[metric], options.pop("salt", SALT), PATH, 4_096),
        **options,
    )


@st.composite
def cases(draw):
    """Packed rows with ties and replicas, and queries with pages of their own."""
    row_type, metric = (
        draw(st.sampled_from(["uint8", "int8", "float32"])),
        draw(st.sampled_from(list(METRIC_CODES))),
    )
    spec = IndexSpec(draw(st.sampled_from([1, 3, 17, 257, 515])), row_type, metric)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_pages, layout = draw(st.integers(1, 4)), PageLayout.of(spec)
    counts = rng.integers(1, min(spec.page_capacity, 12) + 1, n_pages)
    n = int(counts.sum())
    if row_type == "float32":
        rows = (rng.normal(size=(n, spec.dim)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
        queries = (rng.normal(size=(3, spec.dim)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    else:
        info = np.iinfo(row_type)
        rows = rng.choice([info.min, info.min + 1, 3, info.max], (n, spec.dim)).astype(row_type)
        queries = rng.integers(info.min, info.max + 1, (3, spec.dim)).astype(row_type)
    rows[~rows.any(axis=1)] = 1
    queries[~queries.any(axis=1)] = 1
    ids = rng.choice(10**6, n, replace=False).astype(np.uint64)
    for a in range(n // 2, min(n // 2 + draw(st.integers(0, 4)), n)):
        # A replica: the same row under the same id at another place; or a tie: the same row, another id.
        b = rng.integers(n // 2) if n > 1 else a
        rows[a] = rows[b]
        if rng.random() < 0.5:
            ids[a] = ids[b]
    return spec, layout, rows, ids, counts, queries, rng


@given(cases(), st.integers(1, 30))
@settings(max_examples=250)
def test_the_k_nearest_are_those_of_the_oracle(case, k):
    """Integers by value and id, exactly; floats by distance, and by id where no other is as near."""
    spec, layout, rows, ids, counts, queries, rng = case
    stored = quantize_rows(rows, spec)
    pages = pack_pages(stored, ids, counts, layout, first_page_id=0, salt=SALT)
    first_row = np.concatenate(([0], np.cumsum(counts)))
    chosen = [np.sort(rng.choice(len(pages), rng.integers(0, len(pages) + 1), replace=False)) for _ in queries]
    page_ids = np.concatenate(chosen)
    offsets = np.concatenate(([0], np.cumsum([len(some) for some in chosen])))
    found_ids, distances, scored = score(frames_of(pages[page_ids], layout), page_ids, offsets, queries, k, spec.metric)
    found = (found_ids != NO_ID).sum(axis=1)
    quantized = quantize_queries(queries)
    for i in range(len(queries)):
        own = [row for page in chosen[i] for row in range(first_row[page], first_row[page + 1])]
        query = quantized.scales[i] * quantized.elements[i]
        candidates = [
            (oracle.distance(query, stored.elements[row], stored.scales[row], spec.metric), int(ids[row]))
            for row in own
        ]
        expected = oracle.top_k(candidates, k)
        assert scored[i] == len(own)
        assert found[i] == len(expected)
        assert (found_ids[i, found[i] :] == NO_ID).all()
        assert np.isinf(distances[i, found[i] :]).all()
        assert (np.diff(distances[i, : found[i]]) >= 0).all()
        assert len(set(found_ids[i, : found[i]].tolist())) == found[i]
        if spec.lossless and spec.metric != "cosine":
            assert list(zip(distances[i, : found[i]].tolist(), found_ids[i, : found[i]].tolist())) == expected
            continue
        lengths = np.linalg.norm(query) * np.abs(stored.scales).max() * 127 * np.sqrt(spec.dim) + 1
        sizes = lengths + np.linalg.norm(query) ** 2 + (np.abs(stored.scales).max() * 127) ** 2 * spec.dim
        tolerance = 1e-12 if spec.metric == "cosine" else 1e-12 * sizes
        np.testing.assert_allclose(distances[i, : found[i]], [d for d, _ in expected], rtol=0, atol=tolerance)
        distance_of = {id_: d for d, id_ in candidates}
        for id_, distance in zip(found_ids[i, : found[i]].tolist(), distances[i]):
            assert abs(distance_of[id_] - distance) <= tolerance


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("row_type", ["uint8", "int8", "float32"])
def test_a_distance_is_what_the_metric_says(rng, metric, row_type):
    """Against the vectors as given: integers exactly, floats within what quantization may change."""
    spec = IndexSpec(65, row_type, metric)
    rows = (rng.normal(size=(20, 65)) * 40).clip(-120, 120).astype(np.int64 if row_type != "float32" else "f4")
    rows = (rows - (rows.min() if row_type == "uint8" else 0)).astype(row_type)
    query = rows[:1] if row_type != "float32" else (rng.normal(size=(1, 65)) * 40).astype("f4")
    pages = pack_pages(
        quantize_rows(rows, spec),
        np.arange(20, dtype=np.uint64),
        np.array([20]),
        PageLayout.of(spec),
        first_page_id=7,
        salt=SALT,
    )
    ids, distances, _ = score(frames_of(pages, PageLayout.of(spec)), [7], [0, 1], query, 20, metric)
    exact = np.array([oracle.distance(query[0], rows[id_], 1.0, metric) for id_ in ids[0].astype(int)])
    if row_type == "float32":
        slack = {"l2": 0.02 * np.abs(exact).max(), "ip": 0.01 * np.abs(exact).max(), "cosine": 0.01}[metric]
        np.testing.assert_allclose(distances[0], exact, atol=slack)
    else:
        np.testing.assert_allclose(distances[0], exact, rtol=1e-15, atol=1e-14)


def a_page(spec=None):
    spec = spec or IndexSpec(16, "uint8", "l2")
    layout = PageLayout.of(spec)
    rows = np.random.default_rng(5).integers(0, 256, (40, 16)).astype(np.uint8)
    stored, ids = quantize_rows(rows, spec), np.arange(40, dtype=np.uint64)
    return layout, pack_pages(stored, ids, np.array([40]), layout, first_page_id=3, salt=SALT)


def test_every_flipped_byte_of_a_page_is_found():
    """All 4,096 bytes, each with another bit pattern: by scoring as an error, by the check as a problem."""
    layout, pages = a_page()
    frames, query = frames_of(pages, layout), np.zeros((1, 16), np.uint8)
    score(frames, [3], [0, 1], query, 1, "l2")
    for at in range(layout.page_bytes):
        frames.memory[0, at] ^= 1 + at % 255
        with pytest.raises(CorruptionError, match=r"page 3 of .*pages\.bin is damaged: its checksum") as caught:
            score(frames, [3], [0, 1], query, 1, "l2")
        assert caught.value.path == PATH
        assert caught.value.offset == 4_096 + 3 * 4_096
        ids, problems = check_pages(frames.memory[:1], np.array([3], np.uint32), layout, SALT)
        assert len(ids) == 0
        assert len(problems) == 1
        assert problems[0].startswith("page 3: checksum ")
        frames.memory[0, at] ^= 1 + at % 255


@pytest.mark.parametrize(("page_id", "salt"), [(4, SALT), (3, SALT ^ 1), (0, SALT), (3, 0)])
def test_a_whole_page_of_another_place_or_segment_is_found(page_id, salt):
    layout, pages = a_page()
    frames = frames_of(pages, layout)
    with pytest.raises(CorruptionError, match="of another place or index"):
        score(frames, [page_id], [0, 1], np.zeros((1, 16), np.uint8), 1, "l2", salt=salt)
    ids, problems = check_pages(pages, np.array([page_id], np.uint32), layout, salt)
    assert problems == [f"page {page_id}: it is page 3 of segment {SALT:08x}"]
    assert len(ids) == 0


@pytest.mark.parametrize(("field", "value"), [("count", 0), ("count", 171), ("count", 65_535), ("flags", 1)])
def test_a_page_sealed_with_a_header_that_lies_is_found(field, value):
    """Its checksum is right: the work of a faulty writer, who must not make a reader run past the page."""
    layout, pages = a_page()
    header = pages[:, : HEADER.itemsize].view(HEADER)[:, 0]
    header[field] = value
    header["crc32c"] = crc32c(pages[0, 4:])
    assert layout.capacity == 170
    _, problems = check_pages(pages, np.array([3], np.uint32), layout, SALT)
    assert len(problems) == 1
    assert "don't fit the layout" in problems[0]
    with pytest.raises(CorruptionError, match="number of rows or its flags"):
        score(frames_of(pages, layout), [3], [0, 1], np.zeros((1, 16), np.uint8), 1, "l2")


def test_a_bad_page_among_good_ones_is_named_and_the_others_are_checked_on(rng):
    spec = IndexSpec(16, "uint8", "l2")
    layout = PageLayout.of(spec)
    rows = quantize_rows(rng.integers(0, 256, (50, 16)).astype(np.uint8), spec)
    counts = np.full(5, 10)
    pages = pack_pages(rows, np.arange(50, dtype=np.uint64), counts, layout, first_page_id=0, salt=SALT)
    pages[2, 100] ^= 4
    ids, problems = check_pages(pages, np.arange(5, dtype=np.uint32), layout, SALT)
    assert [problem.split(":")[0] for problem in problems] == ["page 2"]
    assert ids.tolist() == [*range(20), *range(30, 50)]
    with pytest.raises(CorruptionError, match="page 2 of"):
        score(frames_of(pages, layout), range(5), [0, 1, 4, 5], np.zeros((3, 16), np.uint8), 3, "l2")
