"""What a search gives back, the same from every door: an index in this process, a client, a benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

#: How a lookaside cache took part in an answer, by number; those of the wire format.
GRADES = ("", "miss", "repeat", "certified", "delta", "approximate")
MISS, REPEAT, CERTIFIED, DELTA, APPROXIMATE = range(1, len(GRADES))


_NO_GRADES = np.zeros(0, np.uint8)


def _no_grades() -> npt.NDArray[np.uint8]:
    return _NO_GRADES


def _no_counts() -> npt.NDArray[np.int64]:
    return np.zeros(0, np.int64)


def _no_flags() -> npt.NDArray[np.bool_]:
    return np.zeros(0, bool)


@dataclass(frozen=True)
class SearchStats:
    """What a batch of queries cost. Arrays have one entry per query.

    Attributes
    ----------
    pages_read : (nq,) int64
        Pages read from the device: what the query needed by itself, less what the page cache held. Those of raw rows
        are among them.
    reads : (nq,) int64
        Read operations; neighbouring pages share one.
    bytes_read : (nq,) int64
        Bytes of those pages.
    heads_visited : (nq,) int64
        Heads whose distance was computed.
    rows_scored : (nq,) int64
        Rows whose exact distance was computed.
    codes_scanned : (nq,) int64
        Codes of pages and rows that were looked at.
    pages_cached : (nq,) int64
        Pages that the page cache held.
    rows_reranked : (nq,) int64
        Raw rows that were read for a second look.
    stage_seconds : dict
        Seconds of each stage, summed over the batch and its threads: ``navigate``, ``rate``, ``choose``,
        ``read``, ``score``, ``rerank``.
    seconds : float
        Wall time of the call.
    grades : (nq,) uint8
        How the lookaside cache took part, a place in `GRADES`; empty where there is none.
    """

    pages_read: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    reads: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    bytes_read: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    heads_visited: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    rows_scored: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    codes_scanned: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    pages_cached: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    rows_reranked: npt.NDArray[np.int64] = field(default_factory=_no_counts)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    grades: npt.NDArray[np.uint8] = field(default_factory=_no_grades)

    #: Names of the per-query counts, in the order of the wire format.
    COUNTS = (
        "pages_read",
        "reads",
        "bytes_read",
        "heads_visited",
        "rows_scored",
        "codes_scanned",
        "pages_cached",
        "rows_reranked",
    )

    @classmethod
    def of(
        cls,
        counts: npt.NDArray[np.int64],
        stage_seconds: dict[str, float],
        seconds: float,
        grades: npt.NDArray[np.uint8] | None = None,
    ) -> SearchStats:
        """Make them of an (8, nq) array with one row for each of `COUNTS`."""
        stats = object.__new__(cls)
        # As a frozen class fills its fields, but all of them at once: a search of one query tells the difference.
        stats.__dict__.update(zip(cls.COUNTS, counts), stage_seconds=stage_seconds, seconds=seconds)
        stats.__dict__["grades"] = _NO_GRADES if grades is None else grades
        return stats

    @property
    def cache(self) -> tuple[str, ...]:
        """How the lookaside cache took part in each answer: ``repeat``, ``certified``, ``delta``, ``miss``."""
        return tuple(GRADES[grade] for grade in self.grades.tolist())

    def means(self) -> dict[str, Any]:
        """Give the mean of each count over the queries, for tables."""
        return {f"{name}_mean": float(np.mean(getattr(self, name))) for name in self.COUNTS}


@dataclass(frozen=True)
class SearchResult:
    """Top-k of a batch of queries, nearest first, ties by ascending id.

    Attributes
    ----------
    ids : (nq, k) uint64
        Row ids: the user's own, or 0 … n−1.
    distances : (nq, k) float32
        Smaller is nearer: squared L2, 1 − cosine, or the negated inner product.
    stats : SearchStats
        What it cost.
    truncated : (nq,) bool
        Queries that a deadline cut short, where partial answers were wanted. A place without a row has id 2⁶⁴ − 1 and
        distance infinity. May be empty where none was.
    """

    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float32]
    stats: SearchStats
    truncated: npt.NDArray[np.bool_] = field(default_factory=_no_flags)

    def rows(self, first: int, end: int) -> SearchResult:
        """Give the part of some of its queries; its seconds are those of the whole, its stage times the share."""
        part, whole = slice(first, end), self.stats
        share = (end - first) / max(len(self.ids), 1)
        stages = {stage: seconds * share for stage, seconds in whole.stage_seconds.items()}
        counts = {name: getattr(whole, name)[part] for name in SearchStats.COUNTS}
        stats = SearchStats(**counts, stage_seconds=stages, seconds=whole.seconds, grades=whole.grades[part])
        return SearchResult(self.ids[part], self.distances[part], stats, self.truncated[part])

    @property
    def partial(self) -> bool:
        """Whether some query was cut short."""
        return bool(np.count_nonzero(self.truncated))
