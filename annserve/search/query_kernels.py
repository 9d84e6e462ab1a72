"""Judging queries in one pass, before a search begins."""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import kernel
from annserve.metric import COSINE, L2
from annserve.pages.query_kernels import round_query

_L2, _COSINE = L2, COSINE


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


@kernel
def prepare_queries(queries, metric, norm_max, out_space, out_elements, out_scales, out_norms):  # type: ignore[no-untyped-def]
    """Carry queries into the index space, as ``metric.queries_to_space`` does, and round them to small integers.

    Parameters
    ----------
    queries : (nq, dim) float32, uint8 or int8  # IN
    metric : int
    norm_max : float64
        Largest norm of a row; used under inner product only.
    out_space : (nq, space_dim) float32  # OUT
    out_elements : (nq, dim) int16  # OUT
    out_scales, out_norms : (nq,) float64  # OUT
    """
    dim = queries.shape[1]
    for i in range(queries.shape[0]):
        query, space = queries[i], out_space[i]
        out_scales[i], out_norms[i] = round_query(query, out_elements[i])
        if metric == _L2:
            for j in range(dim):
                space[j] = np.float32(query[j])
            continue
        square = np.float64(0)
        for j in range(dim):
            square += np.float64(query[j]) * np.float64(query[j])
        norm = np.sqrt(square)
        if metric == _COSINE:
            for j in range(dim):
                space[j] = np.float32(np.float64(query[j]) / norm)
        else:
            # A zero query has every inner product 0: any answer is right, so any direction will do.
            scale = norm_max / max(norm, 1e-30) if norm > 0 else 0.0
            for j in range(dim):
                space[j] = np.float32(np.float64(query[j]) * scale)
            space[dim] = np.float32(0)
