"""What is served: collections by name.

A service knows collections by their contract ``Searchable`` alone, so that any engine can stand behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from annserve.errors import InputError, NotFoundError
from annserve.results import SearchResult


class Searchable(Protocol):
    """What a server needs of a collection; ``annserve.collection.Collection`` is one."""

    @property
    def n_rows(self) -> int:
        """Rows that can be found."""

    def search(
        self,
        queries: npt.NDArray[Any],
        k: int = ...,
        *,
        recall_target: float = ...,
        rerank_queries: npt.NDArray[Any] | None = ...,
        rerank_candidates: int | None = ...,
        deadline: float | None = ...,
    ) -> SearchResult:
        """Find the `k` nearest rows of each query, or raise DeadlineError once `deadline` has passed."""

    def info(self) -> dict[str, Any]:
        """Give the facts of the index as plain values."""


class Catalog:
    """The collections of a server, by name."""

    def __init__(self, collections: Mapping[str, Searchable]) -> None:
        self._collections = dict(sorted(collections.items()))

    def names(self) -> list[str]:
        """Give the names in order."""
        return list(self._collections)

    def find(self, name: str) -> tuple[str, Searchable]:
        """Give a collection's name and itself; an empty name means the only one.

        Raises
        ------
        InputError
            If the name is empty and there are several.
        NotFoundError
            If there is none of that name.
        """
        if not name and len(self._collections) == 1:
            return next(iter(self._collections.items()))
        served = ", ".join(self._collections)[:200]
        if not name:
            raise InputError(f"several collections are served; name one of {served}", field="collection")
        if name not in self._collections:
            raise NotFoundError(f"no collection {name[:60]!r} is served here; there is {served}")
        return name, self._collections[name]
