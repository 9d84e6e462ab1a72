"""Measure a server as its users meet it: real processes, load from other processes, open loop.

    python bench/server.py PART INDEX QUERIES --json bench/results/<date>-server/<name>.json

Parts: ``unary`` (a call of one query against an echo server's call and the search alone), ``batch`` (calls of a hundred
queries against the engine alone), ``overload`` (three times what is answered at best), ``memory`` (of 1 to 4 workers),
``drain`` (SIGTERM under load). ``server_soak.py`` loads one for hours, versions swapped meanwhile.

Servers run on the cores of ``--server-cores``, loads on those of ``--load-cores``; what is compared takes turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from server_load import METHOD
from server_memory import memory_of, ram_of

from annserve.measure.machine import describe_machine
from annserve.rpc import search_pb2
from annserve.vectors.formats import read_matrix

HERE = Path(__file__).parent
K = 10
ROW_TYPES = {"float32": 1, "float16": 2, "uint8": 3, "int8": 4}


def message_of(queries: np.ndarray) -> bytes:
    row_type = ROW_TYPES[queries.dtype.name]
    matrix = search_pb2.Matrix(row_type=row_type, dim=queries.shape[1], data=queries.tobytes())
    return search_pb2.SearchRequest(matrix=matrix, k=K).SerializeToString()


@contextmanager
def started(cores: str, *command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server on some cores until the block ends; give the process and its address."""
    process = subprocess.Popen(
        ["taskset", "-c", cores, sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().split()[-1]
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def serving(options: argparse.Namespace, *more: str, index: Path | None = None) -> Any:
    place = f"bench={index or options.index}"
    settings = ("--listen", "127.0.0.1:0", "--io", options.io)
    return started(options.server_cores, "-m", "annserve", "serve", place, *settings, *more)


def asked(address: str, messages: list[bytes], seconds: float, callers: int = 1) -> tuple[float, list[float]]:
    """Ask in a closed loop; give calls a second and their latencies in seconds."""
    taken: list[float] = []
    until = time.perf_counter() + seconds

    def ask(caller: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("connection", caller)]
        with grpc.insecure_channel(address, options=options) as channel:
            call, turn = channel.unary_unary(METHOD), caller * 31
            call(messages[0], timeout=20)
            while (begun := time.perf_counter()) < until:
                call(messages[turn % len(messages)], timeout=20)
                taken.append(time.perf_counter() - begun)
                turn += 1

    callers_ = [threading.Thread(target=ask, args=(caller,)) for caller in range(callers)]
    for one in callers_:
        one.start()
    for one in callers_:
        one.join()
    return len(taken) / seconds, taken


def loaded(options: argparse.Namespace, lines: list[str], n: int, **told: Any) -> list[subprocess.Popen[str]]:
    """Start so many processes of load, which share the rate and begin together; each takes its turn of `through`."""
    begin, rate, through = time.time() + 3, told.pop("rate"), told.pop("through", ["grpc"])
    processes = []
    for i in range(n):
        command = ["taskset", "-c", options.load_cores, sys.executable, str(HERE / "server_load.py")]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdin is not None
        shared = {"rate": rate / n, "seed": i, "begin": begin, "through": through[i % len(through)], **told}
        process.stdin.write("\n".join([json.dumps(shared), *lines]))
        process.stdin.close()
        processes.append(process)
    return processes


def outcomes(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    found = []
    for process in processes:
        assert process.stdout is not None
        found.append(json.loads(process.stdout.read()))
        process.wait()
    return found


def total(found: list[dict[str, Any]], status: str = "OK") -> int:
    return sum(one["statuses"].get(status, {}).get("count", 0) for one in found)


class Alone:
    """The engine alone, in a process of its own on the server's cores, which searches when it is told to."""

    PROGRAM = (
        "import sys, time, statistics, numpy as np, annserve\n"
        "index = annserve.open(sys.argv[1], threads=int(sys.argv[4]), io=sys.argv[5])\n"
        "q = np.load(sys.argv[2]); size, turn = int(sys.argv[3]), 0\n"
        "for i in range(0, 300, size): index.search(q[i:i+size], 10)\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    (seconds, pause), taken = map(float, line.split()), []\n"
        "    until = time.perf_counter() + seconds\n"
        "    while (begun := time.perf_counter()) < until:\n"
        "        at = turn * size % (len(q) - size + 1); index.search(q[at:at+size], 10)\n"
        "        taken.append(time.perf_counter() - begun); turn += 1\n"
        "        if pause: time.sleep(pause)\n"
        "    print(statistics.median(taken), len(taken) * size / sum(taken), flush=True)\n"
    )

    def __init__(self, options: argparse.Namespace, queries: np.ndarray, size: int, threads: int) -> None:
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, queries)
            file.flush()
            arguments = [str(options.index), file.name, str(size), str(threads), options.io]
            self._process = subprocess.Popen(
                ["taskset", "-c", options.server_cores, sys.executable, "-c", self.PROGRAM, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            )
            self._line()

    def search(self, seconds: float, pause: float = 0.0) -> tuple[float, float]:
        """Search for so long; give the median seconds of a call, and queries a second without the pauses.

        With `pause`, each call comes so many seconds after the one before has ended.
        """
        assert self._process.stdin is not None
        print(seconds, pause, file=self._process.stdin, flush=True)
        median, rate = map(float, self._line().split())
        return median, rate

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def unary(options: argparse.Namespace, queries: np.ndarray) -> dict[str, Any]:
    """A call of one query, against an echo of as many bytes and the search alone, in short turns."""
    messages = [message_of(queries[i : i + 1]) for i in range(len(queries))]
    rounds = []
    with (
        started(options.server_cores, str(HERE / "server_echo.py"), "300") as (_, echo),
        serving(options, "--threads", "1") as (_, address),
        Alone(options, queries, 1, 1) as engine,
    ):
        asked(address, messages, 1.5)
        for _ in range(options.rounds):
            taken = {
                "echo": (echoed := statistics.median(asked(echo, messages, options.seconds)[1])),
                "call": statistics.median(asked(address, messages, options.seconds)[1]),
                "search": engine.search(options.seconds)[0],
                "paced_search": engine.search(options.seconds, echoed)[0],
            }
            rounds.append({f"{name}_us": round(seconds * 1e6, 1) for name, seconds in taken.items()})

    def ratio(search: str) -> float:
        return statistics.median(one["call_us"] / (one["echo_us"] + one[search]) for one in rounds)

    # A call's search comes after an echo's time, in which the core did other things: the second ratio leaves that out.
    return {
        "rounds": rounds,
        "call_to_echo_and_search": ratio("search_us"),
        "call_to_echo_and_paced_search": ratio("paced_search_us"),
    }


def batch(options: argparse.Namespace, queries: np.ndarray) -> dict[str, Any]:
    """Calls of a hundred queries from two callers, against the engine alone on the same cores."""
    messages = [message_of(queries[i : i + 100]) for i in range(0, len(queries) - 99, 100)]
    threads = len(os.sched_getaffinity(0) & cores_of(options.server_cores))
    rounds = []
    with serving(options, "--threads", str(threads)) as (_, address), Alone(options, queries, 100, threads) as engine:
        asked(address, messages, 1.5, 2)
        for _ in range(options.rounds):
            rate = asked(address, messages, options.seconds, options.callers)[0] * 100
            rounds.append({"server_qps": rate, "engine_qps": engine.search(options.seconds)[1]})
    shares = [one["server_qps"] / one["engine_qps"] for one in rounds]
    return {"threads": threads, "callers": options.callers, "rounds": rounds, "share": statistics.median(shares)}


def overload(options: argparse.Namespace, queries: np.ndarray) -> dict[str, Any]:
    """What is answered of three times the most, bare and by our clients, each between two looks at the most."""
    size = options.batch
    lines = [message_of(queries[i : i + size]).hex() for i in range(0, len(queries) - size + 1, size)]
    steps: list[dict[str, Any]] = []
    with serving(options, "--workers", str(options.workers)) as (_, address):
        asked(address, [bytes.fromhex(line) for line in lines], 2, 8)

        def step(through: str, share: float) -> None:
            rate, told = options.rate * share, {"address": address, "seconds": options.seconds, "timeout": 1.0}
            found = outcomes(loaded(options, lines, 2, rate=rate, through=[through], **told))
            answered = sum(one["answered_a_second"] for one in found)
            steps.append({"through": through, "share": share, "answered": answered, "loads": found})
            print(f"{rate:8.0f} offered {answered:8.1f} answered, through {through}", flush=True)

        step("grpc", 1.1)
        for _ in range(options.rounds):
            for through in ("grpc", "client"):
                step(through, 3.0)
                step("grpc", 1.1)
    kept: dict[str, list[float]] = {"grpc": [], "client": []}
    # What a machine can do changes by the minute: each is held against what was answered just before and after.
    for before, beyond, after in zip(steps[::2], steps[1::2], steps[2::2]):
        kept[beyond["through"]].append(2 * beyond["answered"] / (before["answered"] + after["answered"]))
    return {
        "batch": size,
        "workers": options.workers,
        "steps": steps,
        "peak": statistics.median(step["answered"] for step in steps[::2]),
        "kept": kept,
        "at_three_times": {through: statistics.median(shares) for through, shares in kept.items()},
    }


def memory(options: argparse.Namespace, queries: np.ndarray) -> dict[str, Any]:
    """Memory of a server after calls of one and of a hundred queries, what its processes share counted once."""
    messages = [message_of(queries[i : i + 1]) for i in range(100)] + [message_of(queries[:100])]
    found = []
    for workers in (1, 2, 3, 4):
        with serving(options, "--workers", str(workers), "--threads", "1") as (process, address):
            for _ in range(8):
                asked(address, messages, 0.5, 4)
            found.append({"workers": workers, "ram_bytes": ram_of(process), "processes": memory_of(process)})
    first, last = found[0]["ram_bytes"], found[-1]["ram_bytes"]
    return {"servers": found, "share_of_each_further": (last - first) / 3 / first}


def drain(options: argparse.Namespace, queries: np.ndarray) -> dict[str, Any]:
    """SIGTERM under load: of the calls that had begun before it, none may fail."""
    messages = [message_of(queries[i : i + 1]) for i in range(len(queries))]
    rounds = []
    for _ in range(options.rounds):
        calls: list[tuple[float, float, str]] = []
        with serving(options, "--workers", "2") as (process, address):
            callers = [
                threading.Thread(target=until_refused, args=(address, messages[caller], calls)) for caller in range(16)
            ]
            for one in callers:
                one.start()
            time.sleep(1.5)
            told = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
            took = time.perf_counter() - told
            for one in callers:
                one.join()
        under_way = [status for begun, end, status in calls if begun < told < end]
        rounds.append(
            {
                "calls": len(calls),
                "under_way": len(under_way),
                "failed_of_those": sum(status != "OK" for status in under_way),
                "refused_after": sum(status != "OK" for begun, _, status in calls if begun >= told),
                "exit_code": code,
                "seconds": took,
            }
        )
    return {"rounds": rounds}


def until_refused(address: str, message: bytes, calls: list[tuple[float, float, str]]) -> None:
    """Ask again and again until a call fails; note when each began and ended, and how."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call, status = channel.unary_unary(METHOD), "OK"
        while status == "OK":
            begun = time.perf_counter()
            try:
                call(message, timeout=5)
            except grpc.RpcError as error:
                status = error.code().name
            calls.append((begun, time.perf_counter(), status))


def cores_of(text: str) -> set[int]:
    cores: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        cores |= set(range(int(low), int(high or low) + 1))
    return cores


PARTS: dict[str, Callable[[argparse.Namespace, np.ndarray], dict[str, Any]]] = {
    one.__name__: one for one in (unary, batch, overload, memory, drain)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="Of one measurement.")
    parser.add_argument("--rounds", type=int, default=5, help="Of what is compared.")
    parser.add_argument("--server-cores", default="3")
    parser.add_argument("--load-cores", default="1,2")
    parser.add_argument("--io", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--callers", type=int, default=2, help="Of batches.")
    parser.add_argument("--batch", type=int, default=1, help="Queries of a call, where it is overloaded.")
    parser.add_argument("--rate", type=float, default=300.0, help="Calls a second; about the most, where overloaded.")
    options = parser.parse_args()
    queries = read_matrix(options.queries)[:3_000]
    found = PARTS[options.part](options, queries)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    given = {name: value for name, value in given.items() if name not in ("json", "index", "queries")}
    told = {"machine": describe_machine(options.index), "index": options.index.name, "options": given, **found}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    shown = {name: value for name, value in found.items() if name not in ("steps", "loads", "memory", "servers")}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
