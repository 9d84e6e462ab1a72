"""What is too much is refused with a status, and the next call is answered."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from annserve.client import Client
from annserve.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serve"))

import fake
from running import serving

SEARCH = "/annserve.v1.SearchService/Search"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    rows = np.arange(200, dtype=np.uint8).reshape(50, 4)
    options = ("--message-mib", "1", "--queries-max", "20", "--k-max", "7")
    with serving(fake.write(tmp_path_factory.mktemp("limits") / "photos", rows), options=options) as server:
        yield server


def refusal(server, message: bytes, metadata=()) -> grpc.StatusCode:
    with (
        grpc.insecure_channel(server.address, options=[("grpc.enable_http_proxy", 0)]) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(SEARCH)(message, metadata=metadata, timeout=20)
    with Client(server.address) as client:
        assert client.search(np.ones(4), 1).ids.shape == (1, 1)
    return refused.value.code()


def test_settings_bound_queries_and_neighbours(server):
    with Client(server.address) as client:
        assert client.search(np.ones((20, 4)), 7).ids.shape == (20, 7)
        with pytest.raises(InputError, match="at most 20"):
            client.search(np.ones((21, 4)), 7)
        with pytest.raises(InputError, match="at most 7") as refused:
            client.search(np.ones(4), 8)
        assert refused.value.field == "k"


def test_messages_nested_without_end_are_no_messages(server):
    """Groups of an unknown field, each inside the one before: a reader without a limit would run out of stack."""
    for depth in (1_000, 100_000):
        assert refusal(server, b"\x9b\x06" * depth + b"\x9c\x06" * depth) == grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_over_the_limit_is_refused_unread(server):
    assert refusal(server, bytes((1 << 20) + 1)) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_metadata_without_measure_are_refused(server):
    sent = [(f"x-{i}", "a" * 4_000) for i in range(12)]
    assert refusal(server, b"", sent) in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
