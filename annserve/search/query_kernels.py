"""Judging queries in one pass, before a search begins."""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import kernel


@kernel
def holds_faulty(queries, largest, zeros_too):  # type: ignore[no-untyped-def]
    """Say whether a query has an element that is no number or lies beyond ±`largest`; or is zero, if `zeros_too`.

    Parameters
    ----------
    queries : (nq, dim) float32, uint8 or int8  # IN
    largest : float32
    zeros_too : bool
    """
    for i in range(queries.shape[0]):
        query = queries[i]
        good = np.int32(0)
        zeros = np.int32(0)
        for j in range(query.shape[0]):
            # Comparisons with what is no number are false.
            good += np.int32(abs(np.float32(query[j])) <= largest)
            zeros += np.int32(query[j] == 0)
        if good < query.shape[0] or (zeros_too and zeros == query.shape[0]):
            return True
    return False
