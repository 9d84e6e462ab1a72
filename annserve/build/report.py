"""What a build tells of itself when it has ended: one record, kept beside the index as ``report.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.build.design import Design
from annserve.build.forecast import forecast
from annserve.build.memory import Memory
from annserve.build.options import BuildOptions
from annserve.build.recall_sample import RecallSample
from annserve.clusters.hierarchy import Packing
from annserve.index.manifest import SegmentEntry
from annserve.index.sealed import read_sealed
from annserve.index.segment import Segment
from annserve.search.page_model import INTRINSIC_DIM
from annserve.spec import RECALL_TARGET_DEFAULT
from annserve.storage.prices import TYPICAL, DiskPrices
from annserve.version import __version__

#: Ranges of a histogram at most.
_BINS = 32


def build_report(
    source: str | Path,
    options: BuildOptions,
    designed: Design,
    packing: Packing,
    *,
    n_heads: int,
    skipped: Mapping[str, Any],
    costs: Mapping[str, Mapping[str, float]],
    memory: Memory,
    quantization_error: Mapping[str, float],
    loss: float,
    intrinsic_dim: float | None,
) -> dict[str, Any]:
    """Gather what there is to say of a build.

    Parameters
    ----------
    source : str or Path
        The input; only its name is told, for an index travels.
    options : BuildOptions
    designed : Design
    packing : Packing
    n_heads : int
    skipped : mapping
        Rows that were left out, by ``StagedVectors.tell_skipped``.
    costs : mapping
        ``seconds``, ``cpu_seconds`` and ``peak_rss_bytes`` by stage, in the order in which they ran.
    memory : Memory
        What the build was told to stay within.
    quantization_error : mapping
        ``mean`` and ``max``, in the unit of the rows.
    loss : float
        Share of the nearest neighbours of held-out rows that INT8 alone doesn't find.
    intrinsic_dim : float, optional
        Of the rows, as far as it could be estimated.

    Returns
    -------
    dict
        Plain values, for a sealed JSON file.
    """
    given = {name: getattr(options, name) for name in ("ids", "rerank_with", "disk", "calibrate_with")}
    told = {**asdict(options), **{name: str(path.name) if path else None for name, path in given.items()}}
    rows_per_page, pages_per_posting = np.diff(packing.page_offsets), np.diff(packing.posting_offsets)
    return {
        "annserve_version": __version__,
        "source": Path(source).name,
        "options": told,
        "spec": designed.spec.as_dict() | {"page_capacity": designed.spec.page_capacity},
        "mode": designed.tiers.mode,
        "why": designed.why,
        "ram_bytes_per_vector_predicted": designed.tiers.bytes_per_vector,
        "code_bytes": designed.tiers.code_bytes,
        "rows": packing.n_rows,
        "skipped": dict(skipped),
        "copies": round(len(packing.order) / packing.n_rows, 3),
        "pages": len(rows_per_page),
        "heads": n_heads,
        "page_fill": len(packing.order) / (len(rows_per_page) * designed.spec.page_capacity),
        "rows_per_page": _spread(rows_per_page),
        "pages_per_posting": _spread(pages_per_posting),
        "copies_of_a_row": _copies(packing),
        "quantization_error": dict(quantization_error),
        "neighbours_lost_to_int8": loss,
        "intrinsic_dim": intrinsic_dim,
        "stages": list(costs["seconds"]),
        **{f"stage_{of}": dict(by_stage) for of, by_stage in costs.items()},
        "seconds": round(sum(costs["seconds"].values()), 3),
        "cpu_seconds": round(sum(costs["cpu_seconds"].values()), 3),
        "peak_rss_bytes": max(costs["peak_rss_bytes"].values()),
        "ram_build_bytes": memory.cap_bytes,
        "partition_rows": memory.partition_rows,
        "threads": memory.threads,
        "cpus": os.cpu_count(),
    }


def outcome(
    designed: Design,
    options: BuildOptions,
    segment: Segment,
    entry: SegmentEntry,
    curve: Sequence[RecallSample],
) -> dict[str, Any]:
    """Tell what came of a build: what a search takes and delivers, beside what was foretold.

    Parameters
    ----------
    designed : Design
    options : BuildOptions
    segment : Segment
        Verified; with the report so far.
    entry : SegmentEntry
    curve : sequence of RecallSample
        What was delivered at each recall target.

    Returns
    -------
    dict
        To be added to the report.
    """
    report = segment.report
    ram, disk = segment.tier_bytes, {name: facts.n_bytes for name, facts in entry.files.items()}
    foretold = forecast(
        designed.spec,
        segment.n_rows,
        DiskPrices.of(read_sealed(options.disk)) if options.disk else TYPICAL,
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


def _copies(packing: Packing) -> dict[str, Any]:
    if len(packing.order) > packing.n_rows:
        return _spread(np.bincount(packing.order))
    return {"min": 1, "mean": 1.0, "max": 1, "histogram": [[1, 1, packing.n_rows]]}


def _spread(counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Tell of a set of counts its ends, its mean, and (from, to, how many) for a few ranges."""
    low, high = int(counts.min()), int(counts.max())
    step = -(-(high - low + 1) // _BINS)
    numbers = np.bincount((counts - low) // step).tolist()
    bins = [[low + place * step, min(low + (place + 1) * step - 1, high), n] for place, n in enumerate(numbers)]
    return {"min": low, "mean": round(float(counts.mean()), 3), "max": high, "histogram": bins}
