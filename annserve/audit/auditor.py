"""The recall auditor: beside a server's searches, some of their queries are held against every row.

A sample of what was answered waits in a reservoir for each collection. A thread below everyone's priority takes it, a
round of some dozens at a time, and scores every row for them while no search waits; where searches never rest, it goes
on for a batch of pages a second. What was found counts for the version that answered: a new one begins anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.audit.effort import Effort
from annserve.audit.exact import SCAN_QUERIES, Measurable, hits_of
from annserve.audit.findings import Finding
from annserve.audit.ledger import Ledger
from annserve.audit.reservoir import Reservoir, Sample
from annserve.errors import AnnserveError
from annserve.results import SearchResult

LOG = logging.getLogger("annserve.audit")

#: Audited queries that are kept for those who ask for live ones.
RECENT_QUERIES = 512
#: Between two looks at what was sampled, at least.
PAUSE_SECONDS = 1.0
#: How long a scan waits for searches to rest before it goes on for one batch of pages.
PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.1
#: The patience of the thread itself, as the system counts it.
_NICENESS = 19

#: Opens a collection for a while: gives its version and itself, or raises an ``AnnserveError``.
Pin = Callable[[str], AbstractContextManager[tuple[int, Measurable]]]


class _StoppedError(Exception):
    """The server stops; the round is given up."""


@dataclass
class _Watched:
    """What is kept of one collection."""

    reservoir: Reservoir = field(default_factory=lambda: Reservoir(SCAN_QUERIES))
    ledger: Ledger = field(default_factory=Ledger)
    effort: Effort = field(default_factory=Effort)
    recent: deque[npt.NDArray[Any]] = field(default_factory=lambda: deque(maxlen=RECENT_QUERIES))
    snapshot: int = -1


def ignore(collection: str, audited: int) -> None:
    """Be a listener that does nothing."""


class Auditor:
    """Audits the collections of a server process; threads may share it.

    Parameters
    ----------
    pin : callable
        How to reach a collection.
    give_way : callable
        Waits until no search waits, at most so many seconds; says whether that came about.
    share : float
        Of the time, that audits may take, 0 … 1; nothing is sampled at 0.
    adjust : bool
        Whether more is asked of an index that falls short.
    on_found : callable
        Told by the auditor's own thread of a collection, and of how many more of its queries something is known.
    """

    def __init__(
        self,
        pin: Pin,
        *,
        give_way: Callable[[float], bool] = lambda seconds: True,
        share: float = 0.1,
        adjust: bool = False,
        on_found: Callable[[str, int], None] = ignore,
    ) -> None:
        self._share = share
        self._pin, self._searches_rest, self._adjust = pin, give_way, adjust
        self._on_found = on_found
        self._watched: dict[str, _Watched] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="annserve-audit", daemon=True)

    def observe(
        self, collection: str, snapshot: int, queries: npt.NDArray[Any], recall_target: float, result: SearchResult
    ) -> None:
        """Take note of a call that was answered in full; costs a microsecond where nothing of it is kept."""
        if not self._share or recall_target >= 1.0 or not len(queries):
            return
        watched = self._watched.get(collection) or self._watched.setdefault(collection, _Watched())
        asked = watched.effort.asked(recall_target)
        watched.reservoir.offer(queries, result.ids, result.distances, recall_target, asked, snapshot)

    def asked(self, collection: str, recall_target: float) -> float:
        """Give what to ask of an index so that a declared recall is delivered."""
        watched = self._watched.get(collection)
        return watched.effort.asked(recall_target) if watched is not None else recall_target

    def found(self, collection: str) -> list[Finding]:
        """Give what is known of a collection's recall, by target."""
        watched = self._watched.get(collection)
        if watched is None:
            return []
        return [
            Finding(watched.snapshot, target, watched.effort.asked(target), watched.ledger.sums(target))
            for target in watched.ledger.targets()
        ]

    def live_queries(self, collection: str, count: int) -> list[npt.NDArray[Any]]:
        """Give the newest of the queries that were sampled, `count` at most."""
        watched = self._watched.get(collection)
        return list(watched.recent)[-count:] if watched is not None else []

    def forget(self, collection: str) -> None:
        """Forget a collection that is no longer served."""
        self._watched.pop(collection, None)

    def start(self) -> None:
        """Begin to audit."""
        if self._share:
            self._thread.start()

    def stop(self) -> None:
        """End after the batch of pages that is being scored."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def audit(self, collection: str) -> int:
        """Hold what was sampled of a collection against every row; give how many queries that were.

        Raises
        ------
        AnnserveError
            If the collection can't be reached, or fails.
        """
        watched = self._watched.get(collection)
        samples = watched.reservoir.take() if watched is not None else []
        if watched is None or not samples:
            return 0
        watched.recent.extend(sample.query for sample in samples)
        with self._pin(collection) as (snapshot, index):
            if snapshot != watched.snapshot:
                watched.snapshot, watched.ledger, watched.effort = snapshot, Ledger(), Effort()
            count = 0
            for group in _alike(samples, watched, snapshot):
                count += self._judge(collection, watched, index, group)
        return count

    def _judge(self, collection: str, watched: _Watched, index: Measurable, group: list[Sample]) -> int:
        """Audit samples of one k and one recall target."""
        queries = np.stack([sample.query for sample in group])
        ids, distances = np.stack([sample.ids for sample in group]), np.stack([sample.distances for sample in group])
        hits = hits_of(index, queries, ids, distances, self._give_way)
        k, target = len(group[0].ids), group[0].recall_target
        if not watched.ledger.add(target, [(int(n), k) for n in hits]):
            return 0
        bounds = watched.ledger.sums(target).bounds()
        self._on_found(collection, len(group))
        if self._adjust and watched.effort.heed(target, bounds):
            watched.ledger.forget(target)
            LOG.warning(
                "recall is corrected",
                extra={
                    "collection": collection,
                    "recall_target": target,
                    "recall": round(bounds.recall, 4),
                    "asked_target": round(watched.effort.asked(target), 4),
                },
            )
        return len(group)

    def _give_way(self) -> None:
        """Let searches go first, for a while."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._stop.is_set() and not self._searches_rest(_LOOK_SECONDS) and time.monotonic() < until:
            pass
        if self._stop.is_set():
            raise _StoppedError

    def _work(self) -> None:
        with suppress(OSError):  # where the system lets no thread be more patient than its process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while not self._stop.is_set():
            begun = time.monotonic()
            for name in list(self._watched):
                try:
                    self.audit(name)
                except _StoppedError:
                    return
                except AnnserveError as error:
                    LOG.warning("audit failed", extra={"collection": name, "error": str(error)})
                except Exception:
                    LOG.exception("audit failed", extra={"collection": name})
            worked = time.monotonic() - begun
            self._stop.wait(max(PAUSE_SECONDS, worked * (1 / self._share - 1)))


def _alike(samples: Iterable[Sample], watched: _Watched, snapshot: int) -> list[list[Sample]]:
    """Group what was answered by this version, as it is asked now, by k and recall target."""
    groups: dict[tuple[float, int], list[Sample]] = {}
    for sample in samples:
        if sample.snapshot == snapshot and sample.asked_target == watched.effort.asked(sample.recall_target):
            groups.setdefault((sample.recall_target, len(sample.ids)), []).append(sample)
    return list(groups.values())
