"""From a file of vectors to a published index.

==========  =========================  ===============================================================
stage       room                       in → out
==========  =========================  ===============================================================
stage       ``vectors.staging``        input file → checked rows in a zarr array
cluster     ``clusters.hierarchy``     rows (n, d) → order, pages, postings
link        ``heads.graph``            posting centroids (h, d) → navigation graph
replicate   ``build.replicate``        rows near borders → further postings too, where asked for
encode      ``build.encode``           pages and rows → codes, where the RAM budget has room for them
spread      ``build.vicinities``       codes of rows → vicinities on disk, where RAM holds none
pack        ``pages.pack``             rows in page order → posting pages on disk
hold out    ``build.heldout``          rows → queries and their exact neighbours
keep        ``build.raw_rows``         rows as given → raw pages on disk, where re-ranking wants them
calibrate   ``build.calibrate_*``      held-out rows → effort by recall target and difficulty
verify      ``build.verify``           every page and row id read back
publish     ``index.publish``          files → manifest → CURRENT, one atomic step
==========  =========================  ===============================================================

Nothing can be opened before the last step. A build that was killed leaves ``.build`` and no CURRENT; the next one
starts anew. Peak RAM: the rows as given and in the index space (the same array for integers under L2), and what
clustering and calibration state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.build.calibrate_probes import calibrate_probes
from annserve.build.calibrate_reach import calibrate_reach
from annserve.build.calibrate_reads import Placement, calibrate_reads
from annserve.build.calibrate_sample import calibrate_sample, read_sample
from annserve.build.calibrate_vicinities import calibrate_vicinities
from annserve.build.design import design
from annserve.build.encode import encode_rows
from annserve.build.heldout import NEIGHBOURS, hold_out
from annserve.build.likeness import hardness_of
from annserve.build.options import BuildOptions
from annserve.build.raw_rows import decide_raw_rows, keep_raw_rows, plan_raw_rows, read_other_rows
from annserve.build.replicate import replicate
from annserve.build.report import build_report
from annserve.build.row_ids import row_ids
from annserve.build.storage_loss import loss_of_storage
from annserve.build.verify import verify_segment
from annserve.build.vicinities import write_vicinities
from annserve.build.workplace import require_space, workplace
from annserve.clusters.closure import postings_of_rows
from annserve.clusters.hierarchy import Packing, pack_rows
from annserve.codes.tiers import CodeTiers
from annserve.codes.vicinity_layout import VicinityLayout
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.heads.graph import join_heads
from annserve.heads.layout import HeadNodes
from annserve.index import names
from annserve.index.manifest import Manifest
from annserve.index.publish import describe_segment, publish
from annserve.index.sealed import write_sealed
from annserve.index.segment import Segment, open_segment, pages_writer, write_codes, write_heads
from annserve.index.vicinities import Vicinities
from annserve.metric import rows_to_space
from annserve.pages.layout import PageLayout
from annserve.pages.pack import pack_pages
from annserve.pages.rows import quantize_rows
from annserve.search.probe_plan import ProbePlan
from annserve.search.reach_plan import ReachPlan
from annserve.search.read_plan import ReadPlan
from annserve.search.vicinity_plan import VicinityPlan
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c
from annserve.storage.reader import open_reader
from annserve.vectors.formats import open_vectors
from annserve.vectors.source import as_source
from annserve.vectors.staging import stage
from annserve.vectors.truth import exact_neighbours

_PACK_PAGES = 4_096


def build(source_path: str | Path, folder: str | Path, options: BuildOptions, listener: Listener = ignore) -> Manifest:
    """Build an index and publish it.

    Parameters
    ----------
    source_path : str or Path
        Vectors, in any format that ``vectors.formats`` reads.
    folder : str or Path
        Where the index goes: a new or empty folder, or one that an unfinished build left.
    options : BuildOptions
    listener : callable
        Hears the events of every stage.

    Returns
    -------
    Manifest
        Of the published version.

    Raises
    ------
    InputError, NotFoundError, FormatError
        If the input can't be read or indexed; the row is named.
    OutputError
        If the folder holds something else, or the device refuses.
    ConflictError
        If another build is at work in the folder.
    """
    folder = Path(folder)
    seconds: dict[str, float] = {}
    with open_vectors(source_path, column=options.column) as source:
        designed = design(options, source)
        spec, tiers = designed.spec, designed.tiers
        ids = row_ids(options.ids, source.count)
        sample = read_sample(options.calibrate_with, spec, tiers, options.seed)
        raw = plan_raw_rows(options, spec, source.count)
        require_space(folder, source.count, spec, raw, tiers)
        with workplace(folder) as work:
            segment_name = names.segment_name(1)
            place = folder / segment_name
            place.mkdir()

            with _timed("stage", seconds):
                staged = stage(source, work / "rows.zarr", spec, listener, skip_invalid=options.skip_invalid)
                kept = staged.input_rows(0, staged.count)
                ids = ids[kept]
                rows = staged.read(0, staged.count)
                space = rows_to_space(rows, spec, staged.norm_max)

            with _timed("cluster", seconds):
                # Postings with replicas are read whole: which of their pages a row is on doesn't matter.
                shape = (
                    (spec.page_capacity, tiers.pages_per_posting) if tiers.replicas == 1 else (tiers.rows_at_home, 1)
                )
                packing = pack_rows(
                    space,
                    *shape,
                    seed=options.seed,
                    threads=options.n_threads,
                    listener=listener,
                )

            with _timed("link", seconds), _told("link", listener, len(packing.posting_offsets) - 1, "heads"):
                vectors, radii = _centroids(space, packing)
                dtype = spec.space_dtype if spec.space_dtype.kind in "ui" else np.dtype(np.int8)
                heads = join_heads(vectors, dtype, seed=options.seed, listener=listener)
                salt = crc32c(heads.nodes)

            if tiers.replicas > 1:
                with _timed("replicate", seconds), _told("replicate", listener, packing.n_rows, "rows"):
                    packing = replicate(
                        space,
                        packing,
                        heads,
                        vectors,
                        spec.page_capacity,
                        tiers.pages_per_posting,
                        tiers.replicas,
                        seed=options.seed,
                        threads=options.n_threads,
                        listener=listener,
                    )
            write_heads(place / names.HEADS, heads, packing.posting_offsets, radii)

            codes = None
            if tiers.code_bytes:
                with _timed("encode", seconds), _told("encode", listener, n_pages(packing), "pages"):
                    codes = encode_rows(
                        space,
                        packing,
                        heads,
                        spec.page_capacity,
                        tiers.code_bytes,
                        seed=options.seed,
                        listener=listener,
                    )
                    write_codes(place / names.CODES, codes.without_rows() if tiers.codes_on_ssd else codes)

            vicinities = None
            if codes is not None and tiers.codes_on_ssd:
                with _timed("spread", seconds), _told("spread", listener, n_pages(packing), "pages"):
                    layout = VicinityLayout.of(spec, codes.row_book.code_bytes)
                    path = place / names.VICINITIES
                    vicinities = write_vicinities(path, space, packing, heads, codes, layout, salt, listener)
                    codes = codes.without_rows()
            del space

            with _timed("pack", seconds), _told("pack", listener, n_pages(packing), "pages"):
                errors = _write_pages(place / names.PAGES, rows, ids, packing, spec, salt, listener)

            with _timed("hold out", seconds), _told("hold out", listener, None, "rows"):
                held_out = hold_out(rows, spec, options.calibration_queries, options.seed)
                neighbours, _ = exact_neighbours(
                    rows,
                    held_out.queries,
                    min(NEIGHBOURS, staged.count - 1) or 1,
                    spec.metric,
                    exclude=held_out.rows if staged.count > 1 else None,
                    threads=options.n_threads,
                )
                loss = loss_of_storage(held_out.queries, neighbours, rows, spec)

            raw = decide_raw_rows(raw, options, loss)
            if raw is not None:
                with _timed("keep", seconds):
                    raw_rows = rows if raw.own else read_other_rows(options, raw, work, listener)[kept]
                    keep_raw_rows(place / names.RAW, raw_rows, raw, packing, spec.page_capacity, salt, listener)
            settle_above = raw.settle_above if raw is not None and raw.own else 1.0

            with _timed("calibrate", seconds), _told("calibrate", listener, None, "rows"):
                plan: ProbePlan | ReachPlan | ReadPlan | VicinityPlan
                if tiers.replicas > 1:
                    postings = postings_of_rows(packing)
                    plan = calibrate_reach(held_out, neighbours, rows, postings, heads, spec, staged.norm_max)
                elif codes is None:
                    plan = calibrate_probes(
                        held_out,
                        neighbours,
                        rows,
                        _place(packing).head,
                        heads,
                        spec,
                        staged.norm_max,
                        settle_above=settle_above,
                    )
                else:
                    segment = _unfinished(spec, heads, packing, radii, codes, vicinities, place, salt)
                    placement = _place(packing)
                    calibrate = calibrate_reads if vicinities is None else calibrate_vicinities
                    plan = calibrate(
                        held_out,
                        neighbours,
                        rows,
                        placement,
                        segment,
                        staged.norm_max,
                        options.n_threads,
                        settle_above=settle_above,
                    )
                    if sample is not None and isinstance(plan, ReadPlan):
                        plan = calibrate_sample(
                            plan, sample, rows, placement, segment, staged.norm_max, options.n_threads, settle_above
                        )
                write_sealed(place / names.PLAN, plan.as_dict())

            write_sealed(
                place / names.REPORT,
                build_report(
                    source_path,
                    options,
                    designed,
                    packing,
                    n_heads=heads.n_heads,
                    skipped=staged.tell_skipped(source),
                    seconds=seconds,
                    quantization_error=errors,
                    loss=loss,
                    intrinsic_dim=hardness_of(as_source(rows)),
                ),
            )
            entry = describe_segment(
                folder,
                segment_name,
                n_rows=staged.count,
                n_heads=heads.n_heads,
                n_pages=n_pages(packing),
                salt=salt,
            )
            segment = open_segment(folder, entry, spec)
            reader = open_reader(segment.pages_path, segment.pages_offset, spec.page_bytes, segment.n_pages)
            verify_segment(segment, reader, listener).raise_if_broken(place)
            reader.close()
            manifest = Manifest(1, spec, staged.norm_max, (entry,))
            publish(folder, manifest)
    return manifest


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - begun, 3)


@contextmanager
def _told(stage_name: str, listener: Listener, total: int | None, unit: str) -> Iterator[None]:
    begun = time.monotonic()
    listener(StageStarted(stage_name, total, unit))
    yield
    listener(StageFinished(stage_name, time.monotonic() - begun))


def n_pages(packing: Packing) -> int:
    """Count the pages of a packing."""
    return len(packing.page_offsets) - 1


def _place(packing: Packing) -> Placement:
    """Say where each row lies."""
    offsets, n_rows = packing.page_offsets, len(packing.order)
    page_of_position = np.repeat(np.arange(n_pages(packing)), np.diff(offsets))
    head_of_page = np.repeat(np.arange(len(packing.posting_offsets) - 1), np.diff(packing.posting_offsets))
    page, slot = np.empty((2, n_rows), np.int64)
    page[packing.order] = page_of_position
    slot[packing.order] = np.arange(n_rows) - offsets[page_of_position]
    return Placement(page, slot, head_of_page[page])


def _unfinished(
    spec: IndexSpec,
    heads: HeadNodes,
    packing: Packing,
    radii: npt.NDArray[np.float32],
    codes: CodeTiers,
    vicinities: Vicinities | None,
    place: Path,
    salt: int,
) -> Segment:
    """Give the segment as far as it stands: all but plan and report."""
    return Segment(
        spec=spec,
        heads=heads,
        page_offsets=packing.posting_offsets.astype(np.uint32),
        radii=radii,
        pages_path=place / names.PAGES,
        pages_offset=0,
        n_pages=n_pages(packing),
        n_rows=packing.n_rows,
        salt=salt,
        layout=PageLayout.of(spec),
        codes=codes,
        vicinities=vicinities,
        raw=None,
        plan={},
        report={},
    )


def _centroids(space: npt.NDArray[Any], packing: Packing) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Give each posting's centroid and its true radius, rounded up."""
    starts = packing.page_offsets[packing.posting_offsets]
    counts = np.diff(starts)
    centroids = np.empty((len(counts), space.shape[1]))
    radii = np.empty(len(counts), np.float32)
    for first in range(0, len(counts), _PACK_PAGES):
        some = slice(first, min(first + _PACK_PAGES, len(counts)))
        begin = starts[some.start]
        members = space[packing.order[begin : starts[some.stop]]].astype(np.float64)
        sums = np.add.reduceat(members, starts[some] - begin)
        centroids[some] = sums / counts[some, None]
        members -= np.repeat(centroids[some], counts[some], axis=0)
        squares = np.einsum("ij,ij->i", members, members)
        farthest = np.sqrt(np.maximum.reduceat(squares, starts[some] - begin))
        radii[some] = np.nextafter(farthest.astype(np.float32), np.float32(np.inf))
    return centroids, radii


def _write_pages(
    path: Path,
    rows: npt.NDArray[Any],
    ids: npt.NDArray[np.uint64],
    packing: Packing,
    spec: IndexSpec,
    salt: int,
    listener: Listener,
) -> dict[str, float]:
    """Write all pages in order; give the mean and largest quantization error of what lies on them."""
    layout = PageLayout.of(spec)
    counts = np.diff(packing.page_offsets)
    total, largest = 0.0, 0.0
    with pages_writer(path, spec.page_bytes) as writer:
        for first in range(0, len(counts), _PACK_PAGES):
            stop = min(first + _PACK_PAGES, len(counts))
            members = packing.order[packing.page_offsets[first] : packing.page_offsets[stop]]
            stored = quantize_rows(rows[members], spec)
            writer.append(
                pack_pages(
                    stored,
                    ids[members],
                    counts[first:stop],
                    layout,
                    first_page_id=first,
                    salt=salt,
                    replicas=packing.replicas[first:stop],
                )
            )
            total += float(stored.errors.sum(dtype=np.float64))
            largest = max(largest, float(stored.errors.max()))
            listener(StageProgressed("pack", stop))
        writer.end()
    return {"mean": total / len(packing.order), "max": largest}
