"""A cache beside a search: opened within a bound, and asked first; what it leaves open is searched for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.index.snapshot import Snapshot
from annserve.lookaside.asked import Asked
from annserve.lookaside.lookaside import Lookaside
from annserve.lookaside.store import BYTES_LEAST
from annserve.packed.cache import PackedCache
from annserve.results import SearchResult, SearchStats
from annserve.storage.cache import PageCache

#: Share of a cache that answers take at least, and at most where it is small: a 16th, 32nd, 48th of it save 38.0, 38.5,
#: 38.7 % of the pages of dialogues. Bytes do more in pages, but an answer is there at once.
_ANSWERS_SHARE, _ANSWERS_MOST = 32, 16


class CacheUse(NamedTuple):
    """What a request asks of a cache; as of ``Collection.search``."""

    session: bytes = b""
    tenant: bytes = b""
    bypass_cache: bool = False
    approximate_cosine: float | None = None


AS_IT_COMES = CacheUse()
_NOTHING = np.zeros((len(SearchStats.COUNTS), 1), np.int64)


def open_cache(n_bytes: int, snapshot: Snapshot, packed: bool) -> tuple[PackedCache | None, Lookaside | None]:
    """Open a cache of at most so many bytes: of pages, packed or whole, and of answers where there is room for them.

    Raises
    ------
    InputError
        If not even a few pages fit.
    """
    if not n_bytes:
        return None, None
    manifest = snapshot.manifest
    share = max(n_bytes // _ANSWERS_SHARE, BYTES_LEAST) if n_bytes >= _ANSWERS_MOST * BYTES_LEAST else 0
    pages = PackedCache(
        PageCache(n_bytes - share, manifest.spec.page_bytes, snapshot.n_pages), snapshot.segments, packed
    )
    if not share:
        return pages, None
    norm_max = max(manifest.norm_max_of(entry) for entry in manifest.segments)
    return pages, Lookaside(share, manifest.spec, norm_max)


def answered_aside(
    asked: Asked,
    queries: npt.NDArray[Any],
    search: Callable[[npt.NDArray[Any], Asked], SearchResult],
    begun: float,
) -> SearchResult:
    """Search for the queries that the cache left open, and give all answers in their order.

    Parameters
    ----------
    asked : Asked
        Some are answered.
    queries : (nq, dim) array
    search : callable
        Searches for some of them.
    begun : float
        ``time.perf_counter()`` of the call.
    """
    counts = np.repeat(_NOTHING, len(queries), axis=1)
    stages: dict[str, float] = {}
    truncated = np.zeros(len(queries), np.bool_)
    if asked.n_found < len(queries):
        left = ~asked.found
        rest = asked.take(left)
        result = search(queries[left], rest)
        asked.ids[left], asked.distances[left] = result.ids, result.distances
        asked.grades[left] = rest.grades
        truncated[left] = result.truncated
        stages = result.stats.stage_seconds
        counts[:, left] = [getattr(result.stats, name) for name in SearchStats.COUNTS]
    stats = SearchStats.of(counts, stages, time.perf_counter() - begun, asked.grades)
    return SearchResult(asked.ids, asked.distances, stats, truncated)
