"""Tables of each system at its best, and their place in a document: generated, never typed.

The place is between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``; what stands there is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annserve.compare.results import Row, best_rows
from annserve.errors import InputError, NotFoundError
from annserve.measure.faults import faults_of
from annserve.storage.atomic import write_atomically

#: A recall that falls short of its target by more than this is marked.
_RECALL_SLACK = 0.01


@dataclass(frozen=True)
class Table:
    """One data set, a line for each system.

    Attributes
    ----------
    dataset : str
    count : int
    about : str
        Shape, type, metric and number of queries.
    header : tuple of str
    lines : tuple of tuple of str
        Least RAM first.
    """

    dataset: str
    count: int
    about: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def summary_tables(results: Sequence[Mapping[str, Any]], timed_target: float) -> tuple[list[Table], list[str]]:
    """Lay out every data set and system: recall and pages at every recall target, times at one of them.

    Of a set that was taken at several sizes the largest is shown. A system that was built in several ways stands there
    as the one that was cheapest at that target.

    Parameters
    ----------
    results : sequence of mapping
        Of ``annserve.compare.results.read_results``.
    timed_target : float
        A recall target of their job, for times and bytes.

    Returns
    -------
    (tables, notes)
        What the marks in the tables mean stands in the notes.

    Raises
    ------
    InputError
        If no result has that target.
    """
    targets = sorted({one for result in results for one in result["settings"]["recall_targets"]})
    if timed_target not in targets:
        raise InputError(f"no result has recall target {timed_target}; there are {targets}", field="target")
    rows = [row for target in targets for row in best_rows(results, target) if row["load"] == "closed"]
    largest: dict[str, int] = {}
    for row in rows:
        largest[row["dataset"]] = max(row["count"], largest.get(row["dataset"], 0))
    tables = []
    for name, count in largest.items():
        about = next(one for one in (one["dataset"] for one in results) if (one["name"], one["count"]) == (name, count))
        of_set = [row for row in rows if (row["dataset"], row["count"]) == (name, count)]
        tables.append(_table(about, of_set, timed_target))
    return tables, _notes(rows)


def markdown_table(results: Sequence[Mapping[str, Any]], timed_target: float) -> str:
    """Write the tables and their notes as Markdown."""
    tables, notes = summary_tables(results, timed_target)
    parts = []
    for table in tables:
        lines = [f"**{table.dataset}**: {table.about}", "", f"| {' | '.join(table.header)} |"]
        lines += [f"|{'---|' * len(table.header)}", *(f"| {' | '.join(line)} |" for line in table.lines)]
        parts.append("\n".join(lines))
    # A star that begins a line would begin a list.
    return "\n\n".join([*parts, *(note.replace("* ", "\\* ", 1) for note in notes)])


def picture_links(results: Sequence[Mapping[str, Any]], pictures: Path, document: Path) -> str:
    """Show the two pictures that matter most, of the largest set, in a document: recall against pages, and against QPS.

    Parameters
    ----------
    results : sequence of mapping
    pictures : Path
        Folder of the pictures.
    document : Path
        Markdown; links are relative to its folder.
    """
    largest = max((one["dataset"] for one in results), key=lambda one: int(one["count"]))
    lines = []
    for name, text in (("recall-pages", "pages a query against recall"), ("recall-qps", "throughput against recall")):
        path = pictures / f"{largest['name']}-{largest['count']}-{name}.png"
        if path.is_file():
            lines.append(f"![{largest['name']}: {text}]({os.path.relpath(path, document.parent)})")
    return "\n".join(lines)


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


def _table(about: Mapping[str, Any], rows: Sequence[Row], timed_target: float) -> Table:
    targets = sorted({row["target"] for row in rows})
    callers = sorted({row["threads"] for row in rows})
    ends = tuple(dict.fromkeys((callers[0], callers[-1])))
    header = ["system", "RAM, B a vector", *(f"{target:g}: recall, pages" for target in targets)]
    header += [f"QPS at {timed_target:g}, {n} {'caller' if n == 1 else 'callers'}" for n in ends]
    header += ["p50, p99 µs", "disk, B a vector", "build, CPU s"]
    return Table(
        about["name"],
        about["count"],
        f"{about['count']:,} × {about['dim']} {about['dtype']}, {about['metric']}, {about['queries']:,} queries",
        tuple(header),
        tuple(_line(system, rows, targets, ends, timed_target) for system in _by_ram(rows)),
    )


def _by_ram(rows: Sequence[Row]) -> list[str]:
    """Give the systems, those that take the least RAM first."""
    ram = {row["system"]: row["ram_bytes_per_vector"] for row in rows}
    return sorted(ram, key=lambda system: (ram[system] is None, ram[system] or 0.0))


def _line(
    system: str, rows: Sequence[Row], targets: Sequence[float], callers: Sequence[int], timed_target: float
) -> tuple[str, ...]:
    of_system = sorted((row for row in rows if row["system"] == system), key=lambda row: row["threads"])
    timed = {row["threads"]: row for row in of_system if row["target"] == timed_target}
    one = timed[callers[0]]
    reached = [next(row for row in of_system if row["target"] == target) for target in targets]
    return (
        system,
        _number(one["ram_bytes_per_vector"], 0),
        *(_recall_and_pages(row) for row in reached),
        *(_spread(timed[n]["qps"], timed[n]["qps_spread"]) for n in callers),
        f"{_number(one['latency_us_p50'], 0)}, {_number(one['latency_us_p99'], 0)}",
        _number(one["disk_bytes_per_vector"], 0),
        _number(one["build_cpu_seconds"], 0),
    )


def _recall_and_pages(row: Row) -> str:
    missed = " *" if row["recall"] < row["target"] - _RECALL_SLACK else ""
    pages = "" if row["pages"] is None else f", {row['pages']:,.1f}" + (" †" if row["pages_by"] == "kernel" else "")
    return f"{row['recall']:.3f}{missed}{pages}{' ‡' if any(faults_of(row)) else ''}"


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(row["recall"] < row["target"] - _RECALL_SLACK for row in rows):
        notes.append("* no setting of its grid reached the target on the tuning queries, or it fell short here")
    if any(row["pages_by"] == "kernel" for row in rows):
        notes.append("† the kernel's count of bytes, in pages of 4 KiB")
    faults = sorted({f"{row['system']}: {fault}" for row in rows for fault in faults_of(row)})
    if faults:
        notes.append(f"‡ {'; '.join(faults)}")
    return notes


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _spread(value: float, spread: float) -> str:
    return f"{value:,.0f} ± {spread:.0%}"
