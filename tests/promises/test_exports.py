"""What a user imports is there, is light, is typed, and is in the wheel."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import annserve

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", annserve.__all__)
def test_everything_exported_is_there_and_documented(name):
    found = getattr(annserve, name)
    assert isinstance(found, str) or found.__doc__


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'nothing'"):
        annserve.nothing  # noqa: B018


def imported(line: str) -> set[str]:
    """Give the heavy packages that a line of Python loads."""
    code = f"import sys\n{line}\nprint(*sorted({{'numba', 'grpc', 'faiss', 'zarr', 'torch'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def test_importing_annserve_loads_nothing_heavy():
    assert imported("import annserve") == set()


def test_the_client_needs_neither_numba_nor_faiss():
    assert imported("import annserve; annserve.Client") == {"grpc"}


def test_the_embedded_door_needs_no_grpc():
    assert "grpc" not in imported("import annserve; annserve.open")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel; without hatchling at hand pip fetches it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(folder), str(ROOT)]
    if importlib.util.find_spec("hatchling"):
        command.append("--no-build-isolation")
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_package_whole(wheel):
    """Generated code and the mark of types too; every module that lies in the tree."""
    listed = subprocess.run(["git", "ls-files", "annserve"], cwd=ROOT, capture_output=True, text=True)
    assert "annserve/py.typed" in wheel
    assert {"annserve/rpc/search_pb2.py", "annserve/rpc/admin_pb2_grpc.py", "annserve/__main__.py"} <= wheel
    # Outside of a clone nothing is listed, and the names above must do.
    assert {name for name in listed.stdout.split() if (ROOT / name).exists()} <= wheel


def test_the_wheel_holds_nothing_else(wheel):
    rest = {name for name in wheel if not name.startswith("annserve/")}
    assert all(name.startswith("annserve-") and ".dist-info/" in name for name in rest), rest
    assert any(name.endswith("licenses/LICENSE") for name in rest)
    assert any(name.endswith("entry_points.txt") for name in rest)
