"""The embedded door: an index opened in this process. It checks what comes in and delegates the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt

from annserve.errors import InputError
from annserve.index.raw_file import RawFile
from annserve.index.snapshot import Snapshot, at_current
from annserve.lookaside.asked import Asked
from annserve.results import SearchResult
from annserve.search.aside import answered_aside, open_cache
from annserve.search.choosers import chooser_for
from annserve.search.clock import Deadline
from annserve.search.engine import Engine
from annserve.search.explain import Explanation, explain, explain_segments
from annserve.search.overlap import no_pause
from annserve.search.page_model import expected_reading, workload_of
from annserve.search.queries import suspect
from annserve.search.rerank import Rerank
from annserve.search.segments import Engines
from annserve.search.shares import Shares, one_result
from annserve.sizes import bytes_of
from annserve.spec import (
    RECALL_TARGET_DEFAULT,
    IndexSpec,
    bytes_a_row,
    check_candidates,
    check_cosine,
    check_k,
    check_recall_target,
    check_session,
    check_vectors,
)
from annserve.storage.layout import FORMAT_VERSION
from annserve.storage.reader import PageReader, open_reader


def open(
    path: str | Path,
    *,
    io: str = "auto",
    threads: int | None = None,
    cache_bytes: int | str = 0,
    cache_packed: bool = False,
) -> Collection:
    """Open a published index for searching.

    Parameters
    ----------
    path : str or Path
        Index folder, as ``annserve build`` made it.
    io : str
        How pages are read: ``auto`` takes the best that works; or ``uring``, ``pread``, ``mmap``.
    threads : int, optional
        Threads that share a batch of queries; by default one per CPU of this process.
    cache_bytes : int or str
        RAM for what will be asked for again, as bytes or as ``64MiB``; none by default. Answers stay the same.
    cache_packed : bool
        Keep the pages in it packed, without loss: a third more of them fit, and each costs some 20 µs of a core when it
        is asked for. Where a read costs more than that.

    Returns
    -------
    Collection

    Raises
    ------
    NotFoundError
        If the folder holds no index.
    CorruptionError, VersionError
        If a file isn't what was published, or another format version wrote it.
    InputError
        If `io` is unknown or not available here, or `cache_bytes` is no size or too small for a page.
    """
    n_threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if n_threads < 1:
        raise InputError(f"threads is {threads}; it must be at least 1", field="threads")
    n_bytes = bytes_of(str(cache_bytes), "cache_bytes")
    return at_current(Path(path), lambda snapshot: Collection(snapshot, n_threads, io, n_bytes, cache_packed))


class Collection:
    """An open index; threads may share it. Made by ``open``.

    It keeps the version that it opened: newer ones are seen by opening anew.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        threads: int = 1,
        io: str = "auto",
        cache_bytes: int = 0,
        cache_packed: bool = False,
    ) -> None:
        self._snapshot = snapshot
        #: What the index is, and rows in it.
        self.spec: IndexSpec = snapshot.manifest.spec
        self.n_rows: int = snapshot.manifest.n_rows
        self._cache, self._lookaside = open_cache(cache_bytes, snapshot, cache_packed)
        self._readers: list[PageReader] = []
        try:
            engines = self._open_engines(io)
        except BaseException:
            self._close_readers()
            raise
        self._engine = engines[0] if len(engines) == 1 else Engines(engines)
        self._shares = Shares(self._engine, threads)

    def _open_engines(self, io: str) -> list[Engine]:
        """Open the files of all segments that are read page by page."""
        engines: list[Engine] = []
        manifest = self._snapshot.manifest
        for number, (entry, segment) in enumerate(zip(manifest.segments, self._snapshot.segments)):
            page_bytes, raw = segment.spec.page_bytes, segment.raw
            reader = open_reader(segment.pages_path, segment.pages_offset, page_bytes, segment.n_pages, io)
            self._readers.append(reader)
            raw_reader = open_reader(raw.path, raw.offset, raw.layout.page_bytes, raw.n_pages, io) if raw else None
            vicinity_reader = segment.vicinities.open_reader(io) if segment.vicinities else None
            self._readers += [one for one in (raw_reader, vicinity_reader) if one is not None]
            cache = self._cache.part(number) if self._cache is not None else None
            chooser = chooser_for(segment, vicinity_reader)
            engines.append(
                Engine(segment, reader, manifest.norm_max_of(entry), chooser, cache=cache, raw_reader=raw_reader)
            )
        return engines

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        recall_target: float = RECALL_TARGET_DEFAULT,
        rerank_queries: npt.ArrayLike | None = None,
        rerank_candidates: int | None = None,
        deadline: Deadline | float | None = None,
        session: str | bytes = b"",
        tenant: str | bytes = b"",
        bypass_cache: bool = False,
        approximate_cosine: float | None = None,
    ) -> SearchResult:
        """Find the k nearest rows of each query.

        Parameters
        ----------
        queries : (nq, dim) or (dim,) array
            Numbers of any type.
        k : int
            Results per query, 1 … min(n_rows, 1000). Exactly k come back.
        recall_target : float
            Share of the true k nearest that should be found, on average over queries: 0.80 … 0.99; or 1 to
            read every page.
        rerank_queries : (nq, raw dim) or (raw dim,) array, optional
            The same queries by the other encoder whose vectors the index keeps (``build --rerank-with``): they rank
            the candidates that the first ones find, and distances are in its metric.
        rerank_candidates : int, optional
            How many, k … 1000; by default ten a result.
        deadline : Deadline or float, optional
            ``time.monotonic()`` after which the search gives up; a `Deadline` may ask for what was found until then.
        session : str or bytes
            Names a conversation, in at most 128 bytes: its queries are the ones that a cache compares new ones with.
        tenant : str or bytes
            Answers are kept for each tenant apart; as long a name.
        bypass_cache : bool
            Neither take answers of a cache nor leave any.
        approximate_cosine : float, optional
            Take the answer to an earlier query at this cosine or above, 0.5 … 1: a cache's one way to be worse.

        Returns
        -------
        SearchResult

        Raises
        ------
        InputError
            If queries, k, recall_target, the deadline or what is asked of the cache don't fit.
        DeadlineError
            If the deadline passed, and no partial answer is wanted.
        ReadError, CorruptionError
            If the device fails, or gives a page that isn't what was written.
        """
        begun, deadline = time.perf_counter(), Deadline.of(deadline)
        vectors = check_vectors(queries, self.spec, suspect=suspect)
        k = check_k(k, self.n_rows)
        recall_target = check_recall_target(recall_target)
        rerank = self._rerank(len(vectors), k, rerank_queries, rerank_candidates)
        cosine = check_cosine(approximate_cosine)
        names = check_session(session), check_session(tenant, "tenant")
        cache = self._lookaside
        if cache is None or bypass_cache or rerank is not None:
            return self._shares.search(vectors, k, recall_target, rerank, deadline, begun)
        asked = cache.ask(vectors, k, recall_target, session=names[0], tenant=names[1], approximate_cosine=cosine)
        if asked.n_found == 0:
            return self._shares.search(vectors, k, recall_target, None, deadline, begun, asked)

        def answer(which: npt.NDArray[Any], left: Asked) -> SearchResult:
            return self._shares.search(which, k, recall_target, None, deadline, begun, left)

        return answered_aside(asked, vectors, answer, begun)

    def search_exact(
        self, queries: npt.ArrayLike, k: int = 10, *, between: Callable[[], None] = no_pause
    ) -> SearchResult:
        """Find the k nearest rows of each query by scoring every row, in this thread alone.

        Parameters
        ----------
        queries : (nq, dim) or (dim,) array
            All share one reading of the index.
        k : int
            As for `search`.
        between : callable
            Called before each batch of pages is waited for, some milliseconds apart: it may take its time, so that
            others go first, or raise to end the scan.

        Returns
        -------
        SearchResult
            As of ``search(…, recall_target=1)``.

        Raises
        ------
        InputError
            If queries or k don't fit the index.
        ReadError, CorruptionError
            If the device fails, or gives a page that isn't what was written.
        """
        begun = time.perf_counter()
        vectors, k = check_vectors(queries, self.spec), check_k(k, self.n_rows)
        answers = [self._engine.search(vectors, k, 1.0, between=between)] if len(vectors) else []
        return one_result(answers, k, begun)

    def _rerank(self, n_queries: int, k: int, queries: npt.ArrayLike | None, candidates: int | None) -> Rerank | None:
        """Check what is to be ranked anew."""
        raw = self._snapshot.segments[0].raw
        if queries is None:
            if candidates is not None:
                raise InputError("rerank_candidates is given without rerank_queries", field="rerank_candidates")
            return None
        if raw is None or raw.layout.own:
            raise InputError(
                "this index keeps no vectors of another encoder; build it with --rerank-with, or leave "
                "rerank_queries out",
                field="rerank_queries",
            )
        vectors = check_vectors(queries, raw.layout.spec, what="rerank_queries")
        if len(vectors) != n_queries:
            raise InputError(
                f"there are {len(vectors)} rerank_queries for {n_queries} queries; give one for each",
                field="rerank_queries",
            )
        return Rerank(vectors, check_candidates(candidates, k, self.n_rows))

    def info(self) -> dict[str, Any]:
        """Give the facts about this index as plain values, for ``inspect``, servers and benchmarks."""
        snapshot, manifest = self._snapshot, self._snapshot.manifest
        tiers = snapshot.tier_bytes
        if self._cache is not None:
            tiers["cache"] = self._cache.pages.ram_bytes + (self._lookaside.ram_bytes if self._lookaside else 0)
        ram_bytes = sum(tiers.values())
        return {
            "count": manifest.n_rows,
            "dim": manifest.spec.dim,
            "row_type": manifest.spec.row_type,
            "metric": manifest.spec.metric,
            "page_bytes": manifest.spec.page_bytes,
            "page_capacity": manifest.spec.page_capacity,
            "segments": len(snapshot.segments),
            "heads": snapshot.n_heads,
            "pages": snapshot.n_pages,
            "page_fill": snapshot.copies * manifest.n_rows / (snapshot.n_pages * manifest.spec.page_capacity),
            "copies": snapshot.copies,
            "ram_tiers": tiers,
            "ram_bytes": ram_bytes,
            "ram_bytes_per_vector": bytes_a_row(ram_bytes, tiers, manifest.n_rows),
            "disk_bytes": snapshot.disk_bytes,
            "build_seconds": sum(segment.report.get("seconds", 0.0) for segment in snapshot.segments),
            "raw_rows": _told(snapshot.segments[0].raw),
            "recall_targets": snapshot.segments[0].plan["targets"],
            "format_version": FORMAT_VERSION,
            "snapshot": manifest.snapshot,
            "io": self._readers[0].describe(),
        }

    def cache_counts(self) -> dict[str, int]:
        """Give what the cache did so far: repeats, pages saved by answers and proofs, evictions; empty without one."""
        evicted = {} if self._cache is None else {"page_evictions": self._cache.pages.evictions}
        return {**evicted, **(self._lookaside.counts if self._lookaside else {})}

    def explain(
        self, query: npt.ArrayLike, k: int = 10, *, recall_target: float = RECALL_TARGET_DEFAULT
    ) -> tuple[Explanation, ...]:
        """Search for one query and tell what was done, stage by stage.

        Parameters
        ----------
        query : (dim,) or (1, dim) array
        k, recall_target
            As for `search`.

        Returns
        -------
        tuple of Explanation
            One for each segment.

        Raises
        ------
        InputError
            If query, k or recall_target don't fit the index.
        ReadError, CorruptionError
            If the device fails, or gives a page that isn't what was written.
        """
        vectors = check_vectors(query, self.spec, what="query")
        if len(vectors) != 1:
            raise InputError(f"{len(vectors)} queries were given; one at a time can be explained", field="query")
        k, recall_target = check_k(k, self.n_rows), check_recall_target(recall_target)
        if isinstance(self._engine, Engine):
            return (explain(self._engine, vectors, k, recall_target),)
        return explain_segments(self._engine, vectors, k, recall_target)

    def pages_predicted(self, k: int, recall_target: float) -> float:
        """Give the pages that the model behind plans expects a query to read, to hold against what it does read."""
        if recall_target == 1.0:
            return float(self._snapshot.n_pages)
        planned = self._planned(k, recall_target)
        return sum(expected_reading(workload_of(engine.segment, n, recall_target)).pages for engine, n in planned)

    def postings_planned(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the postings that the easiest and the hardest query consider."""
        planned = self._planned(k, recall_target)
        ranges = [engine.chooser.postings_range(n, recall_target) for engine, n in planned]
        return sum(low for low, _ in ranges), sum(high for _, high in ranges)

    def _planned(self, k: int, recall_target: float) -> list[tuple[Engine, int]]:
        """Give each segment's engine, and how many of the k nearest its pages are first chosen for."""
        if isinstance(self._engine, Engine):
            return [(self._engine, k)]
        return list(zip(self._engine.engines, self._engine.planned(k, recall_target)))

    @property
    def report(self) -> dict[str, Any]:
        """How the build of the first segment went."""
        return self._snapshot.segments[0].report

    @property
    def reports(self) -> dict[str, dict[str, Any]]:
        """How the build of each segment went, by its name, oldest first."""
        named = zip(self._snapshot.manifest.segments, self._snapshot.segments)
        return {entry.name: segment.report for entry, segment in named}

    def close(self) -> None:
        """Let threads and files go."""
        self._shares.close()
        self._close_readers()

    def _close_readers(self) -> None:
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Collection:
        """Be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _told(raw: RawFile | None) -> dict[str, Any] | None:
    """Say what raw rows an index keeps."""
    if raw is None:
        return None
    layout, spec = raw.layout, raw.layout.spec
    facts = {"dim": spec.dim, "row_type": spec.row_type, "metric": spec.metric, "own": layout.own}
    return {**facts, "settle_above": layout.settle_above} if layout.own else facts
