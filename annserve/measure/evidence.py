"""Answers looked up in the base: what each id's distance really is, against what was claimed for it.

Recall takes the truth's word, and a distance that stands beside an id is the word of the system. Here the rows
themselves are asked. Three things come out that neither recall nor order can show: ids that no row has, ids beside
another row's distance, and rows that are nearer than a truth that doesn't know them.

Systems claim distances in units of their own (squared or not, 1 − cosine or −cosine, of codes or of rows). So claims
are first carried into the base's unit by the straight line that fits them best, query by query in sorted order, which
no shuffling within an answer can move. What remains is measured in widths of an answer: the mean gap between its
nearest and its farthest row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.measure.target import NO_ID
from annserve.measure.truth import Truth

#: Queries whose rows are fetched at once: some 10 MB at k = 10 and 768 dimensions.
_CHUNK_QUERIES = 128
#: A claim is another row's if it is off by so many times what claims of this system usually are …
_ODD = 20.0
#: … and by this share of an answer's width: rounding alone is no fault.
_WIDTHS_MIN = 1e-2
#: Share of the claims that the fitted line leaves out as odd.
_TRIMMED = 0.05
#: A row is nearer than the truth's k-th only by more than this share: the truth's own rounding.
_SLACK = 1e-5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What the base says of the answers of one pass.

    Attributes
    ----------
    unknown : int
        Answers with an id that the base doesn't have.
    misplaced : int
        Answers with an id beside another row's distance.
    beat_truth : int
        Answers with a row that is nearer than the k-th of the truth, which doesn't list it: the truth is wrong.
    distance_error : float
        Median error of the claimed distances, in widths of an answer; NaN where none was claimed.
    """

    unknown: int
    misplaced: int
    beat_truth: int
    distance_error: float


def examine(
    ids: npt.NDArray[np.uint64],
    claimed: npt.NDArray[np.float32],
    queries: npt.NDArray[np.generic],
    base: npt.NDArray[np.generic],
    truth: Truth,
    *,
    k: int,
    metric: str,
) -> Evidence:
    """Look every answered row up.

    Parameters
    ----------
    ids : (nq, k) uint64
        Answers, `NO_ID` where there is none.
    claimed : (nq, k) float32
        Distances that the system gave with them, in any unit that rises with distance.
    queries : (nq, dim) array
        What was asked.
    base : (n, dim) array
        All rows, mapped or in RAM; an id is the number of a row.
    truth : Truth
        Exact neighbours of those queries.
    k : int
    metric : str
        ``l2``, ``ip`` or ``cosine``.
    """
    exact = distances_of(ids, queries, base, metric)
    unknown = (ids != NO_ID) & (ids >= len(base))
    error, usual = _claim_errors(np.asarray(claimed, np.float64), exact)
    with np.errstate(invalid="ignore"):
        odd = error > max(_ODD * usual, _WIDTHS_MIN)
    return Evidence(
        unknown=int(unknown.any(axis=1).sum()),
        misplaced=int(odd.any(axis=1).sum()),
        beat_truth=_beaten(ids, exact, queries, base, truth, k, metric),
        distance_error=usual,
    )


def distances_of(
    ids: npt.NDArray[np.uint64], queries: npt.NDArray[np.generic], base: npt.NDArray[np.generic], metric: str
) -> Floats:
    """Compute the distance of each answered row from the row itself, in float64; NaN where there is no such row."""
    exact = np.full(ids.shape, np.nan)
    known = ids < len(base)
    for start in range(0, len(ids), _CHUNK_QUERIES):
        part = slice(start, start + _CHUNK_QUERIES)
        numbers = np.where(known[part], ids[part], 0).astype(np.int64)
        named, place = np.unique(numbers, return_inverse=True)
        rows = np.asarray(base[named], np.float64)[place.reshape(numbers.shape)]
        exact[part] = _distances(np.asarray(queries[part], np.float64)[:, None, :], rows, metric)
    return np.where(known, exact, np.nan)


def _distances(queries: Floats, rows: Floats, metric: str) -> Floats:
    if metric == "l2":
        squares: Floats = ((queries - rows) ** 2).sum(axis=-1)
        return squares
    products: Floats = (queries * rows).sum(axis=-1)
    if metric == "ip":
        return -products
    norms = np.linalg.norm(queries, axis=-1) * np.linalg.norm(rows, axis=-1)
    distances: Floats = 1.0 - products / np.maximum(norms, 1e-300)
    return distances


def _claim_errors(claimed: Floats, exact: Floats) -> tuple[Floats, float]:
    """Give how far each claim is off, in widths of an answer, and how far claims are off usually, whosever they are.

    NaN where there is nothing to compare.
    """
    both = np.isfinite(claimed) & np.isfinite(exact)
    whole = both.all(axis=1)
    if not whole.any():
        return np.full(claimed.shape, np.nan), float("nan")
    x, y = np.sort(claimed[whole], axis=1).ravel(), np.sort(exact[whole], axis=1).ravel()
    width = float(np.ptp(exact[whole], axis=1).mean()) or float(np.abs(y).max()) or 1.0
    slope, offset = _line(x, y)
    rest = np.abs(slope * x + offset - y)
    fair = rest <= np.quantile(rest, 1 - _TRIMMED)
    slope, offset = _line(x[fair], y[fair])
    usual = float(np.median(np.abs(slope * x + offset - y))) / width
    return np.where(both, np.abs(slope * np.where(both, claimed, 0.0) + offset - exact), np.nan) / width, usual


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Fit y = slope · x + offset by least squares; flat x gives slope 0."""
    middle_x, middle_y = float(x.mean()), float(y.mean())
    variance = float(((x - middle_x) ** 2).mean())
    slope = float(((x - middle_x) * (y - middle_y)).mean()) / variance if variance > 0 else 0.0
    return slope, middle_y - slope * middle_x


def _beaten(
    ids: npt.NDArray[np.uint64],
    exact: Floats,
    queries: npt.NDArray[np.generic],
    base: npt.NDArray[np.generic],
    truth: Truth,
    k: int,
    metric: str,
) -> int:
    """Count the answers that hold a row nearer than the truth's k-th which the truth doesn't list."""
    last = distances_of(truth.ids[:, :k], queries, base, metric).max(axis=1)
    listed = (ids[:, :, None] == truth.ids[:, None, :]).any(axis=2)
    with np.errstate(invalid="ignore"):
        nearer = exact < (last - _SLACK * np.abs(last))[:, None]
    return int((nearer & ~listed).any(axis=1).sum())
