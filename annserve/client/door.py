"""What both clients have in common: whom they ask, how, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from annserve.client.channel import Endpoint, Pool
from annserve.client.retry import TRIES, Tries
from annserve.client.throttle import Throttle
from annserve.errors import ServerError
from annserve.rpc import admin_pb2_grpc, search_pb2_grpc

Response = TypeVar("Response")


class Stubs:
    """The methods of a server over one connection."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.search = search_pb2_grpc.SearchServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)


class Door:
    """A server, and the connections to it.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` of the server.
    timeout : float
        Seconds that a call may take, its repetitions included.
    collection : str
        Which collection to ask; empty where the server serves only one.
    tls : bool
        Encrypt, and trust the certificates that this machine trusts.
    tls_ca : Path, optional
        Encrypt, and trust only what these certificates signed (PEM).
    tls_certificate, tls_key : Path, optional
        Show this certificate, where the server wants to see one (PEM).
    api_key : str, optional
        Shown with every call; never sent unencrypted to another machine.
    connections : int
        At most; calls that come one after another use one.

    Raises
    ------
    InputError
        If what is given here doesn't fit together.
    ServerError
        From every method, if no server answers or it fails; what the server refuses arrives as the same error
        that the embedded door raises.
    BusyError
        From every method, if the server refuses for too long; while it refuses many calls, some aren't sent
        (``throttle``).
    DeadlineError
        From every method, if the time-out passes.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        collection: str = "",
        tls: bool = False,
        tls_ca: Path | None = None,
        tls_certificate: Path | None = None,
        tls_key: Path | None = None,
        api_key: str | None = None,
        connections: int = 8,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._collection = collection
        self._endpoint = Endpoint(address, tls, tls_ca, tls_certificate, tls_key, api_key)
        self._credentials = self._endpoint.credentials()
        self._pool = Pool(self._connect, connections)
        self._throttle = Throttle()
        self._closed = False

    def _connect(self, number: int) -> Stubs:
        """Open connection `number`."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ServerError(f"this client of {self.address} was closed; make another")

    def _tries(self, deadline: float | None, most: int = TRIES) -> Tries:
        """Begin the tries of a call."""
        self._check_open()
        return Tries(self.address, self._throttle, self._timeout, deadline, most)

    def _delay_after(self, failed: grpc.RpcError, tries: Tries) -> float:
        """Give the seconds until the next try; see ``Tries.delay_after``."""
        if self._closed:
            raise ServerError(f"this client of {self.address} was closed before all was answered") from None
        return tries.delay_after(failed)

    def _metadata(self, request: object) -> tuple[tuple[str, str], ...]:
        """Give what a call carries besides its message: key and request id, which are read before the message is."""
        request_id = getattr(request, "request_id", "")
        return (*self._endpoint.metadata, ("x-request-id", request_id)) if request_id else self._endpoint.metadata


class SyncDoor(Door):
    """A server that threads call; they may share it."""

    def close(self) -> None:
        """Close the connections; calls that are under way end at once."""
        self._closed = True
        for stubs in self._pool.stubs:
            stubs.channel.close()

    def _connect(self, number: int) -> Stubs:
        options = self._endpoint.options(number)
        if self._credentials is None:
            return Stubs(grpc.insecure_channel(self.address, options))
        return Stubs(grpc.secure_channel(self.address, self._credentials, options))

    def _call(
        self,
        method: Callable[[Stubs], Callable[..., Response]],
        request: object,
        deadline: float | None = None,
        tries: int = TRIES,
    ) -> Response:
        """Make a call, again where that may help."""
        made = self._tries(deadline, tries)
        while True:
            if not (delay := made.delay_before()):
                with self._pool.connection() as stubs:
                    try:
                        answer = method(stubs)(request, timeout=made.remaining(), metadata=self._metadata(request))
                    except grpc.RpcError as error:
                        delay = self._delay_after(error, made)
                    else:
                        made.answered()
                        return answer
            time.sleep(delay)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
