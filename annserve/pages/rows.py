"""Rows and queries as small integers.

Integer input is stored as it is. A float row becomes INT8 with a scale of its own (symmetric, round to nearest),
chosen so that the stored row x̂ = scale · integers is the best of its direction: the least-squares scale under L2
and inner product, unit length under cosine. ‖x − x̂‖ is kept, rounded up, so that a later stage can bound what
quantization did to a distance.

A query becomes int16 with one scale: exact where it holds integers, within 2⁻¹⁶ of its largest coordinate
otherwise, which is 250 times finer than the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.pages.query_kernels import round_queries
from annserve.spec import IndexSpec

#: Of rows as float64 that are worked on at a time, so that they stay in the processor's cache.
_BLOCK_BYTES = 256 << 10


@dataclass(frozen=True)
class QuantizedRows:
    """Rows as stored.

    Attributes
    ----------
    elements : (n, dim) uint8 or int8
    scales : (n,) float32
        A stored row is ``scale * elements``; 1 where rows are lossless.
    errors : (n,) float32
        At least ‖x − x̂‖ (of the unit vector under cosine); 0 where rows are lossless.
    """

    elements: npt.NDArray[Any]
    scales: npt.NDArray[np.float32]
    errors: npt.NDArray[np.float32]


def quantize_rows(rows: npt.NDArray[Any], spec: IndexSpec) -> QuantizedRows:
    """Turn valid rows into what a page stores.

    Parameters
    ----------
    rows : (n, dim) array of the index's row type
    spec : IndexSpec

    Returns
    -------
    QuantizedRows
    """
    n = len(rows)
    if spec.lossless:
        elements = np.ascontiguousarray(rows, dtype=spec.stored_dtype)
        return QuantizedRows(elements, np.ones(n, np.float32), np.zeros(n, np.float32))
    made = QuantizedRows(np.empty(rows.shape, np.int8), np.empty(n, np.float32), np.empty(n, np.float32))
    step = max(1, _BLOCK_BYTES // (8 * spec.dim))
    for first in range(0, n, step):
        block = slice(first, first + step)
        made.elements[block], made.scales[block], made.errors[block] = _quantize(rows[block], spec)
    return made


def _quantize(
    rows: npt.NDArray[Any], spec: IndexSpec
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Give the elements, still as float64, the scales and the errors of float rows."""
    exact = rows.astype(np.float64)
    if spec.metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    largest = np.abs(exact).max(axis=1, initial=0.0)
    steps = np.where(largest > 0, largest / 127, 1.0)
    elements = np.rint(exact / steps[:, None])
    squares = (elements**2).sum(axis=1)
    if spec.metric == "cosine":
        scales = 1 / np.sqrt(squares)
    else:
        scales = np.divide((exact * elements).sum(axis=1), squares, out=np.zeros(len(rows)), where=squares > 0)
    scales32 = scales.astype(np.float32)
    errors = np.linalg.norm(exact - scales32[:, None].astype(np.float64) * elements, axis=1)
    return elements, scales32, np.nextafter(errors.astype(np.float32), np.float32(np.inf))


class QuantizedQueries(NamedTuple):
    """Queries as the scoring kernel takes them.

    Attributes
    ----------
    elements : (nq, dim) int16
    scales : (nq,) float64
        A query is ``scale * elements``.
    norms : (nq,) float64
        Squared norm of the elements.
    """

    elements: npt.NDArray[np.int16]
    scales: npt.NDArray[np.float64]
    norms: npt.NDArray[np.float64]

    def take(self, which: npt.NDArray[np.int64]) -> QuantizedQueries:
        """Give some of them."""
        return QuantizedQueries(self.elements[which], self.scales[which], self.norms[which])


def quantize_queries(queries: npt.NDArray[Any]) -> QuantizedQueries:
    """Turn (nq, dim) valid queries into int16 with a scale each."""
    elements = np.empty(queries.shape, np.int16)
    scales, norms = np.empty((2, len(queries)))
    round_queries(queries, elements, scales, norms)
    return QuantizedQueries(elements, scales, norms)
