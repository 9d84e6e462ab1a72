"""Which file is which format, and the two doors: ``open_vectors`` and ``create_vectors``.

==========================  =========================  ==================================================
suffix                      elements                   member, after a colon
==========================  =========================  ==================================================
.npy                        any
.fbin .u8bin .i8bin .ibin   float32 uint8 int8 int32
.fvecs .bvecs .ivecs        float32 uint8 int32
.hdf5 .h5                   any                        dataset, ``glove.hdf5:test``; default ``train``
.parquet                    any                        column, ``wiki.parquet:embedding``; default the only
                                                       list column
.zarr, or such a folder     any                        array, ``store.zarr:base``; default the root
a pattern, ``part-*.npy``   as the files'              as the files', ``part-*.hdf5:train``
another folder              as the files'              column alone
==========================  =========================  ==================================================

Files that a pattern matches, or that lie in a folder, are one set: their rows follow each other in the order of their
names, as text. "Any" is uint8, int8, float16, float32 and, for lists of ids, int32; float64 is read as float32.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError, NotFoundError, ReadError
from annserve.vectors import flat
from annserve.vectors.output import replaced
from annserve.vectors.parts import PartedSource
from annserve.vectors.source import VectorSource, VectorWriter

_HDF5 = (".hdf5", ".h5")
_PARQUET = (".parquet",)
_ZARR = (".zarr",)
_WITH_MEMBERS = (*_HDF5, *_PARQUET, *_ZARR)
SUFFIXES = (".npy", *flat.PACKED_TYPES, *flat.VECS_TYPES, *_WITH_MEMBERS)


@dataclass(frozen=True)
class Location:
    """A path and, for formats that hold several matrices, the name of one."""

    path: Path
    member: str | None

    @classmethod
    def of(cls, text: str | Path, column: str | None = None) -> Location:
        """Split ``file.hdf5:test``; a file that is really called so wins."""
        path, colon, member = str(text).rpartition(":")
        if not colon or Path(text).exists() or Path(path).suffix.lower() not in _WITH_MEMBERS:
            return cls(Path(text), column)
        if column is not None and column != member:
            raise InputError(f"{text} names {member!r}, but column is {column!r}; say one", field="column")
        return cls(Path(path), member)

    @property
    def suffix(self) -> str:
        """The suffix that decides the format; a folder is zarr."""
        return ".zarr" if self.path.is_dir() else flat.packed_suffix(self.path)


def open_vectors(path: str | Path, *, column: str | None = None) -> VectorSource:
    """Open a file of vectors, or several as one, for reading in chunks.

    Parameters
    ----------
    path : str or Path
        A file, whose suffix decides the format; a pattern with ``*``, ``?`` or ``[…]``; or a folder of files.
    column : str, optional
        Parquet column, HDF5 dataset or zarr array, as after the colon in the path.

    Raises
    ------
    NotFoundError
        If there is no such file, or nothing of that name in it.
    InputError
        If the suffix or the element type isn't supported, it isn't a matrix with rows, or files differ in
        dimension or type.
    CorruptionError
        If it is empty, cut short, damaged, or its header says another size than it has.

    Notes
    -----
    Costs a few small reads a file; allocates nothing of a file's size.
    """
    location = Location.of(path, column)
    paths = _files_of(location.path)
    if paths == [location.path]:
        return _open_file(location)
    return PartedSource(paths, lambda file: _open_file(Location(file, location.member)), location.path)


def _files_of(path: Path) -> list[Path]:
    """Give the files that a path stands for, in order: those of a pattern or a folder, or itself."""
    if path.is_dir() and path.suffix.lower() not in SUFFIXES and not (path / "zarr.json").exists():
        # As others who write folders of files have it: _SUCCESS and hidden files are notes.
        found = sorted(entry for entry in path.iterdir() if not entry.name.startswith((".", "_")))
        for file in found:
            if flat.packed_suffix(file) not in SUFFIXES:
                raise InputError(
                    f"{path} holds {file.name}, which is no file of vectors; choose by a pattern, for instance "
                    f"'{path}/*.npy'"
                )
        if not found:
            raise InputError(f"{path} is a folder without files of vectors and no zarr v3 store; give another")
        return found
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise NotFoundError(f"no file matches {path}; check the pattern")
    return found


def _open_file(location: Location) -> VectorSource:
    where, suffix, member = location.path, location.suffix, location.member
    if member is not None and suffix not in _WITH_MEMBERS:
        raise InputError(
            f"{where} holds one matrix, but column {member!r} is asked for; leave column out", field="column"
        )
    if not where.exists():
        raise NotFoundError(f"there is no file {where}; check the path")
    if where.is_dir() and where.suffix.lower() in set(SUFFIXES) - set(_ZARR):
        raise InputError(f"{where} is a folder, not a {where.suffix} file; give the file itself")
    try:
        if suffix == ".npy":
            return flat.open_npy(where)
        if suffix in flat.PACKED_TYPES:
            return flat.open_packed(where)
        if suffix in flat.VECS_TYPES:
            return flat.open_vecs(where)
        if suffix in _HDF5:
            _need("h5py", "hdf5", where)
            from annserve.vectors import hdf5

            return hdf5.open_hdf5(where, member)
        if suffix in _PARQUET:
            _need("pyarrow", "parquet", where)
            from annserve.vectors import parquet

            return parquet.open_parquet(where, member)
        if suffix in _ZARR:
            if not where.is_dir():
                raise InputError(f"{where} is a file, but a zarr store is a folder; give the folder")
            from annserve.vectors import zarr_store

            return zarr_store.open_zarr(where, member)
    except PermissionError as error:
        raise ReadError(f"{where} can't be read: {error.strerror}; check its permissions", path=where) from error
    raise _unsupported(where)


def read_matrix(path: str | Path) -> npt.NDArray[Any]:
    """Read a small file whole: queries, or the ids or distances of exact neighbours.

    Returns
    -------
    (count, dim) array, C-contiguous, of the type in the file
        npy files may hold any type of number. Of a file with ids and distances the ids.

    Raises
    ------
    NotFoundError, InputError, CorruptionError
        As ``open_vectors``.
    """
    location = Location.of(path)
    if location.suffix == ".npy" and location.path.is_file():
        return flat.read_npy(location.path)
    with open_vectors(path) as source:
        return source.read(0, source.count)


def read_list(path: str | Path) -> npt.NDArray[Any]:
    """Read one number per row: ids. An npy file may hold a list, or like the others a matrix of one column.

    Returns
    -------
    (count,) array of the type in the file

    Raises
    ------
    NotFoundError, InputError, CorruptionError
        As ``open_vectors``; InputError also if there are several columns.
    """
    location = Location.of(path)
    if location.suffix == ".npy" and location.path.is_file():
        matrix = flat.read_npy(location.path, list_too=True)
    elif location.suffix in _WITH_MEMBERS:
        raise InputError(f"{path}: a list of whole numbers is read from .npy; save it as such, with numpy.save")
    else:
        matrix = read_matrix(path)
    if matrix.shape[1] != 1:
        raise InputError(f"{path} holds {matrix.shape[1]} numbers per row; give one")
    return matrix[:, 0]


def read_truth(path: str | Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    """Read exact neighbours: (ids, distances), both (nq, k), nearest first.

    The distances are None unless the file is an ibin that holds both.
    """
    ids = read_matrix(path)
    if ids.dtype.kind not in "ui":
        raise InputError(f"{path} holds elements of type {ids.dtype}; ids of neighbours are integers", field="truth")
    with_distances = flat.packed_suffix(Path(path)) == ".ibin"
    return ids, flat.read_distances(Path(path)) if with_distances else None


@contextmanager
def create_vectors(
    path: str | Path, count: int, dim: int, dtype: npt.DTypeLike, *, overwrite: bool = False
) -> Iterator[VectorWriter]:
    """Write a file of vectors, which appears under its name only when it is whole.

    Parameters
    ----------
    path : str or Path
        Its suffix decides the format; a member after a colon names dataset, column or array.
    count, dim : int
        What will be written; exactly so many rows must be appended.
    dtype : dtype
        Type of the elements.
    overwrite : bool
        Whether an existing file or folder may be replaced.

    Raises
    ------
    InputError
        If the format can't hold this type or count.
    OutputError
        If it exists already, there is no room, or writing fails.
    """
    location, element = Location.of(path), np.dtype(dtype)
    forced = forced_type(path)
    if forced not in (None, element):
        raise InputError(
            f"{location.path.suffix} files hold {forced}, not {element}; choose another suffix, or "
            f"convert to that type with dtype {forced}",
            field="dtype",
        )
    with replaced(location.path, n_bytes=count * dim * element.itemsize, overwrite=overwrite) as partial:
        writer = _Counted(_writer(location, partial, count, dim, element))
        try:
            yield writer
        except BaseException:
            # What is half-written is about to be removed: that closing it fails too is no news.
            with suppress(Exception):
                writer.close()
            raise
        writer.close()
        assert writer.count == count, f"{writer.count} rows were written to {path}, {count} were said"


def forced_type(path: str | Path) -> np.dtype[Any] | None:
    """Give the one element type that the format of `path` can hold, or None if it holds any.

    Raises
    ------
    InputError
        If vectors can't be written to such a file.
    """
    location = Location.of(path)
    suffix = _ZARR[0] if location.path.suffix.lower() in _ZARR else location.path.suffix.lower()
    if suffix not in SUFFIXES:
        raise _unsupported(location.path)
    stored = {**flat.PACKED_TYPES, **flat.VECS_TYPES}.get(suffix)
    return None if stored is None else np.dtype(stored).newbyteorder("=")


class _Counted(VectorWriter):
    """A writer that knows how many rows went through."""

    def __init__(self, writer: VectorWriter) -> None:
        self._writer, self.count = writer, 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        self._writer.append(rows)
        self.count += len(rows)

    def close(self) -> None:
        self._writer.close()


def _writer(location: Location, partial: Path, count: int, dim: int, dtype: np.dtype[Any]) -> VectorWriter:
    suffix, member = location.path.suffix.lower(), location.member
    if suffix == ".npy":
        return flat.create_npy(partial, count, dim, dtype)
    if suffix in flat.PACKED_TYPES:
        return flat.create_packed(partial, count, dim)
    if suffix in flat.VECS_TYPES:
        return flat.VecsWriter(partial, b"")
    if suffix in _HDF5:
        _need("h5py", "hdf5", location.path)
        from annserve.vectors import hdf5

        return hdf5.Hdf5Writer(partial, member, count, dim, dtype)
    if suffix in _PARQUET:
        _need("pyarrow", "parquet", location.path)
        from annserve.vectors import parquet

        return parquet.ParquetWriter(partial, member, dim, dtype)
    from annserve.vectors import zarr_store

    return zarr_store.ZarrWriter(partial, member, count, dim, dtype)


def _need(module: str, extra: str, path: Path) -> None:
    """Say how to install what a format needs, if it is absent."""
    try:
        __import__(module)
    except ImportError as error:
        raise InputError(f"{path} needs {module}, which isn't installed: pip install 'annserve[{extra}]'") from error


def _unsupported(path: Path) -> InputError:
    return InputError(
        f"{path} has the suffix {path.suffix!r}, which is no format of vectors; supported are {', '.join(SUFFIXES)}"
    )
