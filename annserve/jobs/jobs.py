"""All jobs of a server: asked for, run one after another, watched, cancelled, and remembered over restarts.

Invariants: a job's file says what became of it before anyone else is told; a collection has one job at a time; a job
that was running when its server ended is found interrupted by the next.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

from annserve.errors import BusyError, ConflictError, InputError, NotFoundError, without_folders
from annserve.jobs.folder import DataFolder
from annserve.jobs.job import CANCELLED, ENDED, FAILED, INTERRUPTED, RESUMABLE, RUNNING, SUCCEEDED, WAITING, Job
from annserve.jobs.process import JobProcess, end_leftover
from annserve.jobs.store import JobStore
from annserve.jobs.work import Work
from annserve.storage.atomic import locked

LOG = logging.getLogger("annserve.jobs")

#: Ended jobs that are remembered.
REMEMBERED = 1_000
#: Jobs that wait; further ones are refused.
WAITING_MAX = 100


class Jobs:
    """The jobs of one data folder, which is this server's alone until `close`; threads may share it.

    Parameters
    ----------
    folder : DataFolder
    threads : int
        Of a job; 0 takes half of this process's CPUs.
    running_max : int
        Jobs that run at once.

    Raises
    ------
    ConflictError
        If another server uses the folder.
    OutputError
        If it can't be written.
    """

    def __init__(self, folder: DataFolder, *, threads: int = 0, running_max: int = 1) -> None:
        self._folder = folder
        self._threads = threads or max(len(os.sched_getaffinity(0)) // 2, 1)
        self._running_max = running_max
        self._store = JobStore(folder.jobs)
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._processes: dict[str, JobProcess] = {}
        self._runners: list[threading.Thread] = []
        #: Jobs that somebody wants stopped → the state that they then end in.
        self._stopping: dict[str, str] = {}
        self._closed = False
        self._held = ExitStack()
        self._held.enter_context(locked(folder.jobs))
        for job_id, job in self._store.read().items():
            if job.state not in ENDED:
                end_leftover(job.pid, job.pid_created)
                job = replace(job, state=INTERRUPTED, ended=time.time(), pid=0, outcome="the server stopped meanwhile")
                self._store.write(job)
            self._jobs[job_id] = job
        self._forget_old()

    def start(self, collection: str, work: Work, *, request_id: str = "") -> Job:
        """Ask for a job; it runs when its turn comes.

        Raises
        ------
        InputError, NotFoundError
            If the work can't be done, or `request_id` stands for another one.
        ConflictError
            If the collection has a job that hasn't ended.
        BusyError
            If too many wait.
        """
        return self._ask(collection, work, request_id, resumed=None)

    def resume(self, job_id: str, *, request_id: str = "") -> Job:
        """Ask for a job that goes on where another one stopped; errors as of `start`.

        Raises
        ------
        InputError
            If that one hasn't stopped short.
        """
        before = self.get(job_id)
        if before.state not in RESUMABLE:
            raise InputError(f"job {job_id} is {before.state}; there is nothing to continue", field="resume_job_id")
        return self._ask(before.collection, before.work, request_id, resumed=before)

    def get(self, job_id: str) -> Job:
        """Give a job as it stands.

        Raises
        ------
        NotFoundError
            If there is none of that id.
        """
        with self._changed:
            if job_id not in self._jobs:
                raise NotFoundError(f"there is no job {job_id[:60]!r}; ListJobs gives those that there are")
            return self._jobs[job_id]

    def list(self, collection: str = "") -> list[Job]:
        """Give all jobs, or those of one collection, newest first."""
        with self._changed:
            return [job for job in reversed(self._jobs.values()) if collection in ("", job.collection)]

    def watch(self, job_id: str, go_on: Callable[[], bool] = lambda: True) -> Iterator[Job]:
        """Give a job as it stands, then whenever that changes, until it has ended.

        Parameters
        ----------
        job_id : str
        go_on : callable
            Asked now and then; once it says no, that is the end.

        Raises
        ------
        NotFoundError
            If there is none of that id.
        """
        job = self.get(job_id)
        yield job
        while job.state not in ENDED and not self._closed and go_on():
            now = self._after(job)
            if now is not job:
                yield (job := now)

    def _after(self, job: Job) -> Job:
        """Wait a second at most for a job to change; give it as it then stands."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs[job.job_id] is not job or self._closed, timeout=1.0)
            return self._jobs[job.job_id]

    def cancel(self, job_id: str) -> Job:
        """Stop a job, and give it as it then stands; one that runs takes a moment to end.

        Raises
        ------
        NotFoundError
            If there is none of that id.
        """
        with self._changed:
            job = self.get(job_id)
            if job.state == WAITING:
                job = self._put(replace(job, state=CANCELLED, ended=time.time(), outcome="cancelled before it began"))
            elif job.state == RUNNING:
                self._stop(job_id, CANCELLED)
        return job

    def busy_with(self, collection: str) -> Job | None:
        """Give the job of a collection that hasn't ended, if there is one."""
        return next((job for job in self.list(collection) if job.state not in ENDED), None)

    def close(self) -> None:
        """Stop all jobs; those that run end as interrupted."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                if job.state == RUNNING:
                    self._stop(job.job_id, INTERRUPTED)
            self._changed.notify_all()
            runners = list(self._runners)
        for runner in runners:
            runner.join()
        self._held.close()

    def _stop(self, job_id: str, state: str) -> None:
        """Have a running job end in a state; with the lock held. Its process may not have begun yet."""
        self._stopping.setdefault(job_id, state)
        if job_id in self._processes:
            self._processes[job_id].stop()

    def _ask(self, collection: str, work: Work, request_id: str, resumed: Job | None) -> Job:
        with self._changed:
            if request_id and (known := self._known(request_id)):
                if (known.collection, known.work) != (collection, work):
                    raise InputError(
                        f"request_id {request_id!r} asked for another job, {known.job_id}; take a new one",
                        field="request_id",
                    )
                return known
            work.check(self._folder, collection)
            if self._closed:
                raise BusyError("the server is stopping; ask the next one", retry_after_ms=5_000)
            other = self.busy_with(collection)
            if other is not None:
                raise ConflictError(
                    f"job {other.job_id} is at work on {collection!r}; wait until it ends, or cancel it"
                )
            waiting = sum(job.state == WAITING for job in self._jobs.values())
            if waiting >= WAITING_MAX:
                raise BusyError(f"{waiting} jobs wait already; try again later", retry_after_ms=60_000)
            self._forget_old()
            now = datetime.now(UTC)
            job = Job(
                job_id=f"{now:%Y%m%dt%H%M%S%fz}-{secrets.token_hex(3)}",
                collection=collection,
                work=work,
                created=now.timestamp(),
                resumed_job_id=resumed.job_id if resumed else "",
                request_id=request_id,
            )
            self._put(job)
            self._begin_next()
            return self._jobs[job.job_id]

    def _forget_old(self) -> None:
        """Forget the jobs that ended longest ago, beyond those that are remembered."""
        ended = sorted((job.ended, job_id) for job_id, job in self._jobs.items() if job.state in ENDED)
        for _, job_id in ended[: max(len(ended) - REMEMBERED, 0)]:
            self._store.forget(job_id)
            del self._jobs[job_id]

    def _known(self, request_id: str) -> Job | None:
        return next((job for job in self._jobs.values() if job.request_id == request_id), None)

    def _put(self, job: Job, *, durable: bool = True) -> Job:
        """Remember a job as it stands now, and tell those who watch."""
        if durable:
            self._store.write(job)
        with self._changed:
            self._jobs[job.job_id] = job
            self._changed.notify_all()
        return job

    def _begin_next(self) -> None:
        """Begin jobs that wait, oldest first, while there is room; with the lock held."""
        self._runners = [runner for runner in self._runners if runner.is_alive()]
        running = sum(job.state == RUNNING for job in self._jobs.values())
        for job in list(self._jobs.values()):
            if running >= self._running_max or self._closed:
                return
            if job.state == WAITING:
                job = self._put(replace(job, state=RUNNING, started=time.time()))
                runner = threading.Thread(target=self._run, args=(job,), name=f"job-{job.job_id}", daemon=True)
                self._runners.append(runner)
                runner.start()
                running += 1

    def _run(self, job: Job) -> None:
        """Carry a job to its end, whatever that is, then begin the next."""
        try:
            ended = self._carried(job)
        except Exception as error:
            LOG.exception("job failed", extra={"job_id": job.job_id})
            ended = replace(self.get(job.job_id), state=FAILED, outcome=f"it couldn't be run: {without_folders(error)}")
        ended = replace(ended, ended=time.time(), pid=0)
        LOG.info("job ended", extra={"job_id": job.job_id, "state": ended.state, "outcome": ended.outcome})
        try:
            self._store.write(ended)
        except Exception:
            LOG.exception("end of a job can't be told", extra={"job_id": job.job_id})
        with self._changed:
            self._put(ended, durable=False)
            self._stopping.pop(job.job_id, None)
            self._begin_next()

    def _carried(self, job: Job) -> Job:
        """Run a job's process to its end; give the job as it then stands."""
        resumed = bool(job.resumed_job_id)
        command = job.work.command(self._folder, job.collection, resumed=resumed, threads=self._threads)
        process = JobProcess(command, self._folder.path)
        with self._changed:
            self._processes[job.job_id] = process
            if job.job_id in self._stopping:
                process.stop()
        try:
            job = self._put(replace(job, pid=process.pid, pid_created=process.created))
            for event in process.events():
                job = self._put(replace(job, progress=job.progress.after(event)), durable=False)
        except BaseException:
            process.stop()  # nobody would listen to it
            raise
        finally:
            status, said = process.end()
            with self._changed:
                del self._processes[job.job_id]
                wanted = self._stopping.get(job.job_id, FAILED)
        state = SUCCEEDED if status == 0 else wanted
        outcome = self._folder.without_path(said)
        if state in (CANCELLED, INTERRUPTED):
            outcome = {CANCELLED: "cancelled", INTERRUPTED: "the server stopped meanwhile"}[state]
        return replace(job, state=state, outcome=outcome or f"it ended with status {status}")
