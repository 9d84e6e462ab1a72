"""From a sample of a user's own queries to a plan that reads fewer pages for what these queries ask.

Where real queries are known, reading pages by one limit on worth takes 2 to 14 % fewer of them than reading until
worths add up: hard queries get less, easy ones more, and the target on average. The limit is the largest at which the
sample gets the target. Two things stand against a sample that misleads:

- what a target misses by the plan that was found without queries is in part luck of the sample; that part, by what is
  known of both, is left out (shrinkage, and the same queries under both rules, so that most of their luck cancels);
- no query stops before its pages promise what that plan asks for, less the share that the target may miss.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.calibrate.expected_recall import Curves
from annserve.calibrate.heldout import NEIGHBOURS
from annserve.calibrate.reads import Placement, rated_curves
from annserve.calibrate.storage_loss import ranks_as_stored
from annserve.design.budget import TierPlan
from annserve.errors import InputError
from annserve.index.segment import Segment
from annserve.metric import queries_to_space
from annserve.search.choose_codes import CodeChooser
from annserve.search.read_plan import ReadPlan
from annserve.spec import IndexSpec, check_vectors
from annserve.vectors.formats import read_matrix
from annserve.vectors.source import Rows
from annserve.vectors.truth import exact_neighbours

F64 = npt.NDArray[np.float64]

#: By how much targets were missed without a sample, on public queries of five sets at twelve budgets: about this times
#: √(target · (1 − target)), which is 0.006 at 0.90.
_MISSED = 0.02
#: Queries of a sample that are looked at; by then luck counts for nothing.
_SAMPLE_MAX = 5_000


def read_sample(path: Path | None, spec: IndexSpec, tiers: TierPlan, seed: int) -> npt.NDArray[Any] | None:
    """Read the user's queries, at most some thousands of them, and prove them before the work begins.

    Raises
    ------
    InputError
        If they aren't queries of such an index, or it has no codes to choose pages by before it reads.
    """
    if path is None:
        return None
    if not tiers.code_bytes or tiers.codes_on_ssd:
        raise InputError(
            "calibrate_with needs codes of rows in RAM, and this index has none; give more RAM, or leave it out",
            field="calibrate_with",
        )
    queries = check_vectors(read_matrix(path), spec, what=f"queries of {path}", field="calibrate_with")
    chosen = np.random.default_rng(seed).permutation(len(queries))[:_SAMPLE_MAX]
    return np.asarray(queries[np.sort(chosen)])


def calibrate_sample(
    plan: ReadPlan,
    queries: npt.NDArray[Any],
    rows: Rows,
    placement: Placement,
    segment: Segment,
    norm_max: float,
    threads: int,
    settle_above: float,
) -> ReadPlan:
    """Refine a plan by a sample of queries.

    Parameters
    ----------
    plan : ReadPlan
        Found without queries.
    queries : (m, dim) array
    rows : (n, dim) rows
        All rows, as given.
    placement : Placement
    segment : Segment
        With codes; its plan isn't looked at.
    norm_max : float
    threads : int
        Threads that rate side by side.
    settle_above : float
        As for ``calibrate_reads``.

    Returns
    -------
    ReadPlan
    """
    assert segment.codes is not None, "calibration of reads needs codes"
    chooser = CodeChooser(segment, segment.codes, plan)
    exact = queries.astype(np.float32)
    neighbours, _ = exact_neighbours(rows, exact, min(NEIGHBOURS, len(rows)), segment.spec.metric, threads=threads)
    space = queries_to_space(queries, segment.spec, norm_max)
    n_heads = segment.heads.n_heads
    enough = np.empty(plan.worth_enough.shape)
    expected = np.empty(plan.expected.shape)
    stored_ranks = ranks_as_stored(exact, neighbours, rows, segment.spec)
    for a, k in enumerate(plan.ks.tolist()):
        kept = stored_ranks[:, :k] < k
        homes = placement.page(neighbours[:, :k])
        for b, target in enumerate(plan.targets.tolist()):
            heads, skip = plan.heads_wanted(k, target, n_heads), plan.skip(k, target)
            pages = np.where(kept | (target > settle_above), homes, -1)
            curves = rated_curves(chooser, space, None, pages, k, heads, skip, threads, plan.head_skip(k, target))
            expected[a, b], enough[a, b] = limit_worth(curves, plan.evenness, plan.expected[a, b], target)
    # Noise must not let a higher target take less.
    return replace(plan, expected=expected, worth_enough=np.minimum.accumulate(enough, axis=1))


def limit_worth(curves: Curves, evenness: F64, expected: F64, target: float) -> tuple[F64, float]:
    """Find the limit on worth that gives a sample the target, and the expected recall below which no query stops.

    Parameters
    ----------
    curves : Curves
        Of the sample.
    evenness, expected : (c,) float64
        Expected recall as found without queries.
    target : float

    Returns
    -------
    expected : (c,) float64
    worth_enough : float
    """
    recall = curves.recall(evenness, expected)
    missed = target - float(recall.mean())
    luck = float(recall.var()) / len(recall)
    trust = 1 / (1 + luck / (_MISSED**2 * target * (1 - target)))
    least = np.maximum(expected - (1 - target), 0.0)
    return least, curves.fit_worth(evenness, least, target - (1 - trust) * missed)
