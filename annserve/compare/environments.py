"""A Python for each system: this one if it has all that is required, else a virtual environment of its own.

Environments are made on demand, under a folder outside of the repository, and named by a hash of what they hold;
one that was begun and not finished is made anew. What can't be installed is a reason to leave a system out, never
to stop: it is told as ``NotFoundError``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from annserve.compare.cards import Card
from annserve.errors import NotFoundError

#: Interpreters by version, as ``3.11=/opt/python3.11/bin/python:3.8=…``.
PYTHONS_VARIABLE = "ANNSERVE_BENCH_PYTHONS"
_INSTALL_SECONDS = 900


def python_for(card: Card, cache: Path, *, install: bool = True) -> Path:
    """Give an interpreter that can run a system.

    Parameters
    ----------
    card : Card
    cache : Path
        Virtual environments lie in ``cache/environments``.
    install : bool
        Whether an environment may be made if there is none.

    Raises
    ------
    NotFoundError
        If its Python isn't on this machine or its packages can't be installed; the message has the last line that
        the installer said.
    """
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if card.python in (None, here) and all(_installed(one) for one in card.requirements):
        return Path(sys.executable)
    interpreter = sys.executable if card.python in (None, here) else _find_python(card)
    key = hashlib.sha256(repr((interpreter, card.requirements)).encode()).hexdigest()[:10]
    folder = cache / "environments" / f"{card.folder.name}-{key}"
    python = folder / "bin" / "python"
    if (folder / "READY").exists():
        return python
    if not install:
        raise NotFoundError(f"{card.name} needs {', '.join(card.requirements)}, and {folder} isn't there")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run(card, [str(interpreter), "-m", "venv", str(folder)])
    _run(card, [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary", "numpy", *card.requirements])
    (folder / "READY").touch()
    return python


def worker_environment(card: Card, threads: int) -> dict[str, str]:
    """Give the variables of a system's process: where annserve's code lies, and the threads of its libraries."""
    package_root = str(Path(__file__).parent.parent.parent)
    limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"),
        str(threads),
    )
    return {**os.environ, **limits, "PYTHONPATH": package_root, "PYTHONDONTWRITEBYTECODE": "1", "PEER": card.name}


def versions_of(card: Card, python: Path) -> Mapping[str, str]:
    """Give the installed versions of a system's requirements, asked of its own interpreter."""
    names = [_name(one) for one in card.requirements]
    code = "import sys; from importlib.metadata import version; [print(n, version(n)) for n in sys.argv[1:]]"
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True, timeout=60)
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def _installed(requirement: str) -> bool:
    """Whether this interpreter has it; ``==`` is the only version that is asked for."""
    name, _, version = requirement.partition("==")
    try:
        return metadata.version(_name(name)) == version or not version
    except metadata.PackageNotFoundError:
        return False


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]


def _find_python(card: Card) -> Path:
    version = card.python or ""
    for entry in os.environ.get(PYTHONS_VARIABLE, "").split(os.pathsep):
        number, _, path = entry.partition("=")
        if number == version and path:
            return Path(path)
    found = shutil.which(f"python{version}")
    if found is None:
        raise NotFoundError(
            f"{card.name} needs Python {version}, which isn't on the PATH; install it, or say where it is with "
            f"{PYTHONS_VARIABLE}={version}=/path/to/python"
        )
    return Path(found)


def _run(card: Card, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFoundError(f"{card.name} can't be installed: {error}") from error
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()]
        reason = (errors or said or [f"exit status {done.returncode}"])[-1]
        raise NotFoundError(f"{card.name} can't be installed: {reason.strip()}")
