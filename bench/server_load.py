"""One process of an open-loop load: calls go out at their times, whatever becomes of those before.

Reads a line of JSON (arguments of `load`) and then requests, each a line of hex, and the ids expected if answers are to
be checked. Writes a line of JSON: what was sent, answered, refused, lost or wrong, and latencies from the intended
time of each call.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import Any

import grpc
import numpy as np

from annserve.rpc import search_pb2

METHOD = "/annserve.v1.SearchService/Search"
PENDING, ANSWERED = "PENDING", "OK"


def main() -> None:
    told = json.loads(sys.stdin.readline())
    lines = [line.split() for line in sys.stdin]
    messages = [bytes.fromhex(line[0]) for line in lines]
    expected = [bytes.fromhex(line[1]) for line in lines] if len(lines[0]) > 1 else None
    print(json.dumps(load(messages, expected, **told)), flush=True)


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
) -> dict[str, Any]:
    """Send at Poisson times for so long, from the moment `begin` of the wall clock, and tell what came of it."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    channels = [grpc.insecure_channel(address, options=[*options, ("connection", i)]) for i in range(connections)]
    calls = [channel.unary_unary(METHOD) for channel in channels]
    for call in calls:
        call(messages[0], timeout=20)
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2) + 10))
    times = times[times < seconds]
    codes, ends, lags = np.zeros(len(times), np.int64), np.zeros(len(times)), np.zeros(len(times))
    kinds, details = [PENDING, ANSWERED], Counter[str]()
    left, wrong = threading.Semaphore(0), Counter[str]()
    time.sleep(max(begin - time.time(), 0))
    start = time.perf_counter()

    def ended(i: int, future: Any) -> None:
        ends[i] = time.perf_counter() - start
        if future.code() is grpc.StatusCode.OK:
            codes[i] = 1
            if expected is not None:
                answer = search_pb2.SearchResponse.FromString(future.result())
                wrong["answers"] += answer.ids != expected[i % len(expected)]
        else:
            name = future.code().name
            if name not in kinds:
                kinds.append(name)
            codes[i] = kinds.index(name)
            details[f"{name}: {future.details()[:60]}"] += 1
        left.release()

    for i, at in enumerate(times):
        ahead = at - (time.perf_counter() - start)
        if ahead > 0.0002:
            time.sleep(ahead)
        lags[i] = time.perf_counter() - start - at
        future = calls[i % connections].future(messages[i % len(messages)], timeout=timeout)
        future.add_done_callback(lambda future, i=i: ended(i, future))
    for _ in times:
        left.acquire()
    latencies = (ends - times) * 1e3
    outcome: dict[str, Any] = {
        "sent": len(times),
        "seconds": seconds,
        "lag_ms_p99": float(np.percentile(lags, 99) * 1e3),
        "wrong": wrong["answers"],
        "statuses": {
            kind: told(latencies[codes == number]) for number, kind in enumerate(kinds) if (codes == number).any()
        },
        "details": dict(details.most_common(6)),
    }
    if slice_seconds:
        slices = (times // slice_seconds).astype(int)
        answered = codes == 1
        outcome["slices"] = [told(latencies[(slices == s) & answered]) for s in range(slices.max() + 1)]
    return outcome


def told(latencies: np.ndarray) -> dict[str, float]:
    """Give count and quantiles."""
    if not len(latencies):
        return {"count": 0}
    quantiles = {f"p{p}_ms": round(float(np.percentile(latencies, p)), 3) for p in (50, 95, 99)}
    return {"count": len(latencies), **quantiles, "max_ms": round(float(latencies.max()), 3)}


if __name__ == "__main__":
    main()
