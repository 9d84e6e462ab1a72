"""What is known of queries before a search begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.search.query_kernels import holds_faulty
from annserve.spec import VALUE_MAX

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
