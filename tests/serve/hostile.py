"""Whatever a stranger may send: messages of any shape, and HTTP/2 by hand, so that it can be left half said."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import strategies as st

from annserve.client import Client
from annserve.rpc import admin_pb2, search_pb2

SERVICES = (
    search_pb2.DESCRIPTOR.services_by_name["SearchService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
#: Full name → descriptor of each method.
METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
#: What a refusal may be; INTERNAL and UNKNOWN would be bugs.
ALLOWED = {
    "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED",
    "UNAVAILABLE", "UNIMPLEMENTED",
}  # fmt: skip

_WORDS = [
    "", "photos", "docs", "inputs", "jobs", "rows.npy", "../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "\0",
    "%2e%2e", "x" * 5_000,
]  # fmt: skip
_TEXT = st.one_of(st.sampled_from(_WORDS), st.text(max_size=40))
_NUMBERS = {
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.one_of(st.integers(-2, 70), st.sampled_from([-(2**31), 2**31 - 1])),
    FieldDescriptor.TYPE_INT64: st.one_of(st.integers(-2, 70), st.sampled_from([-(2**63), 2**63 - 1])),
    FieldDescriptor.TYPE_UINT64: st.sampled_from([0, 1, 2**64 - 1]),
    FieldDescriptor.TYPE_ENUM: st.sampled_from([0, 1, 2, 3, 4, 99, -1]),
    FieldDescriptor.TYPE_STRING: _TEXT,
    # Lengths that are whole rows of 24 elements, of one, two or four bytes, and others.
    FieldDescriptor.TYPE_BYTES: st.one_of(
        st.binary(max_size=200),
        st.sampled_from([24, 48, 96, 960, 9_600]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    ),
}


@st.composite
def messages(draw: Any, descriptor: Descriptor, depth: int = 4) -> Message:
    """Draw a message of any content: every field there or not, whatever fits its type."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        if field.is_repeated:
            if field.message_type is None:
                getattr(message, field.name).extend(draw(st.lists(_NUMBERS[field.type], max_size=30)))
        elif field.message_type is not None:
            if depth:
                getattr(message, field.name).CopyFrom(draw(messages(field.message_type, depth - 1)))
        else:
            setattr(message, field.name, draw(_NUMBERS[field.type]))
    return message


def details_of(status: status_pb2.Status) -> dict[str, Message]:
    """Give the details of a status by kind."""
    found: dict[str, Message] = {}
    for detail in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if detail.Is(kind.DESCRIPTOR):
                found[kind.__name__] = kind.FromString(detail.value)
    return found


def check_refusal(error: grpc.RpcError) -> str:
    """Make sure that a refusal says code, reason and field as it should; give its code."""
    status = rpc_status.from_call(error)
    if status is None:  # gRPC itself refused, before a message of ours was there
        assert error.code().name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"), error
        return error.code().name
    code = code_pb2.Code.Name(status.code)
    details = details_of(status)
    assert code in ALLOWED, status
    info = details["ErrorInfo"]
    assert info.domain == "annserve", status
    assert info.reason, status
    assert status.message, status
    if code == "INVALID_ARGUMENT":
        assert details["BadRequest"].field_violations[0].field, status
    if code == "RESOURCE_EXHAUSTED":
        assert details["RetryInfo"].retry_delay.ToMilliseconds() > 0, status
    return code


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Give an HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@dataclass(frozen=True)
class Target:
    """A server as a stranger reaches it, who may have found a key.

    Attributes
    ----------
    address : str
    certificate : Path or None
        To be trusted, where the server encrypts.
    key : str
        To be shown, if any.
    """

    address: str
    certificate: Path | None = None
    key: str = ""

    def plain(self) -> socket.socket:
        """Open a connection, and say nothing."""
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=5)

    def connection(self) -> socket.socket:
        """Open a connection for HTTP/2, encrypted where the server wants that."""
        if self.certificate is None:
            return self.plain()
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(self.plain(), server_hostname="localhost")

    def channel(self) -> grpc.Channel:
        """Open a channel whose calls show the key."""
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        if self.certificate is None:
            return grpc.insecure_channel(self.address, options=options)
        encrypting = grpc.ssl_channel_credentials(self.certificate.read_bytes())
        credentials = grpc.composite_channel_credentials(encrypting, grpc.access_token_call_credentials(self.key))
        return grpc.secure_channel(self.address, credentials, options=options)

    def client(self, collection: str) -> Client:
        """Give a client of ours."""
        return Client(self.address, collection=collection, tls_ca=self.certificate, api_key=self.key or None)

    def said(self, path: str, stream: int = 1) -> bytes:
        """Give the frame that begins a call, its fields literal (RFC 7541, 6.2.2)."""
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        if self.key:
            fields.append(("authorization", f"Bearer {self.key}"))
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
        )
        return frame(_HEADERS, 4, stream, block)

    def deaf_call(self, path: str) -> socket.socket:
        """Open a connection and make a call with an empty message, to which not a byte may be answered."""
        connection = self.connection()
        no_window = (4).to_bytes(2, "big") + (0).to_bytes(4, "big")  # RFC 9113, SETTINGS_INITIAL_WINDOW_SIZE
        connection.sendall(PREFACE + frame(_SETTINGS, 0, 0, no_window))
        time.sleep(0.05)  # settings are to be there first
        connection.sendall(self.said(path) + frame(_DATA, 1, 1, bytes(5)))
        return connection

    def begun_call(self, path: str, message_bytes: int, sent: bytes) -> socket.socket:
        """Open a connection and begin a call whose message says a length, of which only some bytes come."""
        connection = self.connection()
        said = b"\0" + message_bytes.to_bytes(4, "big") + sent
        connection.sendall(PREFACE + frame(_SETTINGS, 0, 0, b"") + self.said(path) + frame(_DATA, 0, 1, said))
        return connection
