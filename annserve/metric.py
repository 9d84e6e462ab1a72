"""The index space: every metric becomes squared L2 there, so that clustering and navigation know only one.

=======  =======================================  ==========================================  =================
metric   a row x in the index space               a query q in the index space                distance reported
=======  =======================================  ==========================================  =================
l2       x (integers stay integers)               q                                           ‖q − x‖²
cosine   x / ‖x‖                                  q / ‖q‖                                     1 − cos(q, x)
ip       (x, √(M² − ‖x‖²)), M the largest norm    (q · M/‖q‖, 0)                              −⟨q, x⟩
=======  =======================================  ==========================================  =================

Order is kept: ‖q − x‖² falls in the index space as cosine or inner product rises. Under ``ip`` the query is
scaled to the norm M, which leaves its ranking alone and keeps distances of one magnitude. A distance is always
"smaller is nearer".

References
----------
[1] Neyshabur, Srebro, "On Symmetric and Asymmetric LSHs for Inner Product Search", ICML 2015, section 3 (the
    reduction of inner product to L2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.spec import IndexSpec

L2, IP, COSINE = 0, 1, 2
#: What kernels are told; the names are for people.
METRIC_CODES = {"l2": L2, "ip": IP, "cosine": COSINE}


def rows_to_space(rows: npt.NDArray[Any], spec: IndexSpec, norm_max: float = 0.0) -> npt.NDArray[Any]:
    """Carry rows into the index space.

    Parameters
    ----------
    rows : (n, dim) array
        Valid rows (finite; not zero under cosine).
    spec : IndexSpec
        Says metric and types.
    norm_max : float
        M, the largest norm of all rows of the index; used under ``ip`` only.

    Returns
    -------
    (n, spec.space_dim) array of spec.space_dtype, C-contiguous
    """
    if spec.metric == "l2":
        return np.ascontiguousarray(rows, dtype=spec.space_dtype)
    vectors = rows.astype(np.float32)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if spec.metric == "cosine":
        return np.ascontiguousarray(vectors / norms[:, None], dtype=np.float32)
    tail = np.sqrt(np.maximum(norm_max**2 - norms**2, 0.0))
    return np.ascontiguousarray(np.column_stack((vectors, tail)), dtype=np.float32)


def queries_to_space(queries: npt.NDArray[Any], spec: IndexSpec, norm_max: float = 0.0) -> npt.NDArray[np.float32]:
    """Carry queries into the index space, as (n, spec.space_dim) float32."""
    vectors = np.ascontiguousarray(queries, dtype=np.float32)
    if spec.metric == "l2":
        return vectors
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if spec.metric == "cosine":
        return np.ascontiguousarray(vectors / norms[:, None], dtype=np.float32)
    # A zero query has every inner product 0: any answer is right, so any direction will do.
    scale = np.where(norms > 0, norm_max / np.maximum(norms, 1e-30), 0.0)
    scaled = vectors * scale[:, None]
    return np.ascontiguousarray(np.column_stack((scaled, np.zeros(len(scaled)))), dtype=np.float32)


def distances_from_space(
    squares: npt.NDArray[Any], queries: npt.NDArray[Any], spec: IndexSpec, norm_max: float = 0.0
) -> npt.NDArray[np.float64]:
    """Give what a squared distance of each query in the index space is in the user's metric, as (n,) float64."""
    given = np.asarray(squares, np.float64)
    if spec.metric == "l2":
        return given
    if spec.metric == "cosine":
        return given / 2
    # ‖q'‖ = ‖x'‖ = M there, and q' is q scaled by M/‖q‖.
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    return np.asarray(norms / max(norm_max, 1e-30) * (given / 2 - norm_max**2))
