"""One HTML file with all pictures and numbers of a set of results; it loads nothing and opens offline."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from annserve.compare.pictures import as_svg
from annserve.compare.results import Row
from annserve.compare.table import Table
from annserve.measure.faults import faults_of

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(34rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: .5rem; }
svg { width: 100%; height: auto; }
.numbers { overflow-x: auto; margin-bottom: 1rem; }
table { border-collapse: collapse; font-size: 12px; white-space: nowrap; }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child, details th:nth-child(-n+3), details td:nth-child(-n+3) { text-align: left; }
details { margin: 1rem 0; }
p.made { color: #666; font-size: 13px; }
"""
_COLUMNS = {
    "system": ("system", None),
    "build": ("build", None),
    "load": ("load", None),
    "target": ("target", ".2f"),
    "recall": ("recall", ".4f"),
    "recall_p5": ("p5 of recall", ".2f"),
    "threads": ("callers", "d"),
    "qps": ("QPS", ",.0f"),
    "qps_spread": ("±", ".0%"),
    "latency_us_p50": ("p50 µs", ",.0f"),
    "latency_us_p95": ("p95 µs", ",.0f"),
    "latency_us_p99": ("p99 µs", ",.0f"),
    "latency_us_p999": ("p99.9 µs", ",.0f"),
    "pages": ("pages", ",.1f"),
    "pages_read_p50": ("p50", ",.0f"),
    "pages_read_p95": ("p95", ",.0f"),
    "pages_read_p99": ("p99", ",.0f"),
    "reads_mean": ("reads", ",.1f"),
    "bytes_read_mean": ("bytes read", ",.0f"),
    "device_bytes_read_mean": ("device B", ",.0f"),
    "cpu_us_mean": ("CPU µs", ",.0f"),
    "ram_bytes_per_vector": ("RAM B a vector", ",.0f"),
    "disk_bytes_per_vector": ("disk B a vector", ",.0f"),
    "build_seconds": ("build s", ",.1f"),
    "build_cpu_seconds": ("build CPU s", ",.1f"),
    "distance_error": ("distances off by, widths", ".2g"),
    "faults": ("faults", None),
}


def html_page(
    title: str,
    results: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    figures: Mapping[str, Any],
    summary: tuple[Sequence[Table], Sequence[str]],
) -> str:
    """Write the page.

    Parameters
    ----------
    title : str
    results : sequence of mapping
        Where the rows came from: machine, versions, commit.
    rows : sequence of row
    figures : mapping
        Of ``draw_sets`` and ``draw_growth`` in ``annserve.compare.pictures``.
    summary : (tables, notes)
        Of ``annserve.compare.table.summary_tables``.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _made(results)]
    tables, notes = summary
    growing = {name: figure for name, figure in figures.items() if "-growth-" in name}
    for name, count in dict.fromkeys((row["dataset"], row["count"]) for row in rows):
        drawn = [figure for key, figure in figures.items() if key.startswith(f"{name}-{count}-")]
        parts.append(f"<h2>{html.escape(name)}, {count:,} rows</h2>")
        parts += [
            _table([table.header, *table.lines]) for table in tables if (table.dataset, table.count) == (name, count)
        ]
        parts.append(_pictures(drawn))
        parts.append(_numbers([row for row in rows if (row["dataset"], row["count"]) == (name, count)]))
    if growing:
        parts += ["<h2>Growth</h2>", _pictures(list(growing.values()))]
    parts += [f'<p class="made">{html.escape(note)}</p>' for note in notes]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def _made(results: Sequence[Mapping[str, Any]]) -> str:
    machine = results[0]["machine"]
    commits = sorted({str(result["commit"]) for result in results})
    dates = sorted(result["date"] for result in results)
    facts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_bytes'] / 2**30:.0f} GiB, {machine['kernel']}",
        f"measured {dates[0][:10]}" + (f" to {dates[-1][:10]}" if dates[-1][:10] != dates[0][:10] else ""),
        f"commit {', '.join(commit[:12] for commit in commits)}",
        "settings chosen on queries that count in no result; ± is the range over the passes",
    ]
    return f'<p class="made">{html.escape(" · ".join(facts))}</p>'


def _pictures(figures: Sequence[Any]) -> str:
    drawn = "\n".join(f"<figure>{as_svg(figure)}</figure>" for figure in figures)
    return f'<div class="pictures">\n{drawn}\n</div>'


def _numbers(rows: Sequence[Row]) -> str:
    """Fold every load of a set away, to be looked at by who wants to."""
    told = ({**row, "faults": "; ".join(faults_of(row)) or None} for row in rows)
    cells = [[_cell(row.get(name), kind) for name, (_, kind) in _COLUMNS.items()] for row in told]
    table = _table([[label for label, _ in _COLUMNS.values()], *cells])
    return f"<details><summary>all {len(rows)} loads</summary>{table}</details>"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Write a header and its lines."""
    rows = []
    for line, tag in zip(lines, ["th", *["td"] * (len(lines) - 1)], strict=True):
        rows.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>")
    return f'<div class="numbers"><table>{"".join(rows)}</table></div>'


def _cell(value: Any, kind: str | None) -> str:
    if value is None:
        return "–"
    return str(value) if kind is None else format(value, kind)
