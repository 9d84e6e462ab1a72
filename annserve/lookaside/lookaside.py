"""The lookaside cache: what earlier queries leave for later ones, beside the pages that a page cache keeps.

=============  ======================================  ===========================================================
grade          when                                    the answer
=============  ======================================  ===========================================================
repeat         the very query was answered before      that answer
certified      earlier queries left all planned pages  the same to the bit as without a cache
               in RAM, or proved of the others that
               they don't matter: nothing is read
delta          … some of them: the others are read     the same to the bit
miss           all planned pages are read              that answer
approximate    the request allows it, and a recent     the answer to that query: maybe another one
               query lies within the angle it names
=============  ======================================  ===========================================================

Invariants
----------
- Memory never exceeds the bound that was given, whatever is asked, and by how many sessions.
- An answer serves the same tenant, k, recall target and bytes of a query alone: keys are SipHash, under a secret of
  this cache and of the kind of request. What is proven of pages, and approximate answers, stay within a session too.
- A cache belongs to one open version of an index. A new version is opened with a new one.
- Nobody waits: see ``store_kernels``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import acos, pi, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.lookaside import answer_kernels, near_kernels, store_kernels
from annserve.lookaside.gather_kernels import ANSWERED, WAITING, gather_pages
from annserve.lookaside.later import Due, Later
from annserve.lookaside.near_kernels import RING
from annserve.lookaside.store import empty_store
from annserve.lookaside.store_kernels import Store
from annserve.pages.rows import QuantizedQueries, quantize_queries
from annserve.pages.score import Frames, PageFacts
from annserve.results import APPROXIMATE
from annserve.spec import IndexSpec
from annserve.storage.cache import Absent, PageCache

#: Entries that a proof may take from: the nearest ones.
_ENTRIES = 4
_KINDS_KEPT = 4_096
#: Standard errors of the bits in which sketches differ.
_BITS_SPREAD = 3.0


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


class Lookaside:
    """What earlier queries of one open index leave; threads share it.

    Parameters
    ----------
    n_bytes : int
        Bound of all memory, at least `BYTES_LEAST`.
    spec : IndexSpec
    norm_max : float
        Largest norm of a row; used under inner product only.
    """

    def __init__(self, n_bytes: int, spec: IndexSpec, norm_max: float = 0.0) -> None:
        self._secret = secrets.token_bytes(32)
        # Requests of one kind come in long rows.
        self._kind = lru_cache(_KINDS_KEPT)(self._kind_of)
        self.later = Later()
        self.memory = empty_store(n_bytes, spec, norm_max)
        self.store: Store = store_kernels.opened.py_func(self.memory)

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM."""
        return self.memory.nbytes

    @property
    def counts(self) -> dict[str, int]:
        """What it did so far: ``pages_saved`` by answers and proofs, and answers that made room."""
        self.later.keep()
        totals = self.store.totals
        return {
            "repeats": int(totals[store_kernels.REPEATS]),
            "pages_saved": int(totals[store_kernels.PAGES_SAVED]),
            "evictions": int(totals[store_kernels.EVICTIONS]),
        }

    def ask(
        self,
        queries: npt.NDArray[Any],
        k: int,
        recall_target: float,
        *,
        session: bytes = b"",
        tenant: bytes = b"",
        approximate_cosine: float | None = None,
    ) -> Asked:
        """Look for answers to queries that were asked before.

        Parameters
        ----------
        queries : (nq, dim) array
            Valid (``spec.check_vectors``).
        k : int
        recall_target : float
        session : bytes
            Valid (``spec.check_session``).
        tenant : bytes
            Whose queries may share answers.
        approximate_cosine : float, optional
            Valid (``spec.check_cosine``).
        """
        kind = self._kind(tenant, session, k, recall_target, queries.dtype.char)
        asked = Asked.of(kind, self.later, len(queries))
        asked.find_answers(queries)
        if approximate_cosine is not None and asked.n_found < len(queries):
            self._find_similar(queries, asked, approximate_cosine)
        return asked

    def _kind_of(self, tenant: bytes, session: bytes, k: int, recall_target: float, dtype: str) -> Kind:
        about = repr((tenant, k, recall_target, dtype)).encode()
        secret = blake2b(about, digest_size=16, key=self._secret).digest()
        scope = blake2b(about + session, digest_size=8, key=self._secret, person=b"scope").digest()
        n_rings = len(self.store.near_next) - 1
        first = RING * (int.from_bytes(scope, "little") % n_rings)
        places = (first, first + RING) if session else (RING * n_rings, len(self.store.sketches))
        marks = bytearray(secret + scope + (scope if session else bytes(8)))
        return Kind(self.memory, np.frombuffer(marks, np.uint64), places, k)

    def _find_similar(self, queries: npt.NDArray[Any], asked: Asked, cosine: float) -> None:
        """Answer the open queries by those of recent ones that are similar enough."""
        quantized = quantize_queries(queries)
        angle = acos(min(cosine, 1.0))
        share = angle / pi
        bits = int(64 * share + _BITS_SPREAD * sqrt(64 * share * (1 - share))) + 2
        position, moved = np.empty(1, np.int64), np.empty(1, np.float64)
        for i in np.flatnonzero(~asked.found).tolist():
            if near_kernels.find_similar(
                self.memory,
                quantized.elements[i],
                quantized.scales[i],
                quantized.norms[i],
                asked.kind.marks,
                *asked.kind.places,
                asked.kind.k,
                angle,
                bits,
                position,
                moved,
                asked.ids[i],
                asked.distances[i],
            ):
                asked.found[i], asked.grades[i] = True, APPROXIMATE
                asked.n_found += 1


#: Ids, distances, and rows scored of each query.
Answers = tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


class Gathered(NamedTuple):
    """What is left of a block's planned pages.

    Attributes
    ----------
    page_ids, offsets : (l,) uint32, (nq + 1,) int64
        Pages to look at. The others hold none of the k nearest of all rows on planned pages.
    absent : Absent
        Pages to read, and the frames for them; the other pages that are left are in theirs.
    answers : Answers, optional
        Where all queries are answered; they are kept already.
    """

    page_ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    absent: Absent
    answers: Answers | None


_NO_PAGES, _NO_DISTANCES = np.zeros(0, np.uint32), np.zeros(0)


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
    found : (nq,) bool
        Queries that are answered; `n_found` of them.
    ids, distances : (nq, k) uint64, float32
        Answers, where found.
    proofs_pay : bool
        Whether to look for proofs.
    """

    kind: Kind
    later: Later
    keys: npt.NDArray[np.uint64]
    grades: npt.NDArray[np.uint8]
    found: npt.NDArray[np.bool_]
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
            np.empty(n_queries, np.bool_),
            np.empty((n_queries, kind.k), np.uint64),
            np.empty((n_queries, kind.k), np.float32),
        )

    def take(self, which: Any) -> Asked:
        """Give some of the queries, to be searched for; of a slice, all are those of the whole."""
        keys, grades, found = self.keys[which], self.grades[which], self.found[which]
        ids, distances = self.ids[which], self.distances[which]
        return Asked(self.kind, self.later, keys, grades, found, ids, distances, 0, self.proofs_pay)

    def find_answers(self, queries: npt.NDArray[Any]) -> None:
        """Look for answers to the same bytes; one that is to be kept is kept first."""
        kind, found = self.kind, (self.ids, self.distances, self.found, self.grades)
        while True:
            due = self.later.next
            self.n_found, self.proofs_pay = answer_kernels.find_answers(
                kind.memory, queries, kind.marks, kind.k, due.keys, self.keys, *found
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
        *,
        answer: bool = True,
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
        answer : bool
            Score the rows, and keep the answers, where no page is to be read and all find k.

        Raises
        ------
        CorruptionError
            If a page in RAM is damaged.
        """
        kind, n_pages, n_offsets, n_queries = self.kind, len(page_ids), len(offsets), len(offsets) - 1
        lists, lists_offsets = np.empty((2, n_pages), np.uint32), np.empty((2, n_offsets), np.int64)
        places, nearest = np.empty(n_pages, np.int64), np.empty(n_pages)
        ids, distances = np.empty((n_queries, kind.k), np.uint64), np.empty((n_queries, kind.k))
        counts = np.empty((n_queries, 3), np.int64)
        state = WAITING
        while state == WAITING:
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
                self.later.next.page_ids,
                self.proofs_pay,
                answer,
                facts.numbers,
                frames.views,
                np.empty((2, n_pages), np.bool_),
                np.empty(_ENTRIES, np.int64),
                np.empty(_ENTRIES),
                lists,
                lists_offsets,
                places,
                self.grades,
                nearest,
                distances,
                ids,
                counts,
            )
            if state == WAITING:
                self.later.keep()
        if state >= 0:
            raise facts.damaged(state, int(lists[0, n_absent]))
        absent = Absent(lists[1, :n_absent], lists_offsets[1], places[:n_absent])
        answers = (ids, distances, counts[:, 0]) if state == ANSWERED else None
        return Gathered(lists[0, :n_left], lists_offsets[0], absent, answers)

    def leave(self, page_ids: npt.NDArray[np.uint32], keep: Callable[[], None]) -> None:
        """Let pages and answers be kept by `keep`, when there is time."""
        self.later.leave(Due(self.keys, page_ids, keep))

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
