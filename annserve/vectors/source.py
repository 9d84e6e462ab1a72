"""The contract of a set of vectors: rows that are read by range, in bounded memory.

Invariants
----------
- A source knows its count, dimension and type when it is opened; each is proven against the size of the file
  before anything of that size is allocated.
- ``read`` gives a fresh C-contiguous array of exactly the rows asked for, or raises. Memory is that array
  and a bounded buffer, never the file.
- A source serves one thread at a time.
- Elements are uint8, int8, float16, float32, or int32 (lists of ids). float64 is read as float32, chunk by
  chunk.

Values aren't judged here: whether a row may be indexed (NaN, zero length) is for ``staging``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError

#: Bytes of a chunk where the caller doesn't say: large against a seek, small against RAM.
CHUNK_BYTES = 16 << 20

#: How each stored type is given; what is absent here is refused.
_READ_AS = {
    "uint8": "uint8",
    "int8": "int8",
    "float16": "float16",
    "float32": "float32",
    "float64": "float32",
    "int32": "int32",
}


class Rows(Protocol):
    """Rows that are taken by number: an array, or a source that gives arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and dimensions."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what is given."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, which: Any, /) -> npt.NDArray[Any]:
        """Give a slice of rows, or those that a list numbers, in its order."""


class VectorSource(ABC):
    """A set of `count` vectors of dimension `dim`.

    Attributes
    ----------
    path : Path
        Where they come from, for messages.
    count, dim : int
        Both at least 1.
    dtype : numpy.dtype
        Type of what ``read`` gives, in native byte order.
    """

    #: Rows that it is cheaper to read and drop than to jump over, when rows are gathered.
    _gap_rows = 0

    def __init__(self, path: Path, shape: Sequence[int], stored: npt.DTypeLike) -> None:
        self.path = path
        self.dtype = read_type(stored, path)
        self.count, self.dim = matrix_shape(shape, path)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as it is given."""
        return self.dim * self.dtype.itemsize

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        return self.count, self.dim

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: slice | npt.NDArray[np.int64], /) -> npt.NDArray[Any]:
        """Give a slice of rows without a step, or those that a list numbers, in its order; see ``read``."""
        if isinstance(which, slice):
            start, stop, step = which.indices(self.count)
            assert step == 1, "a step is nowhere needed"
            return self.read(start, max(start, stop))
        if (np.diff(which) >= 0).all():
            return self.gather(which)
        order = np.argsort(which, kind="stable")
        rows = np.empty((len(which), self.dim), self.dtype)
        rows[order] = self.gather(which[order])
        return rows

    @property
    def files(self) -> tuple[Path, ...]:
        """The files or folders that the rows lie in, in order; none for rows in memory."""
        return (self.path,)

    def place_of(self, row: int) -> str:
        """Say where a row stands, for messages."""
        return f"row {row} of {self.path}"

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows `start` to `stop`, `stop` left out.

        Returns
        -------
        (stop - start, dim) array of `dtype`, C-contiguous

        Raises
        ------
        InputError
            If the range doesn't lie within the source, or an entry isn't a vector.
        CorruptionError, ReadError
            If the file isn't what it claimed to be when it was opened, or can't be read.
        """
        if not 0 <= start <= stop <= self.count:
            raise InputError(f"rows {start}:{stop} don't lie within the {self.count} rows of {self.path}")
        rows = self._read(start, stop) if start < stop else np.empty((0, self.dim), self.dtype)
        assert rows.shape == (stop - start, self.dim), (rows.shape, start, stop, self.dim)
        assert rows.dtype == self.dtype, (rows.dtype, self.dtype)
        return rows

    def chunks(
        self, n_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Give rows in order, as (number of the first row, rows) of at most `n_rows` (default 16 MiB).

        All rows, or those from `start` to `stop`, `stop` left out.
        """
        step = n_rows or max(1, CHUNK_BYTES // self.row_bytes)
        end = self.count if stop is None else stop
        for first in range(start, end, step):
            yield first, self.read(first, min(first + step, end))

    def gather(self, row_ids: npt.ArrayLike) -> npt.NDArray[Any]:
        """Read single rows, given by ascending number.

        Parameters
        ----------
        row_ids : (m,) integers, ascending; repeats are allowed

        Returns
        -------
        (m, dim) array of `dtype`

        Raises
        ------
        InputError
            If they don't ascend or lie outside.

        Notes
        -----
        Rows that lie close together share one read of at most 16 MiB.
        """
        wanted = np.asarray(row_ids, dtype=np.int64)
        if wanted.ndim != 1 or (np.diff(wanted) < 0).any():
            raise InputError(f"row numbers to gather from {self.path} must be a list that ascends")
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.count:
            raise InputError(f"rows {wanted[0]} … {wanted[-1]} don't lie within the {self.count} rows of {self.path}")
        rows = np.empty((len(wanted), self.dim), self.dtype)
        span_rows = max(1, CHUNK_BYTES // self.row_bytes)
        cuts = np.flatnonzero(np.diff(wanted) > self._gap_rows + 1) + 1
        for first, last in zip([0, *cuts], [*cuts, len(wanted)]):
            while first < last:
                # One read from here as far as the run and the chunk go.
                end = int(np.searchsorted(wanted[first:last], wanted[first] + span_rows)) + first
                start = int(wanted[first])
                span = self.read(start, int(wanted[end - 1]) + 1)
                rows[first:end] = span[wanted[first:end] - start]
                first = end
        return rows

    @abstractmethod
    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read a range that is not empty and lies within."""

    def close(self) -> None:
        """Release the file; reads after this are errors."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ArraySource(VectorSource):
    """Vectors that are in memory already; `name` stands for the path in messages."""

    def __init__(self, rows: npt.NDArray[Any], name: str = "array") -> None:
        super().__init__(Path(name), rows.shape, rows.dtype)
        self._rows = rows

    @property
    def files(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return np.array(self._rows[start:stop], dtype=self.dtype, order="C")


class VectorWriter(ABC):
    """Rows on their way into a file whose count, dimension and type are said beforehand."""

    @abstractmethod
    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write the next rows, (m, dim) of the type that was said."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still buffered and release the file."""


def as_source(vectors: Rows, name: str = "array") -> VectorSource:
    """Give a source for what may be an array."""
    return vectors if isinstance(vectors, VectorSource) else ArraySource(vectors[:], name)


def read_type(stored: npt.DTypeLike, path: Path) -> np.dtype[Any]:
    """Say as what type elements stored as `stored` are given, or raise ``InputError``."""
    dtype = np.dtype(stored)
    name = _READ_AS.get(dtype.newbyteorder("=").name)
    if name is None:
        raise InputError(
            f"{path} holds elements of type {dtype}; vectors must be uint8, int8, float16 or float32: "
            "convert them before, for instance with array.astype(numpy.float32)",
            field="dtype",
        )
    return np.dtype(name)


def matrix_shape(shape: Sequence[int], path: Path) -> tuple[int, int]:
    """Give (count, dim) if `shape` is that of a matrix with at least one element, or raise ``InputError``."""
    if len(shape) != 2:
        raise InputError(
            f"{path} holds an array with {len(shape)} axes, shape {tuple(shape)}; vectors are a matrix of "
            "two: (count, dim)"
        )
    count, dim = int(shape[0]), int(shape[1])
    if count < 1:
        raise InputError(f"{path} holds no rows; give at least one vector")
    if dim < 1:
        raise InputError(f"{path} holds vectors of dimension {dim}; give at least one dimension", field="dim")
    return count, dim
