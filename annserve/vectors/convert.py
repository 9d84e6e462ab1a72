"""From one format to another, chunk by chunk, without a silent change of values."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.vectors.formats import create_vectors, forced_type
from annserve.vectors.source import VectorSource


def convert(
    source: VectorSource,
    destination: str | Path,
    *,
    dtype: npt.DTypeLike | None = None,
    rows: tuple[int, int] | None = None,
    overwrite: bool = False,
    listener: Listener = ignore,
    stage: str = "convert",
) -> np.dtype[Any]:
    """Write rows of a source to a file whose suffix decides the format.

    Parameters
    ----------
    source : VectorSource
    destination : str or Path
        Appears when it is whole; a member after a colon names dataset, column or array.
    dtype : dtype, optional
        Type to write. Only a type that is asked for may lose digits (float32 to float16; to integers, by
        rounding to the nearest); a value beyond its range is an error, never clipped.
    rows : (start, stop), optional
        The part to write, `stop` left out; all rows by default.
    overwrite : bool
        Whether an existing destination may be replaced.
    listener : Listener
        Told how many rows are done, under the name `stage`.

    Returns
    -------
    numpy.dtype
        The type that was written.

    Raises
    ------
    InputError
        If the destination's format can't hold the rows, a type would lose digits unasked, or a value doesn't
        fit; the row is named.
    OutputError
        If the destination exists already or can't be written.
    """
    start, stop = rows if rows is not None else (0, source.count)
    if not 0 <= start < stop <= source.count:
        raise InputError(f"rows {start}:{stop} are no part of the {source.count} rows of {source.path}", field="rows")
    target = _target_type(source, destination, dtype)
    began = time.monotonic()
    listener(StageStarted(stage, stop - start))
    with create_vectors(destination, stop - start, source.dim, target, overwrite=overwrite) as writer:
        for first, chunk in source.chunks(start=start, stop=stop):
            writer.append(_cast(chunk, target, source.path, first))
            listener(StageProgressed(stage, first + len(chunk) - start))
    listener(StageFinished(stage, time.monotonic() - began, f"{stop - start:,} rows as {target}"))
    return target


def _target_type(source: VectorSource, destination: str | Path, asked: npt.DTypeLike | None) -> np.dtype[Any]:
    forced = forced_type(destination)
    if asked is not None:
        return np.dtype(asked)
    target = forced or source.dtype
    if not np.can_cast(source.dtype, target, "safe"):
        raise InputError(
            f"{destination} would hold {target}, which can't hold every {source.dtype} of {source.path}; "
            f"choose another suffix, or ask for it with dtype {target}",
            field="dtype",
        )
    return target


def _cast(rows: npt.NDArray[Any], target: np.dtype[Any], path: Path, first: int) -> npt.NDArray[Any]:
    """Change the type, or name the first row that holds a value beyond it."""
    if np.can_cast(rows.dtype, target, "safe"):
        return rows.astype(target, copy=False)
    if target.kind == "f":
        with np.errstate(over="ignore"):
            cast = rows.astype(target)
        lost = np.isinf(cast) & np.isfinite(rows)
    else:
        limits = np.iinfo(target)
        whole = np.rint(rows)
        # Written so that NaN is lost too.
        lost = ~((whole >= limits.min) & (whole <= limits.max))
        cast = np.where(lost, 0, whole).astype(target)
    if lost.any():
        row, column = np.unravel_index(int(np.argmax(lost)), lost.shape)
        raise InputError(
            f"row {first + row} of {path} holds {rows[row, column]} in dimension {column}, which {target} "
            "can't hold; choose a wider type, or scale the vectors before",
            field="dtype",
        )
    return cast
