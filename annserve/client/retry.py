"""Which failed calls are made again, and when: the same rules for both clients.

Only UNAVAILABLE that isn't the server's own verdict, a refusal that says when to come again, and a call that gRPC ended
for want of room (CANCELLED). Delays double, each drawn anew below its bound, so that callers who failed together don't
return together; none is shorter than the server asked for, and together with the calls they stay within the time-out.
"""

from __future__ import annotations

import random
import time
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from annserve.client.status import error_of
from annserve.errors import AnnserveError, BusyError, DeadlineError, ServerError

#: Calls at most, and the bounds of the delays between them.
TRIES = 5
DELAY_SECONDS, DELAY_SECONDS_MAX = 0.1, 2.0


class Tries:
    """The tries of one call.

    Parameters
    ----------
    address : str
        Of the server, for messages.
    timeout : float
        Seconds that all tries and delays may take.
    deadline : float, optional
        ``time.monotonic()`` by which they must end, where others share the time.
    most : int
        Tries at most; 1 where a call must not be made twice.
    """

    def __init__(self, address: str, timeout: float, deadline: float | None = None, most: int = TRIES) -> None:
        self._address, self._timeout, self._most = address, timeout, most
        self._deadline = time.monotonic() + timeout if deadline is None else deadline
        self._failed = 0

    def remaining(self) -> float:
        """Give the seconds that are left.

        Raises
        ------
        DeadlineError
            If none is.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{self._timeout} s passed before all was answered; allow more time")
        return left

    def delay_after(self, call: Any) -> float:
        """Give the seconds to wait before the next try.

        Parameters
        ----------
        call : grpc.RpcError
            What became of this one.

        Raises
        ------
        AnnserveError
            What the failure means, where another try wouldn't help or there is no time for one.
        """
        error = error_of(call, self._address)
        self._failed += 1
        least = _seconds_asked_for(call, error)
        if least is None or self._failed >= self._most:
            raise error
        bound = min(DELAY_SECONDS * 2.0 ** (self._failed - 1), DELAY_SECONDS_MAX)
        delay = max(least, bound * random.uniform(0.5, 1.0))
        if time.monotonic() + delay >= self._deadline:
            raise error
        return delay


def _seconds_asked_for(call: Any, error: AnnserveError) -> float | None:
    """Give the least seconds before another try, 0 if any will do; None if none helps."""
    unheard = type(error) is ServerError and call.code() == grpc.StatusCode.UNAVAILABLE
    if unheard or call.code() == grpc.StatusCode.CANCELLED:
        return _told_by(call) or 0.0
    return _told_by(call) if isinstance(error, BusyError) else None


def _told_by(call: Any) -> float | None:
    """Give what a RetryInfo says."""
    status = rpc_status.from_call(call)
    for detail in status.details if status else ():
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            seconds: float = info.retry_delay.ToTimedelta().total_seconds()
            return max(seconds, 0.0)
    return None
