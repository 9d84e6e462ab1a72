"""Errors to gRPC statuses: every refusal says what, where and what to do, and no exception ends the process.

An ``AnnserveError`` keeps its message, but for the folders of files, which are the server's own business, and takes the
status that its class names; an ``ErrorInfo`` of domain
``annserve`` carries the class and the facts, so that a client can raise the same error again. Anything else
is INTERNAL: the caller gets a number, the log gets the traceback under the same number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from annserve.door.patience import MESSAGE_SECONDS, PATIENCE, patient, patient_as_is, stream_as_is
from annserve.door.pool import AtOnce, CallPool
from annserve.door.room import LARGE_BYTES, Room
from annserve.errors import AccessError, AnnserveError, BusyError, InputError, RoleError, without_folders
from annserve.guard.admit import CHANGING, ROLE_OF, Admission
from annserve.rpc import search_pb2
from annserve.watch.calls import REQUEST_ID, Call

LOG = logging.getLogger("annserve.serve")
DOMAIN = "annserve"
#: Methods of our own; others answer for themselves.
OURS = "/annserve."
#: Attributes of errors that travel as metadata, where an error has them.
FACTS = ("field", "path", "offset", "retry_after_ms")
#: Between two refusals at the door: calls that are under way need the thread that refuses, too.
BREATH_SECONDS = 0.0005
#: Characters of a message. A status travels in headers, and peers drop all of them beyond 8 KiB.
MESSAGE_CHARS_MAX = 500


class PassedOnError(Exception):
    """A refusal of another process of this server, to be given as it is."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class Door(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stub only
    """Lets each call in or not, watches it, and turns whatever it raises into a status.

    Parameters
    ----------
    pools : dict
        Method name → pool that its calls run in; methods without one run in the server's own pool. Where one is full,
        further calls are refused before anything of them is read.
    admission : Admission
        Who may call what.
    log_calls : str
        Calls that are logged: ``none``, ``changes``, ``failed`` ones too, or ``all``. What strangers send makes no line
        by default, for they could fill a disk.
    room : Room
        For messages that are large.
    """

    def __init__(
        self,
        pools: Mapping[str, CallPool],
        admission: Admission | None = None,
        log_calls: str = "changes",
        room: Room | None = None,
    ) -> None:
        self._pools = pools
        self._room = room or Room()
        self._refusing = AtOnce()
        self._admission = admission or Admission()
        self._when_refused = {"none": "never", "changes": "never", "failed": "failed", "all": "always"}[log_calls]
        self._when_changing = "never" if log_calls == "none" else "always"

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Put our handler around the method's own; leave unknown methods alone."""
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        try:
            caller = self._admission.admit(method, metadata)
        except AccessError as error:
            if isinstance(error, RoleError) and continuation(handler_call_details) is None:
                return None  # programs that ask for a newer service than ours fall back where it isn't there
            return _refusal(error, Call(method if method in ROLE_OF else "", metadata, logged=self._when_refused))
        pool = self._pools.get(method)
        if pool is not None and pool.full:
            return self._turned_away(Call(method, metadata, caller.name, logged=self._when_refused))
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        if not method.startswith(OURS):
            return stream_as_is(handler, pool) if handler.request_streaming else patient_as_is(handler, pool)
        call = Call(method, metadata, caller.name, caller.key_id, self._when(method))
        decode = handler.request_deserializer
        behavior: Any = _answer(handler, decode, call, self._room)
        if handler.response_streaming:
            behavior = _answers(handler, decode, call, self._room, lambda: self._admission.admit(method, metadata))
        if pool is not None:
            # grpc reads this attribute to choose the pool; a function is the only place it looks.
            behavior.experimental_thread_pool = pool
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(behavior, None, handler.response_serializer)
        if not handler.response_streaming:
            # Its answers are bytes already. A named tuple, though its stub says less.
            handler = handler._replace(response_serializer=None)  # type: ignore[attr-defined]
        return patient(handler, behavior, MESSAGE_SECONDS, lambda context: _no_message(context, call))

    def _turned_away(self, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
        """Give what refuses a call that there is no room for, at the least cost: there are many where there is one."""

        def behavior(messages: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            call.end("RESOURCE_EXHAUSTED")
            time.sleep(BREATH_SECONDS)
            trailing = (*_NO_ROOM.trailing_metadata, (REQUEST_ID, call.request_id))
            context.abort_with_status(_NO_ROOM._replace(trailing_metadata=trailing))
            yield  # pragma: no cover - a generator, for the handler of streams reads no message

        behavior.experimental_thread_pool = self._refusing  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(behavior)

    def _when(self, method: str) -> str:
        return self._when_changing if ROLE_OF.get(method) in CHANGING else self._when_refused


def _answer(handler: Any, decode: Any, call: Call, room: Room) -> Callable[[bytes, grpc.ServicerContext], Any]:
    """Give what answers one message by one, encoded."""

    def behavior(message: bytes, context: grpc.ServicerContext) -> Any:
        call.enter()
        try:
            with room.holding(len(message)):
                request = _decoded(message, decode, call.method)
                del message  # the request has a copy
                answer: bytes = handler.response_serializer(handler.unary_unary(request, context))
                del request
            if len(answer) > LARGE_BYTES:
                room.keep(len(answer), context.add_callback)
                PATIENCE.end(context, MESSAGE_SECONDS)
        except Exception as error:
            status = status_of(error, call.method, call.request_id)
        else:
            call.end("OK")
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            return answer
        # Outside the `except`, for this raises what grpc alone should catch.
        return _abort(context, status, call)

    return behavior


def _answers(
    handler: Any, decode: Any, call: Call, room: Room, admit: Callable[[], object]
) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
    """Give what answers by a stream; of messages that come by one, each is let in or not, and decoded."""

    def let_in(messages: Iterator[bytes]) -> Iterator[Any]:
        for one in messages:
            admit()  # a stream may outlast its key
            with room.holding(len(one)):
                yield _decoded(one, decode, call.method)

    def behavior(message: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        call.enter()
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        try:
            if handler.request_streaming:
                yield from handler.stream_stream(let_in(message), context)
            else:
                yield from handler.unary_stream(_decoded(message, decode, call.method), context)
        except GeneratorExit:
            call.end("CANCELLED")
            raise
        except grpc.RpcError:  # of the caller's stream, which has gone
            call.end("CANCELLED")
            return
        except Exception as error:
            status = status_of(error, call.method, call.request_id)
        else:
            call.end("OK")
            return
        _abort(context, status, call)

    return behavior


def _no_message(context: grpc.ServicerContext, call: Call) -> Any:
    """End a call that brought no message, or none in time."""
    call.enter()
    error = InputError(f"the call of {call.method} brought no message", field="request")
    return _abort(context, status_of(error, call.method, call.request_id), call)


def _refusal(error: AccessError, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
    """Give what answers with a refusal, whatever the method, before anything is read."""

    def behavior(messages: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        call.enter()
        _abort(context, status_of(error, call.method, call.request_id), call)
        yield  # pragma: no cover - a generator, for the handler of streams takes any method

    return grpc.stream_stream_rpc_method_handler(behavior)


def _abort(context: grpc.ServicerContext, status: status_pb2.Status, call: Call) -> Any:
    """End a call with a status; raises what grpc alone should catch."""
    call.end(code_pb2.Code.Name(status.code), status.message)
    told: Any = rpc_status.to_status(status)  # a named tuple, though its stub says less
    trailing = (*told.trailing_metadata, (REQUEST_ID, call.request_id))
    return context.abort_with_status(told._replace(trailing_metadata=trailing))


def _decoded(message: bytes, decode: Callable[[bytes], Any] | None, method: str) -> Any:
    try:
        return decode(message) if decode else message
    except DecodeError:
        raise InputError(
            f"the {len(message)} bytes of the request aren't a message of {method}", field="request"
        ) from None


def status_of(error: Exception, method: str, request_id: str = "") -> status_pb2.Status:
    """Give the status that `error` is answered with; faults that aren't the caller's are logged."""
    if isinstance(error, PassedOnError):
        return error.status
    if isinstance(error, NotImplementedError):  # what generated code raises for a method that we lack
        return _status("UNIMPLEMENTED", f"this server doesn't offer {method}", [_info("UNIMPLEMENTED", {})])
    if not isinstance(error, AnnserveError):
        LOG.error("call failed", exc_info=error, extra={"method": method, "request_id": request_id})
        message = f"internal error; the server's log tells more under request_id {request_id}"
        details: list[Message] = [_info("INTERNAL", {"request_id": request_id})]
        return _status("INTERNAL", message, details)
    if error.exit_code == 3:  # what lies on the device is at fault, not the request
        LOG.error("call failed", extra={"method": method, "error": str(error)})
    message = without_folders(error)[:MESSAGE_CHARS_MAX]
    facts = {"request_id": request_id} if request_id else {}
    for name in FACTS:
        value = getattr(error, name, None)
        if value is not None:
            facts[name] = value.name if isinstance(value, Path) else str(value)
    details = [_info(reason_of(type(error)), facts)]
    if isinstance(error, InputError) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, BusyError):
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(error.grpc_status, message, details)


def refusal_of(error: AnnserveError) -> search_pb2.Refusal:
    """Give an error as one request of a stream is answered with it."""
    return search_pb2.Refusal(
        code=code_pb2.Code.Value(error.grpc_status),
        message=without_folders(error)[:MESSAGE_CHARS_MAX],
        reason=reason_of(type(error)),
        field=getattr(error, "field", None) or "",
        retry_after_ms=getattr(error, "retry_after_ms", 0),
    )


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


#: What is said where there is no room for a call; made once.
_NO_ROOM: Any = rpc_status.to_status(
    status_of(BusyError("too many calls wait on this server already; come again later", retry_after_ms=200), "")
)
