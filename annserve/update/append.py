"""Append: a file of vectors becomes one more segment of an index.

=========  ==========================  ==================================================================
stage      room                        in → out
=========  ==========================  ==================================================================
hold       ``update.versions``         the index is this writer's; what a killed one left is removed
likewise   ``update.likewise``         options of the segments that are there → options of the new one
ids        ``update.stored``           ids on their pages → ids of the new rows, none of which is there
build      ``build.pipeline``          rows → a segment, verified
publish    ``update.versions``         manifest of all segments → CURRENT, one atomic step
=========  ==========================  ==================================================================

The segments that are there aren't touched, so an append costs what a build of the new rows costs, and one reading of
the old pages. Peak RAM is the build's, and 16 bytes a new row.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.build.pipeline import build_segment
from annserve.build.row_ids import row_ids
from annserve.errors import InputError
from annserve.events import Listener, StageFinished, StageStarted, ignore
from annserve.index.snapshot import Snapshot, open_snapshot
from annserve.update.likewise import LikewiseOptions, Updated, options_likewise, require_alike
from annserve.update.stored import largest_id, require_new
from annserve.update.versions import next_number, next_version, publish_after
from annserve.vectors.formats import open_vectors

_ID_MAX = 2**64 - 2


@dataclass(frozen=True)
class AppendOptions(LikewiseOptions):
    """Options of an append: beside those of every further segment, what comes in.

    Parameters
    ----------
    ids : Path, optional
        File with one whole number per row, none of which the index has; by default they go on from its largest.
    column : str, optional
        Array or column of the file that holds the vectors, where it has several.
    skip_invalid : bool
        Leave out rows that can't be indexed; the report counts and lists them.
    rerank_with : Path, optional
        The other encoder's vectors of the new rows, where the index keeps such.
    """

    ids: Path | None = None
    column: str | None = None
    skip_invalid: bool = False
    rerank_with: Path | None = None


def append(
    folder: str | Path, source_path: str | Path, options: AppendOptions | None = None, listener: Listener = ignore
) -> Updated:
    """Add the vectors of a file to a published index.

    Parameters
    ----------
    folder : str or Path
        The index.
    source_path : str or Path
        Vectors of its dimension and type, in any format that ``vectors.formats`` reads.
    options : AppendOptions, optional
    listener : callable
        Hears the events of every stage.

    Returns
    -------
    Updated

    Raises
    ------
    InputError, NotFoundError, FormatError
        If there is no whole index, or the input can't be read or doesn't fit it; a row or an id is named.
    ConflictError
        If another writer is at work in the index.
    OutputError
        If the device refuses; the index is what it was.
    """
    folder, options = Path(folder), options or AppendOptions()
    begun = time.monotonic()
    with open_vectors(source_path, column=options.column) as source, next_version(folder) as (manifest, work):
        snapshot = open_snapshot(folder)
        require_alike(source, options.rerank_with, snapshot)
        np.save(work / "ids.npy", _new_ids(snapshot, options.ids, source.count, listener))
        told = asdict(options) | {"ids": work / "ids.npy"}
        number = next_number(manifest)
        entry, _, norm_max = build_segment(source, folder, number, options_likewise(snapshot, **told), work, listener)
        extended = manifest.extended(entry, norm_max)
        publish_after(folder, manifest, extended)
    return Updated(
        snapshot=extended.snapshot,
        segment=entry.name,
        rows=entry.n_rows,
        rows_in_all=extended.n_rows,
        segments=len(extended.segments),
        seconds=round(time.monotonic() - begun, 3),
    )


def _new_ids(snapshot: Snapshot, path: Path | None, count: int, listener: Listener) -> npt.NDArray[np.uint64]:
    """Give the ids of the new rows: those of a file, proven to be new, or the numbers behind the largest."""
    begun = time.monotonic()
    listener(StageStarted("ids", snapshot.n_pages, "pages"))
    ids = row_ids(path, count)
    if path is not None:
        require_new(ids, snapshot.segments)
    else:
        first = largest_id(snapshot.segments) + 1
        if first + count - 1 > _ID_MAX:
            raise InputError(
                f"the largest id is {first - 1}; {count:,} further numbers would pass 2⁶⁴−2: give ids", field="ids"
            )
        ids += np.uint64(first)
    listener(StageFinished("ids", time.monotonic() - begun, f"{ids.min():,} … {ids.max():,}"))
    return ids
