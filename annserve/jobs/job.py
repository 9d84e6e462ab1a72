"""What is known of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from annserve.jobs.work import Work

WAITING, RUNNING, SUCCEEDED, FAILED, CANCELLED, INTERRUPTED = (
    "waiting",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "interrupted",
)
#: States that a job doesn't leave.
ENDED = (SUCCEEDED, FAILED, CANCELLED, INTERRUPTED)
#: Those after which another job may go on where it stopped.
RESUMABLE = (FAILED, CANCELLED, INTERRUPTED)


@dataclass(frozen=True)
class Progress:
    """How far the stage is that runs now.

    Attributes
    ----------
    stage : str
        Empty before the first.
    done, total : int
        In `unit`; a total of 0 isn't known.
    unit : str
    seconds : float
        Since the stage began.
    stages_done : int
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0
    stages_done: int = 0

    def after(self, event: Mapping[str, Any]) -> Progress:
        """Give it as it stands after an event of ``--events``."""
        kind, stage = event.get("event"), str(event.get("stage") or self.stage)
        seconds = float(event.get("seconds") or 0.0)
        if kind == "started":
            total, unit = int(event.get("total") or 0), str(event.get("unit") or "")
            return Progress(stage, 0, total, unit, 0.0, self.stages_done)
        if kind == "progressed":
            return Progress(stage, int(event.get("done") or 0), self.total, self.unit, seconds, self.stages_done)
        if kind == "finished":
            return Progress(stage, self.total or self.done, self.total, self.unit, seconds, self.stages_done + 1)
        return self


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes
    ----------
    job_id : str
        The time at which it was asked for, and some letters: ids ascend.
    collection : str
    work : Work
    state : str
        One of the six above.
    created, started, ended : float
        Seconds since 1970; 0 where that hasn't come.
    progress : Progress
    outcome : str
        How it ended, in words.
    resumed_job_id : str
        The job that it continues, if any.
    request_id : str
        Given by whoever asked for it, if anything.
    pid : int
        Process that runs it, 0 where none does, and the time at which that began, by which another process of the
        same number is told apart.
    pid_created : float
    """

    job_id: str
    collection: str
    work: Work
    state: str = WAITING
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    progress: Progress = field(default_factory=Progress)
    outcome: str = ""
    resumed_job_id: str = ""
    request_id: str = ""
    pid: int = 0
    pid_created: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain values, for the disk."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Job:
        """Read what `as_dict` gave."""
        return cls(**{**told, "work": Work(**told["work"]), "progress": Progress(**told["progress"])})
