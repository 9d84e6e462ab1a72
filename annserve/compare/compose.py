"""From the passes of a run to its result: what was asked, what it cost, how right it was, and where it was measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.compare.builds import BuiltIndex
from annserve.compare.environments import versions_of
from annserve.compare.job import RESULT_FORMAT, Run
from annserve.measure.evidence import examine
from annserve.measure.machine import describe_machine, describe_software, find_commit
from annserve.measure.openloop import Schedule, rows_asked
from annserve.measure.runner import Load, Pass
from annserve.measure.summary import hold_against, summarize

#: An ask, the queries of the set that it asks in turn, and its passes.
Answered = tuple[Mapping[str, Any], npt.NDArray[np.int64], Sequence[Pass]]


def compose_result(
    run: Run,
    built: BuiltIndex,
    tuned: Sequence[Mapping[str, Any]],
    answered: Iterable[Answered],
    last_round: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge all passes, and say what they were made with.

    Parameters
    ----------
    run : Run
    built : BuiltIndex
    tuned : sequence of mapping
        One record for each setting, of the tuning queries.
    answered : iterable of (ask, rows, passes)
    last_round : mapping
        Memory, facts and seconds of opening, as the last round found them.
    """
    answered = list(answered)
    return {
        "format": RESULT_FORMAT,
        "key": run.key,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "dataset": {
            "name": run.dataset.name,
            "metric": run.dataset.metric,
            "count": run.dataset.rows,
            "dim": run.dataset.dim,
            "dtype": run.dataset.dtype,
            "queries": max(len(rows) for _, rows, _ in answered),
            "sha256": run.dataset.hashes,
            "ties_cut": run.dataset.truth.ties_cut(run.job.k),
        },
        "system": {
            "name": run.label,
            "peer": run.card.folder.name,
            "about": run.card.about,
            "lies": run.card.lies,
            "versions": dict(versions_of(run.card, built.python)),
            "build": run.build,
        },
        "settings": run.settings,
        "commit": find_commit(),
        "versions": describe_software(),
        "machine": describe_machine(built.index),
        "built": built.facts | {"open_seconds": last_round["open_seconds"]},
        "memory": last_round["memory"],
        "info": last_round["info"],
        "tuned": tuned,
        "results": [_record(run, *one, last_round["info"]) for one in answered],
    }


def _record(
    run: Run, ask: Mapping[str, Any], rows: npt.NDArray[np.int64], passes: Sequence[Pass], info: Mapping[str, Any]
) -> dict[str, Any]:
    """Boil the passes of one ask down to a record, and hold its pages against what the system foretold."""
    told = {name: ask[name] for name in ("load", "point", "chosen_for", "queries")}
    if ask["load"] == "open":
        rows = rows[rows_asked(Schedule(**ask["schedule"]), len(rows))]
        told |= {"rate": ask["schedule"]["rate"], "rate_share": ask["share"]}
    load = Load(ask["recall_target"], ask["threads"])
    record = summarize(load, passes, run.dataset.truth.of(rows), k=run.job.k)
    foretold = info.get(f"pages_predicted_k{run.job.k}", {}).get(str(ask["point"].get("recall_target")))
    return told | record | hold_against(record, foretold) | _evidence(run, rows, passes)


def _evidence(run: Run, rows: npt.NDArray[np.int64], passes: Sequence[Pass]) -> dict[str, Any]:
    """Look every answer up in the base; faults are summed over the passes, as those of the summary are."""
    dataset = run.dataset
    queries, truth, base = dataset.queries[rows], dataset.truth.of(rows), dataset.base
    found = [
        examine(one.ids, one.distances, queries, base, truth, k=run.job.k, metric=dataset.metric) for one in passes
    ]
    return {
        "answers_unknown_id": sum(one.unknown for one in found),
        "answers_misplaced": sum(one.misplaced for one in found),
        "answers_beat_truth": sum(one.beat_truth for one in found),
        "distance_error": found[0].distance_error,
    }
