"""Turning queries into small integers, in one pass over each."""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel

_INT16_MAX = 32_767


@inline_kernel
def round_query(query, elements):  # type: ignore[no-untyped-def]
    """Round a query of finite numbers to int16, by a scale of its own: 1 where its elements are whole and fit.

    Parameters
    ----------
    query : (dim,) numbers  # IN
    elements : (dim,) int16  # OUT

    Returns
    -------
    scale, norm : float64
        Squared norm of the elements, which stays below 2⁵³: exact.
    """
    largest = np.float64(0)
    broken = np.int64(0)
    for j in range(query.shape[0]):
        value = np.float64(query[j])
        largest = max(largest, abs(value))
        broken += np.int64(np.rint(value) != value)
    scale = np.float64(1)
    if broken > 0 or largest > _INT16_MAX:
        scale = largest / _INT16_MAX
    norm = np.int64(0)
    for j in range(query.shape[0]):
        element = np.int64(np.rint(np.float64(query[j]) / scale))
        elements[j] = element
        norm += element * element
    return scale, np.float64(norm)


@kernel
def round_queries(queries, out_elements, out_scales, out_norms):  # type: ignore[no-untyped-def]
    """Do as `round_query` for each query.

    Parameters
    ----------
    queries : (nq, dim) numbers  # IN
    out_elements : (nq, dim) int16  # OUT
    out_scales : (nq,) float64  # OUT
    out_norms : (nq,) float64  # OUT
    """
    for i in range(queries.shape[0]):
        out_scales[i], out_norms[i] = round_query(queries[i], out_elements[i])
