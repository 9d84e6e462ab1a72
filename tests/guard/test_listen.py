"""Addresses are read as people write them, and refused with what would be right."""

from __future__ import annotations

import socket

import pytest

from annserve.errors import ConflictError, InputError
from annserve.guard.listen import Address, check_free, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("localhost:0", "127.0.0.1:0"),
        ("[::1]:65535", "[::1]:65535"),
        ("127.8.9.1:1", "127.8.9.1:1"),
    ],
)
def test_loopback_addresses_are_taken(text, expected):
    assert str(parse_address(text, guarded=False)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:-1",
        "127.0.0.1:65536",
        "127.0.0.1:٣",
        "somewhere:1",
        "1.2.3:4",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InputError) as refused:
        parse_address(text, guarded=True)
    assert refused.value.field == "listen"


@pytest.mark.parametrize("text", ["0.0.0.0:50051", "[::]:50051", "192.168.1.4:50051"])
def test_addresses_that_others_reach_must_be_asked_for(text):
    with pytest.raises(InputError, match=r"--tls-certificate.*--keys.*--insecure"):
        parse_address(text, guarded=False)
    assert str(parse_address(text, guarded=True)) == text


def test_a_port_is_free_only_while_nobody_listens():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(ConflictError, match=f"port {address.port} is in use"):
            check_free(address)
        with pytest.raises(ConflictError, match="another port with --http-listen"):
            check_free(address, "http_listen")
    check_free(address)


def test_an_address_of_another_machine_is_told_apart_from_a_taken_port():
    with pytest.raises(InputError, match=r"can't listen on 192\.0\.2\.1:80"):
        check_free(Address("192.0.2.1", 80))
