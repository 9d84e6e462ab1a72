"""Rows of one type, one after another in a file of a build's own: what a pass over more rows than RAM holds leaves.

::

    row 0 │ row 1 │ … │ row n−1        dim elements each, native byte order, nothing between or around them

Rows may be vectors, numbers of rows, or what a step works out of each. A row file is scratch: it is made in a build's
folder and read by that build alone, so it carries neither header nor checksum; what lies in it is proven end to end by
``report.verify``.

Invariants: rows may be written in any order; threads may read and write side by side, at different ranges; peak memory
is what is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, ReadError
from annserve.metric import rows_to_space
from annserve.spec import IndexSpec
from annserve.vectors.output import refused
from annserve.vectors.source import Rows, VectorSource

#: Bytes that it is cheaper to read and drop than to jump over.
_GAP_BYTES = 4_096
#: Rows that are carried to the index space at a time: norms are taken of float64 copies.
_SPACE_ROWS = 4_096


class RowFile(VectorSource):
    """An open row file; made by ``create_rows`` and ``open_rows``."""

    def __init__(self, path: Path, fd: int, count: int, dim: int, dtype: np.dtype[Any]) -> None:
        # Not the source's own: what a build leaves for itself may be numbers of any type.
        self.path, self.count, self.dim, self.dtype = path, count, dim, dtype
        self._fd = fd
        self._gap_rows = _GAP_BYTES // self.row_bytes

    def write(self, start: int, rows: npt.NDArray[Any]) -> None:
        """Write rows from number `start` on.

        Raises
        ------
        OutputError
            If the device refuses.
        """
        assert rows.dtype == self.dtype, (rows.dtype, self.dtype)
        assert 0 <= start <= start + len(rows) <= self.count, (start, len(rows), self.count)
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        done, offset = 0, start * self.row_bytes
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        except OSError as error:
            raise refused(self.path, error) from error

    def __setitem__(self, which: npt.NDArray[np.int64], rows: npt.NDArray[Any], /) -> None:
        """Replace the rows that a list without repeats numbers; errors as `write`."""
        order = np.argsort(which)
        wanted, sorted_rows = which[order], rows[order]
        cuts = np.flatnonzero(np.diff(wanted) != 1) + 1
        for first, last in zip([0, *cuts], [*cuts, len(wanted)]):
            if first < last:
                self.write(int(wanted[first]), sorted_rows[first:last])

    def sync(self) -> None:
        """Make all that was written durable.

        Raises
        ------
        OutputError
            If the device refuses.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise refused(self.path, error) from error

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = np.empty((stop - start, self.dim), self.dtype)
        data = rows.reshape(-1).view(np.uint8).data
        done, offset = 0, start * self.row_bytes
        while done < len(data):
            try:
                got = os.preadv(self._fd, [data[done:]], offset + done)
            except OSError as error:
                raise ReadError(
                    f"{self.path} can't be read at byte {offset + done}: {error.strerror}; check the device",
                    path=self.path,
                    offset=offset + done,
                ) from error
            if not got:
                raise CorruptionError(
                    f"{self.path} ends at byte {offset + done}, in the middle of its rows; start the build anew",
                    path=self.path,
                    offset=offset + done,
                )
            done += got
        return rows


def create_rows(path: Path, count: int, dim: int, dtype: np.dtype[Any]) -> RowFile:
    """Make a file for so many rows, all zero until they are written; one that is there is emptied.

    Raises
    ------
    OutputError
        If the device refuses, or has no room for them.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(fd, 0, count * dim * dtype.itemsize)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
    except OSError as error:
        raise refused(path, error) from error
    return RowFile(path, fd, count, dim, dtype)


def open_rows(path: Path, count: int, dim: int, dtype: np.dtype[Any]) -> RowFile:
    """Open a file of rows that an earlier step left, for reading and writing.

    Raises
    ------
    CorruptionError
        If it is gone or hasn't the size of so many rows.
    """
    expected = count * dim * dtype.itemsize
    found = path.stat().st_size if path.is_file() else -1
    if found != expected:
        raise CorruptionError(
            f"{path} has {max(found, 0):,} bytes, but an earlier step left {expected:,}; start the build anew",
            path=path,
            offset=max(found, 0),
        )
    try:
        return RowFile(path, os.open(path, os.O_RDWR | os.O_CLOEXEC), count, dim, dtype)
    except OSError as error:
        raise refused(path, error) from error


class SpaceRows:
    """Rows as the index space has them, carried there when they are taken.

    Parameters
    ----------
    rows : Rows
        As given.
    spec : IndexSpec
    norm_max : float
        Largest norm of a row.
    """

    def __init__(self, rows: Rows, spec: IndexSpec, norm_max: float) -> None:
        self._rows, self._spec, self._norm_max = rows, spec, norm_max

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions of the index space."""
        return len(self._rows), self._spec.space_dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in the index space."""
        return self._spec.space_dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Any) -> npt.NDArray[Any]:
        """Give a slice of rows, or those that a list numbers, in its order."""
        rows = self._rows[which]
        if len(rows) <= _SPACE_ROWS or self._spec.metric == "l2":
            return rows_to_space(rows, self._spec, self._norm_max)
        space = np.empty((len(rows), self._spec.space_dim), self._spec.space_dtype)
        for first in range(0, len(rows), _SPACE_ROWS):
            some = slice(first, first + _SPACE_ROWS)
            space[some] = rows_to_space(rows[some], self._spec, self._norm_max)
        return space
