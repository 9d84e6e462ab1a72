"""Where a server listens: an address is read, judged and tried before anything is loaded for it."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

from annserve.errors import ConflictError, InputError

PORT_MAX = 65_535


@dataclass(frozen=True)
class Address:
    """A literal IP address and a port; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, guarded: bool, field: str = "listen") -> Address:
    """Read ``HOST:PORT``.

    Parameters
    ----------
    text : str
        As ``127.0.0.1:50051``, ``localhost:0`` or ``[::1]:50051``.
    guarded : bool
        Whether an address that other machines reach is allowed: traffic is encrypted and callers show who they are,
        or the user said that neither is needed.
    field : str
        Setting that gave it, for the message.

    Raises
    ------
    InputError
        If it isn't such an address, or is open to others and not `guarded`.
    """
    host, colon, port_text = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port_text.isascii() or not port_text.isdigit():
        raise InputError(f"can't listen on {text!r}; give HOST:PORT, as 127.0.0.1:50051", field=field)
    port = int(port_text)
    if port > PORT_MAX:
        raise InputError(f"port {port} doesn't exist; the highest is {PORT_MAX}", field=field)
    # A name may stand for several addresses; gRPC is content to bind one, and a taken port would go unseen.
    try:
        ip = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InputError(
            f"can't listen on {host!r}; give an IP address of this machine, as 127.0.0.1", field=field
        ) from None
    if not ip.is_loopback and not guarded:
        raise InputError(
            f"{host} can be reached from other machines, but traffic isn't encrypted or callers needn't show who they "
            "are: give --tls-certificate, --tls-key, and --keys or --tls-client-ca; or listen on 127.0.0.1; or say "
            "--insecure if the network is trusted",
            field=field,
        )
    return Address(str(ip), port)


def check_free(address: Address, field: str = "listen") -> None:
    """Try to bind `address`, so that what stands in the way can be told.

    gRPC itself would say no more than that it failed, and print lines of its own about it. `field` is the setting that
    gave the address, for the message.

    Raises
    ------
    ConflictError
        If another process listens there.
    InputError
        If the address isn't this machine's, or the port needs rights that this process lacks.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gRPC does: connections that a former server left in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            # Two sockets may be bound with SO_REUSEADDR as long as neither listens.
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConflictError(
                    f"port {address.port} is in use on {address.host}; stop the server there, or "
                    f"choose another port with --{field.replace('_', '-')} (port 0 takes a free one)"
                ) from None
            raise InputError(
                f"can't listen on {address}: {error.strerror}; choose another address", field=field
            ) from None
