"""The auditor of one process, over its catalog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from annserve.audit import Auditor
from annserve.audit.exact import Measurable
from annserve.confidence import RecallBounds
from annserve.serve.catalog import Catalog
from annserve.serve.schedule import Scheduler
from annserve.watch.metrics import meter


def auditor_of(catalog: Catalog, scheduler: Scheduler, *, share: float = 0.0, adjust: bool = False) -> Auditor:
    """Give an auditor that reaches collections as calls do, and lets these go first.

    Parameters
    ----------
    catalog : Catalog
    scheduler : Scheduler
    share : float
        Of the time, that audits may take.
    adjust : bool
        Whether more is asked of an index that falls short of what was declared.
    """

    @contextmanager
    def pin(name: str) -> Iterator[tuple[int, Measurable]]:
        with catalog.lease(name) as version:
            yield version.snapshot, version.collection

    return Auditor(pin, give_way=scheduler.give_way, share=share, adjust=adjust, on_found=_count)


def _count(collection: str, bounds: RecallBounds, audited: int) -> None:
    meter(collection).recall(bounds.low, audited)
