"""Time of the stages of a search, and the deadline before which each must begin."""

from __future__ import annotations

import time
from types import TracebackType

from annserve.errors import DeadlineError


class Clock:
    """Times stages, and stops before one that would begin after the deadline.

    Parameters
    ----------
    deadline : float, optional
        ``time.monotonic()`` after which no stage is begun.

    Attributes
    ----------
    seconds : dict
        Seconds by stage, summed where a stage ran more than once.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self.seconds: dict[str, float] = {}

    def stage(self, name: str) -> Stage:
        """Time one stage, as a context.

        Raises
        ------
        DeadlineError
            If the deadline has passed.
        """
        self.begin(name)
        return Stage(self, name)

    def begin(self, name: str) -> None:
        """Make sure that a stage may begin, and leave its time to whoever carries it out (`add`).

        Raises
        ------
        DeadlineError
            If the deadline has passed.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineError(f"the time given was spent before stage '{name}'; give more, or a lower recall_target")

    def add(self, name: str, seconds: float) -> None:
        """Add to the time of a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def waiting(self, name: str) -> Stage:
        """Time what must be gone through with whatever the deadline: the end of a stage that began before it."""
        return Stage(self, name)


class Stage:
    """Adds the time between its two ends to the seconds of a stage, unless an error ends it.

    A class, not a generator: a query passes through ten of them, and each would cost it two microseconds more.
    """

    __slots__ = ("_begun", "_clock", "_name")

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name

    def __enter__(self) -> None:
        """Begin."""
        self._begun = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        if kind is None:
            self._clock.add(self._name, time.monotonic() - self._begun)
