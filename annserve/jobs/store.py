"""Jobs on disk: a sealed file for each, written whenever its state changes. Progress alone isn't worth a write."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from annserve.errors import FormatError
from annserve.index.sealed import read_sealed, write_sealed
from annserve.jobs.job import Job

LOG = logging.getLogger("annserve.jobs")

FORMAT_VERSION = 1

_NAME = re.compile(r"([0-9]{8}t[0-9]{12}z-[0-9a-f]{6})\.json")


class JobStore:
    """The jobs in a folder; one process writes there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> dict[str, Job]:
        """Give the jobs that are kept, oldest first; one whose file is damaged is passed over, and logged."""
        return dict(self._found())

    def _found(self) -> Iterator[tuple[str, Job]]:
        for path in sorted(self._folder.iterdir()):
            name = _NAME.fullmatch(path.name)
            if name is None:
                continue
            try:
                told = read_sealed(path)
                yield name[1], Job.from_dict(told["job"])
            except (FormatError, KeyError, TypeError) as error:
                LOG.error("job can't be read", extra={"path": str(path), "error": str(error)})

    def forget(self, job_id: str) -> None:
        """Keep a job no longer."""
        self._path(job_id).unlink(missing_ok=True)

    def write(self, job: Job) -> None:
        """Keep a job as it stands.

        Raises
        ------
        OutputError
            If the device refuses.
        """
        write_sealed(self._path(job.job_id), {"format_version": FORMAT_VERSION, "job": job.as_dict()})

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"
