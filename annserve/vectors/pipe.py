"""Vectors from a pipe: npy arrays, one after another, as ``numpy.save`` writes them to one stream.

::

    npy array (m₀, dim) │ npy array (m₁, dim) │ …        to the end of the stream; arrays without rows are passed over

How many rows will come isn't known before the last one, and a build needs to know. So they are spooled to an npy file,
which is a source like any other. Memory is bounded whatever the arrays' sizes; a header is believed in nothing that
would have to be allocated.
"""

from __future__ import annotations

import shutil
import time
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError, OutputError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.spec import DIM_MAX
from annserve.vectors.flat import NPY_START_BYTES, npy_header_bytes, open_npy, parse_npy_header
from annserve.vectors.output import replaced
from annserve.vectors.source import CHUNK_BYTES, VectorSource, read_type

_STAGE = "spool"
#: A report calls its input so.
_SPOOLED = "standard-input.npy"


def open_piped(stream: BinaryIO, folder: Path, listener: Listener = ignore) -> VectorSource:
    """Open what a stream gave: what was spooled to `folder` before, or else all that comes now; see ``spool``."""
    path = folder / _SPOOLED
    if not path.exists():
        spool(stream, path, listener)
    return open_npy(path)


def spool(stream: BinaryIO, path: Path, listener: Listener = ignore, name: str = "standard input") -> None:
    """Write all rows of a stream to an npy file, which appears when the stream has ended as it should.

    Parameters
    ----------
    stream : buffered binary file
        Read to its end.
    path : Path
        What stands there is replaced.
    listener : Listener
        Told how many rows have come.
    name : str
        Of the stream, for messages.

    Raises
    ------
    InputError
        If no row comes, or arrays aren't matrices of one dimension and type, in C order.
    CorruptionError
        If the stream ends within an array, or holds something else; the array is named.
    OutputError
        If an array won't fit the device, or it refuses.

    Notes
    -----
    Peak memory is 16 MiB of rows, as they come and as they are kept.
    """
    begun = time.monotonic()
    listener(StageStarted(_STAGE, None))
    n_rows, dim, dtype = 0, 0, np.dtype(np.float32)
    with replaced(path, overwrite=True) as partial, partial.open("wb") as file:
        for number in count():
            what = f"array {number} of {name}"
            start = stream.read(NPY_START_BYTES)
            if not start:
                break
            shape, fortran, stored = parse_npy_header(start, stream, what)
            _check(shape, fortran, what)
            if number == 0:
                dim, dtype = shape[1], read_type(stored, Path(what))
                file.write(npy_header_bytes(0, dim, dtype))
            elif (shape[1], read_type(stored, Path(what))) != (dim, dtype):
                raise InputError(
                    f"{what} holds {stored} of dimension {shape[1]}, but the first holds {dtype} of dimension {dim}; "
                    "arrays of one set are alike"
                )
            _require_room(shape[0] * dim * dtype.itemsize, path, what)
            step = max(1, CHUNK_BYTES // (dim * stored.itemsize))
            for first in range(0, shape[0], step):
                rows = _read(stream, min(step, shape[0] - first), dim, stored, what, first)
                with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which staging names
                    file.write(rows.astype(dtype, copy=False).data)
                n_rows += len(rows)
                listener(StageProgressed(_STAGE, n_rows))
        if not n_rows:
            raise InputError(f"{name} holds no rows; write arrays of vectors to it, with numpy.save")
        file.seek(0)
        file.write(npy_header_bytes(n_rows, dim, dtype))
    listener(StageFinished(_STAGE, time.monotonic() - begun, f"{n_rows:,} rows of {dim} × {dtype}"))


def _check(shape: tuple[int, ...], fortran: bool, what: str) -> None:
    if len(shape) != 2 or not 1 <= shape[1] <= DIM_MAX or shape[0] < 0:
        raise InputError(
            f"{what} has shape {shape}; vectors are a matrix (count, dim), its dimension from 1 to {DIM_MAX}",
            field="dim",
        )
    if fortran and shape[0] > 1 and shape[1] > 1:
        raise InputError(f"{what} is in Fortran order, by columns; save numpy.ascontiguousarray of it")


def _require_room(n_bytes: int, path: Path, what: str) -> None:
    folder = path.absolute().parent
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OutputError(
            f"{what} says that its rows take {n_bytes:,} bytes, but {free:,} are free in {folder}; make room, or "
            "choose another folder",
            path=path,
        )


def _read(stream: BinaryIO, n_rows: int, dim: int, stored: np.dtype[Any], what: str, first: int) -> npt.NDArray[Any]:
    """Read the next rows, the array's from number `first` on."""
    row_bytes = dim * stored.itemsize
    data = stream.read(n_rows * row_bytes)
    if len(data) != n_rows * row_bytes:
        raise CorruptionError(
            f"{what} ends within its row {first + len(data) // row_bytes}; whatever writes to it ended too early"
        )
    return np.frombuffer(data, stored).reshape(n_rows, dim)
