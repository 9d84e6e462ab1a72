"""Long work beside a server: jobs that build, append, compact and verify, each in a process of its own.

``folder`` says what lies where under the data folder, ``work`` what a job does, ``job`` what is known of one, ``store``
keeps that on disk, ``process`` runs one, ``jobs`` runs them all. Deliberately absent: gRPC, and any path that a caller
could name.
"""

from annserve.jobs.folder import DataFolder
from annserve.jobs.job import ENDED, Job, Progress
from annserve.jobs.jobs import Jobs
from annserve.jobs.work import Work

__all__ = ["ENDED", "DataFolder", "Job", "Jobs", "Progress", "Work"]
