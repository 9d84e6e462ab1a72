"""Errors to gRPC statuses: every refusal says what, where and what to do, and no exception ends the process.

An ``AnnserveError`` keeps its message and takes the status that its class names; an ``ErrorInfo`` of domain
``annserve`` carries the class and the facts, so that a client can raise the same error again. Anything else
is INTERNAL: the caller gets a number, the log gets the traceback under the same number.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from annserve.errors import AnnserveError, BusyError, InputError

LOG = logging.getLogger("annserve.serve")
DOMAIN = "annserve"
#: Attributes of errors that travel as metadata, where an error has them.
FACTS = ("field", "path", "offset", "retry_after_ms")
#: Characters of a message. A status travels in headers, and peers drop all of them beyond 8 KiB.
MESSAGE_CHARS_MAX = 500


class ErrorInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stub only
    """Runs every method of ours so that whatever it raises becomes a status.

    Parameters
    ----------
    pools : dict
        Method name → pool that its calls run in; methods without one run in the server's own pool.
    """

    def __init__(self, pools: dict[str, ThreadPoolExecutor]) -> None:
        self._pools = pools

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Put our handler around the method's own; leave unknown methods alone."""
        handler = continuation(handler_call_details)
        if handler is None or (handler.request_streaming and not handler.response_streaming):
            return handler  # no method of ours takes a stream and gives one answer
        method = handler_call_details.method
        decode, encode = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            behavior = _answers(handler, decode, method)
            wrap = grpc.stream_stream_rpc_method_handler if handler.request_streaming else _UNARY_STREAM
        else:
            behavior, wrap = _answer(handler.unary_unary, decode, method), grpc.unary_unary_rpc_method_handler
        if method in self._pools:
            # grpc reads this attribute to choose the pool; a function is the only place it looks.
            behavior.experimental_thread_pool = self._pools[method]  # type: ignore[attr-defined]
        return wrap(behavior, request_deserializer=None, response_serializer=encode)


_UNARY_STREAM = grpc.unary_stream_rpc_method_handler


def _answer(answer: Any, decode: Any, method: str) -> Callable[[bytes, grpc.ServicerContext], Any]:
    """Give what answers one message by one."""

    def behavior(message: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return answer(_decoded(message, decode, method), context)
        except Exception as error:
            status = status_of(error, method)
        # Outside the `except`, for this raises what grpc alone should catch.
        return context.abort_with_status(rpc_status.to_status(status))

    return behavior


def _answers(handler: Any, decode: Any, method: str) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
    """Give what answers by a stream; messages that come by a stream are decoded one by one."""

    def behavior(message: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            if handler.request_streaming:
                yield from handler.stream_stream((_decoded(one, decode, method) for one in message), context)
            else:
                yield from handler.unary_stream(_decoded(message, decode, method), context)
            return
        except Exception as error:
            status = status_of(error, method)
        context.abort_with_status(rpc_status.to_status(status))

    return behavior


def _decoded(message: bytes, decode: Callable[[bytes], Any] | None, method: str) -> Any:
    try:
        return decode(message) if decode else message
    except DecodeError:
        raise InputError(
            f"the {len(message)} bytes of the request aren't a message of {method}", field="request"
        ) from None


def status_of(error: Exception, method: str) -> status_pb2.Status:
    """Give the status that `error` is answered with; faults that aren't the caller's are logged."""
    if isinstance(error, NotImplementedError):  # what generated code raises for a method that we lack
        return _status("UNIMPLEMENTED", f"this server doesn't offer {method}", [_info("UNIMPLEMENTED", {})])
    if not isinstance(error, AnnserveError):
        request_id = uuid.uuid4().hex[:12]
        LOG.error("call failed", exc_info=error, extra={"method": method, "request_id": request_id})
        message = f"internal error; the server's log tells more under request_id {request_id}"
        details: list[Message] = [_info("INTERNAL", {"request_id": request_id})]
        return _status("INTERNAL", message, details)
    if error.exit_code == 3:  # what lies on the device is at fault, not the request
        LOG.error("call failed", extra={"method": method, "error": str(error)})
    message = str(error)[:MESSAGE_CHARS_MAX]
    facts = {name: str(value) for name in FACTS if (value := getattr(error, name, None)) is not None}
    details = [_info(reason_of(type(error)), facts)]
    if isinstance(error, InputError) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, BusyError):
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(error.grpc_status, message, details)


def reason_of(kind: type[AnnserveError]) -> str:
    """Give a class's name on the wire: ``NotFoundError`` → ``NOT_FOUND_ERROR``."""
    return "".join(f"_{c}" if c.isupper() else c for c in kind.__name__).lstrip("_").upper()


def _info(reason: str, facts: dict[str, str]) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=facts)


def _status(code: str, message: str, details: list[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(code), message=message, details=packed)
