"""Rows of several segments, read back into files that a build takes: nothing is rounded twice.

======================  =====================================  =========================================
index                   rows that the build sees               what it stores
======================  =====================================  =========================================
integers                as stored                              the same
floats                  scale · integers                       the very integers, scales and errors
… with raw rows of      raw rows                               what those become: the very same
their own type
… with rounded ones     raw rows, in the type of the rows      the very integers, scales and errors
======================  =====================================  =========================================

An INT8 row isn't quantized again: its scale would move by a rounding, and the error, which tells how far the row lies
from what was given once, would be lost.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.events import Listener, StageProgressed
from annserve.index.segment import Segment
from annserve.index.snapshot import Snapshot
from annserve.pages.pack import UnpackedRows
from annserve.pages.rows import QuantizedRows
from annserve.update.stored import StoredRawRows, stored_rows
from annserve.vectors.row_file import RowFile, create_rows


@dataclass(frozen=True)
class Restaged:
    """All rows of an index, in files.

    Attributes
    ----------
    rows : RowFile
        In the type of the index, as a source of a build.
    ids : Path
        Of each row.
    other : Path or None
        Another encoder's vectors of each row, where the index keeps such.
    elements, factors : RowFile or None
        Rows as stored, and scale and error of each, where a build is to store them as they are.
    """

    rows: RowFile
    ids: Path
    other: Path | None
    elements: RowFile | None
    factors: RowFile | None

    def stored(self, which: npt.NDArray[np.int64]) -> QuantizedRows:
        """Give rows as they were stored, by their numbers."""
        assert self.elements is not None, "these rows are stored as they are given"
        assert self.factors is not None, "elements come with factors"
        factors = self.factors[which]
        return QuantizedRows(
            self.elements[which], np.ascontiguousarray(factors[:, 0]), np.ascontiguousarray(factors[:, 1])
        )

    def close(self) -> None:
        """Let the files go."""
        for file in (self.rows, self.elements, self.factors):
            if file is not None:
                file.close()


def keeps_stored(snapshot: Snapshot) -> bool:
    """Whether rows are to be stored again as they are, for what a build would be given isn't what it was given once."""
    spec = snapshot.manifest.spec
    raw = [segment.raw for segment in snapshot.segments]
    exact = all(one is not None and one.layout.own and one.layout.spec.row_type == spec.row_type for one in raw)
    return not spec.lossless and not exact


def scratch_bytes(snapshot: Snapshot) -> int:
    """Give the bytes that `restage` writes."""
    spec, raw, n_rows = snapshot.manifest.spec, snapshot.segments[0].raw, snapshot.manifest.n_rows
    a_row = 8 + spec.dim * np.dtype(spec.row_type).itemsize
    if keeps_stored(snapshot):
        a_row += spec.dim + 8
    if raw is not None and not raw.layout.own:
        a_row += raw.layout.row_bytes
    return n_rows * a_row


def restage(snapshot: Snapshot, work: Path, listener: Listener) -> Restaged:
    """Read all rows back.

    Parameters
    ----------
    snapshot : Snapshot
    work : Path
        Folder for the files.
    listener : callable
        Hears ``StageProgressed("restage", rows)``.

    Returns
    -------
    Restaged
        Rows in the order of segments and pages.

    Raises
    ------
    ReadError, CorruptionError
        If a page can't be read, or isn't what was written.
    OutputError
        If the device refuses.
    """
    spec, count = snapshot.manifest.spec, snapshot.manifest.n_rows
    raw = snapshot.segments[0].raw
    kept = keeps_stored(snapshot)
    float32 = np.dtype(np.float32)
    rows = create_rows(work / "stored.rows", count, spec.dim, np.dtype(spec.row_type))
    elements = create_rows(work / "elements.rows", count, spec.dim, spec.stored_dtype) if kept else None
    factors = create_rows(work / "factors.rows", count, 2, float32) if kept else None
    ids = np.empty(count, np.uint64)
    other = other_path = None
    if raw is not None and not raw.layout.own:
        other_path = work / "other.npy"
        shape = (count, raw.layout.spec.dim)
        other = np.lib.format.open_memmap(other_path, "w+", np.dtype(raw.layout.spec.row_type), shape)
    at = 0
    for segment in snapshot.segments:
        with ExitStack() as stack:
            raw_rows = None
            if segment.raw is not None:
                raw_rows = StoredRawRows(segment, segment.raw)
                stack.callback(raw_rows.close)
            for first_page, found in stored_rows(segment):
                stop = at + len(found.ids)
                again = raw_rows.take(first_page * spec.page_capacity + found.places) if raw_rows is not None else None
                if other is not None:
                    other[at:stop] = again
                    again = None
                ids[at:stop] = found.ids
                rows.write(at, _as_given(found, again, segment))
                if elements is not None and factors is not None:
                    elements.write(at, found.stored.elements)
                    factors.write(at, np.column_stack((found.stored.scales, found.stored.errors)))
                at = stop
                listener(StageProgressed("restage", at))
    assert at == count, f"{at} rows at home, {count} in the manifest"
    np.save(work / "ids.npy", ids)
    if other is not None:
        other.flush()
    return Restaged(rows, work / "ids.npy", other_path, elements, factors)


def _as_given(found: UnpackedRows, raw: npt.NDArray[Any] | None, segment: Segment) -> npt.NDArray[Any]:
    """Give rows in the type that they were given in: raw ones if there are, else what is stored stands for."""
    dtype = np.dtype(segment.spec.row_type)
    if segment.spec.lossless:
        return found.stored.elements
    if raw is not None:
        return raw.astype(dtype)
    info = np.finfo(dtype)
    meant = (found.stored.scales[:, None] * found.stored.elements).clip(info.min, info.max)
    return np.asarray(meant, dtype)
