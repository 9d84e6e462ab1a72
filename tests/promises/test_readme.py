"""Every command and every line of Python in the README runs as it stands, in a clone's folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from journeys.doors import COMMAND

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Set-up is done where tests run, and needs the network; ports are replaced by free ones.
SET_UP = ("python3 -m venv", "export PATH")
PORTS = ("50051", "50052", "50053", "9465")
PROGRAMS = {"annserve", "openssl", "curl", "mkdir", "cp"}


def commands(block: str) -> list[str]:
    """Give the command lines of a block, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("#", *SET_UP))]


def printed_by(line: str, folder: Path) -> str:
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, cwd=folder)
    assert ended.returncode == 0, f"{line}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@contextmanager
def served(arguments: list[str], folder: Path) -> Iterator[None]:
    command = [*COMMAND, *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline().startswith("serving ")
            yield
        finally:
            server.terminate()
    assert server.returncode == 0


def with_free_ports(text: str) -> str:
    with ExitStack() as held:
        for port in PORTS:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            text = text.replace(f":{port}", f":{probe.getsockname()[1]}")
    return text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A clone's folder, as far as commands see it, in which ``annserve`` is this very code."""
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "annserve").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    (tmp_path / "bin" / "annserve").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(900)
@pytest.mark.skipif(not all(map(shutil.which, ("openssl", "curl"))), reason="needs openssl and curl")
def test_what_the_readme_says_runs_in_its_order(folder):
    """Bash and Python blocks in one folder; a server that one of them starts answers the ones after it."""
    names: dict[str, object] = {}
    ran: list[str] = []
    scraped = ""
    with ExitStack() as servers:
        for language, block in BLOCK.findall(with_free_ports(README)):
            if language == "python":
                exec(compile(block, "README.md", "exec"), names)
                ran.append(language)
            for line in commands(block) if language == "bash" else ():
                program, *arguments = shlex.split(line)
                assert program in PROGRAMS, line
                ran.append(arguments[0] if program == "annserve" else program)
                if ran[-1] == "serve":
                    servers.enter_context(served(arguments, folder))
                else:
                    printed = printed_by(line, folder)
                    scraped += printed if program == "curl" else ""
    assert {"build", "inspect", "search", "serve", "query", "admin", "bench", "keys", "curl", "python"} <= set(ran)
    assert 'annserve_queries_total{collection="docs"} 274.0' in scraped
    assert names["result"].ids.shape == (274, 10)  # type: ignore[attr-defined]
    assert (folder / "ids.npy").exists()
    assert names["now"].state == "succeeded"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)#]+)\)", README))
def test_what_the_readme_points_to_is_there(name):
    assert name.startswith("http") or (ROOT / name).exists()


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
