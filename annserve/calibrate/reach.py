"""From held-out rows to a plan for postings with replicas: how far a query must reach for each recall target.

For each held-out query the exact neighbours are known, and for each of them the reach (``search.reach_plan``) of the
nearest head that files it. The recall of a limit is the share of neighbours within it, so a limit is a quantile.
Queries are put into bins of equal count by difficulty; a line through the bins' limits, in logarithms, is raised until
all queries together reach the target. A line says no more than the sample knows: a curve through the bins, or the
demand that each group of pushed queries reach the target, read up to 20 % more and delivered more than was asked for.
A held-out row is no answer to its own query, at home or elsewhere, and no replica was placed by looking at
queries. Nothing is tuned on a user's queries.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from annserve.calibrate.heldout import PUSHES, HeldOut, calibrated_ks
from annserve.calibrate.ranks import HEADS_MAX
from annserve.calibrate.storage_loss import ranks_as_stored
from annserve.heads.layout import HeadNodes
from annserve.heads.navigate import WalkScratch, nearest_heads
from annserve.metric import queries_to_space
from annserve.search.curves import log_of
from annserve.search.reach_plan import ReachPlan, difficulties, reaches
from annserve.spec import RECALL_TARGETS, IndexSpec
from annserve.vectors.source import Rows

F64 = npt.NDArray[np.float64]

_BINS = 8
#: Quantiles of the postings that held-out queries probe: what is called an easy query, and the most for any.
_EASY, _MOST = 0.05, 0.995
#: Of a head at distance 0: logarithms are taken.
_REACH_MIN = 1e-4
_NO_POSTINGS = np.zeros((0, 0, 2))


def calibrate_reach(
    held_out: HeldOut,
    neighbours: npt.NDArray[np.int64],
    rows: Rows,
    postings_of_row: npt.NDArray[np.int32],
    heads: HeadNodes,
    spec: IndexSpec,
    norm_max: float,
) -> ReachPlan:
    """Find the reach that each recall target takes.

    Parameters
    ----------
    held_out : HeldOut
        m queries.
    neighbours : (m, c) int64
        Exact nearest rows of each, nearest first, its own left out.
    rows : (n, dim) rows
        All rows, as given.
    postings_of_row : (n, r) int32
        Heads that file each row, its home among them; −1 where there are no more.
    heads : HeadNodes
    spec : IndexSpec
    norm_max : float

    Returns
    -------
    ReachPlan
    """
    wanted = min(heads.n_heads, HEADS_MAX)
    space = queries_to_space(held_out.queries, spec, norm_max)
    found, distances, _ = nearest_heads(heads, space, wanted, WalkScratch(heads.n_heads))
    ranks = _first_ranks(found, postings_of_row[neighbours], heads.n_heads)
    reach = reaches(distances)
    needed = np.take_along_axis(reach, ranks % wanted, axis=1)
    needed[ranks == wanted] = np.inf

    difficulty = difficulties(distances)
    edges = np.quantile(difficulty, np.linspace(0, 1, min(_BINS, len(difficulty)) + 1)[1:-1])
    bins = np.searchsorted(edges, difficulty)
    centres = log_of(np.array([np.median(difficulty[bins == b]) for b in np.unique(bins)]))
    # Alone, or all alike: there is no line through one point.
    ends = np.unique(centres[[0, -1]])
    ks = calibrated_ks(neighbours.shape[1])
    limits = np.empty((len(ks), len(RECALL_TARGETS), len(ends)))
    stored_ranks = ranks_as_stored(held_out.queries, neighbours, rows, spec)
    for a, k in enumerate(ks):
        kept = stored_ranks[:, :k] < k
        # What storage loses, rows as they are must make up for, where they can. Pushed ones lie where distances hardly
        # differ, and would ask to read everything.
        counted = kept | (np.array(PUSHES)[held_out.push] == 0)[:, None]
        logs = np.log(np.where(kept, np.maximum(needed[:, :k], _REACH_MIN), np.inf))
        for b, target in enumerate(RECALL_TARGETS):
            levels = [_quantile(logs[bins == c][counted[bins == c]], target) for c in np.unique(bins)]
            line = np.polyfit(centres, levels, 1) if len(ends) > 1 else np.array([0.0, 0.0])
            held = np.polyval(line, np.clip(log_of(difficulty), ends[0], ends[-1]))
            missing = _quantile((logs - held[:, None])[counted], target)
            limits[a, b] = np.polyval(line, ends) + missing
    # More results, and more recall, never take less, whatever the sample says.
    limits = np.exp(np.maximum.accumulate(np.maximum.accumulate(limits, axis=0), axis=1))
    return _with_postings(
        ReachPlan(np.array(ks), np.array(RECALL_TARGETS), np.exp(ends), limits, _NO_POSTINGS), distances
    )


def _with_postings(plan: ReachPlan, distances: F64) -> ReachPlan:
    """Add how many postings the held-out queries probe."""
    most = distances.shape[1]
    postings = [
        [
            np.quantile(plan.probes_for(distances, int(k), float(target), most), (_EASY, _MOST))
            for target in plan.targets
        ]
        for k in plan.ks
    ]
    return replace(plan, postings=np.array(postings))


def _first_ranks(found: npt.NDArray[np.int32], postings: npt.NDArray[np.int32], n_heads: int) -> npt.NDArray[np.int64]:
    """Give the rank, from 0, of the first head found that files each neighbour; the number of heads asked for if none.

    Parameters
    ----------
    found : (m, w) int32
        Heads in the order that navigation gives them; −1 where there are no more.
    postings : (m, c, r) int32
        Heads that file each neighbour; −1 where there are no more.
    """
    wanted = found.shape[1]
    ranks = np.empty(postings.shape[:2], np.int64)
    # One place more: −1 asks for the last.
    place = np.full(n_heads + 1, wanted)
    for i, (order, filed) in enumerate(zip(found, postings)):
        visited = order[order >= 0]
        place[visited] = np.arange(len(visited))
        ranks[i] = place[filed].min(axis=1)
        place[visited] = wanted
    return ranks


def _quantile(logs: F64, target: float) -> float:
    """Give the smallest value that the target's share of `logs` doesn't exceed, or the largest that is finite."""
    ordered = np.sort(logs)
    n_finite = int(np.isfinite(ordered).sum())
    return float(ordered[min(int(np.ceil(target * len(ordered))), n_finite) - 1]) if n_finite else 0.0
