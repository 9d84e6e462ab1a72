"""Staging: the build's own copy of the vectors, valid row by row.

::

    rows/          zarr v3 array (n, dim): the valid rows in the order of the input; attributes: what was learned
    skipped.npy    (m, 2) int64: number in the input, and fault, of each row left out; absent where none was

After it nobody needs to ask whether a row is finite or has a direction, and every later pass reads fast,
whatever the format was. One pass over the source; peak memory is one shard (about 16 MiB) and its
temporaries, and 16 bytes for each row that is left out.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.spec import ROW_FAULTS, IndexSpec, judge_rows
from annserve.vectors.formats import read_matrix
from annserve.vectors.output import replaced
from annserve.vectors.source import VectorSource
from annserve.vectors.zarr_store import ZarrSource, ZarrWriter, open_zarr

_STAGE = "stage"
_ROWS, _SKIPPED = "rows", "skipped.npy"
#: Rows whose norms are computed at once; float64 copies of them fit a cache.
_NORM_ROWS = 4_096
#: Rows left out that are listed; all are counted.
_LISTED = 1_000


class StagedVectors(ZarrSource):
    """Valid rows, ready to be built from.

    Attributes
    ----------
    metric : str
        The metric that the rows were judged for.
    norm_max : float
        Largest L2 norm of a row: M of the index space under ``ip``.
    skipped : (m,) int64, ascending
        Numbers that rows which were left out have in the input.
    """

    def __init__(self, path: Path) -> None:
        plain = open_zarr(path, _ROWS)
        super().__init__(path, plain.array)
        try:
            self.metric = str(self.attributes["metric"])
            self.norm_max = float(self.attributes["norm_max"])
            digest = self.attributes["skipped"]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError(
                f"{path} isn't a whole stage: attribute {error} is absent or wrong; remove it and build anew",
                path=path,
            ) from error
        left_out = read_matrix(path / _SKIPPED) if digest else np.empty((0, 2), np.int64)
        if digest and _digest(left_out) != digest:
            raise CorruptionError(
                f"{path / _SKIPPED} doesn't list the rows that were left out; remove {path} and build anew", path=path
            )
        self.skipped: npt.NDArray[np.int64] = left_out[:, 0]
        self._faults: npt.NDArray[np.int64] = left_out[:, 1]
        # Of the rows before the i-th that was left out, so many are here.
        self._kept_before = self.skipped - np.arange(len(left_out))

    def input_rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Give the numbers that the rows `start` to `stop`, `stop` left out, have in the input; they ascend."""
        numbers = np.arange(start, stop, dtype=np.int64)
        return numbers + np.searchsorted(self._kept_before, numbers, side="right")

    def tell_skipped(self, source: VectorSource) -> dict[str, Any]:
        """Say what was left out of the input, as plain values.

        Returns
        -------
        dict
            ``rows``: how many; ``faults``: how many of each; ``listed``: of the first thousand the row, its place
            and its fault.
        """
        counts = np.bincount(self._faults, minlength=len(ROW_FAULTS)).tolist()
        listed = zip(self.skipped[:_LISTED].tolist(), self._faults[:_LISTED].tolist())
        return {
            "rows": len(self.skipped),
            "faults": {fault: count for fault, count in zip(ROW_FAULTS, counts) if count},
            "listed": [
                {"row": row, "place": source.place_of(row), "fault": ROW_FAULTS[fault]} for row, fault in listed
            ],
        }


def stage(
    source: VectorSource, folder: Path, spec: IndexSpec, listener: Listener = ignore, *, skip_invalid: bool = False
) -> StagedVectors:
    """Copy the rows of a source to `folder`, judging each.

    Parameters
    ----------
    source : VectorSource
        Its dimension and type must be the spec's.
    folder : Path
        Will hold the store; appears when it is whole. A stage that stands there already is replaced.
    spec : IndexSpec
        Dimension, type and metric.
    listener : Listener
        Told how many rows are done.
    skip_invalid : bool
        Whether rows that can't be indexed are left out, and told, instead of being an error.

    Raises
    ------
    InputError
        If dimension or type differ from the spec, a row can't be indexed (the row is named), or none can.
    OutputError
        If the folder can't be written or is full.
    """
    if (source.dim, source.dtype.name) != (spec.dim, spec.row_type):
        raise InputError(
            f"{source.path} holds {source.dtype} vectors of dimension {source.dim}, but the index is of "
            f"{spec.row_type} and {spec.dim}"
        )
    began = time.monotonic()
    listener(StageStarted(_STAGE, source.count))
    with replaced(folder, n_bytes=source.count * source.row_bytes, overwrite=True) as partial:
        writer = ZarrWriter(partial, _ROWS, source.count, source.dim, source.dtype)
        norm_max, skipped = 0.0, [np.empty((0, 2), np.int64)]
        for start, rows in source.chunks(writer.shard_rows):
            faults = judge_rows(rows, spec.metric)
            bad = np.flatnonzero(faults)
            if len(bad):
                if not skip_invalid:
                    raise InputError(
                        f"{source.place_of(start + int(bad[0]))} {ROW_FAULTS[faults[bad[0]]]}; leave it out "
                        "(--skip-invalid does), or mend it"
                    )
                skipped.append(np.stack((start + bad, faults[bad]), axis=1))
                rows = rows[faults == 0]
            norm_max = max(norm_max, largest_norm(rows))
            writer.append(rows)
            listener(StageProgressed(_STAGE, start + len(faults)))
        writer.close()
        left_out = np.concatenate(skipped)
        n_left = source.count - len(left_out)
        if not n_left:
            raise InputError(
                f"none of the {source.count} rows of {source.path} can be indexed; the first "
                f"{ROW_FAULTS[left_out[0, 1]]}"
            )
        if len(left_out):
            writer.cut()
            np.save(partial / _SKIPPED, left_out)
        # Written last: a store without them isn't whole.
        digest = _digest(left_out) if len(left_out) else ""
        writer.annotate(metric=spec.metric, norm_max=norm_max, skipped=digest)
    seconds = time.monotonic() - began
    note = f"{n_left:,} rows of {source.dim} × {source.dtype}"
    listener(StageFinished(_STAGE, seconds, note + (f", {len(left_out):,} left out" if len(left_out) else "")))
    return open_staged(folder)


def open_staged(folder: Path) -> StagedVectors:
    """Open what ``stage`` left.

    Raises
    ------
    NotFoundError, CorruptionError
        If there is no stage, or it isn't whole.
    """
    return StagedVectors(folder)


def remove_staged(folder: Path) -> None:
    """Remove what ``stage`` left, if it is still there."""
    shutil.rmtree(folder, ignore_errors=True)


def largest_norm(rows: npt.NDArray[Any]) -> float:
    """Give the largest L2 norm, in float64, of rows of any type."""
    largest = 0.0
    for start in range(0, len(rows), _NORM_ROWS):
        block = rows[start : start + _NORM_ROWS].astype(np.float64)
        largest = max(largest, float(np.linalg.norm(block, axis=1).max()))
    return largest


def _digest(left_out: npt.NDArray[np.int64]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(left_out).data, digest_size=16).hexdigest()
