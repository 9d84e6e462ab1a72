"""What one query did, stage by stage: the engine itself, with someone looking on.

The query goes through ``engine.Engine`` as any other; only the chooser is watched, and keeps what it decided by.
Afterwards the chosen pages are read once more, to see on which of them each result lies.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.metric import distances_from_space
from annserve.pages.check import check_pages
from annserve.search.choose import Choice, Chooser, Evidence
from annserve.search.clock import Clock
from annserve.search.engine import Engine
from annserve.search.segments import Engines
from annserve.storage.reader import aligned_frames


@dataclass(frozen=True)
class PageExplained:
    """A page that was read, and why.

    Attributes
    ----------
    page_id, posting : int
    rows : int
        Rows on it, all of which were scored.
    hits : int
        Results that it brought.
    best_place : int or None
        Place of the nearest of them in the answer, from 1.
    worth : float or None
        Hits that its rows' codes promised; None where heads alone decided.
    rank : int or None
        Its place by the distance of its decoded centroid, from 1, among pages whose rows' codes were looked at.
    """

    page_id: int
    posting: int
    rows: int
    hits: int
    best_place: int | None
    worth: float | None
    rank: int | None


@dataclass(frozen=True)
class CodesExplained:
    """What codes said before any page of rows was read.

    Attributes
    ----------
    page_codes : int
        Pages that were ranked by their own codes.
    vicinities : int
        Vicinities that were read for codes of rows; 0 where RAM holds those.
    pages_passed_over, pages_rated : int
        Those whose rows' codes weren't worth a look, and those whose were looked at.
    row_codes : int
    threshold : float
        Distance within which k rows are expected, in the user's metric.
    hits_expected, hits_wanted, hits_promised : float
        On all rated pages; what the recall target takes; on the pages that were chosen.
    """

    page_codes: int
    vicinities: int
    pages_passed_over: int
    pages_rated: int
    row_codes: int
    threshold: float
    hits_expected: float
    hits_wanted: float
    hits_promised: float


@dataclass(frozen=True)
class Explanation:
    """What one query did.

    Attributes
    ----------
    k, recall_target
        As asked; of a segment among several, how many of the k nearest its pages were chosen for.
    heads, heads_visited, postings_ranked : int
        All there are; those whose distance was computed; those whose pages were in question.
    codes : CodesExplained or None
        None where heads alone decided, or every page was asked for.
    rounds : int
        Times that pages were chosen; more than once where they held fewer than k rows. `codes` and `pages` are the last
        round's, counts are those of all.
    pages : tuple of PageExplained
        In the order of their worth; else of their place on the device.
    pages_read, reads, bytes_read, rows_scored, rows_reranked : int
        Neighbouring pages share a read; pages of raw rows are counted too.
    seconds : dict
        By stage.
    ids, distances : list
        The answer, of all segments.
    """

    k: int
    recall_target: float
    heads: int
    heads_visited: int
    postings_ranked: int
    codes: CodesExplained | None
    rounds: int
    pages: tuple[PageExplained, ...]
    pages_read: int
    reads: int
    bytes_read: int
    rows_scored: int
    rows_reranked: int
    seconds: dict[str, float]
    ids: list[int]
    distances: list[float]

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for JSON."""
        return asdict(self)


def explain_segments(
    engines: Engines, query: npt.NDArray[Any], k: int, recall_target: float
) -> tuple[Explanation, ...]:
    """Do as `explain` for several segments: each as it was last asked, with the answer of all."""
    found = engines.search(query, k, recall_target)
    ids, distances = found.ids[0].tolist(), found.distances[0].tolist()
    chosen_for = zip(engines.engines, engines.chosen_for(query, k, recall_target))
    return tuple(
        replace(explain(engine, query, n, recall_target, ids), distances=distances) for engine, n in chosen_for
    )


def explain(
    engine: Engine, query: npt.NDArray[Any], k: int, recall_target: float, answer: list[int] | None = None
) -> Explanation:
    """Search for one query, and tell what was done.

    Parameters
    ----------
    engine : Engine
    query : (1, dim) array
        Valid (``spec.check_vectors``).
    k, recall_target
        As for ``Engine.search``.
    answer : list of int, optional
        What counts as a hit, nearest first, where that isn't the engine's own answer.

    Returns
    -------
    Explanation

    Raises
    ------
    ReadError, CorruptionError
        If a page can't be read, or isn't what was written.

    Notes
    -----
    The search runs twice, and the second run is told: the first loads kernels and grows scratch.
    """
    segment = engine.segment
    engine.search(query, k, recall_target)
    watched = _Watched(engine.chooser)
    raw_reader = engine.raw_rows.reader if engine.raw_rows else None
    watching = Engine(segment, engine.reader, engine.norm_max, watched, raw_reader=raw_reader)
    result = watching.search(query, k, recall_target)
    choice = watched.choices[-1] if watched.choices else None
    page_ids = np.arange(segment.n_pages, dtype=np.uint32) if choice is None else choice.selection.page_ids
    if answer is None:
        answer = [int(one) for one in result.ids[0]]
    evidence = choice.evidence() if choice is not None and choice.evidence is not None else None
    pages = _pages(engine, page_ids, evidence, answer)
    return Explanation(
        k=k,
        recall_target=recall_target,
        heads=segment.heads.n_heads,
        heads_visited=int(result.count("heads_visited")[0]),
        postings_ranked=_postings_ranked(evidence, pages),
        codes=_codes(engine, query, choice, evidence, pages),
        rounds=max(len(watched.choices), 1),
        pages=pages,
        pages_read=int(result.count("pages_read")[0]),
        reads=int(result.count("reads")[0]),
        bytes_read=int(result.count("bytes_read")[0]),
        rows_scored=int(result.count("rows_scored")[0]),
        rows_reranked=int(result.count("rows_reranked")[0]),
        seconds=dict(result.seconds),
        ids=answer,
        distances=[float(one) for one in result.distances[0]],
    )


class _Watched:
    """A chooser that keeps what it chose."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self.choices: list[Choice] = []

    def choose(
        self, queries: npt.NDArray[np.float32], k: int, recall_target: float, clock: Clock, effort: int = 1
    ) -> Choice:
        choice = self._chooser.choose(queries, k, recall_target, clock, effort)
        self.choices.append(choice)
        return choice

    def postings_range(self, k: int, recall_target: float) -> tuple[int, int]:
        return self._chooser.postings_range(k, recall_target)

    def pages_expected(self, k: int, recall_target: float) -> float:
        return self._chooser.pages_expected(k, recall_target)


def _pages(
    engine: Engine, page_ids: npt.NDArray[np.uint32], evidence: Evidence | None, answer: list[int]
) -> tuple[PageExplained, ...]:
    """Say of each page why it was read and what it brought."""
    segment = engine.segment
    place_of = {row_id: place for place, row_id in enumerate(answer, 1)}
    postings = np.searchsorted(segment.page_offsets, page_ids, side="right") - 1
    worths: dict[int, tuple[float, int]] = {}
    if evidence is not None:
        rating = evidence.rating
        size = int(rating.sizes[0])
        nearest = np.argsort(rating.distances[0, :size], kind="stable")
        worths = {int(rating.pages[0, i]): (float(rating.worths[0, i]), rank) for rank, i in enumerate(nearest, 1)}
    frame = aligned_frames(1, segment.spec.page_bytes)
    pages = []
    for page_id, posting in zip(page_ids, postings):
        asked = np.array([page_id], np.uint32)
        engine.reader.read(asked, frame)
        rows, _ = check_pages(frame, asked, segment.layout, segment.salt)
        places = [place_of[int(row)] for row in rows if int(row) in place_of]
        worth, rank = worths.get(int(page_id), (None, None))
        best_place = min(places, default=None)
        pages.append(PageExplained(int(page_id), int(posting), len(rows), len(places), best_place, worth, rank))
    return tuple(sorted(pages, key=lambda page: (-(page.worth or 0.0), page.page_id)))


def _postings_ranked(evidence: Evidence | None, pages: tuple[PageExplained, ...]) -> int:
    return len({page.posting for page in pages}) if evidence is None else evidence.postings_ranked


def _codes(
    engine: Engine,
    query: npt.NDArray[Any],
    choice: Choice | None,
    evidence: Evidence | None,
    pages: tuple[PageExplained, ...],
) -> CodesExplained | None:
    if choice is None or evidence is None:
        return None
    rating = evidence.rating
    size = int(rating.sizes[0])
    threshold = distances_from_space(rating.thresholds[:1], query, engine.segment.spec, engine.norm_max)
    return CodesExplained(
        page_codes=int(rating.page_codes[0]),
        vicinities=0 if choice.vicinities is None else len(choice.vicinities.page_ids),
        pages_passed_over=int(rating.page_codes[0]) - size,
        pages_rated=size,
        row_codes=int(rating.row_codes[0]),
        threshold=float(threshold[0]),
        hits_expected=float(rating.worths[0, :size].sum()),
        hits_wanted=float(evidence.hits_wanted[0]),
        hits_promised=sum(page.worth or 0.0 for page in pages),
    )
