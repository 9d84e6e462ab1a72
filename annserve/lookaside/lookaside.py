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
- An answer serves the same tenant, k, recall target and bytes of a query alone: keys are BLAKE2b, under a secret of
  this cache. What is proven of pages, and approximate answers, stay within a session besides.
- A cache belongs to one open version of an index. A new version is opened with a new one.
- Nobody waits: see ``store_kernels``.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from math import acos, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.lookaside import near_kernels, store_kernels
from annserve.lookaside.near_kernels import RING
from annserve.lookaside.store import BYTES_LEAST, bytes_of_store, empty_store
from annserve.metric import METRIC_CODES
from annserve.pages.rows import QuantizedQueries, quantize_queries
from annserve.results import APPROXIMATE, DELTA
from annserve.spec import IndexSpec

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
        assert n_bytes >= BYTES_LEAST, n_bytes
        self._metric = METRIC_CODES[spec.metric]
        # Stored rows are projections of those that were given, but for the rounding of their scale.
        self._norm_max = norm_max * (1 + 1e-6)
        self._secret = secrets.token_bytes(32)
        self._lots = np.random.default_rng(1).integers(0, spec.dim, (64, 8), dtype=np.uint16)
        # Requests of one kind come in long rows.
        self._about = lru_cache(_KINDS_KEPT)(self._hashed)
        self._store = empty_store(n_bytes - self._lots.nbytes, spec.dim)

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM."""
        return self._lots.nbytes + bytes_of_store(self._store)

    @property
    def counts(self) -> dict[str, int]:
        """What it did so far: ``pages_saved`` by answers and proofs, and answers that made room."""
        totals = self._store.totals
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
        keyed, scope = self._about(tenant, session, k, recall_target, queries.dtype.str)
        digests = [b""]
        for query in queries:
            one = keyed.copy()
            one.update(query)
            digests.append(one.digest())
        n_queries = len(queries)
        keys = np.frombuffer(b"".join(digests), np.uint64).reshape(n_queries, 2)
        asked = Asked(self, keys, scope, bool(session), k, np.empty(n_queries, np.uint8))
        asked.found = np.empty(n_queries, np.bool_)
        asked.ids = np.empty((n_queries, k), np.uint64)
        asked.distances = np.empty((n_queries, k), np.float32)
        asked.n_found = store_kernels.find_answers(
            self._store, keys, k, asked.ids, asked.distances, asked.found, asked.grades
        )
        if approximate_cosine is not None and asked.n_found < n_queries:
            self._find_similar(queries, asked, approximate_cosine)
        return asked

    def _hashed(self, tenant: bytes, session: bytes, k: int, recall_target: float, dtype: str) -> tuple[Any, np.uint64]:
        """Give what keys of such queries begin with, and the scope of their session."""
        about = repr((tenant, k, recall_target, dtype)).encode()
        scope = blake2b(about + session, digest_size=8, key=self._secret, person=b"scope").digest()
        return blake2b(about, digest_size=16, key=self._secret), np.uint64(int.from_bytes(scope, "little"))

    def _find_similar(self, queries: npt.NDArray[Any], asked: Asked, cosine: float) -> None:
        """Answer the open queries by those of recent ones that are similar enough."""
        quantized = quantize_queries(queries)
        angle = acos(min(cosine, 1.0))
        share = angle / pi
        bits = int(64 * share + _BITS_SPREAD * sqrt(64 * share * (1 - share))) + 2
        first, stop = self._places(asked)
        for i in np.flatnonzero(~asked.found).tolist():
            if near_kernels.find_similar(
                self._store,
                quantized.elements[i],
                quantized.scales[i],
                quantized.norms[i],
                self._lots,
                asked.scope,
                first,
                stop,
                asked.k,
                angle,
                bits,
                asked.ids[i],
                asked.distances[i],
            ):
                asked.found[i], asked.grades[i] = True, APPROXIMATE
                asked.n_found += 1

    def _places(self, asked: Asked) -> tuple[int, int]:
        """Give the places of the recent queries that may serve: a session's ring, or all."""
        n_places = len(self._store.sketches)
        if not asked.of_session:
            return 0, n_places
        first = RING * (int(asked.scope) % (n_places // RING))
        return first, first + RING

    def prove(
        self,
        asked: Asked,
        queries: QuantizedQueries,
        page_ids: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        held: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_] | None:
        """Find pages that hold none of the k nearest; see ``Asked.prove``."""
        first, stop = self._places(asked)
        if not self._pays():
            return None
        needless = np.empty(len(page_ids), np.bool_)
        proven = np.empty(len(queries.norms), np.int64)
        if not near_kernels.prove_needless(
            self._store,
            queries.elements,
            queries.scales,
            queries.norms,
            self._lots,
            asked.scope,
            first,
            stop,
            asked.k,
            self._metric,
            page_ids,
            offsets,
            held,
            np.empty(_ENTRIES, np.int64),
            np.empty(_ENTRIES),
            needless,
            proven,
        ):
            return None
        asked.grades[proven > 0] = DELTA
        return needless

    def _pays(self) -> bool:
        """Say whether to look for proofs: where they are rare, in some calls only, so that a change is noticed."""
        kept, paid = (int(self._store.totals[i]) for i in (store_kernels.NEAR_KEPT, store_kernels.NEAR_PAID))
        return kept < near_kernels.TRIALS or paid * near_kernels.PAYS >= kept or kept % near_kernels.SPARED == 0

    def remember(
        self,
        asked: Asked,
        queries: QuantizedQueries,
        ids: npt.NDArray[np.uint64],
        distances: npt.NDArray[np.float64],
        pages_read: npt.NDArray[np.int64],
        pages_cached: npt.NDArray[np.int64],
        scored: ScoredPages | None,
    ) -> None:
        """Keep answers; see ``Asked.remember``."""
        if scored is None:
            scored = ScoredPages(_NO_PAGES, np.zeros(len(ids) + 1, np.int64), _NO_DISTANCES)
        near_kernels.remember(
            self._store,
            asked.keys,
            asked.scope,
            self._places(asked)[0] if asked.of_session else -1,
            queries.elements,
            queries.scales,
            queries.norms,
            self._lots,
            self._metric,
            self._norm_max,
            ids,
            distances,
            pages_read,
            pages_cached,
            scored.page_ids,
            scored.offsets,
            scored.nearest,
            asked.grades,
        )


_NO_PAGES, _NO_DISTANCES = np.zeros(0, np.uint32), np.zeros(0)


@dataclass
class Asked:
    """A call's queries, or some of them, as the cache knows them.

    Attributes
    ----------
    cache : Lookaside
    keys : (nq, 2) uint64
    scope : uint64
        Whose recent queries may prove something for these.
    of_session : bool
    k : int
    grades : (nq,) uint8
        See ``results.GRADES``.
    found : (nq,) bool
        Queries that are answered; `n_found` of them.
    ids, distances : (nq, k) uint64, float32
        Answers, where found.
    """

    cache: Lookaside
    keys: npt.NDArray[np.uint64]
    scope: np.uint64
    of_session: bool
    k: int
    grades: npt.NDArray[np.uint8]
    n_found: int = 0
    found: npt.NDArray[np.bool_] = field(init=False)
    ids: npt.NDArray[np.uint64] = field(init=False)
    distances: npt.NDArray[np.float32] = field(init=False)

    def take(self, which: Any) -> Asked:
        """Give some of the queries, to be searched for; of a slice, the grades are those of the whole."""
        return Asked(self.cache, self.keys[which], self.scope, self.of_session, self.k, self.grades[which])

    def prove(
        self,
        queries: QuantizedQueries,
        page_ids: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        held: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_] | None:
        """Find pages that need not be read, and grade the queries.

        Parameters
        ----------
        queries : QuantizedQueries
        page_ids : (p,) uint32
            Planned, ascending for each query.
        offsets : (nq + 1,) int64
        held : (p,) bool
            Pages that are in RAM.

        Returns
        -------
        (p,) bool or None
            Pages that aren't held and hold none of the k nearest of all rows on planned pages; None for none.
        """
        return self.cache.prove(self, queries, page_ids, offsets, held)

    def remember(
        self,
        queries: QuantizedQueries,
        ids: npt.NDArray[np.uint64],
        distances: npt.NDArray[np.float64],
        pages_read: npt.NDArray[np.int64],
        pages_cached: npt.NDArray[np.int64],
        scored: ScoredPages | None,
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
        """
        self.cache.remember(self, queries, ids, distances, pages_read, pages_cached, scored)
