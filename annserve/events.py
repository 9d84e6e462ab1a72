"""Typed events: what long work tells whoever listens.

A journey takes one ``Listener`` and calls it; the terminal, a log file and a JSON stream are three listeners.
Events are plain records without a clock: a listener that wants rates keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageStarted:
    """A stage of a journey begins; `total` is in `unit`, or None where it can't be known."""

    stage: str
    total: int | None = None
    unit: str = "rows"


@dataclass(frozen=True)
class StageProgressed:
    """`done` of the stage's total is behind us; it never falls within one stage."""

    stage: str
    done: int


@dataclass(frozen=True)
class StageFinished:
    """A stage ended after `seconds`; `note` is one line for people, possibly empty."""

    stage: str
    seconds: float
    note: str = ""


Event = StageStarted | StageProgressed | StageFinished
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Be a listener that does nothing."""
