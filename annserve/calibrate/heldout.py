"""Queries for calibration that no user had to give: rows of the base, as they are and pushed away from it.

A held-out row is asked for as if it were new: its own id is never counted. Queries in the wild often lie off the
data (questions against paragraphs); pushing held-out rows by noise of the base's own covariance makes such queries,
from near ones to ones that resemble nothing. Mean and covariance of the whole are kept, so that a pushed query
has the length of a real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.spec import VALUE_MAX, IndexSpec
from annserve.vectors.source import Rows

#: How far rows are pushed, as a share of the noise, and how many of the queries each push gets.
PUSHES = (0.0, 0.3, 0.6, 0.9, 1.2, 1.8)
SHARES = (0.4, 0.12, 0.12, 0.12, 0.12, 0.12)
#: Rows that noise is made of, and queries that it is made for at a time.
_NOISE_ROWS, _NOISE_QUERIES = 4_096, 256

#: k that are calibrated; a plan interpolates between them and goes on beyond.
_CALIBRATED_KS = (1, 10, 100)
#: Exact neighbours to know for each query: enough that a row which quantization lets in is among them.
NEIGHBOURS = 150
#: What a group of pushed queries may fall short of a target: one standard error of its recall.
SHORTFALL = 0.004


@dataclass(frozen=True)
class HeldOut:
    """Queries for calibration.

    Attributes
    ----------
    queries : (m, dim) float32
    rows : (m,) int64
        The row that each was made from; never an answer to it.
    push : (m,) int64
        Index into `PUSHES`.
    """

    queries: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    push: npt.NDArray[np.int64]

    def as_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays by name, for a file."""
        return {"queries": self.queries, "rows": self.rows, "push": self.push}


def hold_out(rows: Rows, spec: IndexSpec, n_queries: int, seed: int) -> HeldOut:
    """Draw rows and push them.

    Parameters
    ----------
    rows : (n, dim) rows
        All rows, as given.
    spec : IndexSpec
    n_queries : int
        Queries wanted; at most n are drawn.
    seed : int

    Returns
    -------
    HeldOut
    """
    rng = np.random.default_rng(seed)
    n_queries = min(n_queries, len(rows))
    drawn = rng.choice(len(rows), n_queries, replace=False)
    counts = np.diff(np.round(np.cumsum((0.0, *SHARES)) * n_queries).astype(int))
    push = np.repeat(np.arange(len(PUSHES)), counts)
    sample = _directions(rows[np.sort(rng.choice(len(rows), min(_NOISE_ROWS, len(rows)), replace=False))], spec)
    centre = sample.mean(axis=0)
    apart = (sample - centre) / np.sqrt(len(sample))
    noise = np.empty((n_queries, sample.shape[1]))
    for first in range(0, n_queries, _NOISE_QUERIES):
        some = noise[first : first + _NOISE_QUERIES]
        some[:] = rng.standard_normal((len(some), len(sample))) @ apart
    alpha = np.array(PUSHES)[push][:, None]
    exact = _directions(rows[drawn], spec)
    pushed = centre + (exact - centre + alpha * noise) / np.sqrt(1 + alpha**2)
    # Rows may be as large as a query may be; a push must not lead beyond that.
    queries = np.where(alpha == 0, exact, pushed).clip(-VALUE_MAX, VALUE_MAX).astype(np.float32)
    return HeldOut(queries, drawn.astype(np.int64), push)


def calibrated_ks(n_neighbours: int) -> list[int]:
    """Give the k to calibrate where so many neighbours of a query are known: one at least, ascending."""
    return [k for k in _CALIBRATED_KS if k <= n_neighbours] or [n_neighbours]


def _directions(rows: npt.NDArray[Any], spec: IndexSpec) -> npt.NDArray[np.float64]:
    exact = rows.astype(np.float64)
    if spec.metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return exact
