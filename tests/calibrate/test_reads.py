"""Calibration with codes: what was asked for is delivered, on queries that no build has seen."""

from __future__ import annotations

import numpy as np
import pytest

import annserve
from annserve.index.snapshot import open_snapshot
from annserve.search.read_plan import ReadPlan
from annserve.spec import RECALL_TARGETS


@pytest.fixture(scope="module")
def nearest(built):
    """Squared distance of each query's 10th nearest row, in whole numbers."""
    rows, queries = built.rows.astype(np.int64), built.queries.astype(np.int64)
    distances = (queries**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1) - 2 * queries @ rows.T
    return np.sort(distances, axis=1)[:, :10]


@pytest.mark.parametrize("target", RECALL_TARGETS)
def test_fresh_queries_get_the_recall_that_they_ask_for(built, nearest, target):
    """Within 0.02 either way at k = 10: more would be reads for nothing."""
    with annserve.open(built.folder, threads=1) as index:
        result = index.search(built.queries, 10, recall_target=target)
    recall = (result.distances <= nearest[:, -1:]).mean()
    assert abs(recall - target) < 0.02, recall
    assert (result.stats.codes_scanned > 0).all()


def test_more_recall_reads_more_pages_and_fewer_than_there_are(built):
    with annserve.open(built.folder, threads=1) as index:
        pages = [index.search(built.queries, 10, recall_target=t).stats.pages_read.mean() for t in RECALL_TARGETS]
        everything = index.info()["pages"]
    assert pages == sorted(pages)
    assert pages[-1] < 0.25 * everything


def test_effort_rises_with_recall_and_stays_within_its_bounds(built):
    segment = open_snapshot(built.folder).segments[0]
    plan = ReadPlan.of(segment.plan)
    assert plan.ks.tolist() == [1, 10, 100]
    assert plan.targets.tolist() == list(RECALL_TARGETS)
    for values in (plan.heads, plan.expected):
        assert (np.diff(values, axis=1) >= 0).all()
    assert (np.diff(plan.skip_below, axis=1) < 0).all()
    assert (plan.heads >= 1).all()
    assert (plan.heads <= segment.heads.n_heads).all()
    assert (plan.expected >= 0).all()
    assert (plan.expected < 1).all()
