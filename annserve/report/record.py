"""What a build tells of itself when it has ended: one record, kept beside the index as ``report.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.clusters.hierarchy import Packing
from annserve.design.choose import Design
from annserve.design.memory import Memory
from annserve.design.options import BuildOptions
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


def _copies(packing: Packing) -> dict[str, Any]:
    if len(packing.order) > packing.n_rows:
        return _spread(np.bincount(packing.order[:]))
    return {"min": 1, "mean": 1.0, "max": 1, "histogram": [[1, 1, packing.n_rows]]}


def _spread(counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Tell of a set of counts its ends, its mean, and (from, to, how many) for a few ranges."""
    low, high = int(counts.min()), int(counts.max())
    step = -(-(high - low + 1) // _BINS)
    numbers = np.bincount((counts - low) // step).tolist()
    bins = [[low + place * step, min(low + (place + 1) * step - 1, high), n] for place, n in enumerate(numbers)]
    return {"min": low, "mean": round(float(counts.mean()), 3), "max": high, "histogram": bins}
