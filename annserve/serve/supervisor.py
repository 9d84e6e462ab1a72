"""The process that keeps a server running: it holds the port, has workers made, replaces one that died, stops them.

It searches nothing, so nothing that a search does can end it. Workers listen on the same port (SO_REUSEPORT): the
kernel deals connections among them, and a client that wants several has several connections.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from annserve import errors
from annserve.config import ServeConfig
from annserve.errors import AnnserveError, ServerError
from annserve.guard.admit import Admission
from annserve.guard.cautions import cautions_of
from annserve.guard.listen import Address, check_free, parse_address
from annserve.guard.tls import certificates_of, is_guarded
from annserve.jobs import Job
from annserve.serve.control import Control
from annserve.serve.places import check_places
from annserve.serve.run_folder import RunFolder
from annserve.serve.shown import StatusPage, sources_of
from annserve.watch.metrics import forget_process

LOG = logging.getLogger("annserve.serve")

#: Seconds before a worker that died is replaced: at first, and at most; they double while it dies young.
RESTART_SECONDS, RESTART_SECONDS_MOST = 0.5, 30.0
#: A worker that lived so long didn't die of how it began.
LIVED_SECONDS = 60.0
#: Seconds between two looks at what workers tell.
LOOK_SECONDS = 0.05
#: Seconds between two looks at whether workers can still be made.
ALIVE_SECONDS = 0.5
#: Seconds that whoever scrapes metrics waits at most for a worker to write its counts.
COUNTS_SECONDS = 1.0
#: Seconds beyond the grace that workers have to end.
ENDING_SECONDS = 10.0


class Supervisor:
    """A server of several processes; it holds the port from construction, and answers from ``start``.

    Parameters
    ----------
    config : ServeConfig

    Raises
    ------
    InputError
        If an address is none, isn't this machine's, or is open to others without guard.
    ConflictError
        If another process listens there.
    NotFoundError
        If one of the indexes isn't there.

    Attributes
    ----------
    address : Address
        Where it answers.
    status_url : str
        Where its status page is, from ``start``; empty without one.
    """

    status_url = ""

    def __init__(self, config: ServeConfig) -> None:
        certificates = certificates_of(config)
        if certificates is not None:
            certificates.context()  # what is wrong with them should be said before indexes are read
        wanted = parse_address(config.listen, guarded=config.insecure or is_guarded(certificates, config.keys))
        Admission(config.keys)
        for caution in cautions_of(config):
            LOG.warning(caution)
        check_places(config)
        check_free(wanted)
        self._held = _hold(wanted)
        self.address = Address(wanted.host, self._held.getsockname()[1])
        self._config = config
        self.run = RunFolder.make()
        self.control: Control | None = None
        self._closing = contextlib.ExitStack()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._stopping = threading.Event()
        self._has_started = False
        self._begun: dict[int, tuple[int, float]] = {}
        self._delays: dict[int, float] = {}
        self._restarts = 0
        sources = sources_of(
            self.workers,
            self._jobs,
            folder=self.run.metrics,
            address=str(self.address),
            write=self._have_counts_written,
            restarts=lambda: self._restarts,
        )
        self._page = StatusPage(config, sources)

    def start(self) -> None:
        """Make the workers, and return when all of them answer.

        Raises
        ------
        AnnserveError
            If one of them can't, or no index can be served.
        """
        if self._config.data is not None:
            self.control = self._closing.enter_context(Control(self._config, self.run))
        # A search uses no BLAS, and threads of one would be lost in a fork.
        # Nor has gRPC's own log a say: a line for each frame of nonsense lets strangers fill a disk with any bytes.
        quiet = {"GRPC_VERBOSITY": "NONE", "GLOG_minloglevel": "4"}
        environment = {**quiet, **os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(self.run.metrics)
        # Nothing of the folder in which the server was started is ever imported (-P).
        command = [sys.executable, "-P", "-m", "annserve.serve.nursery"]
        self._nursery = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._listener.start()
        self.status_url = self._page.start()
        told = {"config": self._config.model_dump(mode="json"), "run": str(self.run.path), "address": str(self.address)}
        self._order(told)
        for number in range(self._config.workers):
            self._order({"start": number})
        while not all(one.get("state") == "serving" for one in self.workers()):
            for one in self.workers():
                if one.get("state") == "failed":
                    raise _error(one["kind"], one["message"])
            self._check_nursery()
            time.sleep(LOOK_SECONDS)
        self._has_started = True
        self._check_served()

    def wait(self, stop_signal: SimpleQueue[str]) -> str:
        """Wait for the name of a signal that says stop, and give it.

        Raises
        ------
        ServerError
            If workers can't be made any more: whoever looks after services may start this one anew.
        """
        while True:
            try:
                return stop_signal.get(timeout=ALIVE_SECONDS)
            except Empty:
                self._check_nursery()

    def _check_nursery(self) -> None:
        assert self._nursery is not None, "it hasn't started"
        if self._nursery.poll() is not None:
            raise ServerError("the process that makes workers has ended; the log says why")

    def workers(self) -> list[dict[str, Any]]:
        """Give what each worker tells of itself; see ``worker.Told``."""
        return [self.run.told(number) for number in range(self._config.workers)]

    def collections(self) -> list[str]:
        """Give the names of what is served."""
        return sorted({name for told in self.workers() for name in told.get("collections", {})})

    def _have_counts_written(self) -> None:
        serving = [number for number, told in enumerate(self.workers()) if told.get("state") == "serving"]
        with contextlib.suppress(OSError):  # then those count that were written last
            self.run.want_counts(serving, COUNTS_SECONDS)

    def _jobs(self) -> list[Job]:
        return self.control.jobs.list() if self.control else []

    def stop(self) -> None:
        """Have the workers finish the calls that they have, and end."""
        self._stopping.set()
        self._page.stop()
        if self._nursery is not None:
            self._order({"stop": True})
            try:
                self._nursery.wait(self._config.grace_seconds + ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                LOG.error("workers don't end; they are killed")
            # The end of its input: what still lives is killed.
            assert self._nursery.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # of an order that it didn't live to read
                self._nursery.stdin.close()
            self._nursery.wait()
            self._listener.join()
        self._closing.close()
        self._held.close()
        self.run.remove()

    def _order(self, order: dict[str, Any]) -> None:
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        try:
            self._nursery.stdin.write(json.dumps(order).encode() + b"\n")
            self._nursery.stdin.flush()
        except (BrokenPipeError, ValueError):  # it has ended, which its other end tells
            LOG.error("the process that makes workers is gone")

    def _listen(self) -> None:
        """Hear what becomes of workers, and have those replaced that died; in a thread."""
        assert self._nursery is not None
        assert self._nursery.stdout is not None
        for line in self._nursery.stdout:
            told = json.loads(line)
            if "started" in told:
                self._begun[told["started"]] = told["pid"], time.monotonic()
            elif "ended" in told:
                self._replace(told["ended"], told["status"])

    def _replace(self, number: int, status: int) -> None:
        said = self.run.told(number)
        failed = said.get("state") == "failed"
        if self._stopping.is_set() or (failed and not self._has_started):
            return  # whoever waits for the start is told
        pid, begun = self._begun[number]
        forget_process(pid, self.run.metrics)
        self.run.forget(number)
        self._restarts += 1
        lived = time.monotonic() - begun
        before = RESTART_SECONDS / 2 if lived > LIVED_SECONDS else self._delays.get(number, RESTART_SECONDS / 2)
        delay = self._delays[number] = min(2 * before, RESTART_SECONDS_MOST)
        why = {"error": said["message"]} if failed else {}
        LOG.error("worker died", extra={"worker": number, "status": status, "restart_seconds": delay, **why})
        timer = threading.Timer(delay, self._start_again, [number])
        timer.daemon = True
        timer.start()

    def _start_again(self, number: int) -> None:
        if not self._stopping.is_set():
            self._order({"start": number})

    def _check_served(self) -> None:
        """Refuse to serve nothing but what can't be served."""
        (told, *_) = self.workers()
        standings = told["collections"].values()
        if standings and self._config.data is None and not any(one["state"] in ("READY", "EMPTY") for one in standings):
            first = next(iter(standings))
            raise _error(first["error"], first["reason"])

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _error(kind: str, message: str) -> AnnserveError:
    """Give the error that a worker told of."""
    found = getattr(errors, kind, ServerError)
    error: AnnserveError = found(message)
    return error


def _hold(address: Address) -> socket.socket:
    """Bind an address for workers to listen at, without listening: so nobody else can take it."""
    held = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((address.host, address.port))
    return held
