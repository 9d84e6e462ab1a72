"""How a client reaches a server: address, encryption, key, and several connections where calls come at once.

A server may have several processes on one port, and a connection reaches one of them for its life. So calls that run
side by side go over connections of their own, and calls that come one after another share the first.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from annserve.errors import InputError

#: Largest answer taken; the server's own default.
MESSAGE_BYTES_MAX = 64 << 20
#: An idle connection is asked for a sign of life this often, so that a dead peer is seen; servers of ours allow 10 s.
KEEPALIVE_MS = 30_000

Stub = TypeVar("Stub")


@dataclass(frozen=True)
class Endpoint:
    """A server and how to talk to it.

    Attributes
    ----------
    address : str
        ``HOST:PORT``.
    tls : bool
        Encrypt, and trust the certificates that this machine trusts.
    tls_ca : Path, optional
        Encrypt, and trust only what these certificates signed (PEM).
    tls_certificate, tls_key : Path, optional
        Show this certificate, where the server wants to see one (PEM).
    api_key : str, optional
        Shown with every call.

    Raises
    ------
    InputError
        If the address is none, a key would travel unencrypted to another machine, or a file can't be read.
    """

    address: str
    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if ":" not in self.address or self.address.startswith(("http:", "https:")):
            raise InputError(f"address is {self.address!r}; give HOST:PORT, as 127.0.0.1:50051", field="address")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("tls_certificate and tls_key belong together; give both, or neither", field="tls_key")
        if self.api_key is not None and not (self.encrypted or self._is_loopback()):
            raise InputError(
                f"the key would travel to {self.address} for everyone to read; give tls_ca (or tls) too",
                field="api_key",
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise InputError("a key is printable ASCII; this one isn't", field="api_key")

    @property
    def encrypted(self) -> bool:
        """Whether what is sent can be read by nobody else."""
        return self.tls or self.tls_ca is not None or self.tls_certificate is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Give what encrypts; None where nothing does."""
        if not self.encrypted:
            return None
        pem = [_read(path) for path in (self.tls_ca, self.tls_key, self.tls_certificate)]
        return grpc.ssl_channel_credentials(*pem)

    def options(self, number: int) -> list[tuple[str, Any]]:
        """Give the options of connection `number`."""
        return [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            # Failed calls are tried again here (retry.py), with the delay that the server asks for.
            ("grpc.enable_retries", 0),
            # By default a refused connection is tried again after a second, when our tries are spent.
            ("grpc.initial_reconnect_backoff_ms", 100),
            # A proxy for web pages, named in the environment, isn't meant for this.
            ("grpc.enable_http_proxy", 0),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            # Channels of equal options would share one connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("annserve.connection", number),
        ]

    def _is_loopback(self) -> bool:
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:  # a name, which may stand for any machine
            return False


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}; give a PEM file", field="tls") from None


class Pool(Generic[Stub]):
    """Connections to one server, opened as calls need them; threads may share it.

    Parameters
    ----------
    connect : callable
        Number of a connection → what calls are made of.
    size : int
        Connections at most.
    """

    def __init__(self, connect: Callable[[int], Stub], size: int) -> None:
        if size < 1:
            raise InputError(f"connections is {size}; there must be one at least", field="connections")
        self._connect, self._size = connect, size
        self._lock = threading.Lock()
        self._stubs: list[Stub] = []
        self._calls: list[int] = []

    @contextmanager
    def connection(self) -> Iterator[Stub]:
        """Give the connection with the fewest calls under way, the first of these, for one call."""
        with self._lock:
            if not self._calls or (min(self._calls) > 0 and len(self._stubs) < self._size):
                self._stubs.append(self._connect(len(self._stubs)))
                self._calls.append(0)
            number = self._calls.index(min(self._calls))
            self._calls[number] += 1
        try:
            yield self._stubs[number]
        finally:
            with self._lock:
                self._calls[number] -= 1

    @property
    def stubs(self) -> list[Stub]:
        """Those that were opened."""
        return list(self._stubs)
