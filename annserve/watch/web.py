"""The status page and ``/metrics`` over HTTP: three resources, read only, nothing loaded from elsewhere.

Invariants: no path of a request reaches the file system; an address that others reach is encrypted and asks for a key;
a page of another site can't read it (names in ``Host`` that aren't this machine's are refused on loopback); a slow or a
silent visitor holds one of a few threads, for seconds.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import ipaddress
import json
import logging
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from annserve.errors import AccessError
from annserve.version import __version__
from annserve.watch.board import Board

LOG = logging.getLogger("annserve.watch")

#: Visitors at once, and seconds that each may take to ask, and to take the answer.
VISITORS_MAX = 16
VISIT_SECONDS = 10.0

_PAGE = resources.files("annserve.watch").joinpath("status.html").read_text(encoding="utf-8")


class StatusServer:
    """Shows a board over HTTP, from construction until the context ends.

    Parameters
    ----------
    host, port : str, int
        Where; port 0 takes a free one.
    board : Board
    allow : callable or None
        Given the list of the call's ``authorization`` values, raises AccessError for who may not read.
    contexts : callable or None
        Gives what encrypts the next connection.

    Attributes
    ----------
    port : int
        Where it listens.
    """

    def __init__(
        self,
        host: str,
        port: int,
        board: Board,
        *,
        allow: Callable[[list[str | bytes]], object] | None = None,
        contexts: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        class Visit(_Visit):
            shown, may_read, loopback = board, staticmethod(allow or _anyone), ipaddress.ip_address(host).is_loopback

        self._server = _Server((host, port), Visit, contexts)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def __enter__(self) -> StatusServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A thread for each visitor, up to some; more wait in the kernel's queue."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        visit: type[BaseHTTPRequestHandler],
        contexts: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._room = threading.BoundedSemaphore(VISITORS_MAX)
        self._contexts = contexts
        super().__init__(address, visit)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for room, then answer in a thread."""
        self._room.acquire()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system gives no thread
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one visitor, handshake included, for some seconds: who drips bytes holds a thread no longer."""
        try:
            with contextlib.closing(request.dup()) as visitor, _in_time(visitor):
                request.settimeout(VISIT_SECONDS)
                if self._contexts:
                    request = self._contexts().wrap_socket(request, server_side=True)
                super().process_request_thread(request, client_address)
        except OSError:  # they left, or spoke plain text; or no file can be opened
            self.shutdown_request(request)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of visitors who leave, but what else kept them from their answer."""
        if not isinstance(sys.exception(), OSError):
            LOG.exception("the status page can't be shown")


@contextlib.contextmanager
def _in_time(visitor: socket.socket) -> Iterator[None]:
    """Hang up on a visitor who is there still when the time is over."""
    leave = threading.Timer(VISIT_SECONDS, _hang_up, [visitor])
    leave.daemon = True
    leave.start()
    try:
        yield
    finally:
        leave.cancel()


def _hang_up(visitor: socket.socket) -> None:
    """End both ways of a connection, for whoever waits for it."""
    with contextlib.suppress(OSError):
        visitor.shutdown(socket.SHUT_RDWR)


class _Visit(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.0"
    server_version, sys_version = f"annserve/{__version__}", ""
    timeout = VISIT_SECONDS
    shown: Board
    may_read: Callable[[list[str | bytes]], object]
    loopback: bool

    def do_GET(self) -> None:
        """Answer with one of the resources."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer(HTTPStatus.OK, "text/plain", b"ok\n")
            return
        if self.loopback and not _names_this_machine(self.headers.get("Host", "")):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"ask for this machine by its address\n")
            return
        try:
            self.may_read(_shown_keys(self.headers.get_all("Authorization") or []))
        except AccessError as error:
            self._answer(HTTPStatus.UNAUTHORIZED, "text/plain", f"{error}\n".encode())
            return
        if path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", _PAGE.encode())
        elif path == "/status.json":
            self._answer(HTTPStatus.OK, "application/json", json.dumps(self.shown.status()).encode())
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, self.shown.metrics())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is /, /status.json and /metrics\n")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="annserve: any name, and a key as password"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a page that looks every two seconds would fill the log."""


def _policy_of(page: str) -> str:
    """Allow the page's own script and style by their hashes, and nothing else at all."""

    def digest(tag: str) -> str:
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{digest('script')}'; style-src 'sha256-{digest('style')}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_POLICY = _policy_of(_PAGE)


def _names_this_machine(host: str) -> bool:
    """Whether a ``Host`` header is an address or localhost: another site's name that resolves to here is neither."""
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost"
    return True


def _shown_keys(values: list[str]) -> list[str | bytes]:
    """Read ``Basic`` as browsers send it, the key being the password, as if it were ``Bearer``."""
    return [_as_bearer(value) for value in values]


def _as_bearer(value: str) -> str:
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return value
    try:
        return "Bearer " + base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _anyone(values: list[str | bytes]) -> None:
    """Let everybody read."""
