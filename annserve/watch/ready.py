"""Tells systemd that the server is ready, or stopping (``Type=notify``); elsewhere does nothing."""

from __future__ import annotations

import os
import socket

READY, STOPPING = "READY=1", "STOPPING=1"


def notify_init(state: str) -> None:
    """Send `state` to the socket that systemd named, if one did.

    References
    ----------
    [1] sd_notify(3): a datagram to ``$NOTIFY_SOCKET``; a leading ``@`` stands for the abstract namespace.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as init:
        init.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
