"""Vectors in HDF5, as ann-benchmarks lays them out: ``train``, ``test``, ``neighbors``, ``distances``.

The dataset is named as ``file.hdf5:test``; without a name it is ``train``. What is written is one contiguous
dataset, so that a range of rows is one read. HDF5 takes an absent chunk for one full of zeros; datasets with
such holes are refused, as are datasets whose bytes lie in other files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.vectors.source import VectorSource, VectorWriter

_MEMBER_DEFAULT = "train"


class Hdf5Source(VectorSource):
    """A matrix in an HDF5 file."""

    def __init__(self, path: Path, file: Any, dataset: Any) -> None:
        super().__init__(path, dataset.shape or (), dataset.dtype)
        self._file, self._dataset = file, dataset
        self._gap_rows = dataset.chunks[0] if dataset.chunks else 0

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        try:
            rows = self._dataset[start:stop]
        except OSError as error:
            raise CorruptionError(
                f"rows {start}:{stop} of {self.path} can't be read: {error}; it is damaged: copy it anew",
                path=self.path,
            ) from error
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows, dtype=self.dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_hdf5(path: Path, member: str | None) -> Hdf5Source:
    """Open the dataset `member` (default ``train``)."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise CorruptionError(
            f"{path} can't be opened as HDF5: {error}; it is empty, cut short or another format", path=path
        ) from error
    try:
        name = member or _MEMBER_DEFAULT
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise NotFoundError(
                f"{path} holds no dataset named {name!r}; choose one of its members "
                f"({', '.join(file) or 'there are none'}) as {path}:NAME"
            )
        source = Hdf5Source(path, file, dataset)
        _check_storage(path, name, dataset)
    except BaseException:
        file.close()
        raise
    return source


def _check_storage(path: Path, name: str, dataset: Any) -> None:
    """Refuse a dataset whose bytes aren't all in this file."""
    if dataset.is_virtual or dataset.external:
        raise InputError(f"dataset {name!r} of {path} keeps its rows in other files; copy it with h5repack first")
    if dataset.chunks:
        present = dataset.id.get_num_chunks()
        expected = math.prod(-(-extent // step) for extent, step in zip(dataset.shape, dataset.chunks))
    else:
        present, expected = dataset.id.get_storage_size(), dataset.nbytes
    if present != expected:
        unit = "chunks" if dataset.chunks else "bytes"
        raise CorruptionError(
            f"dataset {name!r} of {path} has shape {dataset.shape}, but {present} of {expected} {unit} were "
            "ever written; absent rows would read as zeros: write it anew",
            path=path,
        )


class Hdf5Writer(VectorWriter):
    """Rows into one contiguous dataset."""

    def __init__(self, path: Path, member: str | None, count: int, dim: int, dtype: np.dtype[Any]) -> None:
        self._file = h5py.File(path, "w")
        self._dataset = self._file.create_dataset(member or _MEMBER_DEFAULT, (count, dim), dtype)
        self._written = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write rows."""
        stop = self._written + len(rows)
        self._dataset[self._written : stop] = rows
        self._written = stop

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except RuntimeError as error:  # h5py's word for a flush that failed
            raise OSError(str(error)) from error
