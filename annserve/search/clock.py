"""Time of the stages of a search, and the deadline before which each must begin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage.

        Raises
        ------
        DeadlineError
            If the deadline has passed.
        """
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineError(f"the time given was spent before stage '{name}'; give more, or a lower recall_target")
        with self.waiting(name):
            yield

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Time what must be gone through with whatever the deadline: the end of a stage that began before it."""
        begun = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
