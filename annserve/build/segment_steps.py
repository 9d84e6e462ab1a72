"""The steps from packed rows to a whole segment: links, codes, pages, held-out queries, plan, report.

Each takes what it needs from files that earlier ones left, and from `Job`, which says where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.blas import without_blas_threads
from annserve.build.drafts import remove_drafts
from annserve.build.encode import encode_rows
from annserve.build.packing import packed_origin, packed_rows, read_packing
from annserve.build.postings import Stored, centroids_of_postings, write_pages
from annserve.build.raw_rows import decide_raw_rows, keep_raw_rows, stage_other_rows
from annserve.build.replicate import replicate
from annserve.build.row_ids import row_ids
from annserve.build.steps import Steps
from annserve.build.vicinities import write_vicinities
from annserve.calibrate.heldout import NEIGHBOURS, HeldOut, hold_out
from annserve.calibrate.plan import calibrate
from annserve.calibrate.sample import read_sample
from annserve.calibrate.storage_loss import loss_of_storage
from annserve.clusters.hierarchy import Packing
from annserve.codes.vicinity_layout import VicinityLayout
from annserve.design.budget import TierPlan
from annserve.design.choose import Design
from annserve.design.likeness import hardness_of
from annserve.design.memory import Memory
from annserve.design.options import BuildOptions
from annserve.heads.graph import join_heads
from annserve.heads.layout import HeadNodes
from annserve.index import names
from annserve.index.sealed import write_sealed
from annserve.index.segment import Segment, read_codes, read_heads, write_codes, write_heads
from annserve.index.vicinities import open_vicinities
from annserve.pages.layout import PageLayout
from annserve.raw.layout import RawLayout
from annserve.report.record import build_report
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c
from annserve.vectors.row_file import RowFile, SpaceRows
from annserve.vectors.source import VectorSource
from annserve.vectors.truth import Nearest, exact_neighbours


@dataclass(frozen=True)
class Job:
    """What all steps of a segment share, and the way to what earlier ones left."""

    options: BuildOptions
    designed: Design
    memory: Memory
    steps: Steps
    place: Path
    norm_max: float

    @property
    def spec(self) -> IndexSpec:
        """What the index is."""
        return self.designed.spec

    @property
    def tiers(self) -> TierPlan:
        """What the budget buys."""
        return self.designed.tiers

    def packing(self) -> Packing:
        """Give the packing, with replicas once rows have some."""
        packing = read_packing(self.steps)
        if self.tiers.replicas == 1 or self.steps.to_do("replicate"):
            return packing
        return Packing(**self.steps.kept("replicate"))

    def heads(self) -> HeadNodes:
        """Give heads and their graph."""
        return read_heads(self.place / names.HEADS, self.spec)[0]

    def loss(self) -> float:
        """Give the share of neighbours that INT8 loses."""
        return float(self.steps.facts("hold out")["loss"])


def finish_segment(job: Job, source: VectorSource, raw: RawLayout | None, stored: Stored | None) -> None:
    """Take the steps that aren't behind the build yet.

    Parameters
    ----------
    job : Job
        Of a build whose rows are packed.
    source : VectorSource
        The input, for what the report tells of it.
    raw : RawLayout, optional
        Of raw rows, where some may be kept.
    stored : callable, optional
        As for ``pipeline.build_segment``.
    """
    with packed_rows(job.steps, job.spec) as rows, without_blas_threads():
        _link(job, rows)
        _replicate(job, rows)
        _encode(job, rows)
        _spread(job, rows)
        _pack(job, rows, source.count, stored)
        _hold_out(job, rows)
        _keep(job, rows, raw)
        _calibrate(job, rows, raw)
        _report(job, rows, source)


def _link(job: Job, rows: RowFile) -> None:
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


def _replicate(job: Job, rows: RowFile) -> None:
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


def _encode(job: Job, rows: RowFile) -> None:
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
            job.steps,
            seed=job.options.seed,
        )
        write_codes((job.steps.folder if job.tiers.codes_on_ssd else job.place) / names.CODES, codes)
    remove_drafts(job.steps.folder)


def _spread(job: Job, rows: RowFile) -> None:
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


def _pack(job: Job, rows: RowFile, count: int, stored: Stored | None) -> None:
    if not job.steps.to_do("pack"):
        return
    packing = job.packing()
    with job.steps.step("pack", packing.n_pages, "pages") as facts, packed_origin(job.steps) as origin:
        own = None if job.options.ids is None else row_ids(job.options.ids, count)

        def ids(which: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
            of_input = origin[which][:, 0]
            return of_input.astype(np.uint64) if own is None else own[of_input]

        as_stored = None if stored is None else lambda which: stored(origin[which][:, 0])
        salt = crc32c(job.heads().nodes)
        facts |= write_pages(job.place / names.PAGES, rows, ids, packing, job.spec, salt, job.steps.listener, as_stored)


def _hold_out(job: Job, rows: RowFile) -> None:
    if not job.steps.to_do("hold out"):
        return
    with job.steps.step("hold out", len(rows)) as facts:
        held_out = hold_out(rows, job.spec, job.options.calibration_queries, job.options.seed)
        steps = job.steps
        noted = steps.noted("hold out")

        def note(nearest: Nearest) -> None:
            if steps.note_is_due():
                found = {"row_ids": nearest.row_ids, "distances": nearest.distances}
                steps.note("hold out", {"rows": nearest.rows}, **found)

        neighbours, _ = exact_neighbours(
            rows,
            held_out.queries,
            min(NEIGHBOURS, len(rows) - 1) or 1,
            job.spec.metric,
            exclude=held_out.rows if len(rows) > 1 else None,
            threads=job.memory.threads,
            begun=Nearest(noted["rows"], **steps.noted_arrays("hold out")) if noted else None,
            note=note,
        )
        job.steps.keep("hold out", **held_out.as_arrays(), neighbours=neighbours)
        facts["loss"] = loss_of_storage(held_out.queries, neighbours, rows, job.spec)


def _keep(job: Job, rows: RowFile, planned: RawLayout | None) -> None:
    raw = decide_raw_rows(planned, job.options, job.loss())
    if raw is None or not job.steps.to_do("keep"):
        return
    with job.steps.step("keep", told=False), packed_origin(job.steps) as origin:
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


def _calibrate(job: Job, rows: RowFile, planned: RawLayout | None) -> None:
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


def _unfinished(job: Job) -> Segment:
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


def _report(job: Job, rows: RowFile, source: VectorSource) -> None:
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
