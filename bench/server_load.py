"""One process of an open-loop load: calls go out at their times, whatever becomes of those before.

Reads a line of JSON (arguments of `load`) and then requests, each a line of hex, and the ids expected if answers are to
be checked. Writes a line of JSON: what was sent, answered, refused, lost or wrong, and latencies from the intended
time of each call.

``"through": "grpc"`` sends each call once, by a bare stub, and heeds nothing that the server says. ``"client"`` asks
``annserve.AsyncClient``, which tries again and holds back calls as it does for everyone; what it tells is the outcome.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from annserve.client import AsyncClient
from annserve.errors import AnnserveError
from annserve.rpc import search_pb2

METHOD = "/annserve.v1.SearchService/Search"
PENDING, ANSWERED = "PENDING", "OK"


def main() -> None:
    told = json.loads(sys.stdin.readline())
    lines = [line.split() for line in sys.stdin]
    messages = [bytes.fromhex(line[0]) for line in lines]
    expected = [bytes.fromhex(line[1]) for line in lines] if len(lines[0]) > 1 else None
    print(json.dumps(load(messages, expected, **told)), flush=True)


class Book:
    """What became of calls that were to be made at `times`, seconds from the start."""

    def __init__(self, times: np.ndarray, expected: list[bytes] | None) -> None:
        self.times, self._expected = times, expected
        self._codes, self._ends, self._lags = np.zeros(len(times), np.int64), np.zeros(len(times)), np.zeros(len(times))
        self._kinds, self._details, self._wrong = [PENDING, ANSWERED], Counter[str](), 0
        self._start = time.perf_counter()

    def ahead(self, i: int) -> float:
        """Give the seconds until a call is to be made."""
        return float(self.times[i] - (time.perf_counter() - self._start))

    def made(self, i: int) -> None:
        """Note that it is made now."""
        self._lags[i] = -self.ahead(i)

    def answered(self, i: int, ids: Callable[[], bytes]) -> None:
        """Note that it is answered now; `ids` are looked at if they are to be checked."""
        self._ends[i], self._codes[i] = time.perf_counter() - self._start, 1
        if self._expected is not None:
            self._wrong += ids() != self._expected[i % len(self._expected)]

    def failed(self, i: int, kind: str, detail: str) -> None:
        """Note that it fails now."""
        if kind not in self._kinds:
            self._kinds.append(kind)
        self._ends[i], self._codes[i] = time.perf_counter() - self._start, self._kinds.index(kind)
        self._details[f"{kind}: {detail[:60]}"] += 1

    def outcome(self, seconds: float, slice_seconds: float) -> dict[str, Any]:
        """Tell."""
        codes, latencies = self._codes, (self._ends - self.times) * 1e3

        def answered_between(begin: float, end: float) -> int:
            return int(((codes == 1) & (self._ends >= begin) & (self._ends < end)).sum())

        outcome: dict[str, Any] = {
            "sent": len(self.times),
            "seconds": seconds,
            "lag_ms_p99": float(np.percentile(self._lags, 99) * 1e3),
            "wrong": self._wrong,
            # While as many calls wait as ever will: a third of the time after the load began, and before it ends.
            "answered_a_second": answered_between(seconds / 3, seconds) / (seconds * 2 / 3),
            "statuses": {
                kind: told(latencies[codes == number])
                for number, kind in enumerate(self._kinds)
                if (codes == number).any()
            },
            "details": dict(self._details.most_common(6)),
        }
        if slice_seconds:
            slices = (self.times // slice_seconds).astype(int)
            outcome["slices"] = [told(latencies[(slices == s) & (codes == 1)]) for s in range(slices.max() + 1)]
        return outcome


def load(
    messages: list[bytes],
    expected: list[bytes] | None,
    address: str,
    rate: float,
    seconds: float,
    seed: int = 0,
    timeout: float = 1.0,
    connections: int = 2,
    begin: float = 0.0,
    slice_seconds: float = 0.0,
    through: str = "grpc",
) -> dict[str, Any]:
    """Send at Poisson times for so long, from the moment `begin` of the wall clock, and tell what came of it."""
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2) + 10))
    times = times[times < seconds]

    def opened() -> Book:
        time.sleep(max(begin - time.time(), 0))
        return Book(times, expected)

    if through == "client":
        book = asyncio.run(by_client(messages, opened, address, timeout, connections))
    else:
        book = by_grpc(messages, opened, address, timeout, connections)
    return book.outcome(seconds, slice_seconds)


def by_grpc(messages: list[bytes], opened: Callable[[], Book], address: str, timeout: float, connections: int) -> Book:
    """Send by bare stubs, each call once."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channels = [grpc.insecure_channel(address, options=[*options, ("connection", i)]) for i in range(connections)]
    calls = [channel.unary_unary(METHOD) for channel in channels]
    for call in calls:
        call(messages[0], timeout=20)
    left, book = threading.Semaphore(0), opened()

    def ended(i: int, future: Any) -> None:
        if future.code() is grpc.StatusCode.OK:
            book.answered(i, lambda: search_pb2.SearchResponse.FromString(future.result()).ids)
        else:
            book.failed(i, future.code().name, future.details())
        left.release()

    for i in range(len(book.times)):
        if (ahead := book.ahead(i)) > 0.0002:
            time.sleep(ahead)
        book.made(i)
        future = calls[i % connections].future(messages[i % len(messages)], timeout=timeout)
        future.add_done_callback(lambda future, i=i: ended(i, future))
    for _ in book.times:
        left.acquire()
    return book


async def by_client(
    messages: list[bytes], opened: Callable[[], Book], address: str, timeout: float, connections: int
) -> Book:
    """Ask our client, as a program would that has queries and wants ids."""
    requests = [search_pb2.SearchRequest.FromString(message) for message in messages]
    dtypes = {1: "<f4", 2: "<f2", 3: "u1", 4: "i1"}
    queries = [
        np.frombuffer(one.matrix.data, dtypes[one.matrix.row_type]).reshape(-1, one.matrix.dim) for one in requests
    ]
    names = {one.collection for one in requests}
    clients = {name: AsyncClient(address, collection=name, timeout=timeout, connections=connections) for name in names}
    for request, rows in zip(requests[:8], queries):
        await clients[request.collection].search(rows, request.k)
    book, under_way = opened(), set[asyncio.Task[None]]()

    async def ask(i: int) -> None:
        request = requests[i % len(requests)]
        try:
            found = await clients[request.collection].search(queries[i % len(queries)], request.k)
        except AnnserveError as error:
            book.failed(i, type(error).__name__, str(error))
        else:
            book.answered(i, found.ids.astype("<u8").tobytes)

    for i in range(len(book.times)):
        # What is late gives the loop a turn all the same.
        await asyncio.sleep(max(book.ahead(i), 0.0))
        book.made(i)
        task = asyncio.create_task(ask(i))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    while under_way:
        await asyncio.wait(under_way)
    for client in clients.values():
        await client.close()
    return book


def told(latencies: np.ndarray) -> dict[str, float]:
    """Give count and quantiles."""
    if not len(latencies):
        return {"count": 0}
    quantiles = {f"p{p}_ms": round(float(np.percentile(latencies, p)), 3) for p in (50, 95, 99)}
    return {"count": len(latencies), **quantiles, "max_ms": round(float(latencies.max()), 3)}


if __name__ == "__main__":
    main()
