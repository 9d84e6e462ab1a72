"""``annserve inspect``: what is in an index, and how it was built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from annserve.cli.render import table_text, tier_cells
from annserve.sizes import bytes_text


@click.command("inspect")
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(index: Path, as_json: bool) -> None:
    """Show counts, RAM by tier, pages, recall plan and build report of INDEX."""
    from annserve import collection

    with collection.open(index) as opened:
        info, reports = opened.info(), opened.reports
        probes = {
            str(target): opened.postings_planned(10, target) for target in info["recall_targets"] if info["count"] >= 10
        }
    if as_json:
        told = {"index": info, "postings_planned": probes, "report": opened.report, "reports": reports}
        click.echo(json.dumps(told, indent=1, sort_keys=True))
        return
    click.echo(_text(index, info, probes, reports))


def _raw_text(raw: dict[str, Any]) -> str:
    if raw["own"]:
        return f"{raw['row_type']}, to settle what INT8 leaves open above recall target {raw['settle_above']}"
    return f"another encoder's: {raw['dim']} {raw['row_type']}, metric {raw['metric']}"


def _text(
    index: Path, info: dict[str, Any], probes: dict[str, tuple[int, int]], reports: dict[str, dict[str, Any]]
) -> str:
    report = next(iter(reports.values()))
    count = info["count"]
    copies = f", {info['copies']:.1f} copies of a row" if info["copies"] > 1 else ""
    facts = [
        ("rows", f"{count:,} × {info['dim']} {info['row_type']}, metric {info['metric']}"),
        ("pages", f"{info['pages']:,} of {info['page_bytes']:,} bytes, {info['page_fill']:.1%} full, "
                  f"{info['page_capacity']} rows each{copies}"),
        ("disk", f"{bytes_text(info['disk_bytes'])}, {info['disk_bytes'] / count:.0f} bytes a vector"),
        *[("why", reason) for reason in report.get("why", {}).values()],
        *([("raw rows", _raw_text(info["raw_rows"]))] if info["raw_rows"] else []),
        ("reads", info["io"]),
        ("version", f"format {info['format_version']}, snapshot {info['snapshot']}"),
    ]  # fmt: skip
    lines = [str(index), *(f"  {name:<8} {text}" for name, text in facts), ""]
    tiers = [tier_cells(name, size, count) for name, size in info["ram_tiers"].items()]
    tiers.append(("total", bytes_text(info["ram_bytes"]), f"{info['ram_bytes_per_vector']:.2f}"))
    lines += [table_text(("RAM tier", "bytes", "bytes a vector"), tiers), ""]
    if probes:
        rows = [(target, f"{low:,}", f"{high:,}") for target, (low, high) in probes.items()]
        lines += [table_text(("recall target", "postings, easy query", "hard query"), rows), ""]
    if len(reports) > 1:
        header = ("segment", "source", "rows", "pages", "full", "build seconds")
        segments = [
            (name, one["source"], f"{one['rows']:,}", f"{one['pages']:,}", f"{one['page_fill']:.1%}", one["seconds"])
            for name, one in reports.items()
        ]
        return "\n".join([*lines, table_text(header, segments)])
    stages = [(name, f"{seconds:.1f}") for name, seconds in report["stage_seconds"].items()]
    stages.append(("total", f"{report['seconds']:.1f}"))
    lines.append(table_text(("build stage", "seconds"), stages))
    lines.append(f"peak RAM of the build {bytes_text(report['peak_rss_bytes'])}, {report['threads']} threads")
    return "\n".join(lines)
