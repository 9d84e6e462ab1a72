"""What both clients have in common: whom they ask, how, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from annserve.client.channel import Endpoint, Pool
from annserve.client.retry import Tries
from annserve.rpc import admin_pb2_grpc, search_pb2_grpc


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
        From every method, if the server refuses for too long.
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

    def _connect(self, number: int) -> Stubs:
        """Open connection `number`."""
        raise NotImplementedError

    def _tries(self, deadline: float | None) -> Tries:
        """Begin the tries of a call."""
        return Tries(self.address, self._timeout, deadline)

    def _metadata(self, request: object) -> tuple[tuple[str, str], ...]:
        """Give what a call carries besides its message: key and request id, which are read before the message is."""
        request_id = getattr(request, "request_id", "")
        return (*self._endpoint.metadata, ("x-request-id", request_id)) if request_id else self._endpoint.metadata
