"""What audits found of a collection's recall, by one process or by several together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from annserve.confidence import RecallBounds, RecallSums


@dataclass(frozen=True)
class Finding:
    """What is known of a collection's recall, at one recall target.

    Attributes
    ----------
    snapshot : int
        Version of the index that it is about.
    recall_target : float
        What callers asked for.
    asked_target : float
        What the index is asked for in its place.
    sums : RecallSums
        Of the queries that were held against every row.
    """

    snapshot: int
    recall_target: float
    asked_target: float
    sums: RecallSums = field(default_factory=RecallSums)

    @property
    def bounds(self) -> RecallBounds:
        """Bounds of the recall that callers got, right 95 times in 100."""
        return self.sums.bounds()


def together(findings: Iterable[Finding]) -> list[Finding]:
    """Add up what several processes found of one version, by recall target; the most that one asks for is told."""
    found: dict[float, Finding] = {}
    for one in findings:
        before = found.get(one.recall_target, Finding(one.snapshot, one.recall_target, one.asked_target))
        asked = max(before.asked_target, one.asked_target)
        found[one.recall_target] = Finding(one.snapshot, one.recall_target, asked, before.sums + one.sums)
    return [found[target] for target in sorted(found)]


def of_all_targets(findings: Iterable[Finding]) -> RecallBounds | None:
    """Bound the recall of all queries, whatever they asked for; None where nothing is known."""
    sums = sum((one.sums for one in findings), RecallSums())
    return sums.bounds() if sums.queries else None
