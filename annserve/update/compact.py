"""Compact: all segments of an index become one.

=========  ==========================  ==================================================================
stage      room                        in → out
=========  ==========================  ==================================================================
hold       ``update.versions``         the index is this writer's; what a killed one left is removed
restage    ``update.restage``          pages of all segments → rows and ids in files
build      ``build.pipeline``          rows → a segment, verified
publish    ``update.versions``         manifest of that segment → CURRENT, one atomic step
remove     ``update.versions``         the files of the segments that were
=========  ==========================  ==================================================================

No vector that was given once is needed, and none is rounded twice. Readers keep the version that they opened: its
files are gone from the folder, but not from under them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

from annserve.build.pipeline import build_segment
from annserve.errors import OutputError
from annserve.events import Listener, StageFinished, StageStarted, ignore
from annserve.index.manifest import Manifest
from annserve.index.snapshot import Snapshot, open_snapshot
from annserve.sizes import bytes_text
from annserve.storage.atomic import free_bytes
from annserve.update.likewise import LikewiseOptions, Updated, options_likewise
from annserve.update.restage import keeps_stored, restage, scratch_bytes
from annserve.update.versions import next_number, next_version, publish_after

#: Pages of a new segment are about so full.
_FILL = 0.985


class CompactOptions(LikewiseOptions):
    """Options of a compaction: those of every further segment."""


@dataclass(frozen=True)
class Outlook:
    """What a compaction would take.

    Attributes
    ----------
    segments, rows, pages : int
        Of the index as it is.
    pages_after : int
        About.
    disk_bytes, free_bytes : int
        Bytes that are needed while it is under way, about; bytes that there are.
    """

    segments: int
    rows: int
    pages: int
    pages_after: int
    disk_bytes: int
    free_bytes: int


def outlook(folder: str | Path) -> Outlook:
    """Say what a compaction would take, before any of it.

    Raises
    ------
    NotFoundError, CorruptionError, VersionError, ReadError
        If there is no whole index.
    """
    return _outlook(open_snapshot(Path(folder)))


def compact(folder: str | Path, options: CompactOptions | None = None, listener: Listener = ignore) -> Updated | None:
    """Merge the segments of a published index into one.

    Parameters
    ----------
    folder : str or Path
        The index.
    options : CompactOptions, optional
    listener : callable
        Hears the events of every stage.

    Returns
    -------
    Updated or None
        None where there is one segment already, and nothing was done.

    Raises
    ------
    NotFoundError, CorruptionError, VersionError, ReadError
        If there is no whole index, or a page of it isn't what was written.
    ConflictError
        If another writer is at work in the index.
    OutputError
        If the device refuses or has no room; the index is what it was.
    """
    folder, options = Path(folder), options or CompactOptions()
    begun = time.monotonic()
    with next_version(folder) as (manifest, work):
        if len(manifest.segments) == 1:
            return None
        snapshot = open_snapshot(folder)
        needed = _outlook(snapshot)
        if needed.free_bytes < needed.disk_bytes:
            raise OutputError(
                f"{folder} has {bytes_text(needed.free_bytes)} free, but compacting takes about "
                f"{bytes_text(needed.disk_bytes)} until it is done; free some space",
                path=folder,
            )
        stage = time.monotonic()
        listener(StageStarted("restage", manifest.n_rows))
        restaged = restage(snapshot, work, listener)
        listener(StageFinished("restage", time.monotonic() - stage, f"{manifest.n_rows:,} rows"))
        try:
            entry, spec, norm_max = build_segment(
                restaged.rows,
                folder,
                next_number(manifest),
                options_likewise(snapshot, **asdict(options), ids=restaged.ids, rerank_with=restaged.other),
                work,
                listener,
                stored=restaged.stored if keeps_stored(snapshot) else None,
            )
        finally:
            restaged.close()
        after = Manifest(manifest.snapshot + 1, spec, norm_max, (entry,))
        publish_after(folder, manifest, after)
    return Updated(
        snapshot=after.snapshot,
        segment=entry.name,
        rows=entry.n_rows,
        rows_in_all=entry.n_rows,
        segments=1,
        seconds=round(time.monotonic() - begun, 3),
    )


def _outlook(snapshot: Snapshot) -> Outlook:
    manifest = snapshot.manifest
    copies = max(segment.copies for segment in snapshot.segments)
    pages = ceil(copies * manifest.n_rows / (_FILL * manifest.spec.page_capacity))
    # The files of the segments that are there, again, and the build's own: rows staged, and in another order.
    staged = 2 * manifest.n_rows * manifest.spec.dim * 4
    return Outlook(
        segments=len(snapshot.segments),
        rows=manifest.n_rows,
        pages=snapshot.n_pages,
        pages_after=pages,
        disk_bytes=snapshot.disk_bytes + scratch_bytes(snapshot) + staged,
        free_bytes=free_bytes(snapshot.folder),
    )
