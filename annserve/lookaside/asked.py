"""A call's queries, as a lookaside cache knows them: asked for, gathered from RAM, and remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.lookaside import answer_kernels, near_kernels
from annserve.lookaside.gather_kernels import ANSWERED, OPEN, gather_pages
from annserve.lookaside.later import Due, Later
from annserve.lookaside.near_kernels import ENTRIES
from annserve.pages.rows import QuantizedQueries
from annserve.pages.score import Frames, PageFacts
from annserve.results import APPROXIMATE, REPEAT, SearchStats
from annserve.storage.cache import Absent, PageCache

_NO_PAGES, _NO_DISTANCES = np.zeros(0, np.uint32), np.zeros(0)


@dataclass(frozen=True)
class ScoredPages:
    """Pages of a block of queries whose rows were all scored.

    Attributes
    ----------
    page_ids : (p,) uint32
        Ascending for each query.
    offsets : (nq + 1,) int64
    nearest : (p,) float64
        Distance of the nearest row on each.
    """

    page_ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.float64]


class Gathered(NamedTuple):
    """What is left of a block's planned pages.

    Attributes
    ----------
    page_ids, offsets : (l,) uint32, (nq + 1,) int64
        Pages to look at. The others hold none of the k nearest of all rows on planned pages.
    absent : Absent, optional
        Pages to read, and the frames for them; the other pages that are left are in theirs. None if all is done.
    costs : (8, nq) int64, optional
        Where all is done, a row for each of ``SearchStats.COUNTS``.
    """

    page_ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    absent: Absent | None
    costs: npt.NDArray[np.int64] | None


class Kind(NamedTuple):
    """What queries have in common that may share answers.

    Attributes
    ----------
    memory : (b,) uint8
        Of the cache.
    marks : (4,) uint64
        Secret of their keys; their scope: that of recent queries that may prove something for these; and their session,
        0 where there is none.
    places : (int, int)
        First place of those queries, and where they stop.
    k : int
    """

    memory: npt.NDArray[np.uint8]
    marks: npt.NDArray[np.uint64]
    places: tuple[int, int]
    k: int


@dataclass(slots=True)
class Asked:
    """A call's queries, or some of them, as the cache knows them.

    Attributes
    ----------
    kind : Kind
    later : Later
        What earlier queries left to be done.
    keys : (nq, 2) uint64
    grades : (nq,) uint8
        See ``results.GRADES``.
    ids, distances : (nq, k) uint64, float32
        Answers, where found, or gathered.
    n_found : int
        Queries that are answered.
    proofs_pay : bool
        Whether to look for proofs.
    """

    kind: Kind
    later: Later
    keys: npt.NDArray[np.uint64]
    grades: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float32]
    n_found: int = 0
    proofs_pay: bool = True

    @classmethod
    def of(cls, kind: Kind, later: Later, n_queries: int) -> Asked:
        """Make room for so many queries."""
        return cls(
            kind,
            later,
            np.empty((n_queries, 2), np.uint64),
            np.empty(n_queries, np.uint8),
            np.empty((n_queries, kind.k), np.uint64),
            np.empty((n_queries, kind.k), np.float32),
        )

    def take(self, which: Any) -> Asked:
        """Give some of the queries, to be searched for; of a slice, all are those of the whole."""
        keys, grades, ids, distances = self.keys[which], self.grades[which], self.ids[which], self.distances[which]
        return Asked(self.kind, self.later, keys, grades, ids, distances, 0, self.proofs_pay)

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Queries that are answered, (nq,)."""
        found: npt.NDArray[np.bool_] = (self.grades == REPEAT) | (self.grades == APPROXIMATE)
        return found

    def find_answers(self, queries: npt.NDArray[Any]) -> None:
        """Look for answers to the same bytes; one that is to be kept is kept first."""
        kind, found = self.kind, (self.ids, self.distances, self.grades)
        data = queries.view(np.uint8)
        while True:
            due = self.later.next
            self.n_found, self.proofs_pay = answer_kernels.find_answers(
                kind.memory, data, kind.marks, kind.k, due.keys, self.keys, *found
            )
            if self.n_found >= 0:
                return
            self.later.keep()

    def gather(
        self,
        cache: PageCache,
        queries: QuantizedQueries,
        page_ids: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        frames: Frames,
        facts: PageFacts,
        looked_at: npt.NDArray[np.int64] | None = None,
    ) -> Gathered:
        """Copy planned pages that are in RAM, leave out those that are proven needless, and grade the queries.

        Parameters
        ----------
        cache : PageCache
        queries : QuantizedQueries
        page_ids : (p,) uint32
            Planned, ascending for each query.
        offsets : (nq + 1,) int64
            Query i plans ``page_ids[offsets[i] : offsets[i + 1]]``.
        frames : Frames
            At least p.
        facts : PageFacts
        looked_at : (2, nq) int64, optional
            Heads and codes of each query. If given, and no page is to be read, and all queries find k rows, these are
            the answers: `ids` and `distances` are filled, and kept.

        Raises
        ------
        CorruptionError
            If a page in RAM is damaged.
        """
        kind, n_pages, n_queries = self.kind, len(page_ids), len(offsets) - 1
        pages, pages_offsets = np.empty((2, n_pages), np.uint32), np.empty((2, n_queries + 1), np.int64)
        places = np.empty(n_pages, np.int64)
        costs = np.empty((len(SearchStats.COUNTS), n_queries), np.int64)
        due = self.later.take()
        state, n_left, n_absent = gather_pages(
            kind.memory,
            *cache.views,
            queries.elements,
            queries.scales,
            queries.norms,
            kind.marks,
            *kind.places,
            kind.k,
            self.keys,
            page_ids,
            offsets,
            due.page_ids,
            due.places,
            due.frames,
            self.proofs_pay,
            looked_at is not None,
            facts.numbers,
            costs[:2] if looked_at is None else looked_at,
            frames.memory,
            frames.rows,
            np.empty((2, n_pages), np.bool_),
            pages,
            pages_offsets,
            places,
            self.grades,
            np.empty(3 * n_queries + ENTRIES, np.int64),
            np.empty(n_pages + n_queries * kind.k + ENTRIES),
            self.ids,
            self.distances,
            costs,
        )
        self.later.put_back(due)
        if state == ANSWERED:
            return Gathered(pages[0], pages_offsets[0], None, costs)
        if state != OPEN:
            raise facts.damaged(state, int(pages[0, n_absent]))
        absent = Absent(pages[1, :n_absent], pages_offsets[1], places[:n_absent])
        return Gathered(pages[0, :n_left], pages_offsets[0], absent, None)

    def leave(
        self,
        page_ids: npt.NDArray[np.uint32],
        places: npt.NDArray[np.int64],
        frames: npt.NDArray[np.uint8],
        keep: Callable[[], None],
    ) -> None:
        """Let pages, in frames, and the answers be kept by `keep`, when there is time."""
        self.later.leave(Due(self.keys, page_ids, places, frames, keep))

    def remember(
        self,
        queries: QuantizedQueries,
        ids: npt.NDArray[np.uint64],
        distances: npt.NDArray[np.float64],
        pages_read: npt.NDArray[np.int64],
        pages_cached: npt.NDArray[np.int64],
        scored: ScoredPages | None,
        *,
        grades: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Grade these queries, and keep their answers for later ones.

        Parameters
        ----------
        queries : QuantizedQueries
        ids, distances : (nq, k)
            Complete.
        pages_read, pages_cached : (nq,) int64
            Pages that each answer took from the device and from RAM.
        scored : ScoredPages, optional
            What was learned of pages.
        grades : (nq,) uint8, optional
            Where grades go; by default to those of the queries.
        """
        scored = scored or ScoredPages(_NO_PAGES, np.zeros(len(ids) + 1, np.int64), _NO_DISTANCES)
        kind = self.kind
        near_kernels.remember(
            kind.memory,
            self.keys,
            kind.marks,
            *kind.places,
            queries.elements,
            queries.scales,
            queries.norms,
            ids,
            distances,
            pages_read,
            pages_cached,
            scored.page_ids,
            scored.offsets,
            scored.nearest,
            self.grades if grades is None else grades,
        )
