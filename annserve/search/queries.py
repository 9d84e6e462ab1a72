"""Queries before a search begins: whether they are valid, and what its stages take them as."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.metric import METRIC_CODES
from annserve.pages.rows import QuantizedQueries
from annserve.search.query_kernels import holds_faulty, prepare_queries
from annserve.spec import VALUE_MAX, IndexSpec

_VALUE_MAX = np.float32(VALUE_MAX)


def suspect(queries: npt.NDArray[Any], metric: str) -> bool:
    """Say whether any query is invalid under a metric, for ``spec.check_vectors``: NumPy takes ten times as long.

    Parameters
    ----------
    queries : (nq, dim) float32, uint8 or int8, C-contiguous
    metric : str
    """
    if queries.dtype.kind != "f" and metric != "cosine":
        return False
    return bool(holds_faulty(queries, _VALUE_MAX, metric == "cosine"))


def prepared(
    queries: npt.NDArray[Any], spec: IndexSpec, norm_max: float
) -> tuple[npt.NDArray[np.float32], QuantizedQueries]:
    """Give valid queries in the index space (``metric.queries_to_space``), and as small integers.

    Parameters
    ----------
    queries : (nq, dim) float32, uint8 or int8, C-contiguous
    spec : IndexSpec
    norm_max : float
        Largest norm of a row; used under inner product only.
    """
    n_queries = len(queries)
    space = np.empty((n_queries, spec.space_dim), np.float32)
    quantized = QuantizedQueries(np.empty(queries.shape, np.int16), np.empty(n_queries), np.empty(n_queries))
    prepare_queries(queries, METRIC_CODES[spec.metric], float(norm_max), space, *quantized)
    return space, quantized
