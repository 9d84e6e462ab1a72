"""One job as a process: its events come by its stderr, and what it says at the end by a file.

It runs below the priority of a server, in a session of its own, so that Ctrl-C at the server's terminal isn't also
its own. When the server dies, its next event meets a closed pipe, and it ends; what it has done stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

#: How much less of the processor a job gets than a server beside it.
NICENESS = 10
_NICENESS_MAX = 19
#: Between the wish to stop and the end that can't be refused.
GRACE_SECONDS = 20.0
#: Of what a process says.
_SAID_CHARS_MAX = 4_000
_LINES_MAX = 20


class JobProcess:
    """A running command.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Where it runs.

    Attributes
    ----------
    pid : int
    created : float
        When it began, as the system tells it.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._lines: deque[str] = deque(maxlen=_LINES_MAX)
        self._killer: threading.Timer | None = None
        self.pid = self._process.pid
        # It has no threads yet; those that it starts are as patient.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, self.pid, min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, _NICENESS_MAX))
        self.created = created_of(self.pid)

    def events(self) -> Iterator[dict[str, Any]]:
        """Give its events until it closes its stderr; other lines are kept for `outcome`."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            event = _event_of(line)
            if event is None:
                self._lines.append(line.rstrip())
            else:
                yield event

    def end(self) -> tuple[int, str]:
        """Wait for its end; give its exit status, and what it said: its answer, or its error."""
        status = self._process.wait()
        if self._killer is not None:
            self._killer.cancel()
        assert self._process.stderr is not None
        self._process.stderr.close()
        with self._said as said:
            said.seek(max(said.seek(0, os.SEEK_END) - _SAID_CHARS_MAX, 0))
            answer = said.read().decode(errors="replace").strip()
        errors = [line.removeprefix("error: ") for line in self._lines if line.startswith("error: ")]
        if status == 0:
            return status, answer
        return status, (errors or [*self._lines, answer])[0 if errors else -1][:_SAID_CHARS_MAX]

    def stop(self) -> None:
        """Ask it to stop as Ctrl-C would, and see to it that it does."""
        if self._killer is None:
            self._killer = threading.Timer(GRACE_SECONDS, self._process.kill)
            self._killer.daemon = True
            self._killer.start()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)


def _event_of(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def created_of(pid: int) -> float:
    """Give when a process began; 0 if it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def end_leftover(pid: int, created: float) -> None:
    """End a process that a server which is gone had started; another one of the same number is left alone."""
    if pid and created and abs(created_of(pid) - created) < 1.0:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            process.kill()
            process.wait(GRACE_SECONDS)
