"""Generate ``annserve/rpc/`` from ``proto/``: ``python tools/generate_proto.py``.

Generated code demands a protobuf and a grpcio at least as new as its generator, so the oldest grpcio-tools
that we support is fetched into a temporary folder and used, whatever this environment holds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
SOURCES = PROTO / "annserve" / "v1"
RPC = ROOT / "annserve" / "rpc"

#: Equals the lower bound of grpcio in pyproject.toml.
GENERATOR = "grpcio-tools==1.80.0"

PACKAGE_DOCSTRING = '"""Messages and stubs that ``tools/generate_proto.py`` makes from ``proto/``."""\n'


def main() -> None:
    """Generate all modules, then put them in the place of the old ones."""
    with tempfile.TemporaryDirectory() as folder:
        tools, out = Path(folder, "tools"), Path(folder, "out")
        out.mkdir()
        _run("-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--target", str(tools), GENERATOR)
        sources = sorted(str(path.relative_to(PROTO)) for path in SOURCES.glob("*.proto"))
        options = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
        _run("-m", "grpc_tools.protoc", f"--proto_path={PROTO}", *options, *sources, path=tools)
        modules = {path.name: in_package(path.read_text()) for path in (out / "annserve" / "v1").iterdir()}
    modules["__init__.py"] = PACKAGE_DOCSTRING
    for old in RPC.glob("*.py*"):
        old.unlink()
    for name, text in sorted(modules.items()):
        (RPC / name).write_text(text)
        print(f"annserve/rpc/{name}")


def in_package(text: str) -> str:
    """Let generated code import its siblings from ``annserve.rpc`` rather than from the proto's own path."""
    return re.sub(r"^from annserve\.v1 import", "from annserve.rpc import", text, flags=re.MULTILINE)


def _run(*arguments: str, path: Path | None = None) -> None:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    subprocess.run([sys.executable, *arguments], check=True, env=environment)


if __name__ == "__main__":
    main()
