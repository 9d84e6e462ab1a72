"""Methods that change a server, passed on to the process that answers them for all (``manage_service``).

Requests and answers pass as they are, and so do refusals, with all their details.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from annserve.door.status import PassedOnError
from annserve.errors import OutputError
from annserve.rpc import admin_pb2_grpc
from annserve.services.time_left import seconds_left
from annserve.watch.calls import REQUEST_ID, current_request_id

#: Methods that are passed on, each with one answer, and those with many.
PASSED_ON = ("CreateCollection", "DeleteCollection", "StartJob", "GetJob", "ListJobs", "CancelJob")
PASSED_ON_STREAMS = ("WatchJob",)


class Manager(Protocol):
    """Answers the methods that are passed on."""

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer a request; a stream's answer is an iterator."""


class NoManager:
    """In the place of one, where a server has no data folder."""

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Refuse, and say why."""
        raise OutputError(
            f"this server keeps no collections of its own, so {method} can't be answered; start it with --data FOLDER"
        )


class RemoteManager:
    """Lets another process answer.

    Parameters
    ----------
    channel : grpc.Channel
        To that process.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = admin_pb2_grpc.AdminServiceStub(channel)
        self._streams: set[Any] = set()
        self._ended = False

    def end(self) -> None:
        """End the streams that are passed on: a job may go on for hours, and its watchers find the next process."""
        self._ended = True
        for call in list(self._streams):
            call.cancel()

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Pass a request on, as long as its caller waits.

        Raises
        ------
        PassedOnError
            If the other process refuses.
        """
        ask: Callable[..., Any] = getattr(self._stub, method)
        options = {"timeout": seconds_left(context), "metadata": ((REQUEST_ID, current_request_id()),)}
        if method in PASSED_ON_STREAMS:
            return self._stream(ask(request, **options), context)
        try:
            return ask(request, **options)
        except grpc.RpcError as error:
            raise PassedOnError(_status_of(error)) from None

    def _stream(self, call: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._streams.add(call)
        if self._ended or not context.add_callback(call.cancel):  # the caller has gone already
            call.cancel()
        try:
            yield from call
        except grpc.RpcError as error:
            if not self._ended:
                raise PassedOnError(_status_of(error)) from None
        finally:
            self._streams.discard(call)


def _status_of(error: Any) -> status_pb2.Status:
    """Give what the other process said, or what is to be said where it said nothing."""
    status = rpc_status.from_call(error)
    if status is not None:
        return status
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return status_pb2.Status(
            code=code_pb2.UNAVAILABLE, message="the process that looks after jobs doesn't answer; try again later"
        )
    return status_pb2.Status(code=error.code().value[0], message=error.details() or "")


class Forwarded(admin_pb2_grpc.AdminServiceServicer):
    """The methods of AdminService that are passed on.

    Parameters
    ----------
    manager : Manager
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager


def _passed_on(method: str) -> Callable[[Forwarded, Any, grpc.ServicerContext], Any]:
    def answer(self: Forwarded, request: Any, context: grpc.ServicerContext) -> Any:
        return self._manager.answer(method, request, context)

    answer.__doc__ = f"Pass {method} on."
    return answer


for _method in (*PASSED_ON, *PASSED_ON_STREAMS):
    setattr(Forwarded, _method, _passed_on(_method))
