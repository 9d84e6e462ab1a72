"""Rows as they are stored, read back from posting pages; each page is proven before a row is taken off it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError
from annserve.index.raw_file import RawFile
from annserve.index.segment import Segment
from annserve.pages.check import check_rows
from annserve.pages.pack import UnpackedRows, unpack_pages
from annserve.raw.pack import unpack_raw_pages
from annserve.raw.score import find_damage
from annserve.storage.reader import PageReader, aligned_frames, open_reader

#: Posting pages that are read together: 4 MiB of them.
_BATCH_PAGES = 1_024


def stored_rows(segment: Segment) -> Iterator[tuple[int, UnpackedRows]]:
    """Give the rows at home in a segment, in the order of its pages, with the number of the first page each time.

    Raises
    ------
    ReadError, CorruptionError
        If a page can't be read, or isn't what was written.
    """
    reader = open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)
    try:
        frames = aligned_frames(min(_BATCH_PAGES, segment.n_pages), segment.spec.page_bytes)
        for first in range(0, segment.n_pages, _BATCH_PAGES):
            page_ids = np.arange(first, min(first + _BATCH_PAGES, segment.n_pages), dtype=np.uint32)
            reader.read(page_ids, frames)
            pages = frames[: len(page_ids)]
            _, problems = check_rows(pages, page_ids, segment.layout, segment.salt)
            _refuse(problems, segment.pages_path)
            yield first, unpack_pages(pages, segment.layout)
    finally:
        reader.close()


class StoredRawRows:
    """Raw rows of a segment, by their places; taken in ascending order, each raw page is read once or twice."""

    def __init__(self, segment: Segment, file: RawFile) -> None:
        self._file = file
        self._salt = segment.salt
        self._reader: PageReader = open_reader(file.path, file.offset, file.layout.page_bytes, file.n_pages)

    def take(self, places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Give the raw rows at ascending places, (n, raw dim).

        Raises
        ------
        ReadError, CorruptionError
            If a page can't be read, or isn't what was written.
        """
        file = self._file
        first, last = int(places[0]) // file.layout.capacity, int(places[-1]) // file.layout.capacity
        page_ids = np.arange(first, last + 1, dtype=np.uint32)
        frames = aligned_frames(len(page_ids), file.layout.page_bytes)
        self._reader.read(page_ids, frames)
        problems = [f"page {page_id}: {wrong}" for page_id, wrong in find_damage(frames, page_ids, self._salt)]
        _refuse(problems, file.path)
        return unpack_raw_pages(frames, file.layout)[places - first * file.layout.capacity]

    def close(self) -> None:
        """Let the file go."""
        self._reader.close()


def largest_id(segments: tuple[Segment, ...]) -> int:
    """Give the largest row id."""
    return max(int(rows.ids.max()) for segment in segments for _, rows in stored_rows(segment))


def require_new(ids: npt.NDArray[np.uint64], segments: tuple[Segment, ...]) -> None:
    """Make sure that none of these ids is in use.

    Raises
    ------
    InputError
        If one is; the first of them is named, with its row.
    """
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    used = np.zeros(len(ids), bool)
    for segment in segments:
        for _, rows in stored_rows(segment):
            places = np.searchsorted(ordered, rows.ids).clip(max=len(ids) - 1)
            used[places[ordered[places] == rows.ids]] = True
    if used.any():
        row = int(order[used].min())
        more = f", and {used.sum() - 1:,} more" if used.sum() > 1 else ""
        raise InputError(
            f"id {ids[row]} of row {row}{more}: the index has such rows already; give new ids", field="ids"
        )


def _refuse(problems: list[str], path: Path) -> None:
    if problems:
        raise CorruptionError(
            f"{path} is damaged: {problems[0]}; run 'annserve verify' to list all damaged pages, then restore the file "
            "or build the index anew",
            path=path,
        )
