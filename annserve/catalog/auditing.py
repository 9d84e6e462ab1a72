"""The auditor of one process, over its catalog; and what those of all processes found together.

What one found travels with what its process tells of itself (``run_folder``), as sums, which add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any

from annserve.audit import Auditor, Finding, together
from annserve.audit.exact import Measurable
from annserve.catalog.catalog import Catalog, Standing
from annserve.catalog.schedule import Scheduler
from annserve.confidence import RecallSums
from annserve.watch.metrics import meter


def ignore(collection: str, findings: list[Finding]) -> None:
    """Be a listener that does nothing."""


def auditor_of(
    catalog: Catalog,
    scheduler: Scheduler,
    *,
    share: float = 0.0,
    adjust: bool = False,
    on_found: Callable[[str, list[Finding]], None] = ignore,
) -> Auditor:
    """Give an auditor that reaches collections as calls do, and lets these go first.

    Parameters
    ----------
    catalog : Catalog
    scheduler : Scheduler
    share : float
        Of the time, that audits may take.
    adjust : bool
        Whether more is asked of an index that falls short of what was declared.
    on_found : callable
        Told of a collection, and of all that is known of its recall.
    """

    @contextmanager
    def pin(name: str) -> Iterator[tuple[int, Measurable]]:
        with catalog.lease(name) as version:
            yield version.snapshot, version.collection

    def found(name: str, audited: int) -> None:
        meter(name).audited(audited)
        on_found(name, auditor.found(name))

    def noted(standing: Standing) -> None:
        if standing.gone:  # another one of its name begins anew
            auditor.forget(standing.name)

    auditor = Auditor(pin, give_way=scheduler.give_way, share=share, adjust=adjust, on_found=found)
    catalog.listen(noted)
    return auditor


def written(findings: Iterable[Finding]) -> list[list[Any]]:
    """Give findings as JSON has them; see `read`."""
    return [[one.snapshot, one.recall_target, one.asked_target, *astuple(one.sums)] for one in findings]


def found_by_all(workers: Iterable[Mapping[str, Any]], collection: str) -> list[Finding]:
    """Put together what the auditors of all workers found of the newest version of a collection that one audits.

    Parameters
    ----------
    workers : iterable
        What each tells, see ``worker.Told``.
    collection : str
    """
    told = [worker.get("collections", {}).get(collection, {}) for worker in workers]
    findings = [
        Finding(snapshot, target, asked, RecallSums(*sums))
        for one in told
        for snapshot, target, asked, *sums in one.get("findings", ())
    ]
    newest = max((one.snapshot for one in findings), default=0)
    return together(one for one in findings if one.snapshot == newest)
