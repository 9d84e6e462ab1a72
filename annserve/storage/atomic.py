"""Files that appear whole or not at all, and one writer per folder.

Invariants
----------
- A path holds its old content, or all of the new one, at every moment and after every crash: content goes to
  ``<name>.tmp`` in the same folder, is synced, takes its name by one rename, and the folder is synced.
- What a killed writer left is called ``<name>.tmp``, is never read, and is overwritten by the next writer.
- The device's refusals become ``OutputError`` with the path and what to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import ConflictError, NotFoundError, OutputError

LOCK_NAME = "LOCK"
TEMPORARY_SUFFIX = ".tmp"

#: One write call takes at most this much, so that an interrupt is answered soon.
_WRITE_BYTES = 16 << 20


def write_atomically(path: Path | str, data: bytes | Callable[[AtomicFile], None]) -> None:
    """Write a file so that it appears whole or not at all, and survives a power cut once this returns.

    Parameters
    ----------
    path : Path or str
        Final name; an existing file is replaced.
    data : bytes or callable
        The content, or a function that writes it with ``AtomicFile.write``.

    Raises
    ------
    OutputError
        If the device refuses (full, read-only, no such folder); the old content is untouched.
    ConflictError
        If another writer is at this very file.
    """
    with AtomicFile(path) as file:
        if callable(data):
            data(file)
        else:
            file.write(data)
        file.commit()


class AtomicFile:
    """A file under its temporary name, until ``commit`` gives it its own; left without it, it vanishes.

    Parameters
    ----------
    path : Path or str
        Final name.

    Raises
    ------
    OutputError
        If the temporary file can't be created.
    ConflictError
        If another writer has it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.temporary = self.path.with_name(self.path.name + TEMPORARY_SUFFIX)
        #: Bytes up to which the file has been written.
        self.n_bytes = 0
        self._fd = _open_temporary(self.temporary, self.path)

    def write(self, data: bytes | npt.NDArray[Any], offset: int | None = None) -> None:
        """Write at the end, or at `offset`; an array as the C-contiguous bytes that it occupies."""
        start = self.n_bytes if offset is None else offset
        flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
        done = 0
        with _refusals_told(self.path):
            while done < len(flat):
                done += os.pwrite(self._fd, flat[done : done + _WRITE_BYTES].data, start + done)
        self.n_bytes = max(self.n_bytes, start + len(flat))

    def commit(self) -> None:
        """Sync the content, take the final name, sync the folder."""
        with _refusals_told(self.path):
            os.fsync(self._fd)
            os.replace(self.temporary, self.path)
        self._close()
        fsync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the temporary file, if it hasn't been committed."""
        if self._fd >= 0:
            self.temporary.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def fsync_folder(folder: Path | str) -> None:
    """Make the names in a folder durable: a rename survives a power cut only after this.

    Raises
    ------
    OutputError
        If the device refuses.
    """
    with _refusals_told(Path(folder)):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def free_bytes(path: Path | str) -> int:
    """Give the bytes that an ordinary user may still write at `path`, or where it would be created.

    Raises
    ------
    NotFoundError
        If not even a parent of it exists.
    """
    place = Path(path).absolute()
    for folder in (place, *place.parents):
        try:
            facts = os.statvfs(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return facts.f_bavail * facts.f_frsize
    raise NotFoundError(f"neither {place} nor any folder above it exists")


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Be the only writer of a folder until the block ends; the kernel frees the lock if the process dies.

    Raises
    ------
    ConflictError
        If another writer holds the folder; the message names its process.
    OutputError
        If the folder doesn't exist or can't be written.
    """
    path = Path(folder) / LOCK_NAME
    with _refusals_told(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise ConflictError(
                f"{folder} is being written by process {holder}; wait until it ends, or choose another folder"
            ) from None
        # Between open and lock a writer that ended may have removed the folder: then this lock keeps nobody out.
        if not (path.exists() and os.path.samestat(os.fstat(fd), os.stat(path))):
            raise ConflictError(f"{folder} was left by another writer just now; try again")
        with _refusals_told(path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _open_temporary(temporary: Path, path: Path) -> int:
    """Open and lock the temporary file, emptied; a leftover of a killed writer is taken over."""
    while True:
        with _refusals_told(path):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock its writer may have renamed it: then this is the published file, not ours.
            if temporary.exists() and os.path.samestat(os.fstat(fd), os.stat(temporary)):
                os.ftruncate(fd, 0)
                return fd
        except BlockingIOError:
            os.close(fd)
            raise ConflictError(
                f"{path} is being written by another writer; wait until it ends, or choose another path"
            ) from None
        except FileNotFoundError:
            pass
        os.close(fd)


@contextmanager
def _refusals_told(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into an ``OutputError`` that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path} can't be written: {_advice(error, path)}", path=path) from error


def _advice(error: OSError, path: Path) -> str:
    said = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{said}, {free_bytes(path):,} bytes are free there; free some space, or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{said}; choose a folder that you may write to"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{said}; create the folder {path.parent} first"
    return f"{said}; check the device and try again"
