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
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineError(f"the time given was spent before stage '{name}'; give more, or a lower recall_target")
        return Stage(self.seconds, name)

    def waiting(self, name: str) -> Stage:
        """Time what must be gone through with whatever the deadline: the end of a stage that began before it."""
        return Stage(self.seconds, name)


class Stage:
    """Adds the time between its two ends to the seconds of a stage, unless an error ends it.

    A class, not a generator: a query passes through ten of them, and each would cost it two microseconds more.
    """

    __slots__ = ("_begun", "_name", "_seconds")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds = seconds
        self._name = name

    def __enter__(self) -> None:
        """Begin."""
        self._begun = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        if kind is None:
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.monotonic() - self._begun
