"""From queries to their top-k, stage by stage; a block of queries goes through each stage together.

=========  ========================  ==================================================================
stage      room                      what it does
=========  ========================  ==================================================================
navigate   ``heads.navigate``        query → nearest heads
rate       ``codes.rate``            their pages' and rows' codes → what each page is worth
choose     ``search.choose``         worth, k, recall target → pages, all chosen before any is read
read       ``storage.reader``        pages → frames, one batch, all reads in flight together; it yields meanwhile
score      ``pages.score``           frames → exact distances → top-k
rerank     ``search.rerank``         raw rows of what INT8 leaves open → top-k, where an index keeps them
=========  ========================  ==================================================================

Every stage's hot part runs in a kernel without the GIL, so threads that search side by side scale. Within a thread a
block yields while its pages are being read, and the next block is rated (``search.overlap``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.errors import DeadlineError
from annserve.index.segment import Segment
from annserve.lookaside.asked import Asked, Gathered, ScoredPages
from annserve.packed.cache import CachePart
from annserve.pages.rows import QuantizedQueries
from annserve.pages.score import NO_ID, Frames
from annserve.results import SearchStats
from annserve.search.block import BlockResult, Rest, nothing_found
from annserve.search.choose import Choice, Chooser
from annserve.search.choosers import chooser_for
from annserve.search.clock import Clock, Deadline
from annserve.search.exact import SCAN_PAGES, Scan
from annserve.search.overlap import Journey, Pause, carried, no_pause, overlapped
from annserve.search.queries import prepared
from annserve.search.rerank import RawRows, Rerank, SecondLook
from annserve.search.selection import PageSelection
from annserve.spares import Spares
from annserve.storage.cache import Absent
from annserve.storage.reader import PageReader, aligned_frames

#: Pages that one block of queries may hold in frames: 8 MiB of 4 KB pages, enough to keep a disk busy.
BLOCK_PAGES = 2_048
#: Queries of a block: more gain little and make a deadline coarser; fewer share the cost of a call among too few.
BLOCK_QUERIES = 32
BLOCK_QUERIES_LEAST = 4
#: Blocks of one thread under way: one is rated or scored while the disk reads for the others.
BLOCKS_UNDER_WAY = 3
#: How much harder to look for rows where the planned pages held fewer than k.
_MORE_EFFORT = 4
_HEADS_VISITED, _ROWS_SCORED, _CODES_SCANNED = (
    SearchStats.COUNTS.index(name) for name in ("heads_visited", "rows_scored", "codes_scanned")
)


def size_of_block(share: int, pages: float) -> int:
    """Give how many of a thread's `share` of queries, of so many pages each, should go through the stages together."""
    if pages and share >= 2 * BLOCK_QUERIES_LEAST:
        # Two blocks at least, so that one is rated while the disk reads for the other.
        share = -(-share // 2)
    return max(min(int(BLOCK_PAGES // max(pages, 1)), share, BLOCK_QUERIES), 1)


class Begun(NamedTuple):
    """A block that is on its way: its queries, its pages, and what a cache has of them.

    Attributes
    ----------
    space : (nq, d) float32
        Queries in the index space.
    quantized : QuantizedQueries
    choice : Choice
    frames : Frames
        With the pages that the cache holds.
    gathered : Gathered
    """

    space: npt.NDArray[np.float32]
    quantized: QuantizedQueries
    choice: Choice
    frames: Frames
    gathered: Gathered


class Engine:
    """Searches one segment; threads may share it.

    Parameters
    ----------
    segment : Segment
        Its codes, if it has any, decide how pages are chosen.
    reader : PageReader
    norm_max : float
        Largest norm of a row, for the index space under inner product.
    chooser : Chooser, optional
        By default the one that the segment's tiers allow.
    cache : CachePart, optional
        Of the segment's pages.
    raw_reader : PageReader, optional
        Of raw rows, where the segment keeps some.
    """

    def __init__(
        self,
        segment: Segment,
        reader: PageReader,
        norm_max: float,
        chooser: Chooser | None = None,
        cache: CachePart | None = None,
        raw_reader: PageReader | None = None,
    ) -> None:
        self.segment = segment
        self.reader = reader
        self.norm_max = norm_max
        self.chooser = chooser or chooser_for(segment)
        self.cache = cache
        self.raw_rows = RawRows(segment, segment.raw, raw_reader) if segment.raw and raw_reader else None
        self._frames = Spares(lambda: self._make_frames(BLOCK_PAGES // 4))

    def block_queries(self, share: int, k: int, recall_target: float) -> int:
        """Give how many of a thread's `share` of queries should go through the stages together."""
        return size_of_block(share, self.pages_expected(k, recall_target))

    def pages_expected(self, k: int, recall_target: float) -> float:
        """Give about the most pages that a query adds to its block, to size blocks by; those of a scan are shared."""
        return 0.0 if recall_target == 1.0 else self.chooser.pages_expected(k, recall_target)

    def search(
        self,
        queries: npt.NDArray[Any],
        k: int,
        recall_target: float,
        *,
        rerank: Rerank | None = None,
        deadline: Deadline | None = None,
        between: Pause = no_pause,
        asked: Asked | None = None,
    ) -> BlockResult:
        """Search one block of queries, with no other under way; see ``search_blocks`` and ``overlap.carried``."""
        clock, begun = Clock(deadline), None
        if asked is not None and recall_target != 1.0:
            begun = self._begin(queries, k, recall_target, clock, asked)
            if begun is not None and begun.gathered.costs is not None:
                # Nothing had to be read.
                self._frames.give(begun.frames)
                none = np.zeros(len(queries), bool)
                return BlockResult(asked.ids, asked.distances, none, none, begun.gathered.costs, clock.seconds)
        return carried(self.journey(queries, k, recall_target, rerank, clock, asked=asked, begun=begun), between)

    def _begin(
        self, queries: npt.NDArray[Any], k: int, recall_target: float, clock: Clock, asked: Asked
    ) -> Begun | None:
        """Choose the pages of a block, and take from the cache what it has: often that is all. None where it can't."""
        if self.cache is None or not self.cache.whole or self.raw_rows is not None or clock.late:
            return None
        space, quantized = prepared(queries, self.segment.spec, self.norm_max)
        try:
            choice = self.chooser.choose(space, k, recall_target, clock)
        except DeadlineError:
            return None
        # Who read something to choose by has costs of its own.
        looked_at = choice.looked_at if choice.vicinities is None else None
        page_ids, offsets = choice.selection
        frames, facts = self._take_frames(len(page_ids)), self.segment.page_facts
        with clock.waiting("read"):
            gathered = asked.gather(self.cache.pages, quantized, page_ids, offsets, frames, facts, looked_at)
        return Begun(space, quantized, choice, frames, gathered)

    def search_blocks(
        self,
        blocks: Iterable[tuple[int, npt.NDArray[Any]]],
        k: int,
        recall_target: float,
        *,
        rerank: Rerank | None = None,
        deadline: Deadline | None = None,
        asked: Asked | None = None,
    ) -> Iterator[tuple[int, BlockResult]]:
        """Search blocks of queries, each rated while the disk reads for the one before.

        Parameters
        ----------
        blocks : iterable of (first, (nq, dim) array)
            Number of a block's first query, and its queries: about ``block_queries``, valid (``spec.check_vectors``).
            Each is taken when its turn comes.
        k : int
            Valid for the index (``spec.check_k``).
        recall_target : float
            0.80 … 0.99, or 1 to read every page.
        rerank : Rerank, optional
            Second queries, where another encoder's raw rows are to rank candidates anew.
        deadline : Deadline, optional
            After which no stage is begun.
        asked : Asked, optional
            The queries of all blocks, as a lookaside cache knows them.

        Yields
        ------
        (first, BlockResult)
            As blocks are done.

        Raises
        ------
        DeadlineError
            If the deadline passed, and makes no partial answers.
        ReadError, CorruptionError
            If a page can't be read, or isn't what was written.
        """
        journeys = (
            (
                first,
                self.journey(
                    queries,
                    k,
                    recall_target,
                    rerank and rerank.beside(first, queries),
                    Clock(deadline),
                    asked=asked and asked.take(slice(first, first + len(queries))),
                ),
            )
            for first, queries in blocks
        )
        # A block that reads every page keeps the disk busy by itself.
        yield from overlapped(journeys, 1 if recall_target == 1.0 else BLOCKS_UNDER_WAY)

    def journey(
        self,
        queries: npt.NDArray[Any],
        k: int,
        recall_target: float,
        rerank: Rerank | None,
        clock: Clock,
        k_planned: int | None = None,
        asked: Asked | None = None,
        begun: Begun | None = None,
    ) -> Journey[BlockResult]:
        """Carry one block of queries through the stages; arguments as of ``search_blocks``.

        With `k_planned`, pages are chosen for so many of the k nearest, and no more rows than that are sure to come.
        With `begun`, they are chosen already.
        """
        sure = k if k_planned is None else k_planned
        space, quantized = begun[:2] if begun else prepared(queries, self.segment.spec, self.norm_max)
        look = self.raw_rows.plan(queries, quantized, k, recall_target, rerank) if self.raw_rows else None
        # Another encoder ranks more rows than are asked for: the first stage finds them all.
        wanted = look.wanted if look else k
        sure += wanted - k
        if recall_target == 1.0:
            result = yield from self._scan(quantized, wanted, look, clock)
        else:
            try:
                choice = begun.choice if begun else self.chooser.choose(space, sure, recall_target, clock)
                result = yield from self._read(choice, quantized, wanted, sure, look, clock, asked, begun)
            except DeadlineError:
                if not clock.deadline.partial:
                    raise
                result = nothing_found(len(queries), k)
            if np.count_nonzero(result.short):
                result.put_away()
                result.scored = None
                yield from self._complete(result, space, quantized, wanted, sure, recall_target, look, clock)
        if asked is not None:
            result.leave_to(asked, quantized)
        result.seconds = clock.seconds
        return result

    def _complete(
        self,
        result: BlockResult,
        space: npt.NDArray[np.float32],
        quantized: QuantizedQueries,
        k: int,
        sure: int,
        recall_target: float,
        look: SecondLook | None,
        clock: Clock,
    ) -> Journey[None]:
        """Look harder where the planned pages held fewer than `sure` rows: the promise is k results."""
        effort = 1
        while len(short := np.flatnonzero(result.short > result.truncated)):
            rest, second = quantized.take(short), look and look.take(short)
            effort *= _MORE_EFFORT
            try:
                if effort < self.segment.heads.n_heads:
                    choice = self.chooser.choose(space[short], sure, recall_target, clock, effort)
                    again = yield from self._read(choice, rest, k, sure, second, clock)
                else:
                    again = yield from self._scan(rest, k, second, clock)
            except DeadlineError:
                if not clock.deadline.partial:
                    raise
                result.truncated[short] = True
            else:
                result.replace(short, again)

    def _scan(self, quantized: QuantizedQueries, k: int, look: SecondLook | None, clock: Clock) -> Journey[BlockResult]:
        """Score every row; yield before each batch of pages."""
        frames = self._take_frames(min(SCAN_PAGES, self.segment.n_pages))
        scan = Scan(self.segment, self.reader)
        nearest, counts = yield from scan.journey(quantized, k, look, frames, clock)
        self._frames.give(frames)
        # All rows were seen: where there are fewer than k, looking harder finds no more.
        short = np.zeros(len(nearest.ids), bool)
        return BlockResult(nearest.ids, nearest.distances, short, np.full(len(short), nearest.truncated), counts)

    def _read(
        self,
        choice: Choice,
        quantized: QuantizedQueries,
        k: int,
        sure: int,
        look: SecondLook | None,
        clock: Clock,
        asked: Asked | None = None,
        begun: Begun | None = None,
    ) -> Journey[BlockResult]:
        """Read the chosen pages that aren't cached in one batch, score their rows, look at some again; yield twice."""
        segment, selection = self.segment, choice.selection
        session = int(asked.kind.marks[3]) if asked is not None else 0
        # A second look needs all rows that are nearly near enough.
        asked = asked if look is None else None
        with clock.stage("read"):
            frames = begun.frames if begun else self._take_frames(len(selection.page_ids))
            to_read, places = selection, None
            absent: Absent | None = None
            if self.cache is not None:
                if asked is not None:
                    pages, facts = self.cache.pages, segment.page_facts
                    gathered = begun.gathered if begun else asked.gather(pages, quantized, *selection, frames, facts)
                    left, offsets, absent, _ = gathered
                    selection = PageSelection(left, offsets)
                else:
                    absent = self.cache.pages.fetch(selection.page_ids, selection.offsets, frames.memory, session)
                assert absent is not None, "what needs no reading was answered before"
                to_read, places = PageSelection(absent.page_ids, absent.offsets), absent.places
            # Handing a device nothing takes 20 µs.
            pending = self.reader.start(to_read.page_ids, frames.memory, places) if len(to_read.page_ids) else None
        try:
            if self.cache is not None and absent is not None and not self.cache.whole:
                with clock.stage("score"):
                    self.cache.unpack(selection.page_ids, absent, frames.memory)
            if pending is not None:
                if asked is not None:
                    # The disk is at work, and this thread has nothing else to do.
                    asked.later.keep()
                yield
        finally:
            # Until then the frames are the device's, even where another block's error ends this one.
            if pending is not None:
                with clock.waiting("read"):
                    pending.finish()
        nearest = np.empty(len(selection.page_ids)) if asked is not None else None
        with clock.stage("score"):
            ids, distances, scored = frames.score(*selection, quantized, k, segment.page_facts, nearest)
            candidates = look.candidates(frames, selection, quantized) if look is not None else None
        short, whole = ids[:, sure - 1] == NO_ID, np.zeros(len(ids), bool)
        result = BlockResult(ids, distances, short, whole, self._costs(choice, selection, to_read, scored))
        if nearest is not None:
            result.scored = ScoredPages(*selection, nearest)
        # Not after an error: a broken ring may still be writing into them.
        if asked is None or places is None or choice.vicinities is not None:
            self._put_away(frames, to_read.page_ids, places)
        else:
            read = to_read.page_ids, places
            result.rest = Rest(*read, frames.memory, lambda: self._put_away(frames, *read))
        if look is not None and candidates is not None:
            yield from look.improve(result, candidates, clock)
        return result

    def _put_away(self, frames: Frames, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64] | None) -> None:
        """Let the cache have the pages that were read and proven; page i lies in frame ``places[i]``."""
        if self.cache is not None and places is not None:
            self.cache.keep(page_ids, places, frames.memory)
        self._frames.give(frames)

    def _costs(
        self, choice: Choice, selection: PageSelection, read: PageSelection, scored: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Count what a choice cost: the pages of `selection` were scored, those in `read` weren't cached."""
        page_bytes = self.segment.spec.page_bytes
        counts = read.costs(page_bytes, selection)
        counts[_HEADS_VISITED] = choice.heads_visited
        counts[_ROWS_SCORED] = scored
        counts[_CODES_SCANNED] = choice.codes_scanned
        if choice.vicinities is not None:
            counts += choice.vicinities.costs(page_bytes)
        return counts

    def _take_frames(self, count: int) -> Frames:
        """Give frames for so many pages that no other block uses."""
        frames = self._frames.take()
        return frames if len(frames) >= count else self._make_frames(count)

    def _make_frames(self, count: int) -> Frames:
        layout = self.segment.layout
        return Frames(aligned_frames(count, layout.page_bytes), layout)
