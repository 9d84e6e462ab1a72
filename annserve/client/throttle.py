"""Calls that a client holds back by itself while the server refuses many.

A refusal costs a server about an eighth of what an answer costs it, so callers who ask for several times what it can
answer take much of it from each other. Therefore a client sends little more than the server takes: of the calls of the
last seconds it counts those that were accepted, and all that were to be made, held back ones among them. The next is
held back with probability ``(calls - SURPLUS * accepted - FEW) / (calls + 1)``, and is refused here as the server would
have refused it.

References
----------
[1] Beyer, Jones, Petoff, Murphy (eds), "Site Reliability Engineering", O'Reilly 2016, chapter 21, "Client-side
    throttling".
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

#: Calls that are sent for each that is accepted, while some are refused: so it shows when more would be.
SURPLUS = 1.5
#: Refusals of the last seconds that hold back nothing: so few harm no server, and say little.
FEW = 10
#: However many are refused, one call in ten is sent: a server that has room again is soon found out.
HELD_BACK_MOST = 0.9
#: The last seconds, and in how many spans they are counted, the oldest of which is forgotten.
SECONDS, _SPANS = 2.0, 10


@dataclass
class _Span:
    number: int
    calls: int = 0
    accepted: int = 0


class Throttle:
    """What became of the calls of one client; threads may share it.

    Parameters
    ----------
    now : callable
        A clock in seconds.
    draw : callable
        Draws from 0 … 1.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, draw: Callable[[], float] = random.random) -> None:
        self._now, self._draw = now, draw
        self._lock = threading.Lock()
        self._spans: deque[_Span] = deque()
        self._calls = self._accepted = 0
        #: After which the server said last that another try may be made.
        self.retry_after_ms = 0

    def holds_back(self) -> bool:
        """Say whether a call is not to be sent, and count it if so; what becomes of others is told later."""
        with self._lock:
            self._forget()
            over = self._calls - SURPLUS * self._accepted - FEW
            if over <= 0 or self._draw() >= min(over / (self._calls + 1), HELD_BACK_MOST):
                return False
            self._count(0)
        return True

    def accepted(self) -> None:
        """Count a call that was answered; one that fails but isn't refused says nothing of how busy a server is."""
        with self._lock:
            self._count(1)

    def refused(self, retry_after_ms: int) -> None:
        """Count a call that the server had no room for."""
        with self._lock:
            self.retry_after_ms = retry_after_ms
            self._count(0)

    def _count(self, accepted: int) -> None:
        number = self._number()
        if not self._spans or self._spans[-1].number != number:
            self._spans.append(_Span(number))
        self._spans[-1].calls += 1
        self._spans[-1].accepted += accepted
        self._calls += 1
        self._accepted += accepted

    def _forget(self) -> None:
        oldest = self._number() - _SPANS
        while self._spans and self._spans[0].number <= oldest:
            gone = self._spans.popleft()
            self._calls -= gone.calls
            self._accepted -= gone.accepted

    def _number(self) -> int:
        return int(self._now() * _SPANS / SECONDS)
