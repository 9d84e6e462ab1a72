"""What ships for running a server says what the server understands, as far as can be told without running it there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from annserve.config import read_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.+)$", DOCKERFILE, re.MULTILINE)


def test_the_settings_are_ones_and_guard_what_they_open():
    config = read_config(DEPLOY / "serve.toml")
    assert config.tls_certificate == DEPLOY / "server.pem"
    assert config.keys is not None
    assert not config.insecure
    assert config.collections == {"photos": Path("/var/lib/annserve/photos")}


def unit(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", (DEPLOY / "annserve.service").read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit_and_finds_little_exposed(tmp_path):
    text = (DEPLOY / "annserve.service").read_text()
    checked = tmp_path / "annserve.service"
    checked.write_text(text.replace("/opt/annserve/bin/annserve", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", checked], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", checked]
    rated = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert rated.returncode == 0, rated.stdout.splitlines()[-1]


def test_the_unit_waits_longer_than_calls_may_take_and_tells_the_main_process_alone():
    grace = read_config(DEPLOY / "serve.toml").grace_seconds
    assert int(*unit("TimeoutStopSec")) > grace + 10
    assert unit("KillMode") == ["mixed"]
    assert unit("Type") == ["notify"]


def test_the_image_runs_as_nobody_and_leaves_its_tools_behind():
    assert len(instructions("FROM")) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS build)?", one) for one in instructions("FROM"))
    assert instructions("USER") == ["10001:10001"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(*instructions("ENTRYPOINT")) == ["annserve"]
    assert json.loads(*instructions("CMD")) == ["serve", "--config", "/etc/annserve/serve.toml"]
    health = json.loads(re.search(r"CMD (\[\"python\".*\])", DOCKERFILE)[1])
    compile(health[2], "HEALTHCHECK", "exec")
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for copied in instructions("COPY"):
        *sources, _ = copied.split()
        for source in sources if not copied.startswith("--from") else ():
            assert (ROOT / source).exists(), source
            assert "!" + source.removeprefix("./") in ignored, source


def test_the_composition_mounts_what_is_there_and_waits_for_calls():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    server = told["services"]["annserve"]
    assert (ROOT / "deploy" / server["build"]["context"]).resolve() == ROOT
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert int(server["stop_grace_period"].removesuffix("s")) > read_config(DEPLOY / "serve.toml").grace_seconds + 10
    mounted = {volume.split(":")[0] for service in told["services"].values() for volume in service["volumes"]}
    mine = {"./server.pem", "./server.key", "./keys.json", "./metrics.key", "./indexes"}
    for source in mounted - mine - set(told["volumes"]):
        assert (DEPLOY / source).exists(), source
    config = read_config(DEPLOY / "serve.toml")
    inside = {volume.split(":")[1] for volume in server["volumes"]}
    for path in (config.tls_certificate, config.tls_key, config.keys):
        assert f"/etc/annserve/{path.name}" in inside
    port = config.http_listen.rpartition(":")[2]
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped["static_configs"][0]["targets"] == [f"annserve:{port}"]
    assert {config.listen.rpartition(":")[2], port} <= set(*(one.split() for one in instructions("EXPOSE")))
