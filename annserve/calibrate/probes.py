"""From held-out rows to a plan without codes: how many postings a query must probe for each recall target.

For each held-out query the exact neighbours are known, and so is the rank, among the heads that navigation finds,
of the posting that holds each of them. The recall of probing p postings is the share of neighbours at rank ≤ p (and
whose stored row still ranks among the k nearest, so that quantization is paid for). Queries are put into bins of
equal count by difficulty; each bin gets the probes at which it reaches the target; probes are made not to fall with
difficulty, and scaled up until every group of pushed queries reaches the target. Nothing is tuned on a user's
queries.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.calibrate.heldout import PUSHES, SHORTFALL, HeldOut, calibrated_ks
from annserve.calibrate.ranks import HEADS_MAX, head_ranks
from annserve.calibrate.storage_loss import ranks_as_stored
from annserve.heads.layout import HeadNodes
from annserve.metric import queries_to_space
from annserve.search.probe_plan import ProbePlan
from annserve.spec import RECALL_TARGETS, IndexSpec
from annserve.vectors.source import Rows

_BINS = 8


def calibrate_probes(
    held_out: HeldOut,
    neighbours: npt.NDArray[np.int64],
    rows: Rows,
    head_of_neighbour: npt.NDArray[np.int64],
    heads: HeadNodes,
    spec: IndexSpec,
    norm_max: float,
    *,
    settle_above: float = 1.0,
) -> ProbePlan:
    """Find the probes that each recall target takes.

    Parameters
    ----------
    held_out : HeldOut
        m queries.
    neighbours : (m, c) int64
        Exact nearest rows of each, nearest first, its own left out.
    rows : (n, dim) rows
        All rows, as given.
    head_of_neighbour : (m, c) int64
        Head whose posting holds each of them.
    heads : HeadNodes
    spec : IndexSpec
    norm_max : float
    settle_above : float
        Recall targets above which raw rows settle what INT8 leaves open, so that nothing is lost to it.

    Returns
    -------
    ProbePlan
    """
    wanted = min(heads.n_heads, HEADS_MAX)
    space = queries_to_space(held_out.queries, spec, norm_max)
    ranks, difficulty = head_ranks(heads, space, head_of_neighbour)
    edges = np.quantile(difficulty, np.linspace(0, 1, min(_BINS, len(difficulty)) + 1)[1:-1])
    bins = np.searchsorted(edges, difficulty)
    centres = np.array([np.median(difficulty[bins == b]) for b in np.unique(bins)])

    ks = calibrated_ks(neighbours.shape[1])
    probes = np.empty((len(ks), len(RECALL_TARGETS), len(centres)))
    stored_ranks = ranks_as_stored(held_out.queries, neighbours, rows, spec)
    for a, k in enumerate(ks):
        # A neighbour that the stored rows don't rank among the k nearest is found at no rank.
        kept = stored_ranks[:, :k] < k
        for b, target in enumerate(RECALL_TARGETS):
            rank = np.where(kept | (target > settle_above), ranks[:, :k], np.inf)
            curve = np.array([_probes_reaching(rank[bins == c], target, wanted) for c in np.unique(bins)])
            probes[a, b] = _rising(np.log(curve))
            plan = ProbePlan(np.array([k]), np.array([target]), centres, np.exp(probes[a, b])[None, None])
            probes[a, b] += np.log(_scale_up(plan, rank, difficulty, held_out.push, k, target, wanted))
    return ProbePlan(np.array(ks), np.array(RECALL_TARGETS), centres, np.minimum(np.exp(probes), wanted))


def _probes_reaching(ranks: npt.NDArray[np.float64], target: float, most: int) -> float:
    """Give the fewest probes at which the share of `ranks` within them reaches the target."""
    ordered = np.sort(ranks, axis=None)
    needed = ordered[min(int(np.ceil(target * len(ordered))), len(ordered)) - 1]
    return float(min(needed, most))


def _rising(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give the nearest sequence (least squares) that never falls: pool adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, n = blocks.pop()
            mean, count = (before * n + mean * count) / (n + count), n + count
        blocks.append((mean, count))
    return np.concatenate([np.full(count, mean) for mean, count in blocks])


def _scale_up(
    plan: ProbePlan,
    ranks: npt.NDArray[np.float64],
    difficulty: npt.NDArray[np.float64],
    push: npt.NDArray[np.int64],
    k: int,
    target: float,
    most: int,
) -> float:
    """Give the factor on all probes with which every group of pushed queries reaches the target."""
    for factor in np.geomspace(1.0, 4.0, 57):
        probes = np.minimum(plan.probes_for(difficulty[:, None], k, target, most) * factor, most)
        found = (ranks <= probes[:, None]).mean(axis=1)
        groups = [found[push == group].mean() for group in range(len(PUSHES)) if (push == group).any()]
        if groups[0] >= target and min(groups) >= target - SHORTFALL:
            break
    return float(factor)
