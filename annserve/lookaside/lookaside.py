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
from functools import lru_cache
from hashlib import blake2b
from math import acos, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.lookaside import near_kernels, store_kernels
from annserve.lookaside.asked import Asked, Kind
from annserve.lookaside.later import Later
from annserve.lookaside.near_kernels import RING
from annserve.lookaside.store import empty_store
from annserve.lookaside.store_kernels import Store
from annserve.pages.rows import quantize_queries
from annserve.results import APPROXIMATE
from annserve.spec import IndexSpec

_KINDS_KEPT = 4_096
#: Standard errors of the bits in which sketches differ.
_BITS_SPREAD = 3.0


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
                asked.grades[i] = APPROXIMATE
                asked.n_found += 1
