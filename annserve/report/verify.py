"""Proof that an index is whole: every page read back, every row at home exactly once, every head reachable."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.codes.vicinities import check_vicinities
from annserve.errors import CorruptionError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.heads.graph import reachable
from annserve.index import names
from annserve.index.raw_file import RawFile
from annserve.index.segment import Segment
from annserve.index.snapshot import Snapshot
from annserve.index.vicinities import Vicinities
from annserve.pages.check import RowsFound, check_rows
from annserve.raw.score import find_damage
from annserve.report.page import page_is_whole
from annserve.storage.reader import aligned_frames, open_reader

_BATCH_PAGES = 1_024


@dataclass
class Verification:
    """What verification found.

    Attributes
    ----------
    pages, rows, replicas, heads, raw_pages : int
        What was proven.
    problems : list of str
        One line for each thing that is wrong; empty for a whole index.
    """

    pages: int = 0
    rows: int = 0
    replicas: int = 0
    heads: int = 0
    raw_pages: int = 0
    problems: list[str] = field(default_factory=list)

    def raise_if_broken(self, path: Path) -> None:
        """Raise a ``CorruptionError`` that names the first problems, if there are any."""
        if self.problems:
            more = f" (and {len(self.problems) - 3} more)" if len(self.problems) > 3 else ""
            raise CorruptionError(
                f"{path} has {len(self.problems)} problems: {'; '.join(self.problems[:3])}{more}; restore it, "
                "or build it anew",
                path=path,
            )


def verify_index(snapshot: Snapshot, listener: Listener = ignore) -> Verification:
    """Prove every segment of a version, and that no row is in two of them.

    Returns
    -------
    Verification
        Of all segments together; where there are several, a problem begins with the name of its segment.
    """
    entries = snapshot.manifest.segments
    whole = Verification()
    ids = np.empty(0, np.uint64)
    for entry, segment in zip(entries, snapshot.segments):
        found, at_home = _verify(segment, listener)
        for name in ("pages", "rows", "replicas", "heads", "raw_pages"):
            setattr(whole, name, getattr(whole, name) + getattr(found, name))
        prefix = f"{entry.name}: " if len(entries) > 1 else ""
        whole.problems += [prefix + problem for problem in found.problems]
        twice = np.intersect1d(ids, at_home, assume_unique=True)
        if len(twice):
            whole.problems.append(f"{prefix}{len(twice):,} rows, {twice[0]} first, are in an older segment too")
        ids = np.union1d(ids, at_home) if len(entries) > 1 else ids
    page = snapshot.folder / names.REPORT_PAGE
    if page.exists() and not page_is_whole(page):
        whole.problems.append(f"{names.REPORT_PAGE} isn't what the build wrote")
    return whole


def verify_segment(segment: Segment, listener: Listener = ignore) -> Verification:
    """Read every page and prove what the format promises.

    Parameters
    ----------
    segment : Segment
        Its RAM tiers were proven when it was opened.
    listener : callable

    Returns
    -------
    Verification
        With every problem found; a damaged page doesn't end the search for others.
    """
    return _verify(segment, listener)[0]


def _verify(segment: Segment, listener: Listener) -> tuple[Verification, npt.NDArray[np.uint64]]:
    """Do as ``verify_segment``, and give the ids of the rows at home besides, ascending."""
    begun = time.monotonic()
    listener(StageStarted("verify", segment.n_pages, "pages"))
    result = Verification(heads=segment.heads.n_heads)
    frames = aligned_frames(min(_BATCH_PAGES, max(segment.n_pages, 1)), segment.layout.page_bytes)
    homes = _Homes(segment.n_rows)
    with closing(
        open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)
    ) as reader:
        for first in range(0, segment.n_pages, _BATCH_PAGES):
            stop = min(first + _BATCH_PAGES, segment.n_pages)
            page_ids = np.arange(first, stop, dtype=np.uint32)
            reader.read(page_ids, frames)
            rows, problems = check_rows(frames[: stop - first], page_ids, segment.layout, segment.salt)
            result.problems += problems
            homes.add(rows)
            listener(StageProgressed("verify", stop))
    result.pages = segment.n_pages
    at_home = homes.check(result)
    lost = np.flatnonzero(~reachable(segment.heads))
    if len(lost):
        result.problems.append(f"head {lost[0]} and {len(lost) - 1} others can't be reached from the entry")
    offsets = segment.page_offsets.astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) < 1).any() or offsets[-1] != segment.n_pages:
        result.problems.append("the posting table doesn't cover every page exactly once")
    if segment.raw is not None:
        result.raw_pages = segment.raw.n_pages
        result.problems += _raw_problems(segment.raw, segment.salt)
    if segment.vicinities is not None:
        result.problems += _problems_of_vicinities(segment, segment.vicinities)
    listener(StageFinished("verify", time.monotonic() - begun, f"{result.rows:,} rows, each at home once"))
    return result, at_home


class _Homes:
    """What pages say of the rows on them: 12 bytes a row, and 24 more where replicas are to be compared.

    Parameters
    ----------
    n_rows : int
        Rows that were built in.
    """

    def __init__(self, n_rows: int) -> None:
        self._n_rows, self._found = n_rows, 0
        self._ids, self._seals = np.empty(n_rows, np.uint64), np.empty(n_rows, np.uint32)
        self._copies: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]] = []

    def add(self, rows: RowsFound) -> None:
        """Note the rows of some pages."""
        ids, away = rows.ids[rows.at_home], ~rows.at_home
        end = self._found + len(ids)
        if end > len(self._ids):
            # More than were built in: which ones is to be told.
            self._ids, self._seals = np.resize(self._ids, 2 * end), np.resize(self._seals, 2 * end)
        self._ids[self._found : end], self._seals[self._found : end] = ids, rows.seals[rows.at_home]
        self._found = end
        if away.any():
            self._copies.append((rows.ids[away], rows.seals[away]))

    def check(self, result: Verification) -> npt.NDArray[np.uint64]:
        """Prove that every row has one home, and each replica equals the row at home; give the ids, ascending."""
        ids, seals = self._ids[: self._found], self._seals[: self._found]
        if self._copies:
            order = np.argsort(ids, kind="stable")
            ids, seals = ids[order], seals[order]
        else:
            ids.sort()
        again = np.zeros(len(ids), np.bool_)
        np.equal(ids[1:], ids[:-1], out=again[1:])
        twice, times = np.unique(ids[again], return_counts=True)
        if len(twice):
            ids, seals = ids[~again], seals[~again]
        result.rows = len(ids)
        if len(ids) != self._n_rows:
            result.problems.append(f"{self._n_rows} rows were built in, but {len(ids)} are on the pages")
        if len(twice):
            result.problems.append(f"row {twice[0]} is on {times.max() + 1} pages, one is its home")
        for copies, copied_seals in self._copies:
            result.replicas += len(copies)
            if not len(ids):
                continue
            home = np.searchsorted(ids, copies).clip(max=len(ids) - 1)
            homeless = ids[home] != copies
            if homeless.any():
                result.problems.append(f"row {copies[homeless][0]} has replicas, but no home")
            other = ~homeless & (seals[home] != copied_seals)
            if other.any():
                result.problems.append(f"a replica of row {copies[other][0]} isn't what the row is at home")
        return ids


def _problems_of_vicinities(segment: Segment, vicinities: Vicinities) -> list[str]:
    """Read all vicinities and give a line for each that isn't what it should be."""
    assert segment.codes is not None, "a segment with vicinities has codes"
    problems = []
    reader = vicinities.open_reader()
    frames = aligned_frames(min(_BATCH_PAGES, segment.n_pages), vicinities.layout.page_bytes)
    for first in range(0, segment.n_pages, _BATCH_PAGES):
        page_ids = np.arange(first, min(first + _BATCH_PAGES, segment.n_pages), dtype=np.uint32)
        reader.read(page_ids, frames)
        found = frames[: len(page_ids)]
        problems += check_vicinities(found, page_ids, segment.codes.row_counts, vicinities.layout, segment.salt)
    reader.close()
    return problems


def _raw_problems(raw: RawFile, salt: int) -> list[str]:
    """Read every page of raw rows and say what is wrong, a line for each that is damaged."""
    problems = []
    reader = open_reader(raw.path, raw.offset, raw.layout.page_bytes, raw.n_pages)
    frames = aligned_frames(min(_BATCH_PAGES, raw.n_pages), raw.layout.page_bytes)
    for first in range(0, raw.n_pages, _BATCH_PAGES):
        page_ids = np.arange(first, min(first + _BATCH_PAGES, raw.n_pages), dtype=np.uint32)
        reader.read(page_ids, frames)
        problems += [f"raw page {page_id}: {wrong}" for page_id, wrong in find_damage(frames, page_ids, salt)]
    reader.close()
    return problems
