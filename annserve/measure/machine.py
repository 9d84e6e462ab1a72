"""Where and with what a measurement was made: machine, versions, commit, the hash of each input.

Nothing here names a person or a host. What can't be found out is None, never a reason to fail.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

#: Packages whose version may change a number.
_PACKAGES = ("annserve", "numpy", "numba", "faiss-cpu", "grpcio", "protobuf")


def describe_machine(stored_at: Path | None = None) -> dict[str, Any]:
    """Describe the machine that measures.

    Parameters
    ----------
    stored_at : Path, optional
        A file or folder of the index; says which disk is meant.

    Returns
    -------
    dict
        ``cpu``, ``cores`` (of the machine), ``cores_usable`` (by this process), ``kernel``, ``ram_bytes``,
        ``disk``, ``load_average`` (of the last minute: what else was running).
    """
    return {
        "cpu": _first_match(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$"),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk": None if stored_at is None else describe_disk(stored_at),
        "load_average": os.getloadavg()[0],
    }


def describe_disk(path: Path) -> dict[str, Any]:
    """Describe the block device that holds `path`: name, model, size, read-ahead, file system, whether it rotates."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    node = Path("/sys/dev/block") / number
    disk = node.resolve()
    if (node / "partition").exists():
        disk = disk.parent  # queue and model are the whole disk's
    sectors = _text(disk / "size")
    rotates = _text(disk / "queue/rotational")
    read_ahead = _text(disk / "queue/read_ahead_kb")
    return {
        "device": disk.name if node.exists() else None,
        "model": _text(disk / "device/model"),
        "bytes": int(sectors) * 512 if sectors else None,
        "rotates": rotates == "1" if rotates else None,
        "read_ahead_bytes": int(read_ahead) * 1024 if read_ahead else None,
        "file_system": _first_match(Path("/proc/self/mountinfo"), rf"^\d+ \d+ {number} .* - (\S+) "),
    }


def describe_software() -> dict[str, str | None]:
    """Give the versions of Python and of the packages that may change a number; None where not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def find_commit(source: Path = Path(__file__).parent) -> str | None:
    """Give the git commit of the source tree, with ``-dirty`` if it was edited since; None outside of one."""
    git = ["git", "-C", str(source)]
    try:
        # An installed package may lie inside somebody else's repository: only tracked files count.
        subprocess.run([*git, "ls-files", "--error-unmatch", "."], check=True, capture_output=True, timeout=10)
        answer = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            timeout=10,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def hash_file(path: Path) -> str:
    """Give the sha256 of a file as hex; of a folder, that of its files' names and contents in order."""
    if path.is_dir():
        digest = hashlib.sha256()
        for part in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{part.relative_to(path).as_posix()} {hash_file(part)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _first_match(path: Path, pattern: str) -> str | None:
    found = re.search(pattern, _text(path) or "", re.MULTILINE)
    return found[1].strip() if found else None
