"""From queries to their top-k, stage by stage; a block of queries goes through each stage together.

=========  ======================  ===========================================================
stage      room                    what it does
=========  ======================  ===========================================================
navigate   ``heads.navigate``      query → nearest heads
plan       ``search.plan``         difficulty, k, recall target → postings to probe
select     ``search.select``       heads → pages, all chosen before any read
read       ``storage.reader``      pages → frames, one batch, all reads in flight together
score      ``pages.score``         frames → exact distances → top-k
=========  ======================  ===========================================================

Every stage's hot part runs in a kernel without the GIL, so threads that search side by side scale.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import DeadlineError
from annserve.heads.navigate import WalkScratch, nearest_heads
from annserve.index.segment import Segment
from annserve.metric import METRIC_CODES, queries_to_space
from annserve.pages.rows import QuantizedQueries, quantize_queries
from annserve.pages.score import NO_ID, Frames
from annserve.search.plan import ProbePlan
from annserve.search.select import PageSelection, select_pages
from annserve.storage.reader import PageReader, aligned_frames

#: Pages that one block of queries may hold in frames: 8 MiB of 4 KB pages, enough to keep a disk busy.
BLOCK_PAGES = 2_048
#: Queries of a block at most; more gain nothing and make a deadline coarser.
BLOCK_QUERIES = 64


@dataclass
class BlockResult:
    """Answers and costs of one block; arrays have one row per query."""

    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float64]
    pages_read: npt.NDArray[np.int64]
    reads: npt.NDArray[np.int64]
    heads_visited: npt.NDArray[np.int64]
    rows_scored: npt.NDArray[np.int64]
    seconds: dict[str, float] = field(default_factory=dict)


class Engine:
    """Searches one segment; threads may share it.

    Parameters
    ----------
    segment : Segment
    plan : ProbePlan
    reader : PageReader
    norm_max : float
        Largest norm of a row, for the index space under inner product.
    """

    def __init__(self, segment: Segment, plan: ProbePlan, reader: PageReader, norm_max: float) -> None:
        self.segment = segment
        self.plan = plan
        self.reader = reader
        self.norm_max = norm_max
        self._threads = threading.local()

    def block_queries(self, k: int, recall_target: float) -> int:
        """Give the queries that should go through the stages together."""
        pages = self._probes_max(k, recall_target) * self.segment.n_pages / self.segment.heads.n_heads
        return int(np.clip(BLOCK_PAGES // max(pages, 1), 1, BLOCK_QUERIES))

    def search(
        self,
        queries: npt.NDArray[Any],
        k: int,
        recall_target: float,
        *,
        deadline: float | None = None,
        excluded: npt.NDArray[np.uint64] | None = None,
    ) -> BlockResult:
        """Search one block of queries.

        Parameters
        ----------
        queries : (nq, dim) array
            Valid (``spec.check_vectors``).
        k : int
            Valid for the index (``spec.check_k``).
        recall_target : float
            0.80 … 0.99, or 1 to read every page.
        deadline : float, optional
            ``time.monotonic()`` after which no stage is begun.
        excluded : (nq,) uint64, optional
            An id per query that may not be answered.

        Raises
        ------
        DeadlineError
            If the deadline passed.
        ReadError, CorruptionError
            If a page can't be read, or isn't what was written.
        """
        segment = self.segment
        clock = _Clock(deadline)
        with clock.stage("navigate"):
            space_queries = queries_to_space(queries, segment.spec, self.norm_max)
            wanted = self._probes_max(k, recall_target)
            head_ids, head_distances, visited = nearest_heads(segment.heads, space_queries, wanted, self._walk())
        with clock.stage("plan"):
            if recall_target == 1.0:
                probes = np.full(len(queries), wanted)
            else:
                probes = self.plan.probes_for(head_distances[:, 0], k, recall_target, wanted)
            quantized = quantize_queries(queries)
        result = self._answer(head_ids, probes, quantized, k, excluded, clock)
        while len(short := np.flatnonzero(result.ids[:, -1] == NO_ID)):
            # Fewer than k rows on the pages that were planned: probe on, for a promise is min(k, n) rows.
            wanted = min(2 * wanted, segment.heads.n_heads)
            with clock.stage("navigate"):
                head_ids, _, more = nearest_heads(segment.heads, space_queries[short], wanted, self._walk())
            again = self._answer(
                head_ids,
                np.full(len(short), wanted),
                QuantizedQueries(quantized.elements[short], quantized.scales[short], quantized.norms[short]),
                k,
                None if excluded is None else excluded[short],
                clock,
            )
            result.ids[short], result.distances[short] = again.ids, again.distances
            for name in ("pages_read", "reads", "rows_scored"):
                getattr(result, name)[short] += getattr(again, name)
            visited[short] += more
            if wanted == segment.heads.n_heads:
                break
        result.heads_visited = visited
        result.seconds = clock.seconds
        return result

    def _answer(
        self,
        head_ids: npt.NDArray[np.int32],
        probes: npt.NDArray[np.int64],
        quantized: QuantizedQueries,
        k: int,
        excluded: npt.NDArray[np.uint64] | None,
        clock: _Clock,
    ) -> BlockResult:
        segment = self.segment
        with clock.stage("select"):
            selection = select_pages(head_ids, probes, segment.page_offsets)
        with clock.stage("read"):
            frames = self._frames(len(selection.page_ids))
            self.reader.read(selection.page_ids, frames.memory)
        with clock.stage("score"):
            ids, distances, _, scored = frames.score(
                selection.page_ids,
                selection.offsets,
                quantized,
                k,
                metric=METRIC_CODES[segment.spec.metric],
                salt=segment.salt,
                path=segment.pages_path,
                pages_offset=segment.pages_offset,
                excluded=excluded,
            )
        return BlockResult(
            ids, distances, np.diff(selection.offsets), _reads(selection), np.zeros_like(scored), scored
        )

    def probes_range(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the fewest and the most postings that a query probes."""
        curve = np.ceil(self.plan.curve(k, recall_target))
        low, high = np.clip((curve.min(), curve.max()), 1, self.segment.heads.n_heads)
        return int(low), int(high)

    def _probes_max(self, k: int, recall_target: float) -> int:
        n_heads = self.segment.heads.n_heads
        return n_heads if recall_target == 1.0 else self.plan.probes_max(k, recall_target, n_heads)

    def _walk(self) -> WalkScratch:
        if not hasattr(self._threads, "walk"):
            self._threads.walk = WalkScratch(self.segment.heads.n_heads)
        walk: WalkScratch = self._threads.walk
        return walk

    def _frames(self, count: int) -> Frames:
        frames: Frames | None = getattr(self._threads, "frames", None)
        if frames is None or len(frames) < count:
            layout = self.segment.layout
            memory = aligned_frames(max(count, BLOCK_PAGES // 4), layout.page_bytes)
            frames = self._threads.frames = Frames(memory, layout)
        return frames


def _reads(selection: PageSelection) -> npt.NDArray[np.int64]:
    """Count the runs of neighbouring pages of each query: what it would read by itself."""
    pages = selection.page_ids.astype(np.int64)
    starts = np.ones(len(pages), bool)
    starts[1:] = np.diff(pages) != 1
    starts[selection.offsets[:-1][np.diff(selection.offsets) > 0]] = True
    return np.diff(np.concatenate(([0], np.cumsum(starts)))[selection.offsets])


class _Clock:
    """Times stages, and stops before one that would begin after the deadline."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        begun = time.monotonic()
        if self.deadline is not None and begun >= self.deadline:
            raise DeadlineError(
                f"the time given was spent before stage '{name}'; give more, or a lower recall_target"
            )
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
