"""From held-out rows to the plan of a segment, whatever way it chooses pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.calibrate.heldout import HeldOut
from annserve.calibrate.probes import calibrate_probes
from annserve.calibrate.reach import calibrate_reach
from annserve.calibrate.reads import Placement, calibrate_reads
from annserve.calibrate.sample import calibrate_sample
from annserve.calibrate.vicinities import calibrate_vicinities
from annserve.clusters.closure import postings_of_rows
from annserve.clusters.hierarchy import Packing
from annserve.index.segment import Segment
from annserve.search.probe_plan import ProbePlan
from annserve.search.reach_plan import ReachPlan
from annserve.search.read_plan import ReadPlan
from annserve.search.vicinity_plan import VicinityPlan
from annserve.vectors.source import Rows


def calibrate(
    held_out: HeldOut,
    neighbours: npt.NDArray[np.int64],
    rows: Rows,
    packing: Packing,
    segment: Segment,
    norm_max: float,
    threads: int,
    *,
    settle_above: float = 1.0,
    sample: npt.NDArray[Any] | None = None,
) -> ProbePlan | ReachPlan | ReadPlan | VicinityPlan:
    """Find the effort that each recall target takes.

    Parameters
    ----------
    held_out : HeldOut
        m queries.
    neighbours : (m, c) int64
        Exact nearest rows of each, nearest first, its own left out.
    rows : (n, dim) rows
        As given, in the order of their homes.
    packing : Packing
    segment : Segment
        All but its plan.
    norm_max : float
    threads : int
    settle_above : float
        Recall targets above which raw rows settle what INT8 leaves open, so that nothing is lost to it.
    sample : (s, dim) array, optional
        Queries of a user.
    """
    heads, spec = segment.heads, segment.spec
    if packing.replicas.any():
        return calibrate_reach(held_out, neighbours, rows, postings_of_rows(packing), heads, spec, norm_max)
    placement = Placement(packing.page_offsets, packing.posting_offsets)
    if segment.codes is None:
        at = placement.head(neighbours)
        return calibrate_probes(held_out, neighbours, rows, at, heads, spec, norm_max, settle_above=settle_above)
    way = held_out, neighbours, rows, placement, segment, norm_max, threads
    if segment.vicinities is not None:
        return calibrate_vicinities(*way, settle_above=settle_above)
    plan = calibrate_reads(*way, settle_above=settle_above)
    if sample is None:
        return plan
    return calibrate_sample(plan, sample, rows, placement, segment, norm_max, threads, settle_above)
