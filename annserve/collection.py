"""The embedded door: an index opened in this process. It checks what comes in and delegates the rest."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.index.raw_file import RawFile
from annserve.index.snapshot import Snapshot, open_snapshot
from annserve.results import SearchResult, SearchStats
from annserve.search.choosers import chooser_for
from annserve.search.engine import BlockResult, Engine
from annserve.search.explain import Explanation, explain
from annserve.search.page_model import expected_reading, workload_of
from annserve.search.rerank import Rerank
from annserve.sizes import bytes_of
from annserve.spec import (
    RECALL_TARGET_DEFAULT,
    IndexSpec,
    check_candidates,
    check_k,
    check_recall_target,
    check_vectors,
)
from annserve.storage.cache import PageCache
from annserve.storage.layout import FORMAT_VERSION
from annserve.storage.reader import PageReader, open_reader


def open(path: str | Path, *, io: str = "auto", threads: int | None = None, page_cache: str = "0") -> Collection:
    """Open a published index for searching.

    Parameters
    ----------
    path : str or Path
        Index folder, as ``annserve build`` made it.
    io : str
        How pages are read: ``auto`` takes the best that works; or ``uring``, ``pread``, ``mmap``.
    threads : int, optional
        Threads that share a batch of queries; by default one per CPU of this process.
    page_cache : str
        RAM for the pages that are asked for most, such as ``256MiB``; none by default.

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
        If `io` is unknown or not available here, or `page_cache` is no size or too small for a page.
    """
    n_threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if n_threads < 1:
        raise InputError(f"threads is {threads}; it must be at least 1", field="threads")
    cache_bytes = bytes_of(page_cache, "page_cache")
    snapshot = open_snapshot(Path(path))
    segment = snapshot.segment
    page_bytes = segment.spec.page_bytes
    cache = PageCache(cache_bytes, page_bytes, segment.n_pages) if cache_bytes else None
    reader = open_reader(segment.pages_path, segment.pages_offset, page_bytes, segment.n_pages, io)
    raw = segment.raw
    raw_reader = open_reader(raw.path, raw.offset, raw.layout.page_bytes, raw.n_pages, io) if raw else None
    vicinity_reader = segment.vicinities.open_reader(io) if segment.vicinities else None
    return Collection(snapshot, reader, n_threads, cache, raw_reader, vicinity_reader)


class Collection:
    """An open index; threads may share it. Made by ``open``.

    It keeps the version that it opened: newer ones are seen by opening anew.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        reader: PageReader,
        threads: int,
        cache: PageCache | None = None,
        raw_reader: PageReader | None = None,
        vicinity_reader: PageReader | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._readers = [one for one in (reader, raw_reader, vicinity_reader) if one is not None]
        self._cache = cache
        norm_max = snapshot.manifest.norm_max
        chooser = chooser_for(snapshot.segment, vicinity_reader)
        self._engine = Engine(snapshot.segment, reader, norm_max, chooser, cache=cache, raw_reader=raw_reader)
        self._n_threads = threads
        self._pool = ThreadPoolExecutor(threads, "annserve-search") if threads > 1 else None

    @property
    def spec(self) -> IndexSpec:
        """What the index is."""
        return self._snapshot.manifest.spec

    @property
    def n_rows(self) -> int:
        """Rows in the index."""
        return self._snapshot.manifest.n_rows

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        recall_target: float = RECALL_TARGET_DEFAULT,
        rerank_queries: npt.ArrayLike | None = None,
        rerank_candidates: int | None = None,
        deadline: float | None = None,
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
        deadline : float, optional
            ``time.monotonic()`` after which the search gives up.

        Returns
        -------
        SearchResult

        Raises
        ------
        InputError
            If queries, k or recall_target don't fit the index.
        DeadlineError
            If the deadline passed.
        ReadError, CorruptionError
            If the device fails, or gives a page that isn't what was written.
        """
        begun = time.perf_counter()
        vectors = check_vectors(queries, self.spec)
        k = check_k(k, self.n_rows)
        recall_target = check_recall_target(recall_target)
        rerank = self._rerank(len(vectors), k, rerank_queries, rerank_candidates)
        share, wanted = max(-(-len(vectors) // self._n_threads), 1), rerank.candidates if rerank else k
        size = self._engine.block_queries(share, wanted, recall_target)
        blocks = deque((start, vectors[start : start + size]) for start in range(0, len(vectors), size))

        def answer() -> list[tuple[int, BlockResult]]:
            try:
                found = self._engine.search_blocks(_taken(blocks), k, recall_target, rerank=rerank, deadline=deadline)
                return list(found)
            except BaseException:
                blocks.clear()  # nobody needs the rest
                raise

        if self._pool is None or len(blocks) <= 1:
            shares = [answer()]
        else:
            jobs = [self._pool.submit(answer) for _ in range(min(self._n_threads, len(blocks)))]
            wait(jobs)  # after an error too: none may go on behind the caller's back
            shares = [job.result() for job in jobs]
        answers = [result for _, result in sorted(chain(*shares), key=itemgetter(0))]
        return _merge(answers, k, time.perf_counter() - begun)

    def _rerank(self, n_queries: int, k: int, queries: npt.ArrayLike | None, candidates: int | None) -> Rerank | None:
        """Check what is to be ranked anew."""
        raw = self._snapshot.segment.raw
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
        segment, manifest = self._snapshot.segment, self._snapshot.manifest
        tiers = segment.tier_bytes
        if self._cache is not None:
            tiers["page_cache"] = self._cache.ram_bytes
        ram_bytes = sum(tiers.values())
        return {
            "count": manifest.n_rows,
            "dim": manifest.spec.dim,
            "row_type": manifest.spec.row_type,
            "metric": manifest.spec.metric,
            "page_bytes": manifest.spec.page_bytes,
            "page_capacity": manifest.spec.page_capacity,
            "heads": segment.heads.n_heads,
            "pages": segment.n_pages,
            "page_fill": segment.copies * manifest.n_rows / (segment.n_pages * manifest.spec.page_capacity),
            "copies": segment.copies,
            "ram_tiers": tiers,
            "ram_bytes": ram_bytes,
            # Of what grows with the rows; codebooks have one size.
            "ram_bytes_per_vector": (ram_bytes - tiers.get("codebooks", 0)) / manifest.n_rows,
            "disk_bytes": self._snapshot.disk_bytes,
            "build_seconds": segment.report.get("seconds", 0.0),
            "raw_rows": _told(segment.raw),
            "recall_targets": segment.plan["targets"],
            "format_version": FORMAT_VERSION,
            "snapshot": manifest.snapshot,
            "io": self._readers[0].describe(),
        }

    def explain(
        self, query: npt.ArrayLike, k: int = 10, *, recall_target: float = RECALL_TARGET_DEFAULT
    ) -> Explanation:
        """Search for one query and tell what was done, stage by stage.

        Parameters
        ----------
        query : (dim,) or (1, dim) array
        k, recall_target
            As for `search`.

        Returns
        -------
        Explanation

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
        return explain(self._engine, vectors, check_k(k, self.n_rows), check_recall_target(recall_target))

    def pages_predicted(self, k: int, recall_target: float) -> float:
        """Give the pages that the model behind plans expects a query to read, to hold against what it does read."""
        segment = self._snapshot.segment
        if recall_target == 1.0:
            return float(segment.n_pages)
        return expected_reading(workload_of(segment, k, recall_target)).pages

    def postings_planned(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the postings that the easiest and the hardest query consider."""
        return self._engine.chooser.postings_range(k, recall_target)

    @property
    def report(self) -> dict[str, Any]:
        """How the build went."""
        return self._snapshot.segment.report

    def close(self) -> None:
        """Let threads and files go."""
        if self._pool is not None:
            self._pool.shutdown()
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


def _taken(blocks: deque[tuple[int, npt.NDArray[Any]]]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Take blocks one by one until none is left; threads may share them."""
    with suppress(IndexError):
        while True:
            yield blocks.popleft()


def _told(raw: RawFile | None) -> dict[str, Any] | None:
    """Say what raw rows an index keeps."""
    if raw is None:
        return None
    layout, spec = raw.layout, raw.layout.spec
    facts = {"dim": spec.dim, "row_type": spec.row_type, "metric": spec.metric, "own": layout.own}
    return {**facts, "settle_above": layout.settle_above} if layout.own else facts


def _merge(answers: Sequence[BlockResult], k: int, seconds: float) -> SearchResult:
    def joined(name: str) -> npt.NDArray[Any]:
        parts = [getattr(answer, name) for answer in answers]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    if not answers:
        return SearchResult(np.zeros((0, k), np.uint64), np.zeros((0, k), np.float32), SearchStats())
    stages: dict[str, float] = {}
    for answer in answers:
        for name, spent in answer.seconds.items():
            stages[name] = stages.get(name, 0.0) + spent
    stats = SearchStats(
        **{name: joined(name) for name in SearchStats.COUNTS},
        stage_seconds=stages,
        seconds=seconds,
    )
    return SearchResult(joined("ids"), joined("distances").astype(np.float32), stats)
