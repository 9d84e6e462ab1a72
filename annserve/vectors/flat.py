"""Rows at fixed offsets of one file: npy, the fbin family and the fvecs family. Little-endian throughout.

====================  =========================================  ==========================================
suffix                layout                                     element
====================  =========================================  ==========================================
npy                   NumPy header, rows (C or Fortran order)    what the header says
fbin u8bin i8bin ibin u32 count, u32 dim, rows                   float32, uint8, int8, int32
fvecs bvecs ivecs     per row: i32 dim, elements                 float32, uint8, int32
====================  =========================================  ==========================================

An ``ibin`` file may hold exact neighbours instead: u32 count, u32 k, ids as int32, then as many float32
distances (the layout of the big-ann benchmarks). The two are told apart by size.

Files are read with ``pread`` and never mapped: if one shrinks while it is read, that is an error here, where
a map would kill the process.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError, ReadError
from annserve.vectors.source import VectorSource, VectorWriter, matrix_shape

#: Element types that the suffix alone decides.
PACKED_TYPES = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".ibin": "<i4"}
VECS_TYPES = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}

_PACKED_HEADER_BYTES = 8
_PACKED_COUNT_MAX = 2**32 - 1
#: Magic and version of an npy file; and more bytes than NumPy takes for a header (10,000 characters).
NPY_START_BYTES, _NPY_HEADER_BYTES_MAX = 8, 64 << 10
#: Gaps below this many bytes are read through when rows are gathered: a read of 64 KiB costs about one of 4.
_GAP_BYTES = 64 << 10


class FlatSource(VectorSource):
    """Rows of `stored` elements one after the other, from byte `offset` on."""

    def __init__(
        self, path: Path, offset: int, shape: tuple[int, ...], stored: np.dtype[Any], fortran: bool = False
    ) -> None:
        super().__init__(path, shape, stored)
        self._offset, self._stored, self._fortran = offset, stored, fortran
        self._gap_rows = _GAP_BYTES // (self.dim * stored.itemsize)
        self._file = path.open("rb", buffering=0)

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        item = self._stored.itemsize
        rows = np.empty((stop - start, self.dim), self._stored)
        if self._fortran:
            column = np.empty(stop - start, self._stored)
            for j in range(self.dim):
                self._fill(column, self._offset + (j * self.count + start) * item)
                rows[:, j] = column
        else:
            self._fill(rows, self._offset + start * self.dim * item)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which staging names
            return rows.astype(self.dtype, copy=False)

    def _fill(self, array: npt.NDArray[Any], offset: int) -> None:
        """Read exactly the bytes of `array`, in as many calls as it takes."""
        view, done = memoryview(array.reshape(-1).view(np.uint8).data), 0
        while done < len(view):
            try:
                got = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            except OSError as error:
                raise ReadError(
                    f"reading {self.path} at byte {offset + done} failed: {error.strerror}; check the device",
                    path=self.path,
                    offset=offset + done,
                ) from error
            if got == 0:
                raise CorruptionError(
                    f"{self.path} ends at byte {offset + done}, {len(view) - done} bytes short of what was "
                    "there when it was opened; don't change a file while it is read",
                    path=self.path,
                    offset=offset + done,
                )
            done += got

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class VecsSource(FlatSource):
    """Rows that each repeat their dimension; a row that says another one is damage."""

    def __init__(self, path: Path, shape: tuple[int, int], stored: np.dtype[Any]) -> None:
        super().__init__(path, 0, shape, stored)
        self._record = np.dtype([("dim", "<i4"), ("row", stored, (self.dim,))])

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        records = np.empty(stop - start, self._record)
        offset = start * self._record.itemsize
        self._fill(records, offset)
        wrong = records["dim"] != self.dim
        if wrong.any():
            row = int(np.argmax(wrong))
            raise CorruptionError(
                f"row {start + row} of {self.path}, at byte {offset + row * self._record.itemsize}, says "
                f"dimension {records['dim'][row]}, but the first row says {self.dim}; all rows must have one",
                path=self.path,
                offset=offset + row * self._record.itemsize,
            )
        return np.ascontiguousarray(records["row"], dtype=self.dtype)


def open_packed(path: Path) -> FlatSource:
    """Open an fbin, u8bin, i8bin or ibin file; of a file of exact neighbours the ids."""
    stored = np.dtype(PACKED_TYPES[packed_suffix(path)])
    size = path.stat().st_size
    if size < _PACKED_HEADER_BYTES:
        raise CorruptionError(
            f"{path} has {size} bytes, fewer than the {_PACKED_HEADER_BYTES} of its header; it is empty "
            "or cut short: copy it anew",
            path=path,
            offset=size,
        )
    count, dim = (int(value) for value in np.fromfile(path, "<u4", 2))
    if not has_distances(path, count, dim, size):
        _check_size(path, size, _PACKED_HEADER_BYTES, count, dim, dim * stored.itemsize)
    return FlatSource(path, _PACKED_HEADER_BYTES, (count, dim), stored)


def has_distances(path: Path, count: int, k: int, size: int) -> bool:
    """Whether an ibin file of `size` bytes holds as many float32 distances after its ids."""
    return packed_suffix(path) == ".ibin" and count * k > 0 and size == _PACKED_HEADER_BYTES + 8 * count * k


def packed_suffix(path: Path) -> str:
    """Give the suffix without the number of neighbours that some sets append: ``gt.ibin100`` is an ibin."""
    suffix = path.suffix.lower()
    return ".ibin" if suffix.startswith(".ibin") and suffix[5:].isdigit() else suffix


def read_distances(path: Path) -> npt.NDArray[np.float32] | None:
    """Read the distances behind the ids of a file of exact neighbours, or give None if it holds ids alone."""
    with open_packed(path) as ids:
        count, k = ids.count, ids.dim
    if not has_distances(path, count, k, path.stat().st_size):
        return None
    offset = _PACKED_HEADER_BYTES + 4 * count * k
    with FlatSource(path, offset, (count, k), np.dtype("<f4")) as distances:
        return distances.read(0, count)


def write_truth(path: Path, row_ids: npt.NDArray[np.int64], distances: npt.NDArray[Any]) -> None:
    """Write exact neighbours, ids and distances, in the layout of the big-ann benchmarks."""
    assert row_ids.shape == distances.shape, (row_ids.shape, distances.shape)
    assert row_ids.max() < 2**31, "ids in this layout are int32"
    header = np.array(row_ids.shape, "<u4").tobytes()
    path.write_bytes(header + row_ids.astype("<i4").tobytes() + distances.astype("<f4").tobytes())


def open_vecs(path: Path) -> VecsSource:
    """Open an fvecs, bvecs or ivecs file."""
    stored = np.dtype(VECS_TYPES[path.suffix.lower()])
    size = path.stat().st_size
    if size < 4:
        raise CorruptionError(
            f"{path} has {size} bytes, fewer than the dimension of one row; it is empty or cut short: copy it anew",
            path=path,
            offset=size,
        )
    dim = int(np.fromfile(path, "<i4", 1)[0])
    record_bytes = 4 + dim * stored.itemsize
    if dim < 1 or record_bytes > size:
        raise CorruptionError(
            f"{path} says at byte 0 that its first row has dimension {dim}, which doesn't fit a file of "
            f"{size} bytes; it is no {path.suffix[1:]} file, or damaged",
            path=path,
            offset=0,
        )
    count, rest = divmod(size, record_bytes)
    if rest:
        raise CorruptionError(
            f"{path} has {size} bytes: {count} rows of {record_bytes} and {rest} bytes more at byte "
            f"{count * record_bytes}; it is cut short: copy it anew",
            path=path,
            offset=count * record_bytes,
        )
    return VecsSource(path, (count, dim), stored)


def open_npy(path: Path) -> FlatSource:
    """Open an npy file; arrays of Python objects are refused, for they would run code."""
    shape, fortran, stored, offset = npy_header(path)
    source = FlatSource(path, offset, shape, stored, fortran)
    try:
        _check_size(path, path.stat().st_size, offset, source.count, source.dim, source.dim * stored.itemsize)
    except CorruptionError:
        source.close()
        raise
    return source


def read_npy(path: Path, *, list_too: bool = False) -> npt.NDArray[Any]:
    """Read a whole matrix of numbers of any type from an npy file, its size checked first.

    With `list_too` a list may stand there instead, and is given as a matrix of one column.
    """
    shape, _, stored, offset = npy_header(path)
    if list_too and len(shape) == 1:
        shape = (shape[0], 1)
    count, dim = matrix_shape(shape, path)
    if stored.kind not in "uif":
        kind = "whole numbers, and keep names of another kind in a table beside them" if list_too else "numbers"
        raise InputError(f"{path} holds elements of type {stored}; give {kind}", field="dtype")
    _check_size(path, path.stat().st_size, offset, count, dim, dim * stored.itemsize)
    matrix: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return np.ascontiguousarray(matrix.reshape(count, dim), dtype=stored.newbyteorder("="))


def npy_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read (shape, Fortran order, element type, offset of the data) of an npy file."""
    with path.open("rb") as file:
        return *parse_npy_header(file.read(NPY_START_BYTES), file, str(path)), file.tell()


def parse_npy_header(start: bytes, file: BinaryIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Give (shape, Fortran order, element type) of an npy array.

    Parameters
    ----------
    start : bytes
        The first `NPY_START_BYTES` of it.
    file : binary file
        Gives what follows them.
    what : str
        Names the array in messages.

    Raises
    ------
    CorruptionError
        If there is no header, or one that says it is longer than any is.
    InputError
        If the array holds Python objects.
    """
    try:
        version = npy.read_magic(io.BytesIO(start))
        length = file.read(2 if version == (1, 0) else 4)
        n_bytes = int.from_bytes(length, "little")
        if n_bytes > _NPY_HEADER_BYTES_MAX:
            raise ValueError(f"it says it has {n_bytes} bytes")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, stored = read(io.BytesIO(length + file.read(n_bytes)))
    except Exception as error:  # NumPy's parser fails in many ways on bytes that aren't a header
        raise CorruptionError(
            f"{what} doesn't start with an npy header ({error}); it is empty, damaged or another format",
            path=Path(what),
            offset=0,
        ) from error
    if stored.hasobject:
        raise InputError(
            f"{what} holds Python objects, which only pickle could read, and pickle runs code; save a "
            "matrix of numbers",
            field="dtype",
        )
    return shape, fortran, stored


class FlatWriter(VectorWriter):
    """A header, then rows as they come."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._file = path.open("wb")
        self._file.write(header)

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write rows."""
        self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


class VecsWriter(FlatWriter):
    """Rows that each repeat their dimension."""

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write rows, each behind its dimension."""
        records = np.empty(len(rows), [("dim", "<i4"), ("row", rows.dtype, rows.shape[1:])])
        records["dim"], records["row"] = rows.shape[1], rows
        super().append(records)


def create_packed(path: Path, count: int, dim: int) -> FlatWriter:
    """Begin an fbin, u8bin, i8bin or ibin file."""
    if count > _PACKED_COUNT_MAX:
        raise InputError(f"{count} rows don't fit the 32-bit count of this format; write npy, parquet or zarr instead")
    return FlatWriter(path, np.array([count, dim], "<u4").tobytes())


def create_npy(path: Path, count: int, dim: int, dtype: np.dtype[Any]) -> FlatWriter:
    """Begin an npy file."""
    return FlatWriter(path, npy_header_bytes(count, dim, dtype))


def npy_header_bytes(count: int, dim: int, dtype: np.dtype[Any]) -> bytes:
    """Give the header of an npy file, as long for any count: NumPy leaves room for its digits."""
    header = io.BytesIO()
    description = npy.dtype_to_descr(dtype.newbyteorder("<"))
    npy.write_array_header_2_0(header, {"descr": description, "fortran_order": False, "shape": (count, dim)})
    return header.getvalue()


def _check_size(path: Path, size: int, offset: int, count: int, dim: int, row_bytes: int) -> None:
    """Refuse a header whose count and dimension don't add up to the file's size."""
    expected = offset + count * row_bytes
    if size != expected:
        fault = "cut short" if size < expected else "followed by other bytes"
        raise CorruptionError(
            f"{path} says {count} rows of dimension {dim}, which take {expected} bytes, but it has "
            f"{size}; it is {fault}, or its header lies: copy it anew",
            path=path,
            offset=min(size, expected),
        )
