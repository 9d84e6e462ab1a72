"""The report of a build as one HTML page, to be looked at: it loads nothing, and shows no number that the report lacks.

Under ``<index>/report.html``, of the segment that was built last, with a checksum in its last line as every file of an
index has one.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from annserve.index import names
from annserve.index.sealed import read_sealed
from annserve.report.charts import lying_bars, recall_line, standing_bars
from annserve.sizes import bytes_text
from annserve.storage.atomic import write_atomically
from annserve.storage.checksum import crc32c

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 74rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
p { margin: .2rem 0; } .quiet { color: #666; font-size: 13px; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1rem; }
main { margin-top: 1.5rem; }
section { border: 1px solid #ddd; border-radius: 6px; padding: .8rem 1rem; min-width: 0; overflow-x: auto; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { padding: .15rem .5rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
"""
_SEAL = re.compile(rb"<!-- crc32c ([0-9a-f]{8}) -->\n")
_SEAL_BYTES = len(b"<!-- crc32c 00000000 -->\n")
#: Rows left out that the page lists; the report has more.
_LISTED = 20


def write_page(folder: Path, segment_name: str) -> None:
    """Write the page of a segment's report beside the index; it appears whole or not at all.

    Raises
    ------
    OutputError
        If the device refuses.
    """
    body = html_page(read_sealed(folder / segment_name / names.REPORT)).encode()
    write_atomically(folder / names.REPORT_PAGE, body + f"<!-- crc32c {crc32c(body):08x} -->\n".encode())


def page_is_whole(path: Path) -> bool:
    """Whether every byte of a page is as it was written."""
    data = path.read_bytes()
    body, match = data[:-_SEAL_BYTES], _SEAL.fullmatch(data[-_SEAL_BYTES:])
    return match is not None and int(match[1], 16) == crc32c(body)


def html_page(report: Mapping[str, Any]) -> str:
    """Write a report as HTML.

    Parameters
    ----------
    report : mapping
        Of ``report.record``.
    """
    spec = report["spec"]
    title = f"{report['source']}: {report['rows']:,} × {spec['dim']} {spec['row_type']}, {spec['metric']}"
    facts = [
        f"{report['pages']:,} pages of {spec['page_bytes']:,} bytes, {report['page_fill']:.1%} full; "
        f"{report['heads']:,} heads",
        *report["why"].values(),
        f"INT8 alone loses {report['neighbours_lost_to_int8']:.2%} of the nearest neighbours; intrinsic dimension "
        f"{report['intrinsic_dim']}",
    ]
    made = (
        f"{report['segment']}, by annserve {report['annserve_version']}, {report['threads']} threads of "
        f"{report['cpus']} CPUs, {report['seconds']:,.1f} s, at most {bytes_text(report['peak_rss_bytes'])} of RAM"
    )
    sections = [*_histograms(report), _recall(report), *_stages(report), *_tiers(report), _prediction(report)]
    sections += [_skipped(report["skipped"])] if report["skipped"]["rows"] else []
    body = "\n".join(
        [
            f"<h1>{html.escape(title)}</h1>",
            *(f"<p>{html.escape(fact)}</p>" for fact in facts),
            f'<p class="quiet">{html.escape(made)}</p>',
            "<main>",
            *sections,
            "</main>",
        ]
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def _histograms(report: Mapping[str, Any]) -> list[str]:
    drawn = [
        ("How full pages are", "rows_per_page", "rows on a page", "pages"),
        ("How long postings are", "pages_per_posting", "pages of a posting", "postings"),
        ("How often rows are filed", "copies_of_a_row", "copies of a row", "rows"),
    ]
    return [
        _section(title, standing_bars(_bins(report[name]["histogram"]), x_name, y_name, _whole), _range(report[name]))
        for title, name, x_name, y_name in drawn
        if name != "copies_of_a_row" or report[name]["max"] > 1
    ]


def _recall(report: Mapping[str, Any]) -> str:
    curve = report["recall_curve"]
    if not curve:
        return ""
    points = [(one["recall_target"], one["recall"], one["recall_low"], one["recall_high"]) for one in curve]
    rows = [
        [f"{one['recall_target']:g}", f"{one['recall']:.4f}", f"{one['recall_low']:.4f}", f"{one['recall_high']:.4f}",
         f"{one['pages']:.1f}"]
        for one in curve
    ]  # fmt: skip
    note = f"{curve[0]['queries']} rows of the index, asked for; bounds are each wrong once in a thousand"
    picture = recall_line(points, "recall target", f"recall@{curve[0]['k']} delivered")
    return _section(
        "What recall is delivered", picture + _table(["target", "recall", "low", "high", "pages"], rows), note
    )


def _stages(report: Mapping[str, Any]) -> list[str]:
    seconds, peaks = (
        [(stage, float(report[name][stage])) for stage in report["stages"]]
        for name in ("stage_seconds", "stage_peak_rss_bytes")
    )
    return [
        _section("Seconds of each stage", lying_bars(seconds, lambda value: f"{value:,.1f} s")),
        _section("Largest RAM of each stage", lying_bars(peaks, bytes_text)),
    ]


def _tiers(report: Mapping[str, Any]) -> list[str]:
    sections = []
    for title, name in (("RAM of a search, by tier", "ram_tiers"), ("Disk, by file", "disk_files")):
        sizes = report[name]
        rows = [
            [of, f"{n_bytes:,}", f"{n_bytes / report['rows']:,.2f}"]
            for of, n_bytes in [*sizes.items(), ("total", sum(sizes.values()))]
        ]
        bars = lying_bars([(of, float(n_bytes)) for of, n_bytes in sizes.items()], bytes_text)
        sections.append(_section(title, bars + _table(["", "bytes", "bytes a vector"], rows)))
    return sections


def _prediction(report: Mapping[str, Any]) -> str:
    rows = [
        [one["what"], _amount(one["predicted"], one["unit"]), _amount(one["measured"], one["unit"]),
         f"{one['measured'] / one['predicted']:.2f}" if one["predicted"] else "–"]
        for one in report["prediction"]
    ]  # fmt: skip
    note = "what annserve plan would have said before, and what was found"
    return _section("Prediction and reality", _table(["", "predicted", "measured", "ratio"], rows), note)


def _skipped(skipped: Mapping[str, Any]) -> str:
    faults = "; ".join(f"{count:,}: {fault}" for fault, count in skipped["faults"].items())
    rows = [[f"{one['row']:,}", one["place"], one["fault"]] for one in skipped["listed"][:_LISTED]]
    note = f"{skipped['rows']:,} in all ({faults}); the report lists the first {len(skipped['listed']):,}"
    return _section("Rows that were left out", _table(["row", "place", "fault"], rows), note)


def _section(title: str, content: str, note: str = "") -> str:
    said = f'<p class="quiet">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{content}{said}</section>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [(header, "th"), *((row, "td") for row in rows)]
    cells = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) for line, tag in lines)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in cells) + "</table>"


def _bins(histogram: Sequence[Sequence[int]]) -> list[tuple[str, float]]:
    return [(f"{low}" if low == high else f"{low}–{high}", float(count)) for low, high, count in histogram]


def _range(spread: Mapping[str, Any]) -> str:
    return f"{spread['min']:,} to {spread['max']:,}, {spread['mean']:,} on average"


def _whole(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _amount(value: float, unit: str) -> str:
    return bytes_text(value) if unit == "bytes" else f"{value:,.1f} {unit}"
