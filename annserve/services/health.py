"""Health as ``grpc.health.v1`` tells it: of the server, its services, and its collections (as ``collections/NAME``).

The protocol has no room for a reason, so it comes as trailing metadata ``annserve-reason`` of ``Check``. The server
as a whole is healthy while it answers: one damaged collection is no reason to end what serves the others.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from annserve.catalog.catalog import Standing, State
from annserve.watch.metrics import meter

REASON = "annserve-reason"
#: Calls of Watch at once; each takes no thread, but one of the calls that there may be.
WATCHES_MAX = 256
#: Characters of a service's name; collections have 63.
_NAME_CHARS_MAX = 128
#: Characters of a reason; metadata have room for some more.
_REASON_CHARS = 500
#: Who asks needs no key, and learns what is wrong with a file, but not where it lies.
_FOLDERS = re.compile(r"\S*/")
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.HealthServicer):
    """Answers probes; threads may share it."""

    def __init__(self) -> None:
        super().__init__()
        self._reasons: dict[str, str] = {}
        self._watches = threading.BoundedSemaphore(WATCHES_MAX)

    def note(self, standing: Standing) -> None:
        """Take in how a collection stands, for probes and for metrics."""
        service = f"collections/{standing.name}"
        self._reasons[service] = standing.reason
        told = meter(standing.name)
        if standing.gone:
            self.set(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            told.gone()
            return
        self.set(service, _SERVING if standing.state is State.READY else _NOT_SERVING)
        if standing.state is State.READY and standing.version is not None:
            told.opened(standing.version.info)
        told.state(standing.state.name.lower())

    def Check(  # noqa: N802 - the name of the method in the proto
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Tell whether a service is served, and why not."""
        reason = self._reasons.get(request.service)
        if reason:
            plain = _FOLDERS.sub("", reason)[:_REASON_CHARS].encode("ascii", "backslashreplace").decode()
            context.set_trailing_metadata(((REASON, plain),))
        return super().Check(request, context)

    def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, *more: Any
    ) -> Any:
        """Tell whether a service is served, now and whenever that changes."""
        # Whoever asks needs no key: neither calls nor names that nobody else uses may add up.
        if len(request.service) > _NAME_CHARS_MAX:
            return context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no service has such a name")
        if not self._watches.acquire(blocking=False):
            return context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch already; ask by Check")
        context.add_callback(self._watches.release)
        told = super().Watch(request, context, *more)
        context.add_callback(lambda: self._forget(request.service))
        return told

    def _forget(self, service: str) -> None:
        """Keep nothing of a service that nobody watches."""
        with self._lock:
            if not self._send_response_callbacks.get(service, True):
                del self._send_response_callbacks[service]
