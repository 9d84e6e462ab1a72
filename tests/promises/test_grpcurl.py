"""The README's grpcurl lines are calls that a server answers, over TLS and to whoever shows a key.

Asked by a program that isn't ours, ``buf curl``: as grpcurl does, it learns the messages by reflection, whose newer
version it asks for first, and writes and reads protobuf's JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serve import fake
from serve.running import serving

from annserve.guard.keys import new_key

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
LINES = re.findall(r"^grpcurl .*$", README, flags=re.MULTILINE)
BUF = str(Path(sys.executable).with_name("buf"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that asks for keys; gives its address, the folder with its certificate, and a key of each role."""
    folder = tmp_path_factory.mktemp("grpcurl")
    index = fake.write(folder / "idx", np.random.default_rng(1).normal(size=(50, 384)).astype(np.float32))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", "server.key", "-out", "server.pem"], cwd=folder, check=True)
    keys = {role: new_key(folder / "keys.json", role, role)[1] for role in ("read", "write")}
    files = {"--tls-certificate": "server.pem", "--tls-key": "server.key", "--keys": "keys.json"}
    options = tuple(word for flag, name in files.items() for word in (flag, str(folder / name)))
    with serving(index, options=options) as server:
        yield server.address, folder, keys


@pytest.mark.parametrize("line", LINES)
def test_each_line_of_the_readme_is_answered(line, guarded):
    address, folder, keys = guarded
    # A shell reads the line, for a vector's numbers are its to write.
    spoken = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    _, plain, _, told, shown_address, path = spoken.stdout.splitlines()
    assert (plain, shown_address) == ("-plaintext", "127.0.0.1:50051")

    def asked(role: str) -> subprocess.CompletedProcess[str]:
        shown = f"authorization: Bearer {keys[role]}"
        guard = ["--cacert", "server.pem", "-H", shown, "--reflect-header", shown]
        command = [BUF, "curl", "--protocol", "grpc", *guard, "-d", told, f"https://{address}/{path}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder)

    publishes = path.endswith("PublishVersion")
    ended = asked("write" if publishes else "read")
    if "live" in told and "has been sampled yet" in ended.stderr:  # it takes queries that came a while before
        return
    answer = json.loads(ended.stdout)
    if path.endswith("Search"):
        assert [set(one) for one in answer["neighbors"]] == [{"id", "distance"}] * 3
    assert ("idx" in ended.stdout) == (publishes or path.endswith("ListCollections"))
    assert not publishes or "permission_denied" in asked("read").stderr


def test_the_readme_shows_some():
    assert len(LINES) >= 4
