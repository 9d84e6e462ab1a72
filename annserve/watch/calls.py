"""One call as it is watched: its request id, who calls, how it ended and how long it took.

The id is the caller's own (metadata ``x-request-id``) where it has a shape that is safe to log, and one of ours else;
a message may name another.
It stands in every log line of the call, in every error that the call ends with, and in its trailing metadata.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from contextvars import ContextVar

from annserve.watch.metrics import count_call
from annserve.watch.tracing import begin_span, end_span

LOG = logging.getLogger("annserve.calls")

REQUEST_ID = "x-request-id"
_SAFE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)


def current_request_id() -> str:
    """Give the id of the call that this thread serves; empty outside of one."""
    call = _CURRENT.get()
    return call.request_id if call else ""


def name_call(request_id: str) -> None:
    """Let this thread's call go by an id that its message brought; an empty one changes nothing."""
    call = _CURRENT.get()
    if call is not None and request_id:
        call.request_id = request_id


def current_tenant() -> str:
    """Give whose answers this thread's call may share: an id of its key; empty where none is asked for."""
    call = _CURRENT.get()
    return call.tenant if call else ""


def describe_call(**facts: str | int | float) -> None:
    """Tell what this thread's call is about, as ``collection="photos"``, for its log line and its span."""
    call = _CURRENT.get()
    if call is not None:
        call.facts.update(facts)


class Call:
    """A call from its arrival to its end.

    Parameters
    ----------
    method : str
        As ``/annserve.v1.SearchService/Search``; empty for one that isn't ours, for a stranger's words shall make no
        series of metrics and no line of a log.
    metadata : pairs
        Of the call.
    caller : str
        Name of the key that was shown, for people; empty where none is asked for.
    tenant : str
        Id of that key: several may have one name.
    logged : str
        When the call is logged: ``never``, if it ``failed``, or ``always``.
    """

    __slots__ = ("_begun", "_logged", "_span", "caller", "facts", "method", "request_id", "tenant")

    def __init__(
        self,
        method: str,
        metadata: Iterable[tuple[str, str | bytes]] = (),
        caller: str = "",
        tenant: str = "",
        logged: str = "never",
    ) -> None:
        self._begun = time.perf_counter()
        self._logged = logged
        self.method, self.caller, self.tenant = method, caller, tenant
        self.request_id = _asked_for(metadata) or os.urandom(16).hex()
        self.facts: dict[str, str | int | float] = {}
        self._span = begin_span(method, metadata, self.request_id)

    def enter(self) -> None:
        """Be the call that this thread serves from now on."""
        _CURRENT.set(self)

    def end(self, code: str, message: str = "") -> None:
        """Count the call and log it, if its kind is.

        Parameters
        ----------
        code : str
            Name of the gRPC status, as ``OK``.
        message : str
            What the caller is told, if it failed.
        """
        seconds = time.perf_counter() - self._begun
        count_call(self.method, code, seconds)
        end_span(self._span, code, self.facts)
        if self._logged == "never" or (self._logged == "failed" and code == "OK"):
            return
        fields: dict[str, str | int | float] = {
            "method": self.method,
            "code": code,
            "seconds": round(seconds, 6),
            "request_id": self.request_id,
        }
        fields |= self.facts
        if self.caller:
            fields["caller"] = self.caller
        if message:
            fields["error"] = message
        LOG.info("call", extra=fields)


def _asked_for(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for name, value in metadata:
        if name == REQUEST_ID and isinstance(value, str) and _SAFE.fullmatch(value):
            return value
    return ""
