"""A fair sample of the queries that were answered, at next to no cost to those who answer."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from math import exp, floor, log
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sample:
    """A query as it was answered.

    Attributes
    ----------
    query : (dim,) array
    ids : (k,) uint64
    distances : (k,) float32
    recall_target : float
        What the caller asked for.
    asked_target : float
        What the index was asked for.
    snapshot : int
        Version of the index that answered.
    """

    query: npt.NDArray[Any]
    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float32]
    recall_target: float
    asked_target: float
    snapshot: int


class Reservoir:
    """Up to `size` of all queries offered since it was emptied, each as likely as any other; threads may share it.

    Parameters
    ----------
    size : int
    seed : int, optional
        Fixes the choice.

    References
    ----------
    [1] Li, "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", ACM TOMS 20 (1994), algorithm L.
    """

    def __init__(self, size: int, seed: int | None = None) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._kept: list[Sample] = []
        self._weight = 1.0
        #: Queries to let go by before the next is kept.
        self._to_pass = 0

    def offer(
        self,
        queries: npt.NDArray[Any],
        ids: npt.NDArray[np.uint64],
        distances: npt.NDArray[np.float32],
        *facts: Any,
    ) -> None:
        """Offer the queries of one call, (nq, dim), and their answers, (nq, k); `facts` are the rest of a `Sample`.

        What is kept is copied.
        """
        # Read without the lock: a call that is passed over by a hair is as good as any other.
        if self._to_pass >= len(queries):
            self._to_pass -= len(queries)
            return
        with self._lock:
            at = self._to_pass
            while at < len(queries):
                sample = Sample(queries[at].copy(), ids[at].copy(), distances[at].copy(), *facts)
                if len(self._kept) < self._size:
                    self._kept.append(sample)
                else:
                    self._kept[self._random.randrange(self._size)] = sample
                at += 1 + self._gap()
            self._to_pass = at - len(queries)

    def take(self) -> list[Sample]:
        """Give what was kept, and begin anew."""
        with self._lock:
            kept, self._kept = self._kept, []
            self._weight, self._to_pass = 1.0, 0
        return kept

    def __len__(self) -> int:
        return len(self._kept)

    def _gap(self) -> int:
        """Draw how many queries to let go by."""
        if len(self._kept) < self._size:
            return 0
        self._weight *= exp(log(1.0 - self._random.random()) / self._size)
        return floor(log(1.0 - self._random.random()) / log(max(1.0 - self._weight, 1e-300)))
