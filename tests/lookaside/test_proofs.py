"""What earlier queries prove of pages: no row on a needless page is among the k nearest, whatever the metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.lookaside import distances, searched

from annserve.lookaside.asked import ScoredPages
from annserve.lookaside.lookaside import Lookaside
from annserve.pages.layout import PageLayout
from annserve.pages.rows import quantize_queries
from annserve.pages.score import Frames, PageFacts
from annserve.results import CERTIFIED, DELTA, MISS
from annserve.spec import IndexSpec
from annserve.storage.cache import PageCache
from annserve.storage.reader import aligned_frames

PAGE_ROWS, N_PAGES = 6, 20
#: No page is scored here.
FACTS = PageFacts(PageLayout.of(IndexSpec(4, "uint8", "l2")), 0, 0, Path(), 0)
KINDS = [("l2", "uint8"), ("l2", "float32"), ("cosine", "float32"), ("ip", "float32"), ("ip", "int8")]


class World:
    """Rows on pages, near a few centres, with duplicates; and queries that are searched on planned pages."""

    def __init__(self, metric: str, row_type: str, dim: int, seed: int) -> None:
        self.random = random = np.random.default_rng(seed)
        self.metric, self.dim = metric, dim
        centres = random.normal(0, 40, (5, dim))
        rows = centres[random.integers(0, 5, N_PAGES * PAGE_ROWS)] + random.normal(0, 8, (N_PAGES * PAGE_ROWS, dim))
        rows[random.integers(0, len(rows), 12)] = rows[random.integers(0, len(rows), 12)]
        if row_type != "float32":
            kind = np.iinfo(row_type)
            rows = np.clip(np.rint(rows + (128 if row_type == "uint8" else 0)), kind.min, kind.max)
        self.rows = rows.reshape(N_PAGES, PAGE_ROWS, dim)
        norm_max = float(np.linalg.norm(rows, axis=1).max())
        self.cache = Lookaside(200_000, IndexSpec(dim, row_type, metric), norm_max)
        self.centre = centres[0] + (128 if row_type == "uint8" else 0)

    def plan(self, least: int) -> np.ndarray:
        count = self.random.integers(least, N_PAGES + 1)
        return np.sort(self.random.choice(N_PAGES, count, replace=False)).astype(np.uint32)

    def answer(self, query: np.ndarray, pages: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distance of the k-th nearest on the pages, and of the nearest on each page."""
        found = np.stack([distances(query, self.rows[page], self.metric) for page in pages])
        return np.sort(found.ravel())[:k], found.min(axis=1)

    def needless(
        self, query: np.ndarray, pages: np.ndarray, k: int, held: np.ndarray | None = None, **named: bytes
    ) -> np.ndarray:
        """Say which of the planned pages are left out, where some are held already."""
        pool, frames = PageCache.of_pages(N_PAGES, 4_096, N_PAGES), aligned_frames(N_PAGES, 4_096)
        offsets = np.array([0, len(pages)])
        if held is not None:
            frames[: len(pages)] = pages.astype(np.uint8)[:, None]
            pool.keep(pages[held], np.flatnonzero(held), frames)
        frames[:] = 255
        asked = self.cache.ask(query[None], k, 0.95, **named)
        gathered = asked.gather(
            pool, quantize_queries(query[None]), pages, offsets, Frames(frames, FACTS.layout), FACTS
        )
        left, left_offsets, absent, _ = gathered
        assert left_offsets.tolist() == [0, len(left)]
        assert absent.offsets.tolist() == [0, len(absent.places)]
        # What is left lies in its frame or is absent.
        there = np.ones(len(left), bool)
        there[absent.places] = False
        assert (frames[: len(left)][there] == left[there, None]).all()
        assert (left[absent.places] == absent.page_ids).all()
        assert held is None or there.sum() == held.sum()
        read = len(absent.page_ids)
        grade = MISS if read == len(pages) else DELTA if read else CERTIFIED
        assert asked.grades[0] == grade or asked.n_found
        return ~np.isin(pages, left)

    def ask(self, query: np.ndarray, pages: np.ndarray, k: int) -> None:
        """Let a query be remembered."""
        quantized = quantize_queries(query[None])
        nearest, of_pages = self.answer(searched(quantized, 0), pages, k)
        asked = self.cache.ask(query[None], k, 0.95)
        offsets = np.array([0, len(pages)])
        one = np.ones(1, np.int64)
        ids = np.arange(k, dtype=np.uint64)[None]
        asked.remember(quantized, ids, nearest[None], one, one, ScoredPages(pages, offsets, of_pages))


@pytest.mark.parametrize(("metric", "row_type"), KINDS)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 40), k=st.integers(1, 6), step=st.floats(-9, 1))
@settings(max_examples=60)
def test_no_needless_page_holds_one_of_the_nearest(metric, row_type, dim, k, step, seed):
    """Every proof is held against all rows of the planned pages, strictly: a tie would let another id win."""
    world = World(metric, row_type, dim, seed)
    random = world.random
    base = (world.centre + random.normal(0, 8, dim)).astype(np.float32)
    for _ in range(3):
        world.ask((base + random.normal(0, 10.0**step, dim)).astype(np.float32), world.plan(k), k)
    query = (base + random.normal(0, 10.0**step, dim)).astype(np.float32)
    pages, quantized = world.plan(k), quantize_queries(query[None])
    held = random.random(len(pages)) < 0.3
    needless = world.needless(query, pages, k, held)
    assert not (needless & held).any()
    nearest, of_pages = world.answer(searched(quantized, 0), pages, k)
    assert (of_pages[needless] > nearest[-1]).all()


@pytest.mark.parametrize(("metric", "row_type"), KINDS)
def test_proofs_are_found_where_queries_hardly_differ(metric, row_type):
    """Lest the property above hold because nothing is ever proven."""
    proven = 0
    for seed in range(20):
        world = World(metric, row_type, 24, seed)
        query = (world.centre + world.random.normal(0, 8, 24)).astype(np.float32)
        pages = np.arange(N_PAGES, dtype=np.uint32)
        world.ask(query, pages, 3)
        moved = (query * np.float32(1 + 1e-5)).astype(np.float32)
        proven += int(world.needless(moved, pages, 3).sum())
    assert proven > 20 * N_PAGES / 3


def test_nothing_is_proven_where_a_page_of_the_earlier_answer_is_not_planned():
    world = World("l2", "float32", 8, 3)
    query = (world.centre + world.random.normal(0, 8, 8)).astype(np.float32)
    pages = np.arange(N_PAGES, dtype=np.uint32)
    world.ask(query, pages, 3)
    nearest, of_pages = world.answer(query, pages, 3)
    for plan, proves in ((pages, True), (pages[of_pages > nearest[0] * 1.0001], False)):
        assert world.needless(query, plan, 3).any() == proves


def test_another_session_or_tenant_proves_nothing():
    world = World("l2", "float32", 8, 3)
    pages = np.arange(N_PAGES, dtype=np.uint32)
    query = (world.centre + world.random.normal(0, 8, 8)).astype(np.float32)
    world.ask(query, pages, 3)
    assert world.needless(query, pages, 3).any()
    for other in ({"session": b"s"}, {"tenant": b"t"}):
        assert not world.needless(query, pages, 3, **other).any()


@pytest.mark.parametrize("session", [b"", b"s"])
def test_an_approximate_answer_is_that_of_a_query_at_the_cosine_or_above(session):
    """Of 300 queries at angles on both sides of what is allowed, none beyond is taken, and most within are."""
    random = np.random.default_rng(4)
    taken_within = within = 0
    for _ in range(300):
        cache = Lookaside(100_000, IndexSpec(64, "float32", "ip"), 1.0)
        first = random.normal(0, 1, 64).astype(np.float32)
        moved = (first + random.normal(0, 0.35, 64)).astype(np.float32)
        cosine = float(first @ moved / np.linalg.norm(first) / np.linalg.norm(moved))
        asked = cache.ask(first[None], 2, 0.95, session=session)
        one = np.ones(1, np.int64)
        scored = ScoredPages(np.zeros(1, np.uint32), np.array([0, 1]), np.zeros(1))
        asked.remember(quantize_queries(first[None]), np.array([[7, 9]], np.uint64), np.zeros((1, 2)), one, one, scored)
        again = cache.ask(moved[None], 2, 0.95, session=session, approximate_cosine=0.94)
        if again.n_found:
            assert cosine >= 0.94
            assert (again.ids == [[7, 9]]).all()
            assert again.grades[0] == 5
        within += cosine >= 0.945
        taken_within += cosine >= 0.945 and again.n_found
    assert within > 50
    assert taken_within > 0.8 * within
