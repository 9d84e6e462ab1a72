"""A sample of a user's queries: what is asked for is delivered to others of their kind, in fewer reads."""

from __future__ import annotations

import numpy as np
import pytest
from test_expected_recall import some_queries

import annserve
from annserve.build.pipeline import build
from annserve.calibrate.expected_recall import Curves
from annserve.calibrate.sample import limit_worth
from annserve.design.options import BuildOptions
from annserve.errors import InputError

ENDS = np.array([0.1, 0.9])


def test_a_large_sample_is_believed(rng):
    """Pages that hold less than they promise; the plan knows nothing of it."""
    curves = Curves.of(*([part] for part in some_queries(rng, 10, bias=0.04)), 10)
    least, enough = limit_worth(curves, ENDS, np.full(2, 0.9), 0.9)
    np.testing.assert_allclose(least, 0.8)
    assert curves.fit_worth(ENDS, least, 0.9) <= enough <= curves.fit_worth(ENDS, least, 0.89)


def test_a_tiny_sample_is_taken_for_luck(rng):
    """What twenty queries miss under the plan they may miss under the limit too."""
    curves = Curves.of(*([part] for part in some_queries(rng, 10, bias=0.04, m=20)), 10)
    expected = np.full(2, 0.85)
    least, enough = limit_worth(curves, ENDS, expected, 0.9)
    under_the_plan = float(curves.recall(ENDS, expected).mean())
    assert under_the_plan < 0.85
    assert enough > curves.fit_worth(ENDS, least, 0.9 - 0.3 * (0.9 - under_the_plan))


def test_queries_like_the_sample_get_their_target_in_fewer_pages(built, tmp_path):
    np.save(tmp_path / "rows.npy", built.rows)
    np.save(tmp_path / "sample.npy", built.queries[:500])
    options = BuildOptions(threads=2, calibration_queries=1_200, calibrate_with=tmp_path / "sample.npy")
    build(tmp_path / "rows.npy", tmp_path / "index", options)
    rest = built.queries[500:]
    with annserve.open(built.folder, threads=1) as plain, annserve.open(tmp_path / "index", threads=1) as refined:
        truth = plain.search(rest, 10, recall_target=1.0).distances[:, -1:]
        for target in (0.9, 0.95):
            before, after = (index.search(rest, 10, recall_target=target) for index in (plain, refined))
            assert (after.distances <= truth).mean() == pytest.approx(target, abs=0.02)
            assert after.stats.pages_read.mean() < before.stats.pages_read.mean()
        assert refined.report["options"]["calibrate_with"] == "sample.npy"


@pytest.mark.parametrize(
    ("sample", "options", "what"),
    [
        (np.zeros((5, 3), np.float32), {}, "dimension 3"),
        (np.full((5, 64), np.nan, np.float32), {}, "NaN"),
        (np.zeros((5, 64), np.uint8), {"codes": "none"}, "needs codes of rows in RAM"),
    ],
)
def test_a_sample_that_cannot_serve_is_refused_before_the_work(tmp_path, sample, options, what):
    np.save(tmp_path / "rows.npy", np.ones((300, 64), np.uint8))
    np.save(tmp_path / "sample.npy", sample)
    with pytest.raises(InputError, match=what):
        build(
            tmp_path / "rows.npy",
            tmp_path / "index",
            BuildOptions(calibrate_with=tmp_path / "sample.npy", **options),
        )
    assert not (tmp_path / "index").exists()
