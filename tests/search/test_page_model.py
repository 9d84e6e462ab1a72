"""The model behind plans: what was fitted is what is used, it keeps what it says of itself, and it behaves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.search.page_model import CONSTANTS, Anchor, Workload, expected_reading

RESULTS = Path(__file__).resolve().parents[2] / "bench/results"

workloads = st.builds(
    Workload,
    n_rows=st.sampled_from([1, 50, 1e4, 1e6, 1e9]),
    intrinsic_dim=st.floats(2, 60),
    page_capacity=st.sampled_from([1, 5, 10, 30]),
    code_bytes=st.sampled_from([0, 4, 16, 60, 128]),
    pages_per_posting=st.sampled_from([1, 16, 200]),
    k=st.sampled_from([1, 10, 100, 1_000]),
    recall_target=st.sampled_from([0.8, 0.9, 0.95, 0.99]),
)
on_ssd = st.builds(replace, workloads, code_bytes=st.sampled_from([4, 16, 60, 128]), codes_on_ssd=st.just(True))
copied = st.builds(replace, workloads, code_bytes=st.just(0), copies=st.floats(1.2, 8))
every = workloads | on_ssd | copied


def test_constants_are_those_that_were_fitted():
    assert json.loads((RESULTS / "2026-11-21-auto/model.json").read_text())["constants"] == CONSTANTS


def test_two_of_three_measurements_lie_within_the_factor_that_is_told():
    """The factor is of sets that a fit hasn't seen; those that it has seen must lie within it all the more."""
    within = []
    for run in json.loads((RESULTS / "2026-11-21-plan/pages.json").read_text())["runs"]:
        pages_per_posting = 16 if run["code_bytes"] else max(round(run["pages"] / run["heads"]), 1)
        for asked in run["asked"]:
            work = Workload(
                run["n_rows"],
                run["intrinsic_dim"],
                run["page_capacity"],
                run["code_bytes"],
                pages_per_posting,
                asked["k"],
                asked["recall_target"],
            )
            found = expected_reading(work)
            within.append(abs(math.log(found.pages / max(asked["pages_read_mean"], 1e-9))) <= math.log(found.factor))
    assert len(within) > 200
    assert sum(within) / len(within) >= 2 / 3


@given(every)
def test_no_more_is_read_than_there_is_and_no_less_than_must_be(work):
    found = expected_reading(work)
    n_pages = max(work.copies * work.n_rows / work.page_capacity, 1)
    assert 1 <= found.pages <= n_pages * (2 if work.codes_on_ssd else 1)
    assert 1 <= found.reads <= found.pages
    assert found.row_codes <= work.n_rows
    assert found.factor > 1
    assert (found.page_codes > 0) == (found.row_codes > 0) == bool(work.code_bytes)


@given(every)
def test_more_is_asked_more_is_read_and_longer_codes_save(work):
    pages = expected_reading(work).pages
    assert expected_reading(replace(work, recall_target=0.99)).pages >= pages
    assert expected_reading(replace(work, k=1_000)).pages >= pages
    assert expected_reading(replace(work, n_rows=10 * work.n_rows)).pages >= pages
    if work.code_bytes and not work.codes_on_ssd:
        assert expected_reading(replace(work, code_bytes=128)).pages <= pages


def test_an_anchor_is_met_and_makes_its_neighbourhood_more_certain():
    work = Workload(1e6, 16.0, 30, 16, 16, 10, 0.95)
    anchor = Anchor(work, 33.0)
    assert expected_reading(work, anchor).pages == pytest.approx(33.0)
    grown = expected_reading(replace(work, n_rows=1e8), anchor)
    assert grown.pages == pytest.approx(
        33.0 * expected_reading(replace(work, n_rows=1e8)).pages / expected_reading(work).pages
    )
    assert 1 < expected_reading(work, anchor).factor < grown.factor < expected_reading(replace(work, n_rows=1e8)).factor
