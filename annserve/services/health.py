"""Health as ``grpc.health.v1`` tells it: of the server, its services, and its collections (as ``collections/NAME``).

The protocol has no room for a reason, so it comes as trailing metadata ``annserve-reason`` of ``Check``. The server
as a whole is healthy while it answers: one damaged collection is no reason to end what serves the others.

Whoever asks needs no key, so nothing of what strangers send is kept, and none of them can make another wait: each that
watches has a thread, which alone waits until its watcher takes what it is told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from annserve.catalog.catalog import Standing, State
from annserve.watch.metrics import meter

REASON = "annserve-reason"
#: Characters of a service's name; collections have 63.
_NAME_CHARS_MAX = 128
#: Characters of a reason; metadata have room for some more.
_REASON_CHARS = 500
_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no stub
    """Answers probes; threads may share it.

    Parameters
    ----------
    *services : str
        That are served from the start, besides the server as a whole.
    """

    def __init__(self, *services: str) -> None:
        self._statuses: dict[str, int] = dict.fromkeys(("", *services), _SERVING)
        self._reasons: dict[str, str] = {}
        self._changed = threading.Condition()
        self._ended = False

    def note(self, standing: Standing) -> None:
        """Take in how a collection stands, for probes and for metrics."""
        service, told = f"collections/{standing.name}", meter(standing.name)
        with self._changed:
            if standing.gone:
                self._statuses.pop(service, None)
                self._reasons.pop(service, None)
            else:
                self._statuses[service] = _SERVING if standing.state is State.READY else _NOT_SERVING
                self._reasons[service] = standing.reason
            self._changed.notify_all()
        if standing.gone:
            told.gone()
            return
        if standing.state is State.READY and standing.version is not None:
            told.opened(standing.version.info)
        told.state(standing.state.name.lower())

    def end(self) -> None:
        """Say that nothing is served any more; to those who watch it is the last word."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def Check(  # noqa: N802 - the name of the method in the proto
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Tell whether a service is served, and why not."""
        status = self._status_of(request.service)
        if status == _UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        reason = self._reasons.get(request.service)
        if reason:
            plain = reason[:_REASON_CHARS].encode("ascii", "backslashreplace").decode()
            context.set_trailing_metadata(((REASON, plain),))
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Tell whether a service is served, now and whenever that changes."""
        service, told = request.service, None
        if len(service) > _NAME_CHARS_MAX:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no service has such a name")
        del request  # which may hold more than a name
        context.add_callback(self._wake)
        while context.is_active():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ended or self._status_of(service) != told or not context.is_active()  # noqa: B023
                )
                status, last = self._status_of(service), self._ended
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            if last:
                return

    def _status_of(self, service: str) -> int:
        status = self._statuses.get(service, _UNKNOWN)
        return _NOT_SERVING if self._ended and status == _SERVING else status

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
