"""gRPC statuses to errors: what the server raised is raised here again, with its message and its facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from annserve import errors
from annserve.errors import AnnserveError, BusyError, DeadlineError, InputError, ServerError

DOMAIN = "annserve"

#: Class by its name without case and underscores, for a server sends ``NOT_FOUND_ERROR``.
_KINDS = {
    name.upper(): kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, AnnserveError)
}
#: How the facts of an error are read; they travel as text.
_FACTS = {"field": str, "path": Path, "offset": int, "retry_after_ms": int}


def error_of(call: Any, address: str) -> AnnserveError:
    """Give the error that a failed call stands for."""
    status = rpc_status.from_call(call)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return _raised_by_server(info, status.message)
    return _raised_by_grpc(call, address)


def _raised_by_server(info: error_details_pb2.ErrorInfo, message: str) -> AnnserveError:
    kind = _KINDS.get(info.reason.replace("_", ""), ServerError)
    error = kind(message)
    for name, read in _FACTS.items():
        if name in info.metadata and hasattr(error, name):
            setattr(error, name, read(info.metadata[name]))
    return error


def _raised_by_grpc(call: Any, address: str) -> AnnserveError:
    """Judge a status that carries no ErrorInfo: gRPC itself made it, here or on the server."""
    code, details = call.code(), call.details()
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return ServerError(
                f"no server answers at {address} ({details}); is it running there, and encrypted if this client is?"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(f"no answer from {address} in time; allow more, or ask for less at once")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in details:
            return InputError(f"the message is too large for {address}: {details}", field="queries")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return BusyError(f"the server at {address} is busy ({details}); try again later")
        case grpc.StatusCode.CANCELLED:  # which nobody here asked for: gRPC ends calls where too many wait for it
            return BusyError(f"the server at {address} ended the call, as if busy ({details}); try again later")
        case grpc.StatusCode.UNIMPLEMENTED:
            return ServerError(f"the server at {address} isn't an annserve of this version ({details})")
    return ServerError(f"the call to {address} failed: {code.name}: {details}")
