"""Spans of calls for OpenTelemetry, where the extra ``otel`` is installed and an endpoint is set; else nothing.

A call's span continues the trace of its caller (W3C ``traceparent`` in the metadata). Which calls are kept is for the
SDK's own settings to say (``OTEL_TRACES_SAMPLER``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from annserve.errors import InputError
from annserve.version import __version__

#: OpenTelemetry's tracer, once `start_tracing` was called in this process.
_tracer: Any = None
_CARRIED = ("traceparent", "tracestate")


def start_tracing(endpoint: str) -> None:
    """Send the spans of this process to an OTLP endpoint over gRPC, as ``http://127.0.0.1:4317``.

    Raises
    ------
    InputError
        If OpenTelemetry isn't installed, or the endpoint is none.
    """
    global _tracer
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(
            f"trace_endpoint is {endpoint!r}; give http://HOST:PORT, or https://HOST:PORT", field="trace_endpoint"
        )
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise InputError(
            "trace_endpoint takes OpenTelemetry: pip install 'annserve[otel]'", field="trace_endpoint"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "annserve", "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))))
    _tracer = provider.get_tracer("annserve", __version__)


def begin_span(method: str, metadata: Iterable[tuple[str, str | bytes]], request_id: str) -> Any:
    """Begin the span of a call; None where nothing is traced."""
    if _tracer is None:
        return None
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    service, _, name = method.lstrip("/").partition("/")
    carried = {key: value for key, value in metadata if key in _CARRIED and isinstance(value, str)}
    attributes = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": name,
        "annserve.request_id": request_id,
    }
    return _tracer.start_span(method.lstrip("/"), context=extract(carried), kind=SpanKind.SERVER, attributes=attributes)


def end_span(span: Any, code: str, facts: Mapping[str, Any]) -> None:
    """End the span of a call with its status and what is known of it."""
    if span is None:
        return
    from grpc import StatusCode
    from opentelemetry.trace import Status
    from opentelemetry.trace import StatusCode as SpanStatus

    span.set_attribute("rpc.grpc.status_code", getattr(StatusCode, code).value[0])
    for name, value in facts.items():
        span.set_attribute(f"annserve.{name}", value)
    if code in ("INTERNAL", "DATA_LOSS", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"):  # the server's, as OTel says
        span.set_status(Status(SpanStatus.ERROR, code))
    span.end()
