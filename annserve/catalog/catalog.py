"""What is served: collections by name, each in a version that calls hold on to while they use it.

Invariants: a call begins and ends with one version; a version that was replaced is closed when its last call has ended,
never before; a collection that can't be trusted is known with its reason, and the others don't notice.

A service knows collections by their contract ``Searchable`` alone, so that any engine can stand behind it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Protocol

import numpy.typing as npt

from annserve.errors import AnnserveError, InputError, NotFoundError, ServerError, without_folders
from annserve.results import SearchResult
from annserve.search.clock import Deadline

LOG = logging.getLogger("annserve.serve")


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
        deadline: Deadline | None = ...,
        session: bytes = ...,
        tenant: bytes = ...,
        bypass_cache: bool = ...,
        approximate_cosine: float | None = ...,
    ) -> SearchResult:
        """Find the `k` nearest rows of each query, or raise DeadlineError once `deadline` has passed."""

    def search_exact(self, queries: npt.NDArray[Any], k: int, *, between: Callable[[], None]) -> SearchResult:
        """Find them by scoring every row, calling back between batches of pages."""

    def info(self) -> dict[str, Any]:
        """Give the facts of the index as plain values."""

    def cache_counts(self) -> Mapping[str, int]:
        """Give what its cache did since it was opened; nothing without one."""

    def close(self) -> None:
        """Let its files and threads go."""


class State(Enum):
    """How a collection stands; the names are those of the proto."""

    EMPTY = "no index yet"
    OPENING = "being opened"
    READY = "served"
    QUARANTINED = "not to be trusted"


@dataclass(eq=False)
class Version:
    """An open index, and how many calls use it. As a context it is one more."""

    name: str
    collection: Searchable
    snapshot: int
    info: dict[str, Any] = field(repr=False)
    _users: int = 0
    _retired: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def hold(self) -> bool:
        """Begin to use it, unless it is closed already."""
        with self._lock:
            if self._retired and not self._users:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """End a use; the last one of a retired version closes it."""
        with self._lock:
            self._users -= 1
            last = self._retired and not self._users
        if last:
            self._close()

    def retire(self) -> None:
        """Let it be closed as soon as nobody uses it."""
        with self._lock:
            already, self._retired = self._retired, True
            unused = not self._users and not already
        if unused:
            self._close()

    def _close(self) -> None:
        self.collection.close()
        LOG.info("closed", extra={"collection": self.name, "snapshot": self.snapshot})

    def __enter__(self) -> Version:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True)
class Standing:
    """How one collection stands now.

    Attributes
    ----------
    name : str
    state : State
    reason : str
        Why it isn't ready; of a ready one, why its newest version isn't the one that is served. Empty if all is well.
        Whoever asks may read it: files stand in it without their folders.
    version : Version or None
        What is served.
    error : AnnserveError or None
        What a search of one that isn't ready is answered with.
    """

    name: str
    state: State
    reason: str = ""
    version: Version | None = None
    error: AnnserveError | None = None

    @property
    def gone(self) -> bool:
        """Whether it was removed: one that has no index yet says so as its reason."""
        return self.state is State.EMPTY and not self.reason


class Catalog:
    """The collections of a server, by name; threads may share it.

    Parameters
    ----------
    collections : mapping
        Open ones, where they are known from the start.
    """

    def __init__(self, collections: Mapping[str, Searchable] | None = None) -> None:
        self._standing: dict[str, Standing] = {}
        self._listeners: list[Callable[[Standing], None]] = []
        self._lock = threading.Lock()
        for name, collection in (collections or {}).items():
            self.serve(name, collection)

    def listen(self, listener: Callable[[Standing], None]) -> None:
        """Call `listener` with the standing of each collection, now and whenever one changes or goes (then EMPTY)."""
        self._listeners.append(listener)
        for standing in self.standings():
            listener(standing)

    def names(self) -> list[str]:
        """Give the names in order."""
        return sorted(self._standing)

    def standings(self) -> list[Standing]:
        """Say how each collection stands, by name."""
        standing = dict(self._standing)
        return [standing[name] for name in sorted(standing)]

    def standing(self, name: str) -> Standing:
        """Say how a collection stands; an empty name means the only one.

        Raises
        ------
        InputError
            If the name is empty and there are several.
        NotFoundError
            If there is none of that name.
        """
        found = self._standing.get(name)
        if found is not None:
            return found
        known = dict(self._standing)
        if not name and len(known) == 1:
            return next(iter(known.values()))
        served = ", ".join(sorted(known))[:200]
        if not name and known:
            raise InputError(f"several collections are served; name one of {served}", field="collection")
        there_is = f"there is {served}" if known else "there is none yet"
        raise NotFoundError(f"no collection {name[:60]!r} is served here; {there_is}")

    def lease(self, name: str) -> Version:
        """Give the version of a collection that is served now, held until the context that it is ends.

        Raises
        ------
        InputError, NotFoundError
            As of `standing`.
        AnnserveError
            What keeps the collection from being served.
        """
        while True:
            standing = self.standing(name)
            if standing.version is None:
                raise standing.error or ServerError(
                    f"collection {standing.name!r} is {standing.state.value}; try again later"
                )
            # It may have been replaced and closed since it was looked up.
            if standing.version.hold():
                return standing.version

    def serve(self, name: str, collection: Searchable) -> None:
        """Serve this version of a collection from now on."""
        info = collection.info()
        self._put(Standing(name, State.READY, version=Version(name, collection, info.get("snapshot", 0), info)))

    def refuse(self, name: str, error: AnnserveError) -> None:
        """Say why an index can't be served: what is served of the collection goes on, else it is quarantined."""
        version = self._standing[name].version if name in self._standing else None
        state = State.QUARANTINED if version is None else State.READY
        self._put(Standing(name, state, without_folders(error), version, error))

    def expect(self, name: str, state: State) -> None:
        """Say that a collection has no index yet (EMPTY), or that it is being opened (OPENING)."""
        self._put(Standing(name, state, state.value))

    def remove(self, name: str) -> None:
        """Serve a collection no longer; calls that have begun end first."""
        with self._lock:
            gone = self._standing.pop(name, None)
        if gone is not None:
            self._tell(Standing(name, State.EMPTY))
            if gone.version is not None:
                gone.version.retire()

    def close(self) -> None:
        """Remove all collections."""
        for name in self.names():
            self.remove(name)

    def _put(self, standing: Standing) -> None:
        with self._lock:
            before = self._standing.get(standing.name)
            self._standing[standing.name] = standing
        self._tell(standing)
        if before is not None and before.version is not None and before.version is not standing.version:
            before.version.retire()

    def _tell(self, standing: Standing) -> None:
        for listener in self._listeners:
            listener(standing)
