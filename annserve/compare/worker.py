"""The process in which one system runs: it takes requests as JSON lines and answers in kind.

::

    {"do": "build", "base", "code_rows"}                → {"seconds", "cpu_seconds", "peak_rss_bytes"}
    {"do": "open", "code", "queries", "k", "point"}       → {"memory_before", "memory_after", "seconds", "info"}
    {"do": "ask", "queries", "k", "point", "recall_target", "threads", "schedule", "warm_up", "out"}
                                                        → {"memory"}; what was answered goes to the npz file `out`
    {"do": "close"}                                     → {}, and the process ends

Code isn't the memory of an index. So a build makes a second, small index from the first rows, and opening begins
with that one: it is asked and closed, and what the process holds then (libraries, compiled kernels) is
`memory_before`.

The truth never comes here: whoever answers can't know what is right. What libraries print goes to stderr. The
process may be another Python than annserve's, so this module needs NumPy and no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.compare.passes import save_pass
from annserve.compare.peer import Peer
from annserve.measure.counters import memory_now
from annserve.measure.openloop import Schedule, run_open_pass
from annserve.measure.runner import WARM_UP_QUERIES, Load, run_pass

#: Folders within that of a run: the index, and the small one.
INDEX, _SMALL = "index", "small"
#: Of Linux's prctl: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1
#: CPUs that this process was given.
_CORES = sorted(os.sched_getaffinity(0))


def main() -> None:
    """Serve requests until the input ends; the one argument is JSON: adapter, folder, metric, parameters, …"""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    # Whoever ends in the midst of a request leaves nobody behind to work on it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _take_cores(settings["cores"])
    session: Session | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            session = session or Session(settings)
            reply: dict[str, Any] = {"ok": session.do(request)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
        if request["do"] == "close":
            break


class Session:
    """One system with one index."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        adapter = load_adapter(Path(settings["adapter"]))

        def peer(name: str) -> Peer:
            folder = Path(settings["folder"]) / name
            folder.mkdir(parents=True, exist_ok=True)
            return adapter(folder, settings["metric"], settings["parameters"], settings["cores"])

        self._peer, self._small = peer(INDEX), peer(_SMALL)

    def do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        actions = {"build": self._build, "open": self._open, "ask": self._ask, "close": self._close}
        return actions[request["do"]](request)

    def _build(self, request: Mapping[str, Any]) -> dict[str, Any]:
        path = Path(request["base"])
        base = np.load(path, mmap_mode="r", allow_pickle=False)
        began, cpu = time.monotonic(), _cpu_seconds()
        self._peer.build(base, path)
        facts = {
            "seconds": time.monotonic() - began,
            "cpu_seconds": _cpu_seconds() - cpu,
            "peak_rss_bytes": max(
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, self._peer.build_peak_rss_bytes
            ),
        }
        if request["code_rows"] == 0:
            return facts
        small = self._small.folder.with_suffix(".npy")
        np.save(small, base[: request["code_rows"]])
        self._small.build(np.load(small, mmap_mode="r", allow_pickle=False), small)
        return facts

    def _open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["code"]:
            self._load_code(np.load(request["queries"], allow_pickle=False), request["k"], request["point"])
        before, began = memory_now(), time.monotonic()
        self._peer.open()
        seconds = time.monotonic() - began
        after = memory_now().as_dict()
        return {
            "memory_before": before.as_dict(),
            "memory_after": after,
            "seconds": seconds,
            "info": self._peer.info(),
        }

    def _load_code(self, queries: npt.NDArray[Any], k: int, point: Mapping[str, Any]) -> None:
        """Use everything once on the small index, and give back what it took."""
        self._small.open()
        self._small.configure(point)
        run_pass(self._small, queries[:WARM_UP_QUERIES], Load(point.get("recall_target", 0.95), 1), k=k)
        self._small.close()
        del self._small
        _give_back()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        queries = np.load(request["queries"], allow_pickle=False)
        load = Load(request["recall_target"], request["threads"])
        k = request["k"]
        self._peer.configure(request["point"])
        # A system that spreads one query over many threads has as many CPUs as the others.
        _take_cores(request["threads"])
        if request["warm_up"]:
            run_pass(self._peer, queries[: request["warm_up"]], load, k=k)
        if request["schedule"] is None:
            measured = run_pass(self._peer, queries, load, k=k)
        else:
            measured = run_open_pass(self._peer, queries, load, Schedule(**request["schedule"]), k=k)
        save_pass(Path(request["out"]), measured)
        # Queries and answers are ours, not the system's.
        del queries, measured
        _give_back()
        return {"memory": memory_now().as_dict()}

    def _close(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._peer.close()
        return {}


def load_adapter(folder: Path) -> type[Peer]:
    """Import the class ``Adapter`` of ``folder/adapter.py``."""
    specification = importlib.util.spec_from_file_location(f"adapter_{folder.name}", folder / "adapter.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    adapter: type[Peer] = module.Adapter
    return adapter


def _take_cores(count: int) -> None:
    """Keep all threads of this process on its first `count` CPUs; those that they start later stay there too."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), _CORES[:count])


def _give_back() -> None:
    """Return freed memory to the kernel; what malloc keeps would be counted, or given to the index for nothing."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _cpu_seconds() -> float:
    """CPU time of this process and of the children that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
