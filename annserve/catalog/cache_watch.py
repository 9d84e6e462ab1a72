"""What the caches of a process do, for its metrics: each counts from when its version was opened, a server goes on."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from annserve.catalog.catalog import Catalog, Version
from annserve.watch.metrics import meter

#: Those of ``Collection.cache_counts`` that are counted.
_COUNTS = ("pages_saved", "evictions", "page_evictions")


class CacheWatch:
    """Looks at the caches of a catalog; one thread does.

    Parameters
    ----------
    catalog : Catalog
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._seen: WeakKeyDictionary[Version, Mapping[str, int]] = WeakKeyDictionary()

    def look(self) -> None:
        """Count what was done since the last look."""
        for standing in self._catalog.standings():
            version = standing.version
            if version is None or not version.hold():
                continue
            with version:
                now = version.collection.cache_counts()
            before = self._seen.get(version, {})
            saved, answers, pages = (now.get(name, 0) - before.get(name, 0) for name in _COUNTS)
            meter(standing.name).cache_did(pages_saved=saved, answers_evicted=answers, pages_evicted=pages)
            self._seen[version] = now
