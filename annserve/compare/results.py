"""Result files read back, as one flat row for each load: what tables, pictures and comparisons are made from.

A row is a record of ``annserve.measure.summary`` with the names of its data set, system and build before it. A row
stands once for each recall target that its setting was chosen for; rows of the frontier have the target None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from annserve.compare.choose import cheapest, cost_of, pages_of
from annserve.compare.job import RESULT_FORMAT
from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.measure.report import report_text
from annserve.results import SearchStats
from annserve.storage.atomic import write_atomically

Row = dict[str, Any]
BASELINE_FORMAT = "annserve-baseline-1"
#: What doesn't depend on the machine, smaller being better except for recall; pages that a cache had cost nothing.
COUNTS = ("recall", *(f"{name}_mean" for name in SearchStats.COUNTS if name != "pages_cached"))
#: What names a row.
KEY = ("dataset", "system", "build", "load", "rate_share", "threads", "target")


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read a result file, or those of a folder that its job stands by.

    A folder may hold results of earlier settings, or of an engine that has changed since; the job's note names
    those that are its own.

    Raises
    ------
    NotFoundError
        If there is nothing.
    CorruptionError
        If a file isn't a result.
    """
    if path.is_dir():
        files = sorted(file for file in path.glob("*.json") if "--" in file.name)
        if (path / "job.json").exists():
            own = set(_load(path / "job.json")["done"])
            files = [file for file in files if file.stem in own]
    else:
        files = [path]
    if not files or not all(file.is_file() for file in files):
        raise NotFoundError(f"there are no results in {path}; make some with 'annserve bench run JOB.toml'")
    results = []
    for file in files:
        result = _load(file)
        if result.get("format") != RESULT_FORMAT:
            raise CorruptionError(
                f"{file} has format {result.get('format')!r}, not {RESULT_FORMAT!r}: no result of this version",
                path=file,
            )
        results.append(result)
    return results


def rows_of(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Lay results out flat."""
    rows = []
    for result in results:
        k = result["settings"]["k"]
        count = result["dataset"]["count"]
        ram = _ram_bytes(result["memory"])
        common = {
            "dataset": result["dataset"]["name"],
            "system": result["system"]["name"],
            "lies": result["system"]["lies"],
            "build": build_text(result["system"]["build"]),
            "k": k,
            "count": count,
            "ram_bytes_per_vector": None if ram is None else ram / count,
            "disk_bytes_per_vector": result["built"]["disk_bytes"] / count,
            "build_seconds": result["built"]["seconds"],
            "build_cpu_seconds": result["built"]["cpu_seconds"],
        }
        for record in result["results"]:
            for target in record["chosen_for"] or [None]:
                recall = record[f"recall_{k}_at_{k}"]
                pages, counted_by = pages_of(record, result["system"]["lies"])
                counted = {"pages": pages, "pages_by": counted_by}
                rows.append({**common, "target": target, "recall": recall, "rate_share": None, **counted, **record})
    return rows


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a result file, of a folder of them, or of a baseline."""
    if path.is_file():
        said = _load(path)
        if said.get("format") == BASELINE_FORMAT:
            rows: list[Row] = said["rows"]
            return rows
    return rows_of(read_results(path))


def write_baseline(path: Path, rows: Sequence[Row]) -> None:
    """Write the counts of every chosen row, sorted, so that a change is a short diff."""
    kept = [
        {name: row.get(name) for name in KEY} | {name: _rounded(row.get(name)) for name in COUNTS}
        for row in rows
        if row["target"] is not None and row["load"] == "closed"
    ]
    if not kept:
        raise InputError("the results have no row for any recall target; a baseline would say nothing")
    kept.sort(key=lambda row: [str(row[name]) for name in KEY])
    write_atomically(path, report_text({"format": BASELINE_FORMAT, "rows": kept}).encode())


def best_rows(results: Sequence[Mapping[str, Any]], target: float) -> list[Row]:
    """Give, for every data set at every size and every system, the rows of the build that is cheapest at a target.

    Builds, like settings, are chosen by what they did on the tuning queries.
    """
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for result in (one for one in results if target in one["settings"]["recall_targets"]):
        dataset = result["dataset"]
        groups.setdefault((dataset["name"], dataset["count"], result["system"]["name"]), []).append(result)
    rows = []
    for group in groups.values():
        k = group[0]["settings"]["k"]
        choices = []
        for result in group:
            if result["settings"]["search"] and "recall_target" in result["settings"]["search"][0]:
                record = next(one for one in result["tuned"] if one["point"]["recall_target"] == target)
            else:
                record = result["tuned"][cheapest(result["tuned"], target, k)]
            reached = record[f"recall_{k}_at_{k}"] >= target - (0.01 if "recall_target" in record["point"] else 0)
            choices.append((not reached, cost_of(record) if reached else -record[f"recall_{k}_at_{k}"], result))
        best = min(choices, key=lambda choice: choice[:2])[2]
        rows += [row for row in rows_of([best]) if row["target"] == target]
    return rows


def build_text(build: Mapping[str, Any]) -> str:
    """Name a point of a grid: ``M 16, ef_construction 200``."""
    return ", ".join(f"{name} {value}" for name, value in sorted(build.items())) or "–"


def _ram_bytes(memory: Mapping[str, Any]) -> int | None:
    """Give what opening and searching added to the process, mapped pages included.

    The resident set, not the proportional one: that moves as other processes that share a library come and go.
    """
    after, before = memory["after_runs"].get("rss_bytes"), memory["before_open"].get("rss_bytes")
    return None if after is None or before is None else max(0, after - before)


def _rounded(value: Any) -> Any:
    return None if value is None else round(float(value), 4)


def _load(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptionError(f"{path} isn't JSON: {error}", path=path) from error
    if not isinstance(said, dict):
        raise CorruptionError(f"{path} holds no result but a {type(said).__name__}", path=path)
    return said
