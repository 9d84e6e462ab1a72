"""Connections of strangers are bounded, and leave files to open to the server."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack

import fake
import numpy as np

from annserve.catalog.catalog import Catalog
from annserve.client import Client
from annserve.serve import Server, server


def test_who_connects_beyond_the_bound_is_sent_away_and_the_others_are_served(photos, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 8)
    with Server("127.0.0.1:0") as serving, ExitStack() as opened:
        serving.start(Catalog({"photos": fake.open(photos)}))
        with Client(str(serving.address)) as client:
            client.search(np.zeros(24), 1)
            strangers = [
                opened.enter_context(socket.create_connection(("127.0.0.1", serving.address.port), timeout=5))
                for _ in range(12)
            ]
            greeted = [bool(stranger.recv(9)) for stranger in strangers]
            assert greeted == [True] * 7 + [False] * 5
            assert client.search(np.zeros(24), 1).ids.shape == (1, 1)


def test_a_process_of_the_server_may_open_all_files_that_the_system_allows_it():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        most = server._connections_max()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        assert 0 < most <= server.CONNECTIONS_MAX
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_the_limit_of_open_files_cannot_be_raised_connections_share_the_one_there_is(monkeypatch):
    """As under a filter of system calls; the interpreter says ValueError where the system says EPERM."""

    def refuse(kind, limits):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1_000, 1 << 20))
    assert server._connections_max() == 500
