"""What vectors of the same kind tell of those that an index is planned for: a file of some, or an index of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annserve.errors import InputError
from annserve.index.snapshot import open_snapshot
from annserve.pages.pack import unpack_first
from annserve.search.engine import Engine
from annserve.search.page_model import INTRINSIC_DIM, Anchor, workload_of
from annserve.spec import IndexSpec
from annserve.storage.reader import aligned_frames, open_reader
from annserve.vectors.formats import open_vectors
from annserve.vectors.sample import sample_row_ids, sample_rows
from annserve.vectors.source import VectorSource
from annserve.vectors.synthetic import intrinsic_dimension

#: Rows of a file that its hardness is measured on, those that are asked for, and the rows that an index is asked for.
_SAMPLE_ROWS, _PROBES, _QUERIES = 30_000, 400, 256
#: Of a sample, where that is fewer rows.
_SAMPLE_BYTES = 48 << 20


@dataclass(frozen=True)
class Likeness:
    """What is known of vectors before they are there; None where nothing is.

    Attributes
    ----------
    count : int or None
    spec : IndexSpec or None
    intrinsic_dim : float
    anchor : Anchor or None
        What an index of them reads.
    """

    count: int | None = None
    spec: IndexSpec | None = None
    intrinsic_dim: float = INTRINSIC_DIM
    anchor: Anchor | None = None


def like_file(path: str | Path, metric: str) -> Likeness:
    """Take dimension, type and hardness from a file of such vectors.

    Raises
    ------
    InputError, NotFoundError, FormatError
        If the file can't be read, or holds too few distinct vectors.
    """
    with open_vectors(path) as source:
        spec = IndexSpec(source.dim, str(source.dtype), metric)
        measured = hardness_of(source)
        if measured is None:
            raise InputError(f"{path} holds too few distinct vectors to tell how hard they are; give --intrinsic-dim")
        return Likeness(source.count, spec, measured)


def hardness_of(source: VectorSource) -> float | None:
    """Measure the local intrinsic dimension on a sample of rows; None where too few of them are distinct."""
    _, rows = sample_rows(source, min(_SAMPLE_ROWS, _SAMPLE_BYTES // source.row_bytes), seed=0)
    if len(rows) < 3:
        return None
    measured = intrinsic_dimension(rows, sample_row_ids(len(rows), _PROBES, seed=1))
    return round(measured, 2) if np.isfinite(measured) else None


def like_index(folder: Path, k: int, recall_target: float, intrinsic_dim: float) -> Likeness:
    """Ask an index of such vectors for rows of its own, and take what that reads as the model's anchor.

    Raises
    ------
    NotFoundError, CorruptionError, VersionError, ReadError
        If there is none, or it isn't what was published.
    """
    snapshot = open_snapshot(folder)
    # The largest of its segments has the most to tell.
    entry, segment = max(zip(snapshot.manifest.segments, snapshot.segments), key=lambda pair: pair[1].n_rows)
    reader = open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)
    try:
        page_ids = sample_row_ids(segment.n_pages, _QUERIES, seed=0).astype(np.uint32)
        frames = aligned_frames(len(page_ids), segment.spec.page_bytes)
        reader.read(page_ids, frames)
        queries = unpack_first(frames, segment.layout)
        # A row finds itself: what is left are the k nearest others.
        wanted = min(k + 1, segment.n_rows)
        result = Engine(segment, reader, snapshot.manifest.norm_max_of(entry)).search(queries, wanted, recall_target)
    finally:
        reader.close()
    work = workload_of(segment, k, recall_target, intrinsic_dim)
    anchor = Anchor(work, float(result.count("pages_read").mean()))
    return Likeness(snapshot.manifest.n_rows, segment.spec, intrinsic_dim, anchor)
