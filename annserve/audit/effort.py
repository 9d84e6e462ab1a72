"""What to ask of an index so that the recall which was declared is delivered.

An index whose calibration is off delivers less than it is asked for, so it is asked for more: the share that it may
miss shrinks by the factor by which it missed too much. It happens only on evidence, one step at a time, and each step
is judged by queries that were answered after it. Never is less asked for than was declared.
"""

from __future__ import annotations

from annserve.confidence import RecallBounds
from annserve.spec import RECALL_TARGETS

#: The most that is asked for; beyond it an index can only be read whole.
ASKED_MAX = RECALL_TARGETS[-1]
#: A step goes this far towards what the evidence says, on a logarithmic scale: a whole one would overshoot by chance.
_STRIDE = 0.75
#: How much more than declared may be delivered before less is asked for again.
_SURPLUS = 0.01


class Effort:
    """What is asked of one collection in the place of what was declared."""

    def __init__(self) -> None:
        self._asked: dict[float, float] = {}

    def asked(self, recall_target: float) -> float:
        """Give what to ask for; what was declared, where nothing speaks against it."""
        return self._asked.get(recall_target, recall_target)

    def heed(self, recall_target: float, bounds: RecallBounds) -> bool:
        """Ask for more, or less again, where the evidence says so; give whether anything changed.

        Parameters
        ----------
        recall_target : float
            Declared, below 1.
        bounds : RecallBounds
            Of queries that were answered by what is asked for now.
        """
        asked = self.asked(recall_target)
        missed, allowed = max(1 - bounds.recall, 1e-4), 1 - recall_target
        short = bounds.high < recall_target and asked < ASKED_MAX
        ample = bounds.low > recall_target + _SURPLUS and asked > recall_target
        if not (short or ample):
            return False
        wanted = 1 - (1 - asked) * (allowed / missed) ** _STRIDE
        new: float = min(max(wanted, recall_target), ASKED_MAX)
        self._asked[recall_target] = new
        return new != asked

    def adjusted(self) -> dict[float, float]:
        """Give what is asked for in the place of each target that isn't asked for as it was declared."""
        return {declared: asked for declared, asked in self._asked.items() if asked != declared}
