"""systemd is told when it listens, and nobody otherwise."""

from __future__ import annotations

import socket

import pytest

from annserve.watch.ready import READY, notify_init


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_socket_that_systemd_named_gets_the_word(tmp_path, monkeypatch, kind):
    name = str(tmp_path / "notify") if kind == "path" else f"@annserve-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as init:
        init.bind(name if kind == "path" else "\0" + name[1:])
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify_init(READY)
        assert init.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_init(READY)
