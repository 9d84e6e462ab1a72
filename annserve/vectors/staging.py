"""Staging: the build's own copy of the vectors, valid row by row, as a zarr v3 array.

After it nobody needs to ask whether a row is finite or has a direction, and every later pass reads fast,
whatever the format was. One pass over the source; peak memory is one shard (about 16 MiB) and its
temporaries. The staged array carries what was learned on the way: the metric that it is valid for and the
largest norm.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.spec import IndexSpec, first_invalid_row
from annserve.vectors.output import replaced
from annserve.vectors.source import VectorSource
from annserve.vectors.zarr_store import ZarrSource, ZarrWriter, open_zarr

_STAGE = "stage"
#: Rows whose norms are computed at once; float64 copies of them fit a cache.
_NORM_ROWS = 4_096


class StagedVectors(ZarrSource):
    """Valid rows, ready to be built from.

    Attributes
    ----------
    metric : str
        The metric that the rows were judged for.
    norm_max : float
        Largest L2 norm of a row: M of the index space under ``ip``.
    """

    def __init__(self, path: Path, array: Any) -> None:
        super().__init__(path, array)
        try:
            self.metric = str(self.attributes["metric"])
            self.norm_max = float(self.attributes["norm_max"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError(
                f"{path} isn't a whole stage: attribute {error} is absent or wrong; remove it and build anew",
                path=path,
            ) from error


def stage(source: VectorSource, folder: Path, spec: IndexSpec, listener: Listener = ignore) -> StagedVectors:
    """Copy the rows of a source to `folder`, judging each.

    Parameters
    ----------
    source : VectorSource
        Its dimension and type must be the spec's.
    folder : Path
        Will hold the array; appears when it is whole. A stage that stands there already is replaced.
    spec : IndexSpec
        Dimension, type and metric.
    listener : Listener
        Told how many rows are done.

    Raises
    ------
    InputError
        If dimension or type differ from the spec, or a row can't be indexed; the row is named.
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
    n_bytes = source.count * source.row_bytes
    with replaced(folder, n_bytes=n_bytes, overwrite=True) as partial:
        writer = ZarrWriter(partial, None, source.count, source.dim, source.dtype)
        norm_max = 0.0
        for start, rows in source.chunks(writer.shard_rows):
            bad = first_invalid_row(rows, spec.metric)
            if bad is not None:
                raise InputError(f"{source.place_of(start + bad[0])} {bad[1]}; leave it out, or mend it")
            norm_max = max(norm_max, largest_norm(rows))
            writer.append(rows)
            listener(StageProgressed(_STAGE, start + len(rows)))
        writer.close()
        # Written last: an array without them isn't whole.
        writer.annotate(metric=spec.metric, norm_max=norm_max)
    seconds = time.monotonic() - began
    listener(StageFinished(_STAGE, seconds, f"{source.count:,} rows of {source.dim} × {source.dtype}"))
    return open_staged(folder)


def open_staged(folder: Path) -> StagedVectors:
    """Open what ``stage`` left.

    Raises
    ------
    NotFoundError, CorruptionError
        If there is no stage, or it isn't whole.
    """
    plain = open_zarr(folder, None)
    return StagedVectors(folder, plain.array)


def largest_norm(rows: npt.NDArray[Any]) -> float:
    """Give the largest L2 norm, in float64, of rows of any type."""
    largest = 0.0
    for start in range(0, len(rows), _NORM_ROWS):
        block = rows[start : start + _NORM_ROWS].astype(np.float64)
        largest = max(largest, float(np.linalg.norm(block, axis=1).max()))
    return largest
