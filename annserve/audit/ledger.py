"""What the audit of one version of a collection found, by recall target."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

from annserve.confidence import RecallSums

#: Audited queries of a recall target that count; older ones are forgotten, as the queries of users change.
WINDOW_QUERIES = 2_000
#: Recall targets of a collection that are told apart: those of which most is known.
TARGETS_MAX = 8


class Ledger:
    """Hits of audited queries, by the recall target that was asked for; threads may share it.

    Parameters
    ----------
    window : int
        Queries of a recall target that count.
    """

    def __init__(self, window: int = WINDOW_QUERIES) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._found: dict[float, deque[tuple[int, int]]] = {}

    def add(self, recall_target: float, found: Sequence[tuple[int, int]]) -> bool:
        """Add hits and wanted neighbours of audited queries; give whether there was room for the target.

        One of which less is known gives way to it: callers may ask for many targets, but for few of them often.
        """
        with self._lock:
            if recall_target not in self._found and len(self._found) == TARGETS_MAX:
                rarest = min(self._found, key=lambda target: len(self._found[target]))
                if len(self._found[rarest]) > len(found):
                    return False
                del self._found[rarest]
            self._found.setdefault(recall_target, deque(maxlen=self._window)).extend(found)
            return True

    def forget(self, recall_target: float) -> None:
        """Forget what was found of a target: it is sought by other means from now on."""
        with self._lock:
            self._found.pop(recall_target, None)

    def sums(self, recall_target: float) -> RecallSums:
        """Give what was found of a target, added up."""
        with self._lock:
            found = np.array(self._found.get(recall_target, ()), np.int64).reshape(-1, 2)
        return RecallSums.of(found[:, 0], found[:, 1])

    def targets(self) -> list[float]:
        """Give the recall targets of which something is known, ascending."""
        with self._lock:
            return sorted(self._found)
