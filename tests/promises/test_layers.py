"""The rules of the tree: layers, who may load what, how long a file is. One test per rule."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "annserve"
#: Generated from proto/; held to buf's rules, not to ours.
GENERATED = PACKAGE / "rpc"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if GENERATED not in path.parents)
LINES_MAX = 450


def imported_packages(path):
    """Top-level names that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_rooms_stand_in_layers():
    """The contract in pyproject.toml, which sees imports inside functions too."""
    tool = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([tool, "--no-logo"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_client_knows_only_errors_spec_results_and_rpc():
    """Tighter than its layer: it must install without numba and faiss."""
    allowed = {"errors", "spec", "results", "rpc", "client"}
    for path in (PACKAGE / "client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "annserve":
                parts = node.module.split(".")
                rooms = {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
                assert rooms <= allowed, f"{path.name} imports {rooms}"


@pytest.mark.parametrize(
    ("packages", "may"),
    [
        ({"numba", "llvmlite"}, lambda path: path.parent.name == "kernels" or path.name.endswith("kernels.py")),
        (
            {"grpc", "grpc_health", "grpc_reflection"},
            lambda path: path.parent.name in ("serve", "services", "door", "client", "guard", "watch"),
        ),
        ({"faiss"}, lambda path: path.parent.name in ("vectors", "clusters", "build", "measure")),
        ({"pickle", "shelve", "marshal"}, lambda path: False),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, set) else "",
)
def test_only_its_own_rooms_load_a_heavy_package(packages, may):
    offenders = [str(path.relative_to(ROOT)) for path in FILES if imported_packages(path) & packages and not may(path)]
    assert offenders == []


@pytest.mark.parametrize("code", ["import annserve", "from annserve.cli.main import main; main()"])
def test_neither_import_nor_help_loads_anything_heavy(code):
    """`annserve --help` answers before a user wonders whether it hangs."""
    program = f"import sys; sys.argv = ['annserve', '--help']\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
    heavy = {"numba", "grpc", "faiss", "zarr", "h5py", "pyarrow", "pydantic"}
    program += f"print('loaded:', *sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert answer.stdout.splitlines()[-1:] == ["loaded:"], answer.stdout + answer.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_and_stays_short(path):
    """A file over 450 lines says in its docstring why so many ("… in 600 lines because …")."""
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "no docstring"
    n_lines = text.count("\n")
    if n_lines > LINES_MAX:
        assert re.search(r"in (more than )?[0-9]+ lines", docstring), f"{n_lines} lines, and no word why"


def test_public_names_are_those_that_are_exported():
    import annserve

    for name in annserve.__all__:
        assert getattr(annserve, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        annserve.nothing  # noqa: B018
