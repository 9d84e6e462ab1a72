"""A call is a span of its caller's trace, with its status and what it was about; without OpenTelemetry it is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from annserve.errors import InputError
from annserve.watch import tracing
from annserve.watch.calls import Call, describe_call

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "order-66"), ("authorization", "Bearer secret")]


@pytest.fixture
def spans(monkeypatch):
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs OpenTelemetry: pip install 'annserve[otel]'")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    return kept


def test_a_call_continues_the_trace_of_its_caller(spans):
    call = Call("/annserve.v1.SearchService/Search", SENT)
    call.enter()
    describe_call(collection="photos", queries=4)
    call.end("OK")
    (span,) = spans.get_finished_spans()
    assert span.name == "annserve.v1.SearchService/Search"
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert dict(span.attributes) == {
        "rpc.system": "grpc", "rpc.service": "annserve.v1.SearchService", "rpc.method": "Search",
        "rpc.grpc.status_code": 0, "annserve.request_id": "order-66", "annserve.collection": "photos",
        "annserve.queries": 4,
    }  # fmt: skip
    assert span.status.is_unset


@pytest.mark.parametrize(("code", "fault"), [("INTERNAL", True), ("DATA_LOSS", True), ("INVALID_ARGUMENT", False)])
def test_only_a_fault_of_the_server_is_an_error_of_the_span(spans, code, fault):
    Call("/s/m").end(code, "what was wrong")
    (span,) = spans.get_finished_spans()
    assert (not span.status.is_ok and not span.status.is_unset) is fault


def test_without_an_endpoint_nothing_is_traced_and_nothing_loaded():
    code = "import sys; from annserve.watch.calls import Call; Call('/s/m').end('OK')\n"
    code += "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_endpoint_without_opentelemetry_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InputError, match=r"pip install 'annserve\[otel\]'"):
        tracing.start_tracing("http://127.0.0.1:4317")


def test_what_is_no_endpoint_is_refused():
    with pytest.raises(InputError, match=r"'collector:4317'; give http://HOST:PORT"):
        tracing.start_tracing("collector:4317")
