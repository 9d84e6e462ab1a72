"""A private folder of one running server, where its processes tell each other how they are.

::

    control              socket on which the supervisor answers what a worker doesn't decide
    counts-wanted        the number of the last look at the counts, for which workers write theirs
    counts-0             the number of the last look for which a worker has written them
    metrics/             what processes count, see ``watch.metrics``
    worker-0.json        how a worker is: state, process, and how each collection stands in it

A file is replaced whole, so that a reader finds the last one or the one before. Nothing outlives the server. Whoever
tidies up temporary files leaves it alone meanwhile: it is locked, as systemd-tmpfiles(8) asks.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Seconds between two looks at what workers have written.
_LOOK_SECONDS = 0.01


class RunFolder:
    """The folder; ``make`` makes a new one, readable by nobody else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: int | None = None

    @classmethod
    def make(cls) -> RunFolder:
        """Make one."""
        run = cls(Path(tempfile.mkdtemp(prefix="annserve-run-")))
        run.metrics.mkdir()
        run._held = os.open(run.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(run._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return run

    @property
    def control(self) -> Path:
        """Where the supervisor answers."""
        return self.path / "control"

    @property
    def metrics(self) -> Path:
        """Where processes write what they count."""
        return self.path / "metrics"

    def tell(self, worker: int, facts: dict[str, Any]) -> None:
        """Say how a worker is.

        Raises
        ------
        OSError
            If the device refuses; what was said before stays.
        """
        _put(self.path / f"worker-{worker}.json", json.dumps(facts))

    def told(self, worker: int) -> dict[str, Any]:
        """Give what a worker said last; nothing if it never did."""
        try:
            facts: dict[str, Any] = json.loads((self.path / f"worker-{worker}.json").read_text())
        except FileNotFoundError:
            return {}
        return facts

    def forget(self, worker: int) -> None:
        """Forget what a worker said that is gone."""
        (self.path / f"worker-{worker}.json").unlink(missing_ok=True)

    def want_counts(self, workers: Iterable[int], seconds: float) -> None:
        """Have workers write what they have counted until now; return when they have, or so many seconds later."""
        look, until = time.monotonic_ns(), time.monotonic() + seconds
        _put(self.path / "counts-wanted", str(look))
        waited_for = [self.path / f"counts-{worker}" for worker in workers]
        while any(_number(path) < look for path in waited_for) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)

    def counts_wanted(self) -> int:
        """Give the number of the look that counts are to be written for."""
        return _number(self.path / "counts-wanted")

    def counts_written(self, worker: int, look: int) -> None:
        """Say that a worker has written its counts, for a look that it knew before it began."""
        _put(self.path / f"counts-{worker}", str(look))

    def remove(self) -> None:
        """Remove it."""
        if self._held is not None:
            os.close(self._held)
            self._held = None
        shutil.rmtree(self.path, ignore_errors=True)


def _put(path: Path, text: str) -> None:
    new = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        new.write_text(text)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
