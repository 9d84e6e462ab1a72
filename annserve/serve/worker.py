"""One of the processes that answer searches: it opens what is served, answers, and leaves when it is told to.

It ends by SIGTERM, or because its parent has gone; calls that it has are finished first.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

from annserve import collection
from annserve.audit import Finding
from annserve.catalog.auditing import auditor_of, found_by_all, written
from annserve.catalog.cache_watch import CacheWatch
from annserve.catalog.catalog import Catalog, Searchable, Standing
from annserve.catalog.follow import Follower
from annserve.catalog.publish import Publisher
from annserve.catalog.schedule import Scheduler
from annserve.config import ServeConfig
from annserve.guard.tls import certificates_of
from annserve.heap import keep_nothing_freed
from annserve.serve.control import control_channel
from annserve.serve.places import places_of
from annserve.serve.run_folder import RunFolder
from annserve.serve.server import Server, stop_signals
from annserve.services.forward import RemoteManager
from annserve.services.limits import Limits
from annserve.watch.metrics import meter, write_counts
from annserve.watch.tracing import start_tracing

LOG = logging.getLogger("annserve.serve")

#: Objects, beyond those that went, after which the collector of rings looks for some. Calls leave none; of a busy
#: server, which has tens of thousands that live, Python's own 700 took a seventh of a core.
COLLECT_AFTER = 20_000
#: Signals that end a server; the process that makes workers has them wait.
HEEDED = (signal.SIGINT, signal.SIGTERM)
#: Seconds between two looks at whether the parent lives, and whether someone wants the counts.
LOOK_SECONDS = 0.1
#: Looks after which counts are written anyway: few at a time, for whoever writes them holds the interpreter.
LOOKS_OF_COUNTS = 5


def threads_of(config: ServeConfig) -> int:
    """Give the searches that run at once in one worker: together they have a thread for each core."""
    cores = len(os.sched_getaffinity(0))
    return config.threads or max(cores // config.workers, 1)


def opener_of(config: ServeConfig, threads: int) -> Callable[[Path], Searchable]:
    """Give what opens a folder for searching."""

    def open_index(folder: Path) -> Searchable:
        return collection.open(
            folder, io=config.io, threads=threads, cache_bytes=config.cache, cache_packed=config.cache_packed
        )

    return open_index


def work(config: ServeConfig, number: int, run: RunFolder, address: str) -> None:
    """Be worker `number` until a signal says stop; arguments as of ``Supervisor``."""
    keep_nothing_freed()
    threads, parent = threads_of(config), os.getppid()
    if config.trace_endpoint:
        start_tracing(config.trace_endpoint)
    told = Told(run, number)
    catalog = Catalog()
    catalog.listen(told.note)
    follower = Follower(catalog, lambda: places_of(config), opener_of(config, threads))
    with stop_signals(patient=True) as stop_signal, contextlib.ExitStack() as closing:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED)
        manager = RemoteManager(closing.enter_context(control_channel(run))) if config.data else None
        # Who shares the port gets connections from the moment that it is bound: all must be open before.
        follower.look()
        limits = Limits(message_bytes=config.message_mib << 20, queries=config.queries_max, k=config.k_max)
        server = Server(
            address,
            insecure=config.insecure,
            certificates=certificates_of(config),
            keys=config.keys,
            keyless_role=config.keyless_role,
            log_calls=config.log_calls,
            threads=threads,
            waiting_max=config.waiting_max,
            share_port=True,
            limits=limits,
            grace_seconds=config.grace_seconds,
        )
        counts = Counts(run, number, catalog, server.scheduler)
        auditor = auditor_of(
            catalog, server.scheduler, share=config.audit, adjust=config.hold_recall, on_found=told.audited
        )
        publisher = Publisher(catalog, follower.look, lambda: told_by_all(run, config.workers), config.collections)
        with server:
            server.start(
                catalog,
                publisher,
                manager,
                auditor,
                found=lambda name: found_by_all(told_by_all(run, config.workers), name),
                workers=config.workers,
            )
            follower.start()
            auditor.start()
            gc.set_threshold(COLLECT_AFTER)
            told.state = "serving"
            told.tell()
            while os.getppid() == parent:
                counts.look()
                if told.owes:
                    told.tell()
                try:
                    stop_signal.get(timeout=LOOK_SECONDS)
                    break
                except Empty:
                    continue
            told.state = "stopping"
            told.tell()
            if manager is not None:
                manager.end()
            auditor.stop()
            follower.stop()
    catalog.close()
    write_counts()


def told_by_all(run: RunFolder, workers: int) -> list[dict[str, Any]]:
    """Give what each worker tells of itself."""
    return [run.told(number) for number in range(workers)]


class Counts:
    """What a worker counts, written for all processes to read: when someone wants it, and now and then."""

    def __init__(self, run: RunFolder, number: int, catalog: Catalog, scheduler: Scheduler) -> None:
        self._run, self._number, self._scheduler = run, number, scheduler
        self._caches = CacheWatch(catalog)
        self._looks = self._written = 0

    def look(self) -> None:
        """Write if someone waits for it, or if it is time again."""
        wanted, self._looks = self._run.counts_wanted(), self._looks + 1
        if wanted != self._written or self._looks % LOOKS_OF_COUNTS == 0:
            for name, (calls, _) in self._scheduler.load().items():
                meter(name).waiting(calls)
            self._caches.look()
            write_counts()
        if wanted != self._written:
            self._written = wanted
            with contextlib.suppress(OSError):  # whoever wants them waits a second, and reads what is there
                self._run.counts_written(self._number, wanted)


class Told:
    """What a worker tells of itself, kept up to date in the run folder.

    Attributes
    ----------
    state : str
    owes : bool
        Whether what it told last couldn't be written, and is to be told again: a full disk ends no worker.
    """

    def __init__(self, run: RunFolder, number: int) -> None:
        self._run = run
        self._number = number
        self._lock = threading.Lock()
        self._standings: dict[str, dict[str, Any]] = {}
        self.state = "opening"
        self.owes = False

    def note(self, standing: Standing) -> None:
        """Take in how a collection stands, and tell."""
        version = standing.version
        if standing.gone:
            self._standings.pop(standing.name, None)
            self.tell()
            return
        before = self._standings.get(standing.name, {})
        snapshot = version.snapshot if version else 0
        self._standings[standing.name] = {
            "state": standing.state.name,
            "reason": standing.reason,
            "error": type(standing.error).__name__ if standing.error else "",
            "snapshot": snapshot,
            "info": version.info if version else None,
            "findings": before["findings"] if before and before["snapshot"] == snapshot else [],
        }
        self.tell()

    def audited(self, name: str, findings: list[Finding]) -> None:
        """Take in what the auditor found of a collection, and tell."""
        standing = self._standings.get(name)
        if standing is not None:
            standing["findings"] = written(one for one in findings if one.snapshot == standing["snapshot"])
            self.tell()

    def tell(self) -> None:
        """Tell all."""
        with self._lock:
            facts = {"pid": os.getpid(), "state": self.state, "collections": dict(self._standings)}
            try:
                self._run.tell(self._number, facts)
            except OSError as error:
                if not self.owes:
                    LOG.error("a worker can't tell how it is", extra={"worker": self._number, "error": str(error)})
                self.owes = True
            else:
                self.owes = False
