"""From passes to numbers: one flat record for each load, under the names that the JSON promises.

Times are taken within each pass; their median over the passes is the result, and the passes stand beside it.
Recall and counts don't depend on the clock and are averaged over all passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.measure.recall import find_faults, recall_k_at_k
from annserve.measure.runner import NO_COUNT, Load, Pass
from annserve.measure.statistics import median_and_spread, percentiles
from annserve.measure.truth import Truth

_LATENCY_SHARES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}
_COUNT_SHARES = {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def summarize(load: Load, passes: Sequence[Pass], truth: Truth, *, k: int) -> dict[str, Any]:
    """Boil the passes of one load down to a record.

    Parameters
    ----------
    load : Load
        What was asked.
    passes : sequence of Pass
        At least one; all over the same queries.
    truth : Truth
        Exact neighbours of those queries.
    k : int
        Results per query.

    Returns
    -------
    dict
        ``recall_target``, ``threads``, ``recall_{k}_at_{k}``, ``qps``, ``latency_us_*``, ``pages_read_*``,
        ``reads_*``, ``bytes_read_*`` …; None where a count isn't known. ``*_spread`` is the range over the
        passes as a share of the median.
    """
    recalls = np.concatenate([recall_k_at_k(one.ids, truth, k) for one in passes])
    firsts = np.concatenate([recall_k_at_k(one.ids, truth, 1) for one in passes])
    record: dict[str, Any] = {
        "recall_target": load.recall_target,
        "threads": load.threads,
        f"recall_{k}_at_{k}": float(recalls.mean()),
        "recall_p5": percentiles(recalls, (5.0,))[0],
        "recall_1_at_1": float(firsts.mean()),
    }
    return record | _times(passes) | _counts(passes) | _witness(passes) | _faults(passes)


def hold_against(record: Mapping[str, Any], pages_predicted: float | None) -> dict[str, Any]:
    """Say how far a target's own prediction of the pages of a load missed; None where it makes none, or counts none.

    Returns
    -------
    dict
        ``pages_predicted``, and ``pages_predicted_error``: predicted over measured, less one.
    """
    measured = record["pages_read_mean"]
    error = pages_predicted / measured - 1 if pages_predicted and measured else None
    return {"pages_predicted": pages_predicted, "pages_predicted_error": error}


def _times(passes: Sequence[Pass]) -> dict[str, Any]:
    """Throughput and latency: of each pass, their median and spread."""
    each = []
    for one in passes:
        latencies = percentiles(one.latency_us, tuple(_LATENCY_SHARES.values()))
        numbers = {"qps": len(one.latency_us) / one.seconds, "latency_us_mean": float(one.latency_us.mean())}
        each.append(numbers | {f"latency_us_{name}": us for name, us in zip(_LATENCY_SHARES, latencies)})
    record: dict[str, Any] = {}
    for name in each[0]:
        record[name], record[f"{name}_spread"] = median_and_spread([numbers[name] for numbers in each])
    return record | {"passes": each}


def _counts(passes: Sequence[Pass]) -> dict[str, Any]:
    """What the target says it spent on each query: mean and percentiles."""
    record: dict[str, Any] = {}
    for name in passes[0].counts:
        values = np.concatenate([one.counts[name] for one in passes])
        known = bool((values != NO_COUNT).all())
        record[f"{name}_mean"] = float(values.mean()) if known else None
        found = percentiles(values, tuple(_COUNT_SHARES.values())) if known else (None,) * len(_COUNT_SHARES)
        record |= {f"{name}_{share}": value for share, value in zip(_COUNT_SHARES, found)}
    return record


def _witness(passes: Sequence[Pass]) -> dict[str, Any]:
    """What the kernel says was spent; `device_bytes_ratio` is its bytes over those the engine reports."""
    n_calls = sum(len(one.latency_us) for one in passes)
    device = [one.device_bytes_read for one in passes if one.device_bytes_read is not None]
    known = len(device) == len(passes)
    cpu = [one.cpu_seconds for one in passes if one.cpu_seconds is not None]
    claimed = np.concatenate([one.counts["bytes_read"] for one in passes])
    claims = bool((claimed > 0).any() and (claimed != NO_COUNT).all())
    return {
        "cpu_us_mean": sum(cpu) / n_calls * 1e6 if len(cpu) == len(passes) else None,
        "device_bytes_read_mean": sum(device) / n_calls if known else None,
        "device_bytes_ratio": sum(device) / float(claimed.sum()) if known and claims else None,
    }


def _faults(passes: Sequence[Pass]) -> dict[str, Any]:
    """Malformed answers, summed over the passes, and queries that weren't always answered alike."""
    found = [find_faults(one.ids, one.distances) for one in passes]
    changed: npt.NDArray[np.bool_] = np.zeros(len(passes[0].ids), np.bool_)
    for one in passes[1:]:
        changed |= (one.ids != passes[0].ids).any(axis=1)
    return {
        "answers_padded": sum(one.padded for one in found),
        "answers_repeated_id": sum(one.repeated for one in found),
        "answers_unordered": sum(one.unordered for one in found),
        "answers_changed": int(changed.sum()),
    }
