"""Measuring a disk: random reads of a file made for it, by size and by how many are in flight.

Invariants
----------
- The file has the size that was asked for, goes where there is room for it, and is gone afterwards.
- Nothing is read twice from a page cache: reads go past it, or it is emptied of the file before each run.
- Sizes and depths take turns, round after round, so that a disk that slows down hurts all alike.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError, NotFoundError, OutputError, ReadError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.storage.atomic import AtomicFile, free_bytes
from annserve.storage.direct import PreadReader
from annserve.storage.pagefile import PageFile, aligned_frames
from annserve.storage.prices import Cell, DiskPrices, fit_prices
from annserve.storage.reader import PageReader
from annserve.storage.uring import UringReader

READ_BYTES = (4_096, 8_192, 16_384, 32_768, 65_536)
DEPTHS = (1, 8, 32, 128)
ROUNDS = 3
FILE_NAME = ".annserve-probe"
#: A file smaller than a disk's own cache would measure that cache.
MIB_MIN, MIB_MAX = 16, 65_536
#: Room that a probe leaves.
_SPARE_BYTES = 64 << 20
_FRAMES_BYTES = 32 << 20
#: Reads of a batch for each that is in flight, so that few of them wait for the batch's last.
_BATCH_DEPTHS = 8


def probe_disk(folder: Path, *, mib: int = 1_024, seconds: float = 20.0, listener: Listener = ignore) -> DiskPrices:
    """Measure what reads cost on the disk of a folder.

    Parameters
    ----------
    folder : Path
        Where the file is made, and removed.
    mib : int
        Size of the file.
    seconds : float
        Time of all reads together.
    listener : Listener

    Returns
    -------
    DiskPrices

    Raises
    ------
    InputError
        If size or time are out of range.
    NotFoundError
        If there is no such folder.
    OutputError
        If the file doesn't fit, or can't be written.
    ReadError
        If the disk fails.
    """
    if not MIB_MIN <= mib <= MIB_MAX:
        raise InputError(f"mib is {mib}; it must lie between {MIB_MIN} and {MIB_MAX}", field="mib")
    if not 0.1 <= seconds <= 3_600:
        raise InputError(f"seconds is {seconds:g}; it must lie between 0.1 and 3,600", field="seconds")
    cells = [(size, depth) for size in READ_BYTES for depth in DEPTHS]
    turns = [(round_, *cell) for round_ in range(ROUNDS) for cell in cells]
    rates: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    with file_of_pages(folder, mib, listener) as path:
        uring, direct = _what_works(path)
        # Kernels are compiled or loaded here, not in the first run.
        measure_reads(_reader(path, READ_BYTES[0], 1, uring=uring, direct=direct), np.zeros(1, np.uint32), 1, 0.0)
        begun = time.monotonic()
        listener(StageStarted("read", len(turns), "runs"))
        for done, (round_, size, depth) in enumerate(turns, 1):
            n_pages = (mib << 20) // size
            empty_cache(path)
            reader = _reader(path, size, depth, uring=uring, direct=direct)
            page_ids = np.random.default_rng((round_, size, depth)).permutation(n_pages).astype(np.uint32)
            batch = min(depth * (_BATCH_DEPTHS if uring else 1), _FRAMES_BYTES // size, n_pages)
            rates[size, depth].append(measure_reads(reader, page_ids, batch, seconds / len(turns))[0])
            reader.close()
            listener(StageProgressed("read", done))
        listener(StageFinished("read", time.monotonic() - begun))
    found = [Cell(size, depth, round(statistics.median(rates[size, depth]), 1)) for size, depth in cells]
    return fit_prices(found, "uring" if uring else "pread", direct)


@contextmanager
def file_of_pages(folder: Path, mib: int, listener: Listener = ignore) -> Iterator[Path]:
    """Make a file of random bytes (a device may cheat on zeros) in `folder`, and remove it.

    Raises
    ------
    NotFoundError, OutputError
        If there is no such folder, or the file doesn't fit.
    """
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}; name one on the disk that is meant")
    needed, free = (mib << 20) + _SPARE_BYTES, free_bytes(folder)
    if free < needed:
        raise OutputError(
            f"{folder} has {free:,} bytes free, but probing takes {needed:,}; free some space, or give a smaller --mib",
            path=folder,
        )
    path = folder / FILE_NAME
    begun = time.monotonic()
    listener(StageStarted("write", mib, "MiB"))
    random = np.random.default_rng(0)
    with AtomicFile(path) as file:
        for done in range(mib):
            file.write(random.bytes(1 << 20))
            listener(StageProgressed("write", done + 1))
        file.commit()
    try:
        listener(StageFinished("write", time.monotonic() - begun))
        yield path
    finally:
        path.unlink(missing_ok=True)


def measure_reads(
    reader: PageReader, page_ids: npt.NDArray[np.uint32], batch: int, seconds: float
) -> tuple[float, float, float]:
    """Read batches of pages for some seconds, or until all were read; at least one batch.

    Returns
    -------
    reads_per_second, batch_us, cpu_us_per_read : float
        CPU time is that of all threads, so it counts on a busy machine too.
    """
    frames = aligned_frames(batch, reader.page_bytes)
    done, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while done == 0 or (time.perf_counter() - start < seconds and done + batch <= len(page_ids)):
        reader.read(page_ids[done : done + batch], frames)
        done += batch
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return done / elapsed, 1e6 * elapsed * batch / done, 1e6 * cpu / done


def empty_cache(path: Path) -> None:
    """Empty the page cache of a file; mapped pages stay."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _what_works(path: Path) -> tuple[bool, bool]:
    """Say whether io_uring works here, and whether reads can go past the page cache."""
    direct = _works(lambda: PageFile(path, 0, READ_BYTES[0], 1, direct=True))
    return _works(lambda: _reader(path, READ_BYTES[0], 1, uring=True, direct=direct)), direct


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (ReadError, OSError):
        return False
    return True


def _reader(path: Path, read_bytes: int, depth: int, *, uring: bool, direct: bool) -> PageReader:
    file = PageFile(path, 0, read_bytes, path.stat().st_size // read_bytes, direct=direct)
    return UringReader(file, depth) if uring else PreadReader(file)
