"""Which failed calls are made again, and when: the same rules for both clients.

Only UNAVAILABLE that isn't the server's own verdict, a refusal that says when to come again, and a call that gRPC ended
for want of room (CANCELLED). Delays double, each drawn anew below its bound, so that callers who failed together don't
return together; none is shorter than the server asked for, and together with the calls they stay within the time-out.
A try that the throttle holds back counts as one that was refused.
"""

from __future__ import annotations

import random
import time
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from annserve.client.status import error_of
from annserve.client.throttle import Throttle
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
    throttle : Throttle
        Of the client.
    timeout : float
        Seconds that all tries and delays may take.
    deadline : float, optional
        ``time.monotonic()`` by which they must end, where others share the time.
    most : int
        Tries at most; 1 where a call must not be made twice.
    """

    def __init__(
        self, address: str, throttle: Throttle, timeout: float, deadline: float | None = None, most: int = TRIES
    ) -> None:
        self._address, self._throttle, self._most = address, throttle, most
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
            raise DeadlineError("the time given passed before all was answered; allow more")
        return left

    def delay_before(self) -> float:
        """Give the seconds to wait in place of a try, where it is held back; 0 where it may be made.

        Raises
        ------
        BusyError
            If it is held back, and there is no other try or no time for one.
        """
        if not self._throttle.holds_back():
            return 0.0
        wait = self._throttle.retry_after_ms
        error = BusyError(
            f"the server at {self._address} refuses so many calls that this one wasn't sent; try again later",
            retry_after_ms=wait,
        )
        return self._delay(error, wait / 1e3)

    def answered(self) -> None:
        """Take note that the last try was answered."""
        self._throttle.accepted()

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
        if isinstance(error, BusyError):
            self._throttle.refused(error.retry_after_ms)
        return self._delay(error, _seconds_asked_for(call, error))

    def _delay(self, error: AnnserveError, least: float | None) -> float:
        """Give the seconds until the next try, `least` at least; raise the error of this one if there is none."""
        self._failed += 1
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
