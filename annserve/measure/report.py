"""The JSON of a benchmark: results under fixed names, and all that is needed to judge or repeat them.

::

    format          "annserve-bench-1"
    date            UTC, ISO 8601
    command_line    as it was typed
    commit          of the source tree, or null
    versions        python and packages
    machine         cpu, cores, kernel, ram_bytes, disk, load_average
    inputs          queries and truth: path, sha256, shape; truth: depth, ties_cut
    settings        k, repetitions, warm_up_queries, io or address
    index           count, dim, ram_bytes, ram_bytes_per_vector, disk_bytes, build_seconds, what else it says
    memory          rss_bytes and pss_bytes of the process that holds the index: before and after opening, or of a
                    server of this machine before the runs; after the runs
    results[]       one record for each load (annserve.measure.summary)

The names are a promise to whoever reads old results; new ones may join, none may change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from annserve.measure.machine import describe_machine, describe_software, find_commit

FORMAT = "annserve-bench-1"
#: Facts about the index that are always there, null where the target doesn't know.
INDEX_FACTS = ("count", "dim", "ram_bytes", "ram_bytes_per_vector", "disk_bytes", "build_seconds")


def compose_report(
    results: Sequence[Mapping[str, Any]],
    *,
    index: Mapping[str, Any],
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    memory: Mapping[str, Any],
    command_line: str,
    stored_at: Path | None = None,
) -> dict[str, Any]:
    """Put results and their circumstances together.

    Parameters
    ----------
    results : sequence of mapping
        Records of `annserve.measure.summary.summarize`.
    index : mapping
        The target's own account of itself.
    inputs, settings : mapping
        What was asked, of whom, how.
    memory : mapping
        Moments → memory; each null where the index lies on another machine.
    command_line : str
        Repeats the run.
    stored_at : Path, optional
        Where the index lies, if on this machine.

    Returns
    -------
    dict
        Plain values only; dump it with `report_text`.
    """
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": command_line,
        "commit": find_commit(),
        "versions": describe_software(),
        "machine": describe_machine(stored_at),
        "inputs": dict(inputs),
        "settings": dict(settings),
        "index": dict.fromkeys(INDEX_FACTS) | dict(index),
        "memory": dict(memory),
        "results": [dict(record) for record in results],
    }


def report_text(report: Mapping[str, Any] | Sequence[Any]) -> str:
    """Write a report as JSON; what JSON has no number for (NaN, infinity) becomes null."""
    return json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers, paths and records into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
