"""From a file of vectors to a published index.

==========  =========================  ===============================================================
step        room                       in → out
==========  =========================  ===============================================================
stage       ``vectors.staging``        input file → checked rows in a zarr array
partition,  ``build.packing``          rows → rows in page order, pages, postings
bisect,
refine,
order
link        ``heads.graph``            posting centroids (h, d) → navigation graph
replicate   ``build.replicate``        rows near borders → further postings too, where asked for
encode      ``build.encode``           pages and rows → codes, where the RAM budget has room for them
spread      ``build.vicinities``       codes of rows → vicinities on disk, where RAM holds none
pack        ``build.postings``         rows in page order → posting pages on disk
hold out    ``build.heldout``          rows → queries and their exact neighbours
keep        ``build.raw_rows``         rows as given → raw pages on disk, where re-ranking wants them
calibrate   ``build.calibrate``        held-out rows → effort by recall target and difficulty
verify      ``build.verify``           every page and row id read back
publish     ``index.publish``          files → manifest → CURRENT, one atomic step
==========  =========================  ===============================================================

Nothing can be opened before the last step. Each step takes its input from files that earlier ones left, and is
recorded when its own are durable (``build.steps``): a build that was killed goes on after the last one, to the very
same index. Peak RAM is stated and kept by ``build.memory``.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from annserve.build.budget import TierPlan
from annserve.build.calibrate import calibrate
from annserve.build.calibrate_sample import read_sample
from annserve.build.design import Design, design
from annserve.build.encode import encode_rows
from annserve.build.heldout import NEIGHBOURS, HeldOut, hold_out
from annserve.build.likeness import hardness_of
from annserve.build.memory import Memory, plan_memory
from annserve.build.options import BuildOptions
from annserve.build.outcome import tell_outcome
from annserve.build.packing import STAGED, pack_staged, packed_rows, read_origin, read_packing
from annserve.build.postings import Stored, centroids_of_postings, write_pages
from annserve.build.raw_rows import decide_raw_rows, keep_raw_rows, plan_raw_rows, stage_other_rows
from annserve.build.replicate import replicate
from annserve.build.report import build_report
from annserve.build.report_page import write_page
from annserve.build.row_ids import row_ids
from annserve.build.steps import Steps, what_decides
from annserve.build.storage_loss import loss_of_storage
from annserve.build.verify import verify_segment
from annserve.build.vicinities import write_vicinities
from annserve.build.workplace import require_space, workplace
from annserve.clusters.hierarchy import Packing
from annserve.codes.vicinity_layout import VicinityLayout
from annserve.errors import ConflictError
from annserve.events import Listener, ignore
from annserve.heads.graph import join_heads
from annserve.heads.layout import HeadNodes
from annserve.index import names
from annserve.index.manifest import Manifest, SegmentEntry
from annserve.index.publish import describe_segment, publish
from annserve.index.sealed import write_sealed
from annserve.index.segment import Segment, open_segment, read_codes, read_heads, write_codes, write_heads
from annserve.index.vicinities import open_vicinities
from annserve.pages.layout import PageLayout
from annserve.raw.layout import RawLayout
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c
from annserve.vectors.fingerprint import fingerprint, what_changed
from annserve.vectors.formats import open_vectors
from annserve.vectors.pipe import open_piped
from annserve.vectors.row_file import RowFile, SpaceRows
from annserve.vectors.source import VectorSource
from annserve.vectors.staging import StagedVectors, stage
from annserve.vectors.truth import exact_neighbours


def build(
    source: str | Path | BinaryIO,
    folder: str | Path,
    options: BuildOptions,
    listener: Listener = ignore,
    *,
    unfinished: str = "refuse",
) -> Manifest:
    """Build an index and publish it.

    Parameters
    ----------
    source : str, Path or buffered binary stream
        Vectors, in any format that ``vectors.formats`` reads; or arrays as ``vectors.pipe`` takes them, which a build
        that goes on with an unfinished one reads no more once they have been spooled.
    folder : str or Path
        Where the index goes: a new or empty folder, or one that an unfinished build left.
    options : BuildOptions
    listener : callable
        Hears the events of every stage.
    unfinished : str
        What to do with a build that was interrupted in the folder: ``resume`` goes on with it, ``restart`` drops it,
        ``refuse`` raises if it has a step behind it.

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
        If another build is at work in the folder; if one is unfinished there and may not be touched, or was of another
        input or other options.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        if isinstance(source, str | Path):
            vectors = stack.enter_context(open_vectors(source, column=options.column))
            work = stack.enter_context(workplace(folder, unfinished))
        else:
            work = stack.enter_context(workplace(folder, unfinished))
            vectors = stack.enter_context(open_piped(source, work, listener))
        entry, spec, norm_max = build_segment(vectors, folder, 1, options, work, listener)
        manifest = Manifest(1, spec, norm_max, (entry,))
        write_page(folder, entry.name)
        publish(folder, manifest)
    return manifest


def build_segment(
    source: VectorSource,
    folder: Path,
    number: int,
    options: BuildOptions,
    work: Path,
    listener: Listener = ignore,
    stored: Stored | None = None,
) -> tuple[SegmentEntry, IndexSpec, float]:
    """Build a segment, up to publishing it.

    Parameters
    ----------
    source : VectorSource
    folder : Path
        Of the index.
    number : int
        Of the segment; its files come into the folder of that name.
    options : BuildOptions
    work : Path
        Folder for files of the build itself; with what an unfinished build of the same left, it is gone on with.
    listener : callable
    stored : callable, optional
        Gives rows as pages are to hold them, by their numbers in the source; by default they are quantized.

    Returns
    -------
    entry : SegmentEntry
        For the manifest.
    spec : IndexSpec
    norm_max : float
        Largest norm of its rows.

    Raises
    ------
    As `build`.
    """
    designed = design(options, source)
    spec, tiers = designed.spec, designed.tiers
    row_ids(options.ids, source.count)
    raw = plan_raw_rows(options, spec, source.count)
    read_sample(options.calibrate_with, spec, tiers, options.seed)
    memory = plan_memory(spec, source.count, tiers, options.ram_build, options.n_threads)
    steps = Steps(work, what_decides(source, options), listener)
    if steps.to_do("stage"):
        require_space(folder, source.count, spec, raw, tiers, options.scratch_limit)
    place = folder / names.segment_name(number)
    place.mkdir(exist_ok=True)

    if steps.to_do("stage"):
        with steps.step("stage", told=False) as facts:
            staged = _stage(source, steps, spec, options.skip_invalid)
            facts |= {"norm_max": staged.norm_max, "skipped": staged.tell_skipped(source)}
    norm_max = float(steps.facts("stage")["norm_max"])
    # Postings with replicas are read whole: which of their pages a row is on doesn't matter.
    shape = (spec.page_capacity, tiers.pages_per_posting) if tiers.replicas == 1 else (tiers.rows_at_home, 1)
    pack_staged(steps, spec, *shape, memory=memory, seed=options.seed)
    job = _Job(options, designed, memory, steps, place, norm_max)
    with packed_rows(steps, spec) as rows:
        _link(job, rows)
        _replicate(job, rows)
        _encode(job, rows)
        _spread(job, rows)
        _pack(job, rows, source.count, stored)
        _hold_out(job, rows)
        _keep(job, rows, raw)
        _calibrate(job, rows, raw)
        _report(job, rows, source)
    packing, heads = job.packing(), job.heads()
    entry = describe_segment(
        folder,
        place.name,
        n_rows=packing.n_rows,
        n_heads=heads.n_heads,
        n_pages=packing.n_pages,
        salt=crc32c(heads.nodes),
    )
    segment = open_segment(folder, entry, spec)
    verify_segment(segment, listener).raise_if_broken(place)
    entry = tell_outcome(folder, entry, segment, norm_max, designed, options, memory.threads, listener)
    return entry, spec, norm_max


@dataclass(frozen=True)
class _Job:
    """What all steps of a segment share, and the way to what earlier ones left."""

    options: BuildOptions
    designed: Design
    memory: Memory
    steps: Steps
    place: Path
    norm_max: float

    @property
    def spec(self) -> IndexSpec:
        return self.designed.spec

    @property
    def tiers(self) -> TierPlan:
        return self.designed.tiers

    def packing(self) -> Packing:
        """Give the packing, with replicas once rows have some."""
        packing = read_packing(self.steps)
        if self.tiers.replicas == 1 or self.steps.to_do("replicate"):
            return packing
        return Packing(**self.steps.kept("replicate"))

    def heads(self) -> HeadNodes:
        return read_heads(self.place / names.HEADS, self.spec)[0]

    def loss(self) -> float:
        """Give the share of neighbours that INT8 loses."""
        return float(self.steps.facts("hold out")["loss"])


def _stage(source: VectorSource, steps: Steps, spec: IndexSpec, skip_invalid: bool) -> StagedVectors:
    """Copy the input, and prove that nobody changed it meanwhile."""
    before = fingerprint(source)
    staged = stage(source, steps.folder / STAGED, spec, steps.listener, skip_invalid=skip_invalid)
    changed = what_changed(before, fingerprint(source))
    if changed:
        raise ConflictError(f"{source.path} was changed while it was read: {changed}; build when it stands still")
    return staged


def _link(job: _Job, rows: RowFile) -> None:
    if not job.steps.to_do("link"):
        return
    packing = job.packing()
    with job.steps.step("link", len(packing.posting_offsets) - 1, "heads"):
        space = SpaceRows(rows, job.spec, job.norm_max)
        vectors, radii = centroids_of_postings(space, packing)
        dtype = job.spec.space_dtype if job.spec.space_dtype.kind in "ui" else np.dtype(np.int8)
        heads = join_heads(vectors, dtype, seed=job.options.seed, listener=job.steps.listener)
        write_heads(job.place / names.HEADS, heads, packing.posting_offsets, radii)
        if job.tiers.replicas > 1:
            job.steps.keep("link", centroids=vectors, radii=radii)


def _replicate(job: _Job, rows: RowFile) -> None:
    if job.tiers.replicas == 1 or not job.steps.to_do("replicate"):
        return
    with job.steps.step("replicate", len(rows)):
        heads, kept = job.heads(), job.steps.kept("link")
        packing = replicate(
            SpaceRows(rows, job.spec, job.norm_max),
            job.packing(),
            heads,
            kept["centroids"],
            job.spec.page_capacity,
            job.tiers.pages_per_posting,
            job.tiers.replicas,
            seed=job.options.seed,
            threads=job.memory.threads,
            listener=job.steps.listener,
        )
        job.steps.keep("replicate", **packing.as_arrays())
        write_heads(job.place / names.HEADS, heads, packing.posting_offsets, kept["radii"])


def _encode(job: _Job, rows: RowFile) -> None:
    if not job.tiers.code_bytes or not job.steps.to_do("encode"):
        return
    packing = job.packing()
    with job.steps.step("encode", packing.n_pages, "pages"):
        codes = encode_rows(
            SpaceRows(rows, job.spec, job.norm_max),
            packing,
            job.heads(),
            job.spec.page_capacity,
            job.tiers.code_bytes,
            seed=job.options.seed,
            listener=job.steps.listener,
        )
        write_codes((job.steps.folder if job.tiers.codes_on_ssd else job.place) / names.CODES, codes)


def _spread(job: _Job, rows: RowFile) -> None:
    if not job.tiers.codes_on_ssd or not job.steps.to_do("spread"):
        return
    packing = job.packing()
    with job.steps.step("spread", packing.n_pages, "pages"):
        codes, heads = read_codes(job.steps.folder / names.CODES), job.heads()
        write_vicinities(
            job.place / names.VICINITIES,
            SpaceRows(rows, job.spec, job.norm_max),
            packing,
            heads,
            codes,
            VicinityLayout.of(job.spec, codes.row_book.code_bytes),
            crc32c(heads.nodes),
            job.steps.listener,
        )
        write_codes(job.place / names.CODES, codes.without_rows())


def _pack(job: _Job, rows: RowFile, count: int, stored: Stored | None) -> None:
    if not job.steps.to_do("pack"):
        return
    packing = job.packing()
    with job.steps.step("pack", packing.n_pages, "pages") as facts:
        origin = read_origin(job.steps)
        ids = row_ids(job.options.ids, count)[origin]
        salt = crc32c(job.heads().nodes)
        as_stored = None if stored is None else lambda which: stored(origin[which])
        facts |= write_pages(job.place / names.PAGES, rows, ids, packing, job.spec, salt, job.steps.listener, as_stored)


def _hold_out(job: _Job, rows: RowFile) -> None:
    if not job.steps.to_do("hold out"):
        return
    with job.steps.step("hold out", len(rows)) as facts:
        held_out = hold_out(rows, job.spec, job.options.calibration_queries, job.options.seed)
        neighbours, _ = exact_neighbours(
            rows,
            held_out.queries,
            min(NEIGHBOURS, len(rows) - 1) or 1,
            job.spec.metric,
            exclude=held_out.rows if len(rows) > 1 else None,
            threads=job.memory.threads,
        )
        job.steps.keep("hold out", **held_out.as_arrays(), neighbours=neighbours)
        facts["loss"] = loss_of_storage(held_out.queries, neighbours, rows, job.spec)


def _keep(job: _Job, rows: RowFile, planned: RawLayout | None) -> None:
    raw = decide_raw_rows(planned, job.options, job.loss())
    if raw is None or not job.steps.to_do("keep"):
        return
    with job.steps.step("keep", told=False):
        origin = read_origin(job.steps)
        heads, packing = job.heads(), job.packing()
        given = rows if raw.own else stage_other_rows(job.options, raw, job.steps)
        keep_raw_rows(
            job.place / names.RAW,
            given,
            raw,
            packing,
            job.spec.page_capacity,
            crc32c(heads.nodes),
            origin,
            job.steps.listener,
        )


def _calibrate(job: _Job, rows: RowFile, planned: RawLayout | None) -> None:
    if not job.steps.to_do("calibrate"):
        return
    with job.steps.step("calibrate"):
        kept = job.steps.kept("hold out")
        neighbours = kept.pop("neighbours")
        raw = decide_raw_rows(planned, job.options, job.loss())
        plan = calibrate(
            HeldOut(**kept),
            neighbours,
            rows,
            job.packing(),
            _unfinished(job),
            job.norm_max,
            job.memory.threads,
            settle_above=raw.settle_above if raw is not None and raw.own else 1.0,
            sample=read_sample(job.options.calibrate_with, job.spec, job.tiers, job.options.seed),
        )
        write_sealed(job.place / names.PLAN, plan.as_dict())


def _unfinished(job: _Job) -> Segment:
    """Give the segment as far as it stands: all but plan and report."""
    heads, page_offsets, radii = read_heads(job.place / names.HEADS, job.spec)
    codes = read_codes(job.place / names.CODES) if job.tiers.code_bytes else None
    n_pages = int(page_offsets[-1])
    vicinities = None
    if codes is not None and job.tiers.codes_on_ssd:
        layout = VicinityLayout.of(job.spec, codes.row_book.code_bytes)
        vicinities = open_vicinities(job.place / names.VICINITIES, n_pages, layout)
    return Segment(
        spec=job.spec,
        heads=heads,
        page_offsets=page_offsets,
        radii=radii,
        pages_path=job.place / names.PAGES,
        pages_offset=0,
        n_pages=n_pages,
        n_rows=read_packing(job.steps).n_rows,
        salt=crc32c(heads.nodes),
        layout=PageLayout.of(job.spec),
        codes=codes,
        vicinities=vicinities,
        raw=None,
        plan={},
        report={},
    )


def _report(job: _Job, rows: RowFile, source: VectorSource) -> None:
    steps = job.steps
    report = build_report(
        source.path,
        job.options,
        job.designed,
        job.packing(),
        n_heads=job.heads().n_heads,
        skipped=steps.facts("stage")["skipped"],
        costs={of: steps.costs(of) for of in ("seconds", "cpu_seconds", "peak_rss_bytes")},
        memory=job.memory,
        quantization_error=steps.facts("pack"),
        loss=job.loss(),
        intrinsic_dim=hardness_of(rows),
    )
    write_sealed(job.place / names.REPORT, report)
