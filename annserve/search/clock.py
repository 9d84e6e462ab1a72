"""Time of the stages of a search, and the deadline before which each must begin."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType

from annserve.errors import DeadlineError, InputError


class Deadline:
    """When whoever asked stops waiting; threads may share it.

    Parameters
    ----------
    at : float
        ``time.monotonic()`` after which no stage of the search is begun; infinity for one that waits.
    partial : bool
        Whether what was found until then is an answer; otherwise it is an error.

    Attributes
    ----------
    cancelled : bool
        Whether nobody wants an answer any more.
    """

    __slots__ = ("at", "cancelled", "partial")

    def __init__(self, at: float = math.inf, *, partial: bool = False) -> None:
        self.at = at
        self.partial = partial
        self.cancelled = False

    @classmethod
    def of(cls, deadline: Deadline | float | None) -> Deadline:
        """Make one of a plain time; None never comes.

        Raises
        ------
        InputError
            If it is no time.
        """
        if deadline is None:
            return NO_DEADLINE
        if isinstance(deadline, Deadline):
            return deadline
        if not isinstance(deadline, int | float):
            raise InputError(f"deadline is {deadline!r}; give a Deadline, or a time.monotonic()", field="deadline")
        return cls(deadline)

    def cancel(self) -> None:
        """Let the search end in an error before its next stage."""
        self.cancelled, self.partial, self.at = True, False, -math.inf


#: Of all who wait; nobody cancels it.
NO_DEADLINE = Deadline()


class Clock:
    """Times stages, and stops before one that would begin after the deadline.

    Parameters
    ----------
    deadline : Deadline, optional

    Attributes
    ----------
    deadline : Deadline
    seconds : dict
        Seconds by stage, summed where a stage ran more than once.
    """

    def __init__(self, deadline: Deadline | None = None) -> None:
        self.deadline = deadline or NO_DEADLINE
        self.seconds: dict[str, float] = {}

    @property
    def late(self) -> bool:
        """Whether no stage may begin any more."""
        return time.monotonic() >= self.deadline.at

    def stage(self, name: str) -> Stage:
        """Time one stage, as a context.

        Raises
        ------
        DeadlineError
            At its beginning, if the deadline has passed.
        """
        return Stage(self, name, self.deadline.at)

    def waiting(self, name: str) -> Stage:
        """Time what must be gone through with whatever the deadline: the end of a stage that began before it."""
        return Stage(self, name, math.inf)

    def begin(self, name: str) -> None:
        """Make sure that a stage may begin, and leave its time to whoever carries it out (`add_all`).

        Raises
        ------
        DeadlineError
            If the deadline has passed.
        """
        if time.monotonic() >= self.deadline.at:
            raise self.too_late(name)

    def too_late(self, name: str) -> DeadlineError:
        """Make the error for a stage that may not begin any more."""
        if self.deadline.cancelled:
            return DeadlineError(f"the search was cancelled before stage '{name}'")
        return DeadlineError(f"the time given was spent before stage '{name}'; give more, or a lower recall_target")

    def add_all(self, names: Sequence[str], nanoseconds: Sequence[int]) -> None:
        """Add to the times of several stages."""
        seconds = self.seconds
        for name, spent in zip(names, nanoseconds):
            seconds[name] = seconds.get(name, 0.0) + 1e-9 * spent


class Stage:
    """Adds the time between its two ends to the seconds of a stage, unless an error ends it.

    A class, not a generator: a query passes through several, and each would cost it two microseconds more.
    """

    __slots__ = ("_at", "_begun", "_clock", "_name")

    def __init__(self, clock: Clock, name: str, at: float) -> None:
        self._clock = clock
        self._name = name
        self._at = at

    def __enter__(self) -> None:
        """Begin, if it isn't too late."""
        self._begun = begun = time.monotonic()
        if begun >= self._at:
            raise self._clock.too_late(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        if kind is None:
            seconds, name = self._clock.seconds, self._name
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - self._begun
