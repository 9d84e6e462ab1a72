"""What a server of several processes shows of itself: what its workers tell, put together on one page."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from annserve.audit import Finding, of_all_targets
from annserve.catalog.auditing import found_by_all
from annserve.config import ServeConfig
from annserve.guard.admit import Admission
from annserve.guard.listen import Address, check_free, parse_address
from annserve.guard.tls import certificates_of, is_guarded
from annserve.jobs import Job
from annserve.watch.board import Board, Sources
from annserve.watch.web import StatusServer

#: States from the best to the worst: a collection is as well as it is in the worker where it is worst.
_WORST_LAST = ("READY", "EMPTY", "OPENING", "QUARANTINED")


class StatusPage:
    """The status page and ``/metrics`` of a server, where its settings ask for them.

    Parameters
    ----------
    config : ServeConfig
    sources : Sources
        Whom to ask.

    Raises
    ------
    InputError
        If the address is none, isn't this machine's, or is open to others without guard.
    ConflictError
        If another process listens there.
    """

    def __init__(self, config: ServeConfig, sources: Sources) -> None:
        self._opened = ExitStack()
        self._board = Board(sources)
        self._wanted: Address | None = None
        if config.http_listen is None:
            return
        certificates = certificates_of(config)
        guarded = config.insecure or is_guarded(certificates, config.keys)
        self._wanted = parse_address(config.http_listen, guarded=guarded, field="http_listen")
        check_free(self._wanted, "http_listen")
        # Whoever is on this machine may look; whoever isn't shows the same as to gRPC.
        public = not ipaddress.ip_address(self._wanted.host).is_loopback
        admission = Admission(config.keys if public else None)
        self._allow = partial(admission.admit_role, "read")
        self._contexts = certificates.contexts() if public and certificates else None

    def start(self) -> str:
        """Answer from now on, and give the page's address; empty where none is asked for."""
        wanted = self._wanted
        if wanted is None:
            return ""
        self._opened.enter_context(self._board)
        server = StatusServer(wanted.host, wanted.port, self._board, allow=self._allow, contexts=self._contexts)
        self._opened.enter_context(server)
        return f"{'https' if self._contexts else 'http'}://{Address(wanted.host, server.port)}/"

    def stop(self) -> None:
        """Answer no more."""
        self._opened.close()


def sources_of(
    workers: Callable[[], Sequence[Mapping[str, Any]]], jobs: Callable[[], Sequence[Job]] = list, **known: Any
) -> Sources:
    """Give what a status page asks.

    Parameters
    ----------
    workers : callable
        Gives what each worker told last, see ``worker.Told``; nothing of one that isn't up.
    jobs : callable
        Gives the jobs, newest first.
    **known
        Further fields of ``Sources``.
    """

    def processes() -> dict[str, int]:
        told = {f"worker-{number}": one["pid"] for number, one in enumerate(workers()) if "pid" in one}
        return {"supervisor": os.getpid(), **told}

    def shown_jobs() -> list[dict[str, Any]]:
        return [_job_facts(job) for job in jobs()]

    return Sources(lambda: collections_of(workers()), shown_jobs, processes, **known)


def collections_of(workers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put together how collections stand in all workers, by name."""
    found: dict[str, Mapping[str, Any]] = {}
    for worker in workers:
        for name, standing in worker.get("collections", {}).items():
            if name not in found or _badness(standing) > _badness(found[name]):
                found[name] = standing
    return [
        {"name": name, **_collection_facts(one), "recall": _recall_facts(found_by_all(workers, name))}
        for name, one in sorted(found.items())
    ]


def _recall_facts(findings: Sequence[Finding]) -> dict[str, Any] | None:
    bounds = of_all_targets(findings)
    return {"low": bounds.low, "recall": bounds.recall, "queries": bounds.queries} if bounds else None


def _badness(standing: Mapping[str, Any]) -> tuple[int, bool]:
    return _WORST_LAST.index(standing["state"]), bool(standing["error"])


def _collection_facts(standing: Mapping[str, Any]) -> dict[str, Any]:
    reason = standing["reason"] if standing["error"] else ""  # that it is being opened is no fault
    return {"state": standing["state"].lower(), "reason": reason, "info": standing["info"]}


def _job_facts(job: Job) -> dict[str, Any]:
    progress = job.progress
    return {
        "job_id": job.job_id,
        "collection": job.collection,
        "kind": job.work.kind,
        "state": job.state,
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "unit": progress.unit,
        "seconds": (job.ended or time.time()) - job.started if job.started else 0.0,
        "outcome": job.outcome,
    }
