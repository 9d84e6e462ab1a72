"""The contract of a thing that can be measured: an index in this process, a client of a server, a peer.

``annserve.Collection`` and ``annserve.Client`` meet it as they are. One target is called from several threads
at once, with one query per call.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from annserve.results import SearchResult


class SearchTarget(Protocol):
    """Something that answers queries and says what it is."""

    def search(self, queries: npt.NDArray[Any], k: int = ..., *, recall_target: float = ...) -> SearchResult:
        """Answer a batch of queries.

        Parameters
        ----------
        queries : (nq, dim) array
            Vectors in the target's own type.
        k : int
            Results per query.
        recall_target : float
            Recall that the answer shall reach on average, 0 to 1.

        Returns
        -------
        SearchResult
            ids (nq, k), −1 (the largest uint64) where there is no result; counts are left empty by a target
            that keeps none.
        """
        ...

    def info(self) -> dict[str, Any]:
        """Say what is searched: count, dim, ram_bytes, ram_bytes_per_vector, disk_bytes, build_seconds.

        What a target can't know it leaves out.
        """
        ...


#: What stands where a result is missing: −1 as uint64.
NO_ID = np.uint64(2**64 - 1)
