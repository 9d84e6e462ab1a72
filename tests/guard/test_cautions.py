"""What lets more people in than may have been meant is told when a server starts."""

from __future__ import annotations

import pytest

from annserve.config import ServeConfig
from annserve.guard.cautions import cautions_of


@pytest.mark.parametrize(
    ("mode", "told"), [(0o600, []), (0o640, []), (0o644, ["read server.key"]), (0o660, ["write keys.json"])]
)
def test_files_that_others_read_or_write_are_told_of(tmp_path, monkeypatch, mode, told):
    monkeypatch.chdir(tmp_path)
    for name in ("server.key", "server.pem", "keys.json"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    config = ServeConfig(tls_key="server.key", tls_certificate="server.pem", keys="keys.json")
    lines = list(cautions_of(config))
    assert [line.partition(";")[0] for line in lines] == [f"others than its owner can {what}" for what in told]


@pytest.mark.parametrize(
    ("address", "insecure", "told"),
    [("0.0.0.0:1", True, True), ("[::]:1", True, True), ("127.0.0.1:1", True, False), ("0.0.0.0:1", False, False)],
)
def test_what_is_open_to_everyone_is_told_of(address, insecure, told):
    lines = list(cautions_of(ServeConfig(listen=address, http_listen=address, insecure=insecure)))
    assert [line.split()[0] for line in lines] == (["listen", "http_listen"] if told else [])


def test_files_that_are_not_there_are_for_others_to_miss():
    assert list(cautions_of(ServeConfig(keys="/none", tls_key="/none"))) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [({}, True), ({"keyless_role": "read"}, False), ({"keys": "/none"}, False), ({"tls_client_ca": None}, False)],
)
def test_certificates_that_may_do_everything_are_told_of(settings, told):
    config = ServeConfig(**{"tls_certificate": "/none", "tls_key": "/none", "tls_client_ca": "/ca.pem", **settings})
    assert ["every client whose certificate /ca.pem signed" in line for line in cautions_of(config)] == [True] * told
