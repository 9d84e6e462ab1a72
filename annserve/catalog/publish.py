"""PublishVersion: the newest version of an index is served by every process of this server before the answer goes out.

Processes notice new versions by themselves, within a second; whoever asks for one wants to know when that is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from annserve.catalog.catalog import Catalog, Standing
from annserve.errors import ConflictError, DeadlineError, InputError

#: Seconds between two looks at the other processes.
_LOOK_SECONDS = 0.05
#: How long to wait for them where the caller gave no deadline.
_WAIT_SECONDS = 60.0

#: How each process stands: name of a collection → facts about it, as `worker.Told` keeps them.
Told = Callable[[], Sequence[Mapping[str, Any]]]


class Publisher:
    """Has new versions served now.

    Parameters
    ----------
    catalog : Catalog
        Of this process.
    look : callable
        Brings it in step with the disk.
    told : callable
        Gives what each process says of its collections.
    named : collection of str
        Collections that were named when the server was started; others it made itself.
    """

    def __init__(
        self, catalog: Catalog, look: Callable[[], None], told: Told = list, named: Collection[str] = ()
    ) -> None:
        self._catalog, self._look, self._told, self._named = catalog, look, told, named

    def is_managed(self, name: str) -> bool:
        """Whether the server made a collection."""
        return name not in self._named

    def publish(self, name: str, snapshot: int, seconds: float | None) -> Standing:
        """Serve the newest version of a collection in every process; give how it then stands.

        Parameters
        ----------
        name : str
            Empty for the only one.
        snapshot : int
            The version that is expected; 0 takes any.
        seconds : float, optional
            How long that may take.

        Raises
        ------
        InputError
            If the collection has no index.
        NotFoundError
            If there is none of that name.
        ConflictError
            If another version is the newest.
        AnnserveError
            Whatever keeps the newest version from being served; the one before goes on.
        DeadlineError
            If a process takes too long.
        """
        until = time.monotonic() + (_WAIT_SECONDS if seconds is None else seconds)
        self._look()
        standing = self._catalog.standing(name)
        if standing.error is not None:
            raise standing.error
        if standing.version is None:
            raise InputError(f"collection {standing.name!r} has no index yet; build one first", field="collection")
        served = standing.version.snapshot
        if snapshot and snapshot != served:
            raise ConflictError(
                f"version {served} of {standing.name!r} is the newest, not {snapshot}; look at it first"
            )
        while any(self._lags(process, standing.name, served) for process in self._told()):
            if time.monotonic() >= until:
                raise DeadlineError(
                    f"version {served} of {standing.name!r} is served, but not by every process yet; ask again later"
                )
            time.sleep(_LOOK_SECONDS)
        return standing

    @staticmethod
    def _lags(process: Mapping[str, Any], name: str, snapshot: int) -> bool:
        """Whether a process that answers calls doesn't serve that version."""
        return process.get("state") == "serving" and process["collections"].get(name, {}).get("snapshot") != snapshot
