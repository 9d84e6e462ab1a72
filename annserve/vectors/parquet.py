"""Vectors in a parquet column: a list of numbers in each row, all of one length.

The column is named as ``file.parquet:embedding``; without a name it is the only list column. A row group is
decoded in batches of about 4 MiB, for writers put up to a million rows into one; a read that doesn't follow
the last one therefore decodes its row group from the start. Reading in order is the fast way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.vectors.source import VectorSource, VectorWriter

_MEMBER_DEFAULT = "embedding"
_BATCH_BYTES = 4 << 20
_ROW_GROUP_BYTES = 16 << 20
_BATCH_ROWS_FIRST = 1


class ParquetSource(VectorSource):
    """A list column of a parquet file."""

    def __init__(self, path: Path, file: pq.ParquetFile, column: str, dim: int, stored: np.dtype[Any]) -> None:
        super().__init__(path, (file.metadata.num_rows, dim), stored)
        self._file, self._column = file, column
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._group_starts = np.concatenate(([0], np.cumsum(groups, dtype=np.int64)))
        self._batch_rows = max(1, _BATCH_BYTES // self.row_bytes)
        self._gap_rows = self._batch_rows
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._group = -1
        self._next_row = 0
        self._held_start = 0
        self._held = np.empty((0, dim), self.dtype)

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = np.empty((stop - start, self.dim), self.dtype)
        row = start
        while row < stop:
            self._hold(row)
            first = row - self._held_start
            taken = self._held[first : first + stop - row]
            rows[row - start : row - start + len(taken)] = taken
            row += len(taken)
        return rows

    def _hold(self, row: int) -> None:
        """Decode until the batch with `row` is held: on from the last read, or from its row group's start."""
        if self._held_start <= row < self._held_start + len(self._held):
            return
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        if group != self._group or self._next_row > row:
            self._group = group
            self._batches = self._file.iter_batches(self._batch_rows, [group], [self._column])
            self._next_row = int(self._group_starts[group])
        while self._next_row <= row:
            try:
                batch = next(self._batches)
            except StopIteration:
                raise CorruptionError(
                    f"{self.path} says {self.count} rows, but its row group {group} ends at row "
                    f"{self._next_row}; write it anew",
                    path=self.path,
                ) from None
            except (pa.ArrowException, OSError) as error:
                raise CorruptionError(
                    f"rows from {self._next_row} of {self.path} can't be decoded: {error}; the file is "
                    "damaged: copy it anew",
                    path=self.path,
                ) from error
            start, self._next_row = self._next_row, self._next_row + len(batch)
            if self._next_row > row:
                self._held_start, self._held = start, self._matrix(batch.column(0), start)

    def _matrix(self, lists: pa.Array, start: int) -> npt.NDArray[Any]:
        """Turn a batch of lists into rows, or name the first that isn't a whole vector."""
        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
        wrong = lengths != self.dim
        if wrong.any() or lists.null_count:
            row = int(np.argmax(wrong))
            fault = "is null" if lengths[row] < 0 else f"has {lengths[row]} elements, but row 0 has {self.dim}"
            raise InputError(
                f"row {start + row} of column {self._column!r} of {self.path} {fault}; leave such rows "
                "out, or mend them"
            )
        values = lists.flatten()
        if values.null_count:
            row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // self.dim
            raise InputError(
                f"row {start + row} of column {self._column!r} of {self.path} holds a null element; leave "
                "such rows out, or mend them"
            )
        with np.errstate(over="ignore"):
            rows: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, self.dim)
            return rows.astype(self.dtype, copy=False)

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._file.close()


def open_parquet(path: Path, member: str | None) -> ParquetSource:
    """Open the list column `member`, or the only one there is."""
    try:
        file = pq.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(
            f"{path} can't be opened as parquet: {error}; it is empty, cut short or another format", path=path
        ) from error
    try:
        column = _choose_column(path, file.schema_arrow, member)
        kind = file.schema_arrow.field(column).type
        if not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
            raise InputError(f"column {column!r} of {path} has type {kind}, not lists of numbers", field="dtype")
        stored = np.dtype(kind.value_type.to_pandas_dtype())
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_length(path, file, column)
        return ParquetSource(path, file, column, dim, stored)
    except BaseException:
        file.close()
        raise


def _choose_column(path: Path, schema: pa.Schema, member: str | None) -> str:
    lists: list[str] = [
        field.name
        for field in schema
        if pa.types.is_fixed_size_list(field.type) or pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    ]
    if member is None and len(lists) == 1:
        return lists[0]
    choice = f"its list columns are: {', '.join(lists) or 'none'}"
    if member is None:
        raise InputError(f"which column of {path} holds the vectors? Say {path}:COLUMN; {choice}", field="column")
    if member not in schema.names:
        raise NotFoundError(f"{path} has no column {member!r}; {choice}")
    if member not in lists:
        raise InputError(
            f"column {member!r} of {path} has type {schema.field(member).type}, not lists of numbers; {choice}",
            field="column",
        )
    return member


def _first_length(path: Path, file: pq.ParquetFile, column: str) -> int:
    """Read the dimension off the first row."""
    if file.metadata.num_rows == 0:
        return 1  # the shape check names the fault: no rows
    try:
        batch = next(file.iter_batches(_BATCH_ROWS_FIRST, columns=[column]))
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise CorruptionError(
            f"row 0 of {path} can't be decoded: {error}; the file is damaged: copy it anew", path=path
        ) from error
    length = pc.list_value_length(batch.column(0))[0].as_py()
    if length is None:
        raise InputError(f"row 0 of column {column!r} of {path} is null; leave such rows out, or mend them")
    return int(length)


class ParquetWriter(VectorWriter):
    """Rows into a fixed-size list column, in row groups of about 16 MiB."""

    def __init__(self, path: Path, member: str | None, dim: int, dtype: np.dtype[Any]) -> None:
        self._type = pa.list_(pa.from_numpy_dtype(dtype), dim)
        self._schema = pa.schema([pa.field(member or _MEMBER_DEFAULT, self._type, nullable=False)])
        # Embeddings hardly repeat: a dictionary would only cost time.
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=False)
        self._group_rows = max(1, _ROW_GROUP_BYTES // (dim * dtype.itemsize))

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write rows as further row groups."""
        lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), type=self._type)
        batch = pa.Table.from_arrays([lists], schema=self._schema)
        self._writer.write_table(batch, row_group_size=self._group_rows)

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()
