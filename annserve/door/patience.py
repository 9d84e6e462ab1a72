"""An end to the wait for messages that have begun and don't go on.

gRPC gives a call a thread once its headers are there, and the thread waits for the message; for ever, if the caller
sends half of one. Some dozens of such calls would leave no thread to anybody else. So the one message of a call is
taken from a stream, which can be given up: a call whose message isn't there in time is cancelled. So is one whose large
answer isn't taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

#: For a message to arrive after its headers: 64 MiB at 2 MiB a second, and health's few bytes.
MESSAGE_SECONDS, SMALL_MESSAGE_SECONDS = 30.0, 5.0
_LOOK_SECONDS = 0.5
#: Messages that strangers may send, and that are awaited at once: each takes what a message may have of memory.
STRANGERS_MAX = 32
_NO_MESSAGE = "the request is no message of this method"


class Patience:
    """Waits for messages, each for a time of its own; threads may share it."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, grpc.ServicerContext]] = {}
        self._begun = False
        self._lock = threading.Lock()

    def message(self, messages: Iterator[bytes], context: grpc.ServicerContext, seconds: float) -> bytes | None:
        """Give the one message of a call; None where it doesn't come, and the call is over."""
        if not self._begun:
            self._begin()
        key = id(context)
        self._waiting[key] = (time.monotonic() + seconds, context)
        try:
            return next(messages, None)
        except grpc.RpcError:
            return None
        finally:
            del self._waiting[key]

    def end(self, context: grpc.ServicerContext, seconds: float) -> None:
        """Let a call be over in so many seconds, whether its answer has been taken or not."""
        if not self._begun:
            self._begin()
        key = id(context)
        self._waiting[key] = (time.monotonic() + seconds, context)

        def over() -> None:
            self._waiting.pop(key, None)

        if not context.add_callback(over):
            over()

    def _begin(self) -> None:
        with self._lock:
            if not self._begun:
                threading.Thread(target=self._look, name="patience", daemon=True).start()
                self._begun = True

    def _look(self) -> None:
        """Cancel what has waited too long, for as long as the process lives."""
        while True:
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            for until, context in list(self._waiting.values()):
                if now > until:
                    context.cancel()  # type: ignore[no-untyped-call]


PATIENCE = Patience()
_STRANGERS = threading.BoundedSemaphore(STRANGERS_MAX)


def patient(
    handler: Any,
    behavior: Any,
    seconds: float,
    missing: Callable[[grpc.ServicerContext], Any],
    room: threading.Semaphore | None = None,
) -> grpc.RpcMethodHandler[Any, Any]:
    """Give the handler of a method that takes one message, which waits for it no longer than `seconds`.

    Parameters
    ----------
    handler : RpcMethodHandler
        The method's own.
    behavior : callable
        What is to be done with a message, as it came.
    seconds : float
    missing : callable
        Ends a call that brought no message.
    room : Semaphore, optional
        For the messages that are awaited at once; further calls are refused.
    """

    def taking(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        if room is not None and not room.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls keep back their messages; try again")
        try:
            brought = [PATIENCE.message(messages, context, seconds)]
        finally:
            if room is not None:
                room.release()
        # Given away: whoever has it may let go of it before the call ends.
        return missing(context) if brought[0] is None else behavior(brought.pop(), context)

    # grpc reads this attribute to choose a pool; a function is the only place it looks.
    if hasattr(behavior, "experimental_thread_pool"):
        taking.experimental_thread_pool = behavior.experimental_thread_pool  # type: ignore[attr-defined]
    wrap = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    return wrap(taking, request_deserializer=None, response_serializer=handler.response_serializer)


def patient_as_is(handler: Any, pool: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """Give the handler of a method that isn't ours, of small messages; noise that it is sent makes no line of a log.

    It has the threads of a pool, if one is given.
    """
    own, decode = handler.unary_stream or handler.unary_unary, handler.request_deserializer

    def behavior(message: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return own(decode(message), context)
        except DecodeError:
            refusal = grpc.StatusCode.INVALID_ARGUMENT, _NO_MESSAGE
        except NotImplementedError:
            refusal = grpc.StatusCode.UNIMPLEMENTED, "this server doesn't offer that"
        return context.abort(*refusal)

    behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]

    def missing(context: grpc.ServicerContext) -> Any:
        return context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call brought no message")

    return patient(handler, behavior, SMALL_MESSAGE_SECONDS, missing, _STRANGERS)


def stream_as_is(handler: Any, pool: Any) -> grpc.RpcMethodHandler[Any, Any]:
    """Give the handler of a method that isn't ours, of many messages, in a pool of its own; see `patient_as_is`."""
    own, decode = handler.stream_stream, handler.request_deserializer

    def behavior(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from own((decode(message) for message in messages), context)
        except grpc.RpcError:  # the caller has gone
            return
        except DecodeError:
            pass
        else:
            return
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, _NO_MESSAGE)

    behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return grpc.stream_stream_rpc_method_handler(behavior, None, handler.response_serializer)
