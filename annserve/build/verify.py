"""Proof that an index is whole: every page read back, every row at home exactly once, every head reachable."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.build.report_page import page_is_whole
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
    ids = np.zeros(0, np.uint64)
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
    found = []
    with closing(
        open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)
    ) as reader:
        for first in range(0, segment.n_pages, _BATCH_PAGES):
            stop = min(first + _BATCH_PAGES, segment.n_pages)
            page_ids = np.arange(first, stop, dtype=np.uint32)
            reader.read(page_ids, frames)
            rows, problems = check_rows(frames[: stop - first], page_ids, segment.layout, segment.salt)
            result.problems += problems
            found.append(rows)
            listener(StageProgressed("verify", stop))
    result.pages = segment.n_pages
    at_home = _check_homes(found, segment.n_rows, result)
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


def _check_homes(found: list[RowsFound], n_rows: int, result: Verification) -> npt.NDArray[np.uint64]:
    """Prove that every row has one home, and that each replica equals the row at home; give the ids of the rows."""
    ids, at_home, seals = (
        np.concatenate([getattr(rows, name) for rows in found]) for name in ("ids", "at_home", "seals")
    )
    distinct, first, counts = np.unique(ids[at_home], return_index=True, return_counts=True)
    result.rows, result.replicas = len(distinct), len(ids) - int(at_home.sum())
    if len(distinct) != n_rows:
        result.problems.append(f"{n_rows} rows were built in, but {len(distinct)} are on the pages")
    if (counts > 1).any():
        result.problems.append(f"row {distinct[counts > 1][0]} is on {counts.max()} pages, one is its home")
    copies = ids[~at_home]
    if not len(copies) or not len(distinct):
        return distinct
    home = np.minimum(np.searchsorted(distinct, copies), len(distinct) - 1)
    homeless = distinct[home] != copies
    if homeless.any():
        result.problems.append(f"row {copies[homeless][0]} has replicas, but no home")
    other = ~homeless & (seals[at_home][first[home]] != seals[~at_home])
    if other.any():
        result.problems.append(f"a replica of row {copies[other][0]} isn't what the row is at home")
    return distinct


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
