"""What lies on the disk is what is served: collections appear, get new versions and go, with no failed call.

A published index is noticed by its file ``CURRENT``, which is replaced whole. Its new version is opened and asked once
beside the one that is served, and takes its place in one step; the old one is closed when its last call has ended.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from annserve.catalog.catalog import Catalog, Searchable, State
from annserve.errors import AnnserveError, ReadError, ServerError
from annserve.heap import return_what_is_free
from annserve.index.names import CURRENT

LOG = logging.getLogger("annserve.serve")

#: Seconds between two looks; one costs a system call or two for each collection.
LOOK_SECONDS = 0.25
#: Seconds until an index is opened again that nothing is known to be wrong with: its device, or this process, failed.
AGAIN_SECONDS = 30.0

#: What tells one published version from the next: time, number and size of the file that names it.
Mark = tuple[int, int, int]


class Follower:
    """Keeps a catalog in step with folders of indexes.

    Parameters
    ----------
    catalog : Catalog
    places : callable
        Gives name → folder of the collections that there are.
    open_index : callable
        Opens the published version in a folder.
    """

    def __init__(
        self, catalog: Catalog, places: Callable[[], Mapping[str, Path]], open_index: Callable[[Path], Searchable]
    ) -> None:
        self._catalog = catalog
        self._places = places
        self._open = open_index
        self._marks: dict[str, Mark | None] = {}
        #: Collections that are to be opened again → when, by the monotonic clock.
        self._again: dict[str, float] = {}
        self._looking = threading.Lock()
        self._wake = threading.Event()
        self._n_changes = 0
        self._ended = False
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def look(self) -> None:
        """Open what is new, swap what is newer, close what is gone; what another thread is at is waited for."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        places = self._places()
        for name in [name for name in self._marks if name not in places]:
            self._catalog.remove(name)
            del self._marks[name]
            self._again.pop(name, None)
        for name, folder in places.items():
            mark = _mark_of(folder)
            if (
                name not in self._marks
                or mark != self._marks[name]
                or self._again.get(name, math.inf) < time.monotonic()
            ):
                self._change(name, folder, mark)
                self._marks[name] = mark

    def start(self) -> None:
        """Look every now and then, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        n_closed = 0
        while not self._wake.wait(LOOK_SECONDS):
            if n_closed < self._n_changes:
                # A version that was closed since lies in cycles of references, which nobody else looks for in a while.
                n_closed = self._n_changes
                gc.collect()
                return_what_is_free()
            try:
                self.look()
            except Exception:  # the next look may fare better; the thread must live
                LOG.exception("can't follow the folders of collections")

    def _change(self, name: str, folder: Path, mark: Mark | None) -> None:
        self._n_changes += 1
        self._again.pop(name, None)
        if mark is None and folder.is_dir():
            # Only a folder that the server itself looks after may be without an index. Where it had one, that
            # collection was deleted, and this is another one of its name.
            self._catalog.remove(name)
            self._catalog.expect(name, State.EMPTY)
            return
        if name not in self._catalog.names():
            self._catalog.expect(name, State.OPENING)
        try:
            collection = self._open(folder)
            warm(collection)
        except AnnserveError as error:
            LOG.error("can't be served", extra={"collection": name, "error": str(error)})
            self._refuse(name, error)
            return
        except Exception as error:  # whatever it is, it is of this one collection
            LOG.exception("can't be served", extra={"collection": name})
            self._refuse(name, ServerError(f"opening it failed: {type(error).__name__}; the server's log tells more"))
            return
        self._catalog.serve(name, collection)
        info = collection.info()
        told = {"ram_bytes": info["ram_bytes"], "io": info["io"], "snapshot": info["snapshot"]}
        LOG.info("opened", extra={"collection": name, **told})

    def _refuse(self, name: str, error: AnnserveError) -> None:
        self._catalog.refuse(name, error)
        if isinstance(error, ReadError | ServerError):
            self._again[name] = time.monotonic() + AGAIN_SECONDS


def warm(collection: Searchable) -> None:
    """Ask once: that loads or compiles the kernels, for seconds, and no caller's deadline should pay for it."""
    info = collection.info()
    try:
        for dtype in {"float32", info["row_type"]}:
            collection.search(np.ones((2, info["dim"]), dtype), 1)
    except BaseException:
        collection.close()
        raise


def _mark_of(folder: Path) -> Mark | None:
    try:
        status = (folder / CURRENT).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
