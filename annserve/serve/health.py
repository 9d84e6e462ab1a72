"""Health as ``grpc.health.v1`` tells it: of the server, its services, and its collections (as ``collections/NAME``).

The protocol has no room for a reason, so it comes as trailing metadata ``annserve-reason`` of ``Check``. The server
as a whole is healthy while it answers: one damaged collection is no reason to end what serves the others.
"""

from __future__ import annotations

import re

import grpc
from grpc_health.v1 import health, health_pb2

from annserve.serve.catalog import Standing, State
from annserve.watch.metrics import meter

REASON = "annserve-reason"
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
