"""A private folder of one running server, where its processes tell each other how they are.

::

    control              socket on which the supervisor answers what a worker doesn't decide
    metrics/             what processes count, see ``watch.metrics``
    worker-0.json        how a worker is: state, process, and how each collection stands in it

A file is replaced whole, so that a reader finds the last one or the one before. Nothing outlives the server.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any


class RunFolder:
    """The folder; ``make`` makes a new one, readable by nobody else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls) -> RunFolder:
        """Make one."""
        run = cls(Path(tempfile.mkdtemp(prefix="annserve-run-")))
        run.metrics.mkdir()
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
        """Say how a worker is."""
        path = self.path / f"worker-{worker}.json"
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(facts))
        new.replace(path)

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

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
