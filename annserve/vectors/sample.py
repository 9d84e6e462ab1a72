"""A uniform sample of rows, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.vectors.source import VectorSource


def sample_rows(source: VectorSource, n_rows: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Draw rows without replacement.

    Parameters
    ----------
    source : VectorSource
        Where they are read from.
    n_rows : int
        How many; all of them if there are fewer.
    seed : int
        Decides the sample, together with the source's count.

    Returns
    -------
    row_ids : (t,) int64, ascending
    rows : (t, dim) array of the source's type

    Notes
    -----
    Memory is the answer; reads are those of ``VectorSource.gather``.
    """
    row_ids = sample_row_ids(source.count, n_rows, seed)
    return row_ids, source.gather(row_ids)


def sample_row_ids(count: int, n_rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw `n_rows` of the numbers 0 … count−1 without replacement, in ascending order.

    Notes
    -----
    O(n_rows) memory whatever the count: numbers are drawn with replacement, and drawn again for those that
    came twice. No number is treated unlike another, so every set of the size is equally likely.
    """
    if n_rows >= count:
        return np.arange(count, dtype=np.int64)
    if n_rows > count // 2:
        # Redrawing would take long when few numbers are left: draw those that are left out instead.
        chosen = np.ones(count, dtype=bool)
        chosen[sample_row_ids(count, count - n_rows, seed)] = False
        return np.flatnonzero(chosen)
    random = np.random.default_rng(seed)
    row_ids = np.empty(0, np.int64)
    while len(row_ids) < n_rows:
        drawn = random.integers(0, count, n_rows - len(row_ids), dtype=np.int64)
        row_ids = np.unique(np.concatenate((row_ids, drawn)))
    return row_ids
