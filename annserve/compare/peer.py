"""The contract of an adapter: how any system is built, opened, set and asked. NumPy is all that it needs.

An adapter is a folder with two files: ``adapter.py`` with a class ``Adapter(Peer)``, and ``peer.toml``, which
`annserve.compare.cards` reads. It runs in a process of its own (`annserve.compare.worker`), possibly in another
virtual environment; so this module must import nothing that isn't there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.measure.target import NO_ID
from annserve.results import SearchResult, SearchStats


class Peer(ABC):
    """One index of one system, with one set of build parameters.

    Parameters
    ----------
    folder : Path
        Where the index is kept; exists, and is empty before ``build``.
    metric : str
        ``l2``, ``ip`` or ``cosine``.
    parameters : mapping
        One point of the build grid of peer.toml.
    threads : int
        Threads that a build may use. A search uses the one that calls it.
    """

    #: Largest resident set of a build that counts it itself, where the kernel's count of the process doesn't tell.
    build_peak_rss_bytes = 0

    def __init__(self, folder: Path, metric: str, parameters: Mapping[str, Any], threads: int) -> None:
        self.folder, self.metric, self.parameters, self.threads = folder, metric, parameters, threads

    @abstractmethod
    def build(self, base: npt.NDArray[Any], base_path: Path) -> None:
        """Build the index from rows (n, dim), mapped from the npy file `base_path`, and leave it in the folder."""

    @abstractmethod
    def open(self) -> None:
        """Make the index in the folder ready to search."""

    @abstractmethod
    def configure(self, point: Mapping[str, Any]) -> None:
        """Take one point of the search grid; holds until the next one."""

    @abstractmethod
    def search(self, queries: npt.NDArray[Any], k: int = 10, *, recall_target: float = 0.95) -> SearchResult:
        """Answer queries (nq, dim), called from several threads at once; `answer` makes the result."""

    def info(self) -> dict[str, Any]:
        """Say what is known besides what is measured: pages, ram_bytes, …"""
        return {}

    def close(self) -> None:
        """Let the index go."""
        return


def answer(ids: npt.ArrayLike, distances: npt.ArrayLike, **counts: npt.ArrayLike) -> SearchResult:
    """Make a result from what a library gives back.

    Parameters
    ----------
    ids : (nq, k) integers
        −1 where there is no result.
    distances : (nq, k) numbers
        Smaller is nearer.
    **counts : (nq,) integers
        Those of ``SearchStats.COUNTS`` that the system knows.
    """
    named = np.atleast_2d(np.asarray(ids)).astype(np.int64)
    known: dict[str, Any] = {name: np.atleast_1d(np.asarray(of, np.int64)) for name, of in counts.items()}
    return SearchResult(
        np.where(named < 0, NO_ID, named.astype(np.uint64)),
        np.atleast_2d(np.asarray(distances, np.float32)),
        SearchStats(**known),
    )


def as_float_rows(rows: npt.NDArray[Any], metric: str) -> npt.NDArray[np.float32]:
    """Give rows as C-contiguous float32, of unit length under cosine: what most libraries want."""
    floats = np.ascontiguousarray(rows, np.float32)
    if metric != "cosine":
        return floats
    norms = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.ascontiguousarray(floats / np.maximum(norms, 1e-30))
