"""Which way of choosing pages an index has."""

from __future__ import annotations

from annserve.index.segment import Segment
from annserve.search.choose import Chooser, ProbeChooser
from annserve.search.choose_codes import CodeChooser
from annserve.search.choose_vicinity import VicinityChooser
from annserve.search.probe_plan import ProbePlan
from annserve.search.reach_plan import ReachPlan
from annserve.search.read_plan import ReadPlan
from annserve.search.vicinity_plan import VicinityPlan
from annserve.storage.reader import PageReader


def chooser_for(segment: Segment, vicinity_reader: PageReader | None = None) -> Chooser:
    """Give the way of choosing that the segment's tiers allow, with what its calibration found.

    Parameters
    ----------
    segment : Segment
    vicinity_reader : PageReader, optional
        Of its vicinities, where it has any; by default one is opened.
    """
    if segment.codes is None:
        plan_kind = ReachPlan if "limits" in segment.plan else ProbePlan
        return ProbeChooser(segment, plan_kind.of(segment.plan))
    if segment.vicinities is None:
        return CodeChooser(segment, segment.codes, ReadPlan.of(segment.plan))
    reader = vicinity_reader or segment.vicinities.open_reader()
    return VicinityChooser(segment, segment.codes, reader, VicinityPlan.of(segment.plan))
