"""Limits hold whatever the floats are; no true neighbour is left out of the candidates, none is decided wrongly."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import raw as oracle

from annserve.metric import METRIC_CODES
from annserve.pages.bound_kernels import limits_of
from annserve.pages.bounds import find_candidates, rounding_of_queries
from annserve.pages.layout import PageLayout
from annserve.pages.pack import pack_pages
from annserve.pages.rows import quantize_queries, quantize_rows
from annserve.pages.score import Frames
from annserve.spec import IndexSpec
from annserve.storage.reader import aligned_frames

METRICS = st.sampled_from(list(METRIC_CODES))


@st.composite
def cases(draw):
    """Rows and queries: plain, with one coordinate far larger, tiny, huge, sparse, and queries that are rows."""
    dim, row_type = draw(st.sampled_from([1, 2, 3, 17, 130])), draw(st.sampled_from(["float16", "float32"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["plain", "outlier", "tiny", "huge", "sparse", "near", "offset"]))
    rows, queries = rng.normal(size=(12, dim)), rng.normal(size=(4, dim))
    if kind == "outlier":
        rows[:, 0] *= 300
        queries[:, -1] *= 300
    elif kind == "tiny":
        rows *= 1e-40 if row_type == "float32" else 1e-7
        queries *= 1e-20
    elif kind == "huge":
        rows *= 1e14 if row_type == "float32" else 1e4
        queries *= 1e14
    elif kind == "sparse":
        rows *= rng.random(rows.shape) < 0.2
        queries *= rng.random(queries.shape) < 0.2
    elif kind == "offset":
        rows += 50
        queries += 50
    rows, queries = rows.astype(row_type), queries.astype(np.float32)
    if kind == "near":
        queries[:2] = rows[:2]
        queries[2] = -rows[2]
        queries[3] = 3 * rows[3]
    return rows, queries, rng


def nonzero(rows, queries, metric):
    return metric != "cosine" or (rows.any(axis=1).all() and queries.any(axis=1).all())


def limits(rows, queries, metric, share):
    """Lowest and highest distances of every pair, (2, nq, n)."""
    spec = IndexSpec(rows.shape[1], str(rows.dtype), metric)
    stored, asked = quantize_rows(rows, spec), quantize_queries(queries)
    errors = rounding_of_queries(queries, asked, of_directions=metric == "cosine")
    norms = (stored.elements.astype(np.int64) ** 2).sum(axis=1)
    dots = asked.elements.astype(np.int64) @ stored.elements.astype(np.int64).T
    found = np.empty((2, len(queries), len(rows)))
    for i in range(len(queries)):
        for j in range(len(rows)):
            found[:, i, j] = limits_of(
                dots[i, j],
                norms[j],
                float(stored.scales[j]),
                float(stored.errors[j]),
                asked.scales[i],
                asked.norms[i],
                errors[i],
                METRIC_CODES[metric],
                share,
            )
    return found


@given(cases(), METRICS)
@settings(max_examples=300)
def test_limits_always_hold_the_true_distance(case, metric):
    """The true one by the widest floats, of row and query as they were given; no tolerance."""
    rows, queries, _ = case
    assume(nonzero(rows, queries, metric))
    low, high = limits(rows, queries, metric, 1.0)
    true = oracle.distances(queries, rows, metric)
    assert (low <= true).all(), (true - low).min()
    assert (true <= high).all(), (high - true).min()


@given(cases(), METRICS)
@settings(max_examples=60)
def test_a_smaller_share_gives_narrower_limits_around_the_same_middle(case, metric):
    rows, queries, _ = case
    assume(nonzero(rows, queries, metric))
    none, some, full = (limits(rows, queries, metric, share) for share in (0.0, 0.3, 1.0))
    slack = 1e-9 * np.abs(full).max()
    for inner, outer in ((none, some), (some, full)):
        assert (inner[0] >= outer[0] - slack).all()
        assert (inner[1] <= outer[1] + slack).all()


def test_limits_of_embeddings_are_as_narrow_as_the_formula_says(rng):
    """A typical error is 1/√dim of the worst: two of them hold 19 of 20 true distances, five hold all."""
    rows = rng.normal(size=(200, 384)).astype(np.float32)
    queries = rng.normal(size=(20, 384)).astype(np.float32)
    true = oracle.distances(queries, rows, "cosine")
    for errors_allowed, least, most in ((2, 0.93, 0.98), (5, 1.0, 1.0)):
        low, high = limits(rows, queries, "cosine", errors_allowed / 384**0.5)
        assert least <= ((low <= true) & (true <= high)).mean() <= most


@given(cases(), METRICS, st.integers(1, 15), st.sampled_from([0.2, 1.0]))
@settings(max_examples=150)
def test_candidates_are_those_whose_limits_reach_into_the_k_nearest(case, metric, k, share):
    """Against the definition, on pages with replicas of rows; at full share the true neighbours are among them."""
    rows, queries, rng = case
    assume(nonzero(rows, queries, metric))
    spec = IndexSpec(rows.shape[1], str(rows.dtype), metric)
    layout = PageLayout.of(spec)
    ids = rng.choice(10**6, len(rows), replace=False).astype(np.uint64)
    on_pages = np.concatenate((np.arange(12), [3, 3, 7]))
    pages = pack_pages(
        quantize_rows(rows[on_pages], spec), ids[on_pages], np.array([7, 8]), layout, first_page_id=4, salt=1
    )
    frames = Frames(aligned_frames(2 * len(queries), layout.page_bytes), layout)
    frames.memory[:] = np.tile(pages, (len(queries), 1))
    asked = quantize_queries(queries)
    found = find_candidates(
        frames,
        np.tile(np.array([4, 5], np.uint32), len(queries)),
        np.arange(len(queries) + 1) * 2,
        asked,
        rounding_of_queries(queries, asked, of_directions=metric == "cosine"),
        k,
        metric=METRIC_CODES[metric],
        share=share,
    )
    low, high = limits(rows, queries, metric, share)
    true = oracle.distances(queries, rows, metric)
    for i in range(len(queries)):
        own = found.query == i
        number = np.array([int(np.flatnonzero(ids == id_)[0]) for id_ in found.ids[own]])
        assert len(set(number)) == len(number)
        worst = np.sort(high[i])[k - 1] if k <= 12 else np.inf
        best = np.sort(low[i])[k] if k < 12 else np.inf
        assert set(number) == set(np.flatnonzero(low[i] <= worst))
        assert found.decided[own].tolist() == (high[i, number] < best).tolist()
        np.testing.assert_allclose(found.distances[own], (low + high)[i, number] / 2)
        places = [int(np.flatnonzero(on_pages == n)[0]) for n in number]
        expected = [4 * layout.capacity + p if p < 7 else 5 * layout.capacity + p - 7 for p in places]
        assert found.places[own].tolist() == expected
        if share == 1.0:
            true_k = np.sort(true[i])[min(k, 12) - 1]
            assert set(np.flatnonzero(true[i] < true_k)) <= set(number)
            assert (true[i, number[found.decided[own]]] <= true_k).all()
