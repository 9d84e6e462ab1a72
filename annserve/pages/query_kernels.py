"""Turning queries into small integers, in one pass over each."""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import kernel

_INT16_MAX = 32_767


@kernel
def copy_integers(queries, out_elements, out_scales, out_norms):  # type: ignore[no-untyped-def]
    """Take queries of integers as they are, at scale 1.

    Parameters
    ----------
    queries : (nq, dim) uint8 or int8  # IN
    out_elements : (nq, dim) int16  # OUT
    out_scales : (nq,) float64  # OUT
    out_norms : (nq,) float64  # OUT
        Squared norms of the elements.
    """
    for i in range(queries.shape[0]):
        query = queries[i]
        elements = out_elements[i]
        norm = np.int64(0)
        for j in range(query.shape[0]):
            element = np.int64(query[j])
            elements[j] = element
            norm += element * element
        out_scales[i] = np.float64(1)
        out_norms[i] = norm


@kernel
def round_floats(queries, out_elements, out_scales, out_norms):  # type: ignore[no-untyped-def]
    """Round queries of finite floats to int16, each by a scale of its own: 1 where its elements are whole and fit.

    Parameters
    ----------
    queries : (nq, dim) float32 or float64  # IN
    out_elements : (nq, dim) int16  # OUT
    out_scales : (nq,) float64  # OUT
    out_norms : (nq,) float64  # OUT
        Squared norms of the elements, which stay below 2⁵³: exact.
    """
    for i in range(queries.shape[0]):
        query = queries[i]
        elements = out_elements[i]
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
        out_scales[i] = scale
        out_norms[i] = norm
