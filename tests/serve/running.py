"""Servers in processes of their own, as users run them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

import psutil

LAUNCH = [sys.executable, "-m", "annserve"]
PLANTED = Path(__file__).with_name("planted")
#: A first start compiles kernels.
READY_SECONDS = 180


T = TypeVar("T")


def wait_until(seen: Callable[[], T], seconds: float = 10.0) -> T:
    """Give what is seen, once it is."""
    until = time.monotonic() + seconds
    while not (what := seen()):
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.01)
    return what


class RunningServer:
    """A server process; `address` is where it answers."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: IO[str]) -> None:
        self.process, self.address, self._log = process, address, log

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def status_url(self) -> str:
        """Read where its status page is, once, which it says after it serves."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().removeprefix("status at ").strip()

    def rss_bytes(self) -> int:
        """Give the resident memory of all its processes."""
        server = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [server, *server.children(recursive=True)])

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; give the exit code and what the server wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(30)
        self._log.seek(0)
        return self.process.returncode, self._log.read()


@contextmanager
def serving(*folders: Path, engine: str = "fake", options: tuple[str, ...] = ()) -> Iterator[RunningServer]:
    """Run ``annserve serve`` on a free port until the block ends."""
    arguments = ["serve", *map(str, folders), "--listen", "127.0.0.1:0", *options]
    # A file, for a server waits where a pipe is full and nobody reads it.
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            [*LAUNCH, *arguments], stdout=subprocess.PIPE, stderr=log, text=True, env=environment(engine)
        )
        try:
            yield RunningServer(process, _address(process, log), log)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def _address(process: subprocess.Popen[str], log: IO[str]) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([process.stdout], [], [], 0.1)[0]:
            line = process.stdout.readline()
            if line.startswith("serving "):
                return line.split()[-1]
    process.kill()
    process.communicate()
    log.seek(0)
    raise AssertionError(f"no server came up: {log.read()}")


def run(*arguments: str, engine: str = "fake") -> subprocess.CompletedProcess[str]:
    """Run one ``annserve`` command to its end."""
    return subprocess.run([*LAUNCH, *arguments], capture_output=True, text=True, timeout=280, env=environment(engine))


def environment(engine: str) -> dict[str, str]:
    """Give the environment in which all processes of a server have this engine."""
    path = [str(PLANTED)] if engine == "fake" else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)}
