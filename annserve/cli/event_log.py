"""Events of a build as lines of JSON, for machines that watch it.

Every line has the same keys, null where they say nothing::

    time     2026-11-21T22:05:31.120Z
    event    started, progressed, finished; last of all published (or verified), or failed
    stage    stage, partition, … as the terminal shows them
    done     of `total`, in `unit`; what a resumed build finds done counts
    seconds  since the stage began; of the whole command in the last line
    note     what a stage found, or what went wrong

A file is appended to, so that a resumed build goes on in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from annserve.cli.interrupt import raise_if_interrupted
from annserve.cli.render import Progress
from annserve.errors import OutputError
from annserve.events import Event, Listener, StageFinished, StageProgressed, StageStarted

#: What names stderr in the place of a file.
STDERR = "-"


class EventLog:
    """A listener that writes a line for each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = StageStarted("")
        self._began = self._stage_began = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Write one event; end here if an interrupt was swallowed on the way."""
        raise_if_interrupted()
        if isinstance(event, StageStarted):
            self._stage, self._stage_began = event, time.monotonic()
            self._write("started", event.stage, seconds=0.0)
        elif isinstance(event, StageProgressed):
            self._write("progressed", event.stage, done=event.done, seconds=time.monotonic() - self._stage_began)
        elif isinstance(event, StageFinished):
            self._write("finished", event.stage, seconds=event.seconds, note=event.note)

    def end(self, event: str, note: str) -> None:
        """Write the last line."""
        self._write(event, None, seconds=time.monotonic() - self._began, note=note)

    def _write(
        self, event: str, stage: str | None, *, done: int | None = None, seconds: float, note: str | None = None
    ) -> None:
        of_stage = self._stage if stage == self._stage.stage else StageStarted("", None, "")
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "event": event,
            "stage": stage,
            "done": done,
            "total": of_stage.total,
            "unit": of_stage.unit or None,
            "seconds": round(seconds, 3),
            "note": note or None,
        }
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()


@contextmanager
def build_events(target: str | None, done: str = "published") -> Iterator[Listener]:
    """Give the listener of a build: progress for people, and events in a file, or on stderr in its place.

    Parameters
    ----------
    target : str, optional
        A file, or ``-``.
    done : str
        The last event, if all went well.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    if target is None:
        yield Progress()
    elif target == STDERR:
        with _ended(EventLog(sys.stderr), done) as log:
            yield log
    else:
        progress = Progress()
        with _opened(Path(target)) as stream, _ended(EventLog(stream), done) as log:

            def both(event: Event) -> None:
                progress(event)
                log(event)

            yield both


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} can't be written: {error.strerror}; choose another file for events", path=path
        ) from error


@contextmanager
def _ended(log: EventLog, done: str) -> Iterator[EventLog]:
    """Write how it ended."""
    try:
        yield log
    except BaseException as error:
        log.end("failed", str(error) or type(error).__name__)
        raise
    log.end(done, "")
