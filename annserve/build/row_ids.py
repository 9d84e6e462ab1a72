"""Ids that a user gives to rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.vectors.formats import read_list


def row_ids(path: Path | None, count: int) -> npt.NDArray[np.uint64]:
    """Give the id of each row: those of a file, or row numbers.

    Parameters
    ----------
    path : Path or None
        File with one whole number per row.
    count : int
        Rows.

    Returns
    -------
    (count,) uint64

    Raises
    ------
    InputError
        If they aren't one for each row, all different, 0 … 2⁶⁴−2.
    """
    if path is None:
        return np.arange(count, dtype=np.uint64)
    given = read_list(path)
    if given.dtype.kind not in "ui":
        raise InputError(
            f"{path} holds elements of type {given.dtype}; ids are whole numbers, 0 … 2⁶⁴−2",
            field="ids",
        )
    if len(given) != count:
        raise InputError(f"{path} holds {len(given)} ids, but there are {count} rows; give one per row", field="ids")
    if given.dtype.kind == "i" and (given < 0).any():
        raise InputError(f"id {given.min()} in {path} is negative; ids are 0 … 2⁶⁴−2", field="ids")
    ids = given.astype(np.uint64)
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) != count:
        twice = distinct[counts > 1][0]
        raise InputError(f"id {twice} stands twice in {path}; ids must differ", field="ids")
    if distinct[-1] == np.iinfo(np.uint64).max:
        raise InputError(f"id {distinct[-1]} in {path} is reserved; ids are 0 … 2⁶⁴−2", field="ids")
    return ids
