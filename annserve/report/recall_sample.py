"""Is the recall delivered that is promised? Rows of the index are asked for, and answers are held against all rows.

Exact neighbours are found by scoring every page with the very kernels of a search, so distances agree to the last bit
and a row as near as the k-th is right whichever it is. A row that is asked for is the first of its own neighbours. What
lies on the pages is taken for the truth: raw rows, and what INT8 lost, are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.confidence import clopper_pearson
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.index.segment import Segment
from annserve.index.snapshot import Snapshot
from annserve.pages.pack import unpack_first
from annserve.pages.rows import QuantizedQueries, quantize_queries
from annserve.pages.score import Frames
from annserve.search.choosers import chooser_for
from annserve.search.engine import Engine
from annserve.search.exact import SCAN_PAGES, Nearest, Scan
from annserve.search.segments import Engines
from annserve.spec import RECALL_TARGET_DEFAULT
from annserve.storage.reader import PageReader, aligned_frames, open_reader
from annserve.vectors.sample import sample_row_ids

#: Rows that a build and ``verify`` ask for.
SAMPLE_QUERIES = 200
#: Queries of a search at once.
_BLOCK_QUERIES = 32
#: What a verdict may be wrong in by chance, and what is delivered may fall short of a target (README, Promises).
_ERROR_RATE, _SHORTFALL = 0.001, 0.01


@dataclass(frozen=True)
class RecallSample:
    """What rows of an index, asked for as queries, were answered.

    Attributes
    ----------
    queries, k : int
    recall_target : float
    recall : float
        Share of the k nearest that were found.
    recall_low, recall_high : float
        Bounds of Clopper and Pearson on the recall of all rows, each wrong once in a thousand, were hits independent.
    pages : float
        Read a query.
    """

    queries: int
    k: int
    recall_target: float
    recall: float
    recall_low: float
    recall_high: float
    pages: float

    @property
    def problem(self) -> str | None:
        """A line that says by how much the target is missed; None where that may be chance, or isn't so."""
        if self.recall_high >= self.recall_target - _SHORTFALL:
            return None
        return (
            f"recall@{self.k} of {self.queries} rows is {self.recall:.4f} where {self.recall_target} was asked for, "
            f"and at most {self.recall_high:.4f} of all"
        )


def sample_recall(
    snapshot: Snapshot,
    n_queries: int,
    *,
    k: int = 10,
    recall_targets: Sequence[float] = (RECALL_TARGET_DEFAULT,),
    threads: int = 1,
    listener: Listener = ignore,
) -> list[RecallSample]:
    """Ask for rows of an index and count how many of their exact neighbours are answered.

    Parameters
    ----------
    snapshot : Snapshot
        Whole: its pages have been proven.
    n_queries : int
        Rows, of all segments alike; one a page at most.
    k : int
        At most as many as there are rows.
    recall_targets : sequence of float
        Each is asked for by every query.
    threads : int
        Threads that look for the exact neighbours.
    listener : callable
        Told of every page that was scored.

    Returns
    -------
    list of RecallSample
        For each target.

    Notes
    -----
    Reads every page once. O(rows × queries) time, some 10 ns each at 128 dimensions, shared by the threads.
    """
    k = min(k, snapshot.manifest.n_rows)
    begun = time.monotonic()
    listener(StageStarted("sample", snapshot.n_pages, "pages"))
    with _opened(snapshot) as (engines, searcher):
        queries = _draw(engines, n_queries)
        bars = _kth_distances(engines, quantize_queries(queries), k, threads, listener)
        found = [_ask(searcher, queries, bars, k, target) for target in recall_targets]
    said = ", ".join(f"{one.recall:.3f} at {one.recall_target:g}" for one in found)
    listener(StageFinished("sample", time.monotonic() - begun, f"recall@{k} of {len(queries)} rows: {said}"))
    return found


def _ask(
    searcher: Engine | Engines, queries: npt.NDArray[np.float32], bars: npt.NDArray[np.float64], k: int, target: float
) -> RecallSample:
    """Search, and count answers as near as the k-th nearest of all."""
    hits = pages = 0
    for first in range(0, len(queries), _BLOCK_QUERIES):
        block = slice(first, first + _BLOCK_QUERIES)
        answer = searcher.search(queries[block], k, target)
        hits += int((answer.distances <= bars[block, None]).sum())
        pages += int(answer.count("pages_read").sum())
    n_queries = len(queries)
    bounds = clopper_pearson(hits, n_queries * k, _ERROR_RATE)
    return RecallSample(n_queries, k, target, hits / (n_queries * k), *bounds, pages / n_queries)


@contextmanager
def _opened(snapshot: Snapshot) -> Iterator[tuple[Sequence[Engine], Engine | Engines]]:
    """Give the engines of the segments, without raw rows, and what searches them all."""
    with ExitStack() as stack:
        engines = []
        for entry, segment in zip(snapshot.manifest.segments, snapshot.segments):
            reader = _open_pages(segment)
            stack.callback(reader.close)
            vicinity_reader = segment.vicinities.open_reader() if segment.vicinities else None
            if vicinity_reader is not None:
                stack.callback(vicinity_reader.close)
            norm_max = snapshot.manifest.norm_max_of(entry)
            engines.append(Engine(segment, reader, norm_max, chooser_for(segment, vicinity_reader)))
        yield engines, engines[0] if len(engines) == 1 else Engines(engines)


def _open_pages(segment: Segment) -> PageReader:
    return open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)


def _draw(engines: Sequence[Engine], n_queries: int) -> npt.NDArray[np.float32]:
    """Take the first row of pages drawn from all segments, as it is stored."""
    counts = [engine.segment.n_pages for engine in engines]
    drawn, starts = sample_row_ids(sum(counts), n_queries, seed=0), np.cumsum([0, *counts])
    rows = []
    for engine, start, stop in zip(engines, starts, starts[1:]):
        page_ids = (drawn[(drawn >= start) & (drawn < stop)] - start).astype(np.uint32)
        frames = aligned_frames(max(len(page_ids), 1), engine.segment.spec.page_bytes)
        engine.reader.read(page_ids, frames)
        rows.append(unpack_first(frames[: len(page_ids)], engine.segment.layout))
    return np.concatenate(rows)


def _kth_distances(
    engines: Sequence[Engine], queries: QuantizedQueries, k: int, threads: int, listener: Listener
) -> npt.NDArray[np.float64]:
    """Score every row for every query; give the distance of the k-th nearest, (nq,) float64."""
    n_queries = len(queries.scales)
    parts = [queries.take(part) for part in np.array_split(np.arange(n_queries), min(threads, n_queries))]
    nearest = [Nearest.none(len(part.scales), k) for part in parts]
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for engine in engines:
            segment = engine.segment
            scan = Scan(segment, engine.reader)
            batch = min(SCAN_PAGES, segment.n_pages)
            frames = Frames(aligned_frames(batch, segment.layout.page_bytes), segment.layout)
            for first in range(0, segment.n_pages, batch):
                page_ids = np.arange(first, min(first + batch, segment.n_pages), dtype=np.uint32)
                engine.reader.read(page_ids, frames.memory)
                tasks = [pool.submit(scan.score, frames, page_ids, part, k) for part in parts]
                for so_far, task in zip(nearest, tasks):
                    ids, distances, _ = task.result()
                    so_far.add(ids, distances)
                done += len(page_ids)
                listener(StageProgressed("sample", done))
    return np.concatenate([so_far.distances[:, -1] for so_far in nearest])
