"""The other end of a worker: starts a system's process, asks it, and keeps it within its memory.

A worker that crashes, hangs beyond its time, or takes more memory than the job allows is ended, and the request
that it had is a ``ServerError`` with its last words. The caller goes on with the next system.
"""

from __future__ import annotations

import collections
import json
import math
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from annserve.compare.cards import Card
from annserve.compare.environments import worker_environment
from annserve.errors import ServerError

_LAST_WORDS = 12
_WATCH_SECONDS = 0.25


class Worker:
    """A running system.

    Parameters
    ----------
    card : Card
        Which.
    python : Path
        The interpreter that has it.
    folder : Path
        Of its index.
    metric : str
    parameters : mapping
        Its build parameters.
    cores : int
        CPUs that it may run on.
    library_threads : int
        Threads that its libraries may start.
    ram_bytes_limit : int
        Most anonymous memory, 0 for no limit.
    seconds_limit : float
        Most time for one request.
    """

    def __init__(
        self,
        card: Card,
        python: Path,
        folder: Path,
        *,
        metric: str,
        parameters: Mapping[str, Any],
        cores: int,
        library_threads: int,
        ram_bytes_limit: int = 0,
        seconds_limit: float = math.inf,
    ) -> None:
        settings = {
            "adapter": str(card.folder.resolve()),
            "folder": str(folder),
            "metric": metric,
            "parameters": dict(parameters),
            "cores": cores,
        }
        self._card, self._limit, self._seconds_limit = card, ram_bytes_limit, seconds_limit
        self._deadline = math.inf
        self._words: collections.deque[str] = collections.deque(maxlen=_LAST_WORDS)
        self._ended_because: str | None = None
        self._process = subprocess.Popen(
            [str(python), "-m", "annserve.compare.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=worker_environment(card, library_threads),
            # An interrupt is answered here, once; a system needn't say what it thinks of it.
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises
        ------
        ServerError
            If the system failed, or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._deadline = time.monotonic() + self._seconds_limit
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        self._deadline = math.inf
        if not line:
            raise ServerError(f"{self._card.name} ended while it was to {do}: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ServerError(f"{self._card.name} failed to {do}: {reply['error']}")
        answer: dict[str, Any] = reply["ok"]
        return answer

    def close(self) -> None:
        """End the process, kindly at first."""
        if self._process.poll() is None:
            try:
                self.ask("close")
                self._process.wait(timeout=10)
            except (ServerError, subprocess.TimeoutExpired):
                pass
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._listener.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def _last_words(self) -> str:
        self._process.wait()
        self._listener.join(timeout=5)
        if self._ended_because is not None:
            return self._ended_because
        words = " | ".join(line.strip() for line in self._words if line.strip())
        code = self._process.returncode
        return f"{f'signal {-code}' if code < 0 else f'exit status {code}'}; {words[-500:] or 'it said nothing'}"

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._words.append(line)

    def _watch(self) -> None:
        """End the process if its anonymous memory or its time passes the limit; pages of files are the kernel's."""
        status = Path(f"/proc/{self._process.pid}/status")
        while self._process.poll() is None:
            if time.monotonic() > self._deadline:
                self._ended_because = f"it took more than {self._seconds_limit:g} s"
                self._process.kill()
                return
            try:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            except OSError:
                return
            used = int(fields.get("RssAnon", "0").split()[0]) * 1024
            if used > (self._limit or math.inf):
                self._ended_because = f"it took {used} bytes of memory; the job allows {self._limit}"
                self._process.kill()
                return
            time.sleep(_WATCH_SECONDS)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an interrupt nobody waits for a system to finish what it is at.
        if kind is not None and not issubclass(kind, Exception):
            self.kill()
        self.close()
