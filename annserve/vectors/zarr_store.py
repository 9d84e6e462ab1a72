"""Vectors in a zarr v3 array: a folder, also the staging format of the build.

Layout that is written: chunks of about 1 MiB in shards of about 16 MiB (one file each, so a billion rows of
128 bytes are 8,000 files and not 120,000), uncompressed, each chunk with its CRC-32C. Measured on 256 MB of
uint8 rows, MB/s written and read: this 990 and 1,850; without checksum 1,440 and 2,370; chunks of 4 MiB in
shards of 32 MiB 780 and 1,020; the latter with LZ4 1,020 and 1,310 for 0.91 of the size, with Zstandard 880
and 1,500 for 0.73, but 4.3 ms instead of 1.1 to read one row.

zarr takes a chunk that is absent, or a shard that is empty, for one full of the fill value. A lost file would
become rows of zeros, so arrays with such files are refused. Version 2 is refused too: its filters may unpickle.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.vectors.source import VectorSource, VectorWriter

_CHUNK_BYTES = 1 << 20
_CHUNKS_PER_SHARD = 16


class ZarrSource(VectorSource):
    """A matrix in a zarr v3 store.

    Attributes
    ----------
    array : zarr.Array
    attributes : dict
        Those of the array.
    shard_rows : int
        Rows that one file holds: reads of whole multiples are the cheapest.
    """

    def __init__(self, path: Path, array: zarr.Array[Any]) -> None:
        super().__init__(path, array.shape, array.dtype)
        self.array = array
        self._gap_rows = array.chunks[0]
        self.attributes: dict[str, Any] = dict(array.attrs)
        self.shard_rows = int((array.shards or array.chunks)[0])

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        try:
            rows = self.array[start:stop]
        except Exception as error:  # whatever codec or store meets in a damaged chunk
            raise CorruptionError(
                f"rows {start}:{stop} of {self.path} can't be decoded: {error}; a chunk is damaged, cut "
                "short or gone: write the array anew",
                path=self.path,
            ) from error
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows, dtype=self.dtype)


def open_zarr(path: Path, member: str | None) -> ZarrSource:
    """Open the array at the root of a store, or the one called `member`."""
    node = _open_node(path, member)
    if isinstance(node, zarr.Group):
        names = sorted(name for name, _ in node.arrays())
        raise InputError(
            f"{path} is a group, not an array; choose one of its arrays "
            f"({', '.join(names) or 'there are none'}) as {path}:NAME"
        )
    source = ZarrSource(path, node)
    present, expected = _files_present(path, member, node)
    if present != expected:
        raise CorruptionError(
            f"{path} has {present} of the {expected} chunk files that its shape {node.shape} needs; "
            "absent ones would read as zeros: write the array anew (with write_empty_chunks, if it holds "
            "such)",
            path=path,
        )
    return source


def _open_node(path: Path, member: str | None) -> Any:
    try:
        return zarr.open(store=str(path), path=member or "", mode="r", zarr_format=3)
    except FileNotFoundError as error:
        if not path.exists():
            raise NotFoundError(f"there is no zarr store {path}; check the path") from error
        if not (path / "zarr.json").exists():
            raise InputError(
                f"{path} is a folder without zarr.json at its root: not a zarr v3 store; give a file of "
                "vectors, or convert a version 2 store with zarr's own tool"
            ) from error
        raise NotFoundError(f"{path} holds no array named {member!r}") from error
    except Exception as error:  # a damaged zarr.json fails in the parser of JSON, of types or of codecs
        raise CorruptionError(f"{path} can't be opened as zarr v3: {error}; write it anew", path=path) from error


def _files_present(path: Path, member: str | None, array: zarr.Array[Any]) -> tuple[int, int]:
    """Count the files of chunks that are there and that must be, without listing what a shape promises."""
    folder = path / (member or "")
    present = sum(
        name != "zarr.json" and os.path.getsize(os.path.join(place, name)) > 0
        for place, _, names in os.walk(folder)
        for name in names
    )
    grid = array.shards or array.chunks
    return present, math.prod(-(-extent // step) for extent, step in zip(array.shape, grid))


class ZarrWriter(VectorWriter):
    """Rows into shards, each written once and whole."""

    def __init__(self, path: Path, member: str | None, count: int, dim: int, dtype: np.dtype[Any]) -> None:
        chunk_rows = max(1, min(count, _CHUNK_BYTES // (dim * dtype.itemsize)))
        shard_rows = chunk_rows * min(_CHUNKS_PER_SHARD, -(-count // chunk_rows))
        self._array = zarr.create_array(
            store=str(path),
            name=member,
            shape=(count, dim),
            dtype=dtype,
            chunks=(chunk_rows, dim),
            shards=(shard_rows, dim),
            compressors=Crc32cCodec(),
            fill_value=0,
            config={"write_empty_chunks": True},
        )
        self.shard_rows = shard_rows
        self._buffer = np.empty((shard_rows, dim), dtype)
        self._buffered = self._written = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Buffer rows, and write a shard whenever one is full."""
        while len(rows):
            room = len(self._buffer) - self._buffered
            taken, rows = rows[:room], rows[room:]
            self._buffer[self._buffered : self._buffered + len(taken)] = taken
            self._buffered += len(taken)
            if self._buffered == len(self._buffer):
                self._flush()

    def annotate(self, **attributes: Any) -> None:
        """Store attributes of the array."""
        self._array.attrs.update(attributes)

    def cut(self) -> None:
        """Let the array end with the rows that were written, where they are fewer than was said."""
        self._array.resize((self._written, self._array.shape[1]))

    def close(self) -> None:
        """Write the last shard."""
        self._flush()

    def _flush(self) -> None:
        stop = self._written + self._buffered
        if self._buffered:
            self._array[self._written : stop] = self._buffer[: self._buffered]
        self._written, self._buffered = stop, 0
