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
hold out    ``calibrate.heldout``          rows → queries and their exact neighbours
keep        ``build.raw_rows``         rows as given → raw pages on disk, where re-ranking wants them
calibrate   ``calibrate.plan``        held-out rows → effort by recall target and difficulty
verify      ``report.verify``           every page and row id read back
publish     ``index.publish``          files → manifest → CURRENT, one atomic step
==========  =========================  ===============================================================

Nothing can be opened before the last step. Each step takes its input from files that earlier ones left, and is
recorded when its own are durable (``build.steps``): a build that was killed goes on after the last one, to the very
same index. Peak RAM is stated and kept by ``design.memory``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from annserve.build.packing import STAGED, pack_staged
from annserve.build.postings import Stored
from annserve.build.raw_rows import plan_raw_rows
from annserve.build.row_ids import row_ids
from annserve.build.segment_steps import Job, finish_segment
from annserve.build.steps import Steps, what_decides
from annserve.build.workplace import require_space, workplace
from annserve.calibrate.sample import read_sample
from annserve.design.choose import design
from annserve.design.memory import plan_memory
from annserve.design.options import BuildOptions
from annserve.errors import ConflictError
from annserve.events import Listener, ignore
from annserve.heap import keep_nothing_freed
from annserve.index import names
from annserve.index.manifest import Manifest, SegmentEntry
from annserve.index.publish import describe_segment, publish
from annserve.index.segment import open_segment
from annserve.report.outcome import tell_outcome
from annserve.report.page import write_page
from annserve.report.verify import verify_segment
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c
from annserve.vectors.fingerprint import fingerprint, what_changed
from annserve.vectors.formats import open_vectors
from annserve.vectors.pipe import open_piped
from annserve.vectors.source import VectorSource
from annserve.vectors.staging import StagedVectors, stage


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
    if options.ids is not None:
        row_ids(options.ids, source.count)  # wrong ones are told before the work
    raw = plan_raw_rows(options, spec, source.count)
    read_sample(options.calibrate_with, spec, tiers, options.seed)
    memory = plan_memory(spec, source.count, tiers, options.ram_build, options.n_threads)
    keep_nothing_freed()
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
    job = Job(options, designed, memory, steps, place, norm_max)
    finish_segment(job, source, raw, stored)
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


def _stage(source: VectorSource, steps: Steps, spec: IndexSpec, skip_invalid: bool) -> StagedVectors:
    """Copy the input, and prove that nobody changed it meanwhile."""
    before = fingerprint(source)
    staged = stage(source, steps.folder / STAGED, spec, steps.listener, skip_invalid=skip_invalid)
    changed = what_changed(before, fingerprint(source))
    if changed:
        raise ConflictError(f"{source.path} was changed while it was read: {changed}; build when it stands still")
    return staged
