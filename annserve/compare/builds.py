"""An index on disk: built once in a process that ends with it, then opened by as many processes as it takes.

::

    <work>/builds/<dataset>--<system>--<key>/
        index/       what the system wrote
        small/       the same of a few rows, by which its code is warmed and weighed
        build.json   seconds, CPU, peak memory, bytes on disk, load of the machine; written last

What has its ``build.json`` is whole and is used again, by every run whose key of the index is the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from annserve.compare.job import Run
from annserve.compare.process import Worker
from annserve.compare.worker import INDEX
from annserve.events import Listener, StageFinished, StageStarted
from annserve.measure.report import report_text
from annserve.storage.atomic import write_atomically

_GIB = 1 << 30
_FACTS = "build.json"


@dataclass(frozen=True)
class BuiltIndex:
    """The index of a run, built or to be built.

    Attributes
    ----------
    run : Run
    python : Path
        The interpreter that has its system.
    folder : Path
    """

    run: Run
    python: Path
    folder: Path

    @property
    def index(self) -> Path:
        """Folder of the system's own files."""
        return self.folder / INDEX

    @property
    def done(self) -> bool:
        """Whether it is there, whole."""
        return (self.folder / _FACTS).exists()

    @property
    def facts(self) -> dict[str, Any]:
        """What its build took."""
        facts: dict[str, Any] = json.loads((self.folder / _FACTS).read_text())
        return facts

    def build(self, listener: Listener) -> None:
        """Build it, unless it is there."""
        if self.done:
            return
        self.remove()
        self.folder.mkdir(parents=True)
        loads = self.run.job.loads
        load_average = os.getloadavg()[0]
        with (
            told(listener, f"build {self.folder.name}"),
            self.worker(loads.build_threads, loads.build_threads) as worker,
        ):
            facts = worker.ask("build", base=str(self.run.dataset.base_path.resolve()), code_rows=loads.code_rows)
        facts |= {"disk_bytes": _folder_bytes(self.index), "load_average": load_average}
        write_atomically(self.folder / _FACTS, report_text(facts).encode())

    def worker(self, cores: int, library_threads: int) -> Worker:
        """Start a process of the system for this index."""
        return Worker(
            self.run.card,
            self.python,
            self.folder,
            metric=self.run.dataset.metric,
            parameters=self.run.build,
            cores=cores,
            library_threads=library_threads,
            ram_bytes_limit=int(self.run.job.loads.ram_gib_limit * _GIB),
            seconds_limit=self.run.job.loads.request_seconds_limit,
        )

    def evict(self) -> None:
        """Push its files out of the page cache; pages that a process maps stay."""
        for path in self.index.rglob("*"):
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)

    def remove(self) -> None:
        """Give its disk back."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def told(listener: Listener, stage: str) -> Iterator[None]:
    """Tell a listener of a stage around a block."""
    began = monotonic()
    listener(StageStarted(stage))
    yield
    listener(StageFinished(stage, monotonic() - began))


def _folder_bytes(folder: Path) -> int:
    """Give the bytes that files take on the device, holes left out."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
