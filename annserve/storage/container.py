"""One binary container for every file of an index: named arrays, aligned and checksummed (FORMAT.md).

Invariants
----------
- A file is there whole or not at all; its header is written last.
- Every byte is covered: the header block by its own checksum, a section and the zeros after it by the
  section's. Sections follow each other without a gap, and the last one ends with the file.
- What is read is proven first, unless the caller has a finer proof (pages carry their own checksums).

Absent on purpose: compression, and any way to change a file that exists.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, NotFoundError, ReadError, VersionError
from annserve.storage.atomic import AtomicFile
from annserve.storage.checksum import crc32c
from annserve.storage.layout import (
    BLOCK_BYTES,
    CODE_OF_DTYPE,
    DTYPE_CODES,
    FORMAT_VERSION,
    HEADER_DTYPE,
    NDIM_MAX,
    SECTION_MAX,
    aligned,
)

__all__ = ["FORMAT_VERSION", "Container", "ContainerWriter", "open_container"]

#: Bytes that one step of a verification reads: long enough for the disk, short enough to stay in the cache.
_VERIFY_BYTES = 1 << 20


def open_container(path: Path | str, magic: bytes, *, verify: bool | Collection[str] = True) -> Container:
    """Open a container and prove that it is what it claims to be.

    Parameters
    ----------
    path : Path or str
        The file.
    magic : bytes
        The 8 ASCII bytes that name this kind of file.
    verify : bool or names
        Which sections' checksums to test now: all, none, or those named. The header is always tested.

    Returns
    -------
    Container

    Raises
    ------
    NotFoundError
        If there is no such file.
    VersionError
        If another format version wrote it.
    CorruptionError
        If magic, size, header or a checksum is wrong; the byte offset says where.
    ReadError
        If the device fails.
    """
    path = Path(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"there is no file {path}; check the index folder, or build it anew") from None
    except OSError as error:
        raise ReadError(f"{path} can't be opened: {error.strerror}; check its permissions", path=path) from error
    try:
        header = _read_header(fd, path, magic)
        container = Container(path, header, fd)
        names = container.names if verify is True else tuple(verify or ())
        for name in names:
            container.verify(name)
        return container
    finally:
        os.close(fd)


class Container:
    """An open container; made by ``open_container``.

    Attributes
    ----------
    path : Path
        The file.
    names : tuple of str
        Its sections, in file order.
    n_bytes : int
        Its size.
    """

    def __init__(self, path: Path, header: Any, fd: int) -> None:
        self.path = path
        self.n_bytes = int(header["file_bytes"])
        table = header["sections"][: int(header["section_count"])]
        self._entries = {bytes(entry["name"]).decode("ascii"): entry for entry in table}
        self.names = tuple(self._entries)
        # Private: whoever writes to an array over it, by mistake, has a page of its own, and the file stays as it is.
        self._map: mmap.mmap | None = mmap.mmap(fd, self.n_bytes, access=mmap.ACCESS_COPY)

    def section(self, name: str) -> npt.NDArray[Any]:
        """Give a section as a read-only array over the mapped file; nothing is read until it is touched.

        The array stays valid after ``close``. ``copy`` gives it in RAM and writable.

        Raises
        ------
        NotFoundError
            If the container has no such section.
        """
        array = self.mapped(name)
        array.flags.writeable = False
        return array

    def mapped(self, name: str) -> npt.NDArray[Any]:
        """Give a section as an array over the mapped file, for kernels: of the type of arrays in RAM, as of a copy.

        All processes that open the file share its memory. Nothing may be written to it; what is, stays in this process.

        Raises
        ------
        NotFoundError
            If the container has no such section.
        """
        entry = self._entry(name)
        assert self._map is not None, f"{self.path} is closed"
        dtype = DTYPE_CODES[int(entry["dtype"])]
        shape = tuple(int(extent) for extent in entry["shape"][: int(entry["ndim"])])
        if entry["bytes"] == 0:
            return np.empty(shape, dtype)
        count = int(entry["bytes"]) // dtype.itemsize
        flat: npt.NDArray[Any] = np.frombuffer(self._map, dtype, count, int(entry["offset"]))
        return flat.reshape(shape)

    def copy(self, name: str) -> npt.NDArray[Any]:
        """Read a section into an array of its own, writable, past the map: it is in RAM once.

        Raises
        ------
        NotFoundError
            If the container has no such section.
        CorruptionError, ReadError
            If the file has become shorter, or the device fails.
        """
        array = np.empty_like(self.section(name))
        flat, offset = array.reshape(-1).view(np.uint8), int(self._entry(name)["offset"])
        with open(self.path, "rb", buffering=0) as file:
            done = 0
            while done < len(flat):
                piece = _pread(file.fileno(), self.path, min(_VERIFY_BYTES, len(flat) - done), offset + done)
                flat[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
        return array

    def extent(self, name: str) -> tuple[int, int]:
        """Give (offset, n_bytes) of a section in the file, without the zeros that follow it."""
        entry = self._entry(name)
        return int(entry["offset"]), int(entry["bytes"])

    def verify(self, name: str) -> None:
        """Read a section and test its checksum.

        Raises
        ------
        CorruptionError
            If it differs.
        ReadError
            If the device fails.
        """
        entry = self._entry(name)
        offset, expected = int(entry["offset"]), int(entry["crc32c"])
        with open(self.path, "rb", buffering=0) as file:
            found, at, end = 0, offset, offset + aligned(int(entry["bytes"]))
            while at < end:
                piece = _pread(file.fileno(), self.path, min(_VERIFY_BYTES, end - at), at)
                found = crc32c(piece, found)
                at += len(piece)
        if found != expected:
            raise CorruptionError(
                f"section {name!r} of {self.path} at byte {offset} is damaged: checksum {expected:08x} "
                f"expected, {found:08x} found; restore the file, or build the index anew",
                path=self.path,
                offset=offset,
            )

    def close(self) -> None:
        """Let the file go, once no array over it is left; until then, hold nothing of it that isn't touched again."""
        if self._map is not None:
            # What was copied out of the map would count twice in the memory of this process; the rest comes again.
            self._map.madvise(mmap.MADV_DONTNEED)
        self._map = None

    def _entry(self, name: str) -> Any:
        if name not in self._entries:
            raise NotFoundError(f"{self.path} has no section {name!r}; it has {', '.join(self.names) or 'none'}")
        return self._entries[name]

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ContainerWriter:
    """Write a container, section after section; the file takes its name when ``close`` succeeds.

    As a context manager it closes at the end of the block, and leaves nothing behind after an exception.

    Parameters
    ----------
    path : Path or str
        Final name; an existing file is replaced at ``close``.
    magic : bytes
        8 ASCII bytes that name this kind of file.

    Raises
    ------
    OutputError
        If the file can't be written.
    """

    def __init__(self, path: Path | str, magic: bytes) -> None:
        assert len(magic) == 8, magic
        assert magic.isascii(), magic
        self.path = Path(path)
        self._header = np.zeros((), HEADER_DTYPE)
        self._header["magic"] = magic
        self._header["format_version"] = FORMAT_VERSION
        self._names: set[str] = set()
        self._open: tuple[Any, np.dtype[Any], tuple[int, ...]] | None = None
        self._rows = 0
        self._crc = 0
        self._file = AtomicFile(self.path)
        try:
            self._file.write(bytes(BLOCK_BYTES))
        except BaseException:
            self._file.discard()
            raise

    def add(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write a whole array of one to three axes as a section."""
        self.begin(name, array.dtype, array.shape[1:])
        self.append(array)
        self.end()

    def begin(self, name: str, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        """Start a section whose rows come in pieces.

        Parameters
        ----------
        name : str
            1 to 16 ASCII characters, once per container.
        dtype : dtype
            Type of the elements.
        row_shape : tuple of int
            Shape of one row: at most two axes, empty for a one-dimensional section.
        """
        element = np.dtype(dtype).newbyteorder("<")
        assert self._open is None, f"section before {name!r} isn't ended"
        assert 1 <= len(name) <= 16, name
        assert name.isascii(), name
        assert name not in self._names, f"section {name!r} is there already"
        assert len(self._names) < SECTION_MAX, f"more than {SECTION_MAX} sections"
        assert element in CODE_OF_DTYPE, f"section {name!r} can't hold {element}"
        assert len(row_shape) < NDIM_MAX, row_shape
        entry = self._header["sections"][len(self._names)]
        entry["name"] = name.encode("ascii")
        entry["dtype"] = CODE_OF_DTYPE[element]
        entry["ndim"] = 1 + len(row_shape)
        entry["shape"][1 : 1 + len(row_shape)] = row_shape
        entry["offset"] = self._file.n_bytes
        self._names.add(name)
        self._open, self._rows, self._crc = (entry, element, tuple(row_shape)), 0, 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write further rows of the section, of its very type and row shape."""
        assert self._open is not None, "append without begin"
        _, element, row_shape = self._open
        assert rows.dtype == element, (rows.dtype, element)
        assert rows.shape[1:] == row_shape, (rows.shape, row_shape)
        piece = np.ascontiguousarray(rows)
        self._file.write(piece)
        self._crc = crc32c(piece, self._crc)
        self._rows += len(rows)

    def end(self) -> None:
        """End the section: fill its last block with zeros and note its checksum."""
        assert self._open is not None, "end without begin"
        entry = self._open[0]
        entry["shape"][0] = self._rows
        entry["bytes"] = self._file.n_bytes - int(entry["offset"])
        padding = bytes(aligned(self._file.n_bytes) - self._file.n_bytes)
        self._file.write(padding)
        entry["crc32c"] = crc32c(padding, self._crc)
        self._open = None

    def close(self) -> None:
        """Write the header, make everything durable, and give the file its name."""
        assert self._open is None, "close before the last section is ended"
        self._header["section_count"] = len(self._names)
        self._header["file_bytes"] = self._file.n_bytes
        self._header["crc32c"] = 0
        self._header["crc32c"] = crc32c(_header_block(self._header))
        self._file.write(_header_block(self._header), 0)
        self._file.commit()

    def __enter__(self) -> ContainerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._file.discard()


def _header_block(header: npt.NDArray[np.void]) -> bytes:
    return header.tobytes().ljust(BLOCK_BYTES, b"\0")


def _read_header(fd: int, path: Path, magic: bytes) -> Any:
    """Read the header block and prove every field of it."""

    def damaged(what: str, offset: int) -> CorruptionError:
        return CorruptionError(
            f"{path} is damaged at byte {offset}: {what}; restore the file, or build the index anew",
            path=path,
            offset=offset,
        )

    size = os.fstat(fd).st_size
    if size < BLOCK_BYTES:
        raise damaged(f"it has {size} bytes, but its header alone takes {BLOCK_BYTES}", size)
    block = _pread(fd, path, BLOCK_BYTES, 0)
    header = np.frombuffer(block, HEADER_DTYPE, 1)[0]
    if block[:8] != magic:
        raise damaged(f"it starts with {block[:8]!r} instead of {magic!r}", 0)
    if header["format_version"] != FORMAT_VERSION:
        raise VersionError(
            f"{path} was written in format version {header['format_version']}, but this program reads "
            f"version {FORMAT_VERSION}; build the index anew, or use the program that wrote it",
            path=path,
            offset=8,
        )
    found = crc32c(block[:12] + bytes(4) + block[16:])
    if found != header["crc32c"]:
        raise damaged(f"header checksum {header['crc32c']:08x} expected, {found:08x} found", 12)
    if size != header["file_bytes"]:
        raise damaged(f"it has {size} bytes, but its header says {header['file_bytes']}", min(size, 2**63))
    # Behind a good checksum these are a foreign or faulty writer's work.
    problem = _table_problem(block, header)
    if problem:
        raise damaged(problem, 0)
    return header


def _table_problem(block: bytes, header: Any) -> str | None:
    """Say what is wrong with a header whose checksum is right, or None."""
    count = int(header["section_count"])
    if count > SECTION_MAX:
        return f"it claims {count} sections, at most {SECTION_MAX} fit"
    unused = header["sections"][count:].tobytes() + block[HEADER_DTYPE.itemsize :]
    if header["reserved_a"] or any(header["reserved_b"].tobytes()) or any(unused):
        return "a reserved field isn't zero"
    end = BLOCK_BYTES
    names = set()
    for entry in header["sections"][:count]:
        name = bytes(entry["name"])
        if not name or not name.isascii() or name in names:
            return f"section name {name!r} is empty, not ASCII or there twice"
        names.add(name)
        dtype, ndim = DTYPE_CODES.get(int(entry["dtype"])), int(entry["ndim"])
        if dtype is None or not 1 <= ndim <= NDIM_MAX or entry["reserved"] or any(entry["shape"][ndim:]):
            return f"section {name!r} has an unknown type, a wrong number of axes or a reserved field in use"
        n_bytes = dtype.itemsize
        for extent in entry["shape"][:ndim]:
            n_bytes *= int(extent)
        if n_bytes != entry["bytes"] or entry["offset"] != end:
            return f"section {name!r} has a length or a place that doesn't fit its shape or its neighbours"
        end += aligned(n_bytes)
    if end != header["file_bytes"]:
        return f"sections end at byte {end}, the file at {header['file_bytes']}"
    return None


def _pread(fd: int, path: Path, n_bytes: int, offset: int) -> bytes:
    """Read at least one byte, and all of them unless the file ends."""
    try:
        piece = os.pread(fd, n_bytes, offset)
    except OSError as error:
        raise ReadError(
            f"{path} can't be read at byte {offset}: {error.strerror}; check the device",
            path=path,
            offset=offset,
        ) from error
    if not piece:
        raise CorruptionError(
            f"{path} ends at byte {offset}, too early; restore the file, or build the index anew",
            path=path,
            offset=offset,
        )
    return piece
