"""What a deadline makes of a search: an error, or what was found until then, which says that it is partial."""

from __future__ import annotations

import time

import numpy as np
import pytest

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.errors import DeadlineError
from annserve.search import engine, exact
from annserve.search.clock import Deadline

DIM, K = 24, 7
NONE = np.iinfo(np.uint64).max


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Integers with replicas, and floats with raw rows of their own."""
    folder = tmp_path_factory.mktemp("partial")
    rng = np.random.default_rng(5)
    integers = rng.integers(0, 200, (3_000, DIM)).astype(np.uint8)
    floats = rng.normal(size=(900, DIM)).astype(np.float32)
    np.save(folder / "integers.npy", integers)
    np.save(folder / "floats.npy", floats)
    few = {"calibration_queries": 20, "threads": 1}
    build(folder / "integers.npy", folder / "replicas", BuildOptions(codes="none", **few))
    build(folder / "floats.npy", folder / "raw", BuildOptions(rerank="float32", **few))
    return folder, {"replicas": integers, "raw": floats}


class Ticking(Deadline):
    """A deadline that passes after it was looked at so many times."""

    __slots__ = ("left",)

    def __init__(self, looks, *, partial):
        super().__init__(partial=partial)
        self.left = looks

    @property
    def at(self):
        self.left -= 1
        return np.inf if self.left >= 0 else -np.inf

    @at.setter
    def at(self, moment):
        """It has none."""


@pytest.mark.parametrize("target", [0.9, 1.0])
@pytest.mark.parametrize("name", ["replicas", "raw"])
def test_a_search_that_is_cut_short_gives_what_it_found_and_says_so_or_fails_as_asked(made, monkeypatch, name, target):
    """At every stage in turn: nothing that is given is wrong, and more time never finds less."""
    for module in (engine, exact):
        monkeypatch.setattr(module, "SCAN_PAGES", 1)
    folder, rows = made
    query = rows[name][:1].astype(np.float32)
    with annserve.open(folder / name, threads=1) as index:
        whole = index.search(query, K, recall_target=target)
        found_before, n_cut = 0, 0
        for looks in range(10_000):
            result = index.search(query, K, recall_target=target, deadline=Ticking(looks, partial=True))
            if not result.partial:
                break
            n_cut += 1
            there = result.ids[0] != NONE
            assert np.isinf(result.distances[0][~there]).all()
            assert there.sum() >= found_before
            found_before = there.sum()
            with pytest.raises(DeadlineError, match="before stage"):
                index.search(query, K, recall_target=target, deadline=Ticking(looks, partial=False))
    assert n_cut > (3 if target == 1.0 else 1)
    np.testing.assert_array_equal(result.ids, whole.ids)


@pytest.mark.parametrize("target", [0.9, 1.0])
def test_with_no_time_at_all_a_partial_answer_is_empty_and_truncated(made, target):
    folder, rows = made
    for name in ("replicas", "raw"):
        with annserve.open(folder / name, threads=2) as index:
            late = Deadline(time.monotonic() - 1, partial=True)
            result = index.search(rows[name][:150], K, recall_target=target, deadline=late)
        assert result.truncated.all()
        assert (result.ids == NONE).all()
        assert np.isinf(result.distances).all()


def test_a_cancelled_search_ends_in_an_error_even_where_partial_answers_were_wanted(made):
    folder, rows = made
    deadline = Deadline(time.monotonic() + 60, partial=True)
    deadline.cancel()
    with annserve.open(folder / "raw", threads=1) as index, pytest.raises(DeadlineError, match="cancelled"):
        index.search(rows["raw"][:3], K, deadline=deadline)
