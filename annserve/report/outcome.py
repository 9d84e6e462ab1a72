"""What came of a build: what a search of the new segment takes and delivers, beside what had been foretold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from annserve.design.choose import Design
from annserve.design.forecast import forecast
from annserve.design.options import BuildOptions
from annserve.events import Listener
from annserve.index import names
from annserve.index.manifest import Manifest, SegmentEntry
from annserve.index.publish import describe_file
from annserve.index.sealed import read_sealed, write_sealed
from annserve.index.segment import Segment
from annserve.index.snapshot import Snapshot
from annserve.report.recall_sample import SAMPLE_QUERIES, RecallSample, sample_recall
from annserve.search.page_model import INTRINSIC_DIM
from annserve.spec import RECALL_TARGET_DEFAULT, RECALL_TARGETS
from annserve.storage.prices import MADE_BY, TYPICAL, DiskPrices


def tell_outcome(
    folder: Path,
    entry: SegmentEntry,
    segment: Segment,
    norm_max: float,
    designed: Design,
    options: BuildOptions,
    threads: int,
    listener: Listener,
) -> SegmentEntry:
    """Ask a segment that isn't published yet for rows of its own, and add to its report what came of it.

    Parameters
    ----------
    folder : Path
        Of the index.
    entry : SegmentEntry
    segment : Segment
        Verified; with the report so far.
    norm_max : float
    designed : Design
    options : BuildOptions
    threads : int
    listener : callable

    Returns
    -------
    SegmentEntry
        With length and checksum of the report as it is now.

    Raises
    ------
    OutputError
        If the device refuses.
    """
    snapshot = Snapshot(folder, Manifest(1, segment.spec, norm_max, (entry,)), (segment,))
    curve = sample_recall(snapshot, SAMPLE_QUERIES, recall_targets=RECALL_TARGETS, threads=threads, listener=listener)
    path = folder / entry.name / names.REPORT
    write_sealed(path, segment.report | _outcome(entry, segment, designed, options, curve))
    return replace(entry, files={**entry.files, names.REPORT: describe_file(path)})


def _outcome(
    entry: SegmentEntry, segment: Segment, designed: Design, options: BuildOptions, curve: Sequence[RecallSample]
) -> dict[str, Any]:
    """Give what is to be added to the report."""
    report = segment.report
    ram, disk = segment.tier_bytes, {name: facts.n_bytes for name, facts in entry.files.items()}
    foretold = forecast(
        designed.spec,
        segment.n_rows,
        DiskPrices.of(read_sealed(options.disk, MADE_BY)) if options.disk else TYPICAL,
        ram=options.ram,
        codes=designed.tiers.mode,
        replicas=options.replicas,
        raw=segment.raw.layout if segment.raw else None,
        recall_target=RECALL_TARGET_DEFAULT,
        intrinsic_dim=report["intrinsic_dim"] or INTRINSIC_DIM,
        threads=report["threads"],
    )
    pages = [one.pages for one in curve if one.recall_target == RECALL_TARGET_DEFAULT]
    prediction: list[tuple[str, str, float, float]] = [
        ("RAM of a search", "bytes", foretold.ram_bytes, sum(ram.values())),
        ("disk", "bytes", foretold.disk_bytes, sum(disk.values())),
        ("RAM of the build", "bytes", foretold.build_ram_bytes, report["peak_rss_bytes"]),
        ("time of the build", "s", foretold.build_seconds, report["seconds"]),
        *((f"a query at {RECALL_TARGET_DEFAULT}", "pages", foretold.reading.pages, found) for found in pages),
    ]
    return {
        "segment": entry.name,
        "ram_tiers": ram,
        "disk_files": disk,
        "recall_curve": [asdict(one) for one in curve],
        "prediction": [dict(zip(("what", "unit", "predicted", "measured"), line)) for line in prediction],
    }
