"""Every command and every line of Python in the README runs as it stands, in a clone's folder."""

from __future__ import annotations

import re
import shlex
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
#: Set-up is done where tests run, and needs the network; the address is replaced by a free one.
SET_UP = ("python3 -m venv", "export PATH")
ADDRESS = "127.0.0.1:50051"


def commands(block: str) -> list[str]:
    """Give the command lines of a block, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("#", *SET_UP))]


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


def test_what_the_readme_says_runs_in_its_order(tmp_path, monkeypatch):
    """Bash and Python blocks in one folder; a server that one of them starts answers the ones after it."""
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    names: dict[str, object] = {}
    ran: list[str] = []
    with ExitStack() as servers:
        for language, block in BLOCK.findall(README.replace(ADDRESS, address)):
            if language == "python":
                exec(compile(block, "README.md", "exec"), names)
                ran.append(language)
            for line in commands(block) if language == "bash" else ():
                program, *arguments = shlex.split(line)
                assert program == "annserve", line
                ran.append(arguments[0])
                if arguments[0] == "serve":
                    servers.enter_context(served(arguments, tmp_path))
                else:
                    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path)
                    assert ended.returncode == 0, f"{line}\n{ended.stderr}"
    assert {"build", "inspect", "search", "serve", "query", "bench", "python"} <= set(ran)
    assert names["result"].ids.shape == (274, 10)  # type: ignore[attr-defined]
    assert (tmp_path / "ids.npy").exists()


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)#]+)\)", README))
def test_what_the_readme_points_to_is_there(name):
    assert name.startswith("http") or (ROOT / name).exists()


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
