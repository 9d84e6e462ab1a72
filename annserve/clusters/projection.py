"""Wide vectors → short ones that lie about as far from each other: enough to say who is near whom.

The plane that cuts a region, and the pages that a page is compared with, needn't be exact; what is decided by them is
decided by true distances afterwards.

References
----------
[1] Johnson, Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space", 1984.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.vectors.source import Rows

#: Of the directions, so that every build of every process has the same.
_SEED = 0x5EED
_BLOCK_ROWS = 4_096


def shorten(vectors: Rows, dim: int) -> npt.NDArray[np.float32]:
    """Project vectors to `dim` random directions; those that aren't longer are given as they are.

    Parameters
    ----------
    vectors : (n, d) rows of float32
    dim : int

    Returns
    -------
    (n, min(d, dim)) float32, C-contiguous
        Squared distances are `dim` times the true ones, give or take a share of √(2 / dim).
    """
    n, wide = vectors.shape
    if wide <= dim:
        return np.ascontiguousarray(vectors[:], dtype=np.float32)
    directions = np.random.default_rng(_SEED).standard_normal((wide, dim)).astype(np.float32)
    short = np.empty((n, dim), np.float32)
    for first in range(0, n, _BLOCK_ROWS):
        short[first : first + _BLOCK_ROWS] = vectors[first : first + _BLOCK_ROWS] @ directions
    return short
