"""How a file or folder of vectors appears: whole, or not at all.

It is written under a temporary name in the folder where it shall stand, brought to the device, and renamed. A
failure on the way removes it; a killed process leaves a name that starts with a dot and ends in ``.partial``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annserve.errors import AnnserveError, OutputError


@contextmanager
def replaced(path: Path, *, n_bytes: int = 0, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary name to write to; at the end what was written there stands at `path`.

    Parameters
    ----------
    path : Path
        The final name. The block may make a file or a folder at the temporary one.
    n_bytes : int
        Bytes that it will take, as far as known; must be free on the device beforehand.
    overwrite : bool
        Whether what already stands at `path` may be replaced. An empty folder always may.

    Raises
    ------
    OutputError
        If it exists already, its folder can't be written, the space doesn't suffice, or a write fails.
    """
    if not overwrite and _occupied(path):
        raise OutputError(f"{path} exists already; remove it, or allow it to be overwritten", path=path)
    parent = path.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{path} can't be written: the folder {parent} doesn't exist; create it", path=path)
    free = shutil.disk_usage(parent).free
    if n_bytes > free:
        raise OutputError(
            f"{path} will take {n_bytes:,} bytes, but only {free:,} are free in {parent}; make room or "
            "choose another folder",
            path=path,
        )
    partial = parent / f".{path.name}.{os.getpid()}.partial"
    try:
        _remove(partial)
        yield partial
        _sync(partial)
        if path.is_dir():
            _remove(path)
        os.replace(partial, path)
        _sync_one(parent)
    except AnnserveError:
        _remove(partial)
        raise
    except OSError as error:
        _remove(partial)
        raise refused(path, error) from error
    except BaseException:
        _remove(partial)
        raise


def refused(path: Path, error: OSError) -> OutputError:
    """Give the error that says what the device said."""
    reason = error.strerror or str(error)
    return OutputError(f"{path} can't be written: {reason}; check the folder's permissions and free space", path=path)


def _occupied(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_one(Path(folder, name))
        _sync_one(Path(folder))
    if path.is_file():
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
