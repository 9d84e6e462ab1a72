"""The process that makes workers: it loads everything once, and each worker begins as a copy that shares that memory.

Interpreter, libraries and compiled kernels take over a hundred megabytes, more than the index of a million rows. A copy
by fork shares them until it writes to them. Forking is safe where there is one thread and no gRPC yet, which is why
this process does nothing else: it reads orders on its input and writes what became of workers to its output, a line of
JSON each.

::

    in   {"config": {…}, "run": "/tmp/…", "address": "127.0.0.1:50051"}      once, first
    out  {"ready": true}
    in   {"start": 0}
    out  {"started": 0, "pid": 4711}
    out  {"ended": 0, "status": -9}
    in   {"stop": true}                         workers end by SIGTERM; this process when they have ended

The end of its input means that the supervisor is gone: workers are stopped; if they were told so before, killed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from annserve.catalog.follow import warm
from annserve.config import ServeConfig
from annserve.errors import AnnserveError
from annserve.serve.places import places_of
from annserve.serve.run_folder import RunFolder
from annserve.serve.worker import HEEDED, opener_of, work
from annserve.watch.logs import log_to_stderr

#: Seconds between two looks for workers that ended.
LOOK_SECONDS = 0.1


class Nursery:
    """Makes workers and tells what became of them."""

    def __init__(self, config: ServeConfig, run: RunFolder, address: str) -> None:
        self._config = config
        self._run = run
        self._address = address
        self._numbers: dict[int, int] = {}
        self._stopping = False

    def live(self) -> None:
        """Follow orders until there are no more and the last worker has ended."""
        orders = selectors.DefaultSelector()
        orders.register(0, selectors.EVENT_READ)
        pending, ended = b"", False
        while not (ended or self._stopping) or self._numbers:
            if not ended and orders.select(LOOK_SECONDS):
                piece = os.read(0, 65_536)
                if piece:
                    *lines, pending = (pending + piece).split(b"\n")
                    for line in lines:
                        self._follow(json.loads(line))
                else:
                    ended = True
                    orders.unregister(0)
                    self._signal(signal.SIGKILL if self._stopping else signal.SIGTERM)
            elif ended:
                time.sleep(LOOK_SECONDS)
            self._bury()

    def _follow(self, order: dict[str, Any]) -> None:
        if "start" in order:
            self._start(order["start"])
        else:
            self._stopping = True
            self._signal(signal.SIGTERM)

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid:
            self._numbers[pid] = number
            _say({"started": number, "pid": pid})
            return
        status = 1
        try:
            status = self._be_worker(number)
        except BaseException:
            traceback.print_exc()
        finally:
            # Nothing of the parent's may run in the copy: neither its clean-up nor its output.
            os._exit(status)

    def _be_worker(self, number: int) -> int:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        try:
            work(self._config, number, self._run, self._address)
        except AnnserveError as error:
            self._run.tell(number, {"state": "failed", "kind": type(error).__name__, "message": str(error)})
            return error.exit_code
        sys.stderr.flush()
        return 0

    def _signal(self, number: int) -> None:
        for pid in self._numbers:
            os.kill(pid, number)

    def _bury(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            _say({"ended": self._numbers.pop(pid), "status": os.waitstatus_to_exitcode(status)})


def main() -> None:
    """Read what to serve, load what workers share, and follow orders."""
    # What stops a server is for the supervisor to heed, even where a terminal or an init system tells all processes.
    # Blocked and not ignored: what is sent to a worker in its first moments waits until it heeds signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)
    # Unbuffered: the orders behind it are read elsewhere.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        told = json.loads(orders.readline())
    config = ServeConfig(**told["config"])
    log_to_stderr(config.log_format)
    _load(config)
    _say({"ready": True})
    Nursery(config, RunFolder(Path(told["run"])), told["address"]).live()


def _load(config: ServeConfig) -> None:
    """Search each index once and close it: what stays is code, which all workers then share."""
    open_index = opener_of(config, 1)
    for folder in places_of(config).values():
        # What is wrong with one of them, a worker will say.
        with contextlib.suppress(Exception):
            collection = open_index(folder)
            warm(collection)
            collection.close()
    gc.collect()
    # The collector writes to every object that it looks at; what is there now, it needn't look at again.
    gc.freeze()


def _say(line: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody is left who would hear it
        os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main()
