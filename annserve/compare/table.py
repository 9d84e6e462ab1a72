"""A Markdown table of each system at its best, and its place in a document: generated, never typed.

The place is between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``; what stands there is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from annserve.compare.results import Row, best_rows
from annserve.errors import InputError, NotFoundError
from annserve.storage.atomic import write_atomically

#: A recall that falls short of its target by more than this is marked.
_RECALL_SLACK = 0.01
_HEADER = (
    "| system | recall | pages | KiB | QPS, 1 caller | QPS, all callers | p50 µs | p99 µs | RAM B a vector | "
    "disk B a vector | build s |"
)

_RULE = f"|{'---|' * (_HEADER.count('|') - 1)}"


def markdown_table(results: Sequence[Mapping[str, Any]], target: float) -> str:
    """Lay out every data set and system at one recall target.

    Parameters
    ----------
    results : sequence of mapping
        Of ``annserve.compare.results.read_results``.
    target : float
        A recall target of their job.

    Raises
    ------
    InputError
        If no result has that target.
    """
    rows = [row for row in best_rows(results, target) if row["load"] == "closed"]
    if not rows:
        known = sorted({one for result in results for one in result["settings"]["recall_targets"]})
        raise InputError(f"no result has recall target {target}; there are {known}", field="target")
    parts = []
    for name, count in dict.fromkeys((row["dataset"], row["count"]) for row in rows):
        of_set = [row for row in rows if (row["dataset"], row["count"]) == (name, count)]
        about = next(one["dataset"] for one in results if one["dataset"]["name"] == name)
        parts.append(
            f"**{name}**: {count:,} × {about['dim']} {about['dtype']}, {about['metric']}, "
            f"{about['queries']:,} queries, recall target {target:g}\n\n{_HEADER}\n{_RULE}\n"
            + "\n".join(_line(system, of_set) for system in _by_ram(of_set))
        )
    return "\n\n".join(parts) + _footnotes(rows)


def replace_between(path: Path, name: str, text: str) -> None:
    """Put a text between the markers of a document.

    Raises
    ------
    NotFoundError
        If there is no such file, or it has no such markers.
    """
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    if not path.is_file():
        raise NotFoundError(f"there is no {path}; check the path")
    document = path.read_text()
    before, opened, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise NotFoundError(f"{path} has no {begin} … {end}; add both where the table shall stand")
    write_atomically(path, f"{before}{begin}\n{text}\n{end}{after}".encode())


def _by_ram(rows: Sequence[Row]) -> list[str]:
    """Give the systems, those that take the least RAM first."""
    ram = {row["system"]: row["ram_bytes_per_vector"] for row in rows}
    return sorted(ram, key=lambda system: (ram[system] is None, ram[system] or 0.0))


def _line(system: str, rows: Sequence[Row]) -> str:
    of_system = sorted((row for row in rows if row["system"] == system), key=lambda row: row["threads"])
    one, most = of_system[0], of_system[-1]
    missed = one["recall"] < one["target"] - _RECALL_SLACK
    cells = (
        system,
        f"{one['recall']:.3f}{' *' if missed else ''}",
        _number(one["pages"], 1) + (" †" if one["pages_by"] == "kernel" else ""),
        _number(None if one["pages"] is None else one["pages"] * 4, 0),
        _spread(one["qps"], one["qps_spread"]),
        _spread(most["qps"], most["qps_spread"]),
        _number(one["latency_us_p50"], 0),
        _number(one["latency_us_p99"], 0),
        _number(one["ram_bytes_per_vector"], 0),
        _number(one["disk_bytes_per_vector"], 0),
        _number(one["build_seconds"], 0),
    )
    return f"| {' | '.join(cells)} |"


def _footnotes(rows: Sequence[Row]) -> str:
    notes = []
    if any(row["recall"] < row["target"] - _RECALL_SLACK for row in rows):
        notes.append("\\* no setting of its grid reached the target on the tuning queries, or it fell short here")
    if any(row["pages_by"] == "kernel" for row in rows):
        notes.append("† the kernel's count of bytes, in pages of 4 KiB")
    return "".join(f"\n\n{note}" for note in notes)


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _spread(value: float, spread: float) -> str:
    return f"{value:,.0f} ± {spread / 2:.0%}"
