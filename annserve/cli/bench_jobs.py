"""``annserve bench run``, ``list``, ``show``, ``compare``, ``baseline``: jobs and their results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from annserve.cli.render import Progress, table_text

_FOLDER = click.Path(path_type=Path)
#: A change below this share is rounding, and no line of its own.
_VISIBLE = 0.0005


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "annserve-bench"


@click.command("run")
@click.argument("job_file", metavar="JOB.toml", type=_FOLDER)
@click.option(
    "--out", type=_FOLDER, help="Folder of results. [default: results/DATE-JOB-CORES beside the job's folder]"
)
@click.option("--data", multiple=True, type=_FOLDER, envvar="ANNSERVE_BENCH_DATA", help="Folder that holds data sets.")
@click.option("--peers", type=_FOLDER, help="Folder of systems. [default: peers beside the job's folder]")
@click.option(
    "--cache", type=_FOLDER, help="Folder of staged data and environments. [default: ~/.cache/annserve-bench]"
)
@click.option("--builds-only", is_flag=True, help="Build every index, and ask nothing yet.")
@click.option("--keep-builds", is_flag=True, help="Keep the indexes, so that a further run needn't build them.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.pass_context
def run(
    context: click.Context,
    job_file: Path,
    out: Path | None,
    data: tuple[Path, ...],
    peers: Path | None,
    cache: Path | None,
    builds_only: bool,
    keep_builds: bool,
    as_json: bool,
) -> None:
    """Measure everything that JOB.toml names, and write one result file for each index.

    What is done is skipped: the same command goes on after an interrupt. A data set or a system that can't be had,
    or fails, is named with its reason; the rest goes on. Answers that can't be right are named too: exit status 4.
    """
    from annserve.compare.execute import Places, run_job
    from annserve.compare.job import read_job

    job = read_job(job_file)
    bench = job_file.resolve().parent.parent
    cache = cache or _cache_folder()
    results = out or _results_folder(bench / "results", job.name)
    places = Places(results, cache / "work", cache, peers or bench / "peers", tuple(data))
    click.echo(f"results go to {results}", err=True)
    outcome = run_job(job, places, builds_only=builds_only, keep_builds=keep_builds, listener=Progress())
    if as_json:
        click.echo(json.dumps({"results": str(results), **outcome.__dict__}))
    else:
        what = f"{len(outcome.built)} built" if builds_only else f"{len(outcome.done)} measured"
        click.echo(f"{what}, {len(outcome.kept)} were there, {len(outcome.left_out)} left out")
    for name, reason in outcome.left_out.items():
        click.echo(f"left out {name}: {reason}", err=True)
    for name, faults in outcome.faults.items():
        click.echo(f"FAULTY {name}: {'; '.join(faults)}", err=True)
    if outcome.faults:
        context.exit(4)


@click.command("list")
@click.argument("folder", type=_FOLDER, default=Path("bench/results"))
def list_(folder: Path) -> None:
    """List the results in FOLDER and the folders below it."""
    from annserve.compare.results import read_results

    holding = sorted({path.parent for path in folder.rglob("*--*.json")}) or [folder]
    rows = [
        (
            str(where),
            one["dataset"]["name"],
            one["system"]["name"],
            one["date"][:16],
            one["commit"] or "–",
            one["key"],
        )
        for where in holding
        for one in read_results(where)
    ]
    short = [(*row[:4], row[4][:10] + ("-dirty" if row[4].endswith("dirty") else ""), row[5]) for row in rows]
    click.echo(table_text(("folder", "data set", "system", "date", "commit", "key"), short))


@click.command("show")
@click.argument("results", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print all rows as JSON.")
def show(results: Path, as_json: bool) -> None:
    """Show every load of a result file, or of a folder of them."""
    from annserve.compare.results import read_rows

    rows = read_rows(results)
    if as_json:
        click.echo(json.dumps(rows))
        return
    header = [
        "data set",
        "system",
        "build",
        "load",
        "target",
        "recall",
        "p5",
        "callers",
        "QPS",
        "±",
        "p50 µs",
        "p99 µs",
    ]
    header += ["pages", "p50", "p95", "p99", "device KiB", "B RAM a vector"]
    click.echo(table_text(header, [_cells(row) for row in rows]))


@click.command("compare")
@click.argument("before", type=_FOLDER)
@click.argument("after", type=_FOLDER)
@click.option("--worse", default=0.02, show_default=True, help="Share by which a count (recall, pages) may get worse.")
@click.option("--slower", type=float, help="Share by which a time may, beyond the spread. [default: times are ignored]")
@click.option("--json", "as_json", is_flag=True, help="Print every change as JSON.")
@click.pass_context
def compare(
    context: click.Context, before: Path, after: Path, worse: float, slower: float | None, as_json: bool
) -> None:
    """Compare results (files, folders, or a baseline) BEFORE and AFTER; exit status 4 if something got worse."""
    from annserve.compare.results import read_rows
    from annserve.compare.verdict import compare as judge

    verdict = judge(read_rows(before), read_rows(after), counts_worse=worse, times_worse=slower)
    if as_json:
        click.echo(json.dumps({"passed": verdict.passed, "changes": [one.__dict__ for one in verdict.changes]}))
    else:
        changed = [one for one in verdict.changes if abs(one.worse) >= _VISIBLE]
        lines = [
            (
                one.row,
                one.number,
                f"{one.before:,.4g}",
                f"{one.after:,.4g}",
                f"{-one.worse:+.1%}",
                "WORSE" * one.beyond,
            )
            for one in changed
        ]
        if lines:
            click.echo(table_text(("row", "number", "before", "after", "better by", ""), lines))
        click.echo(f"{len(verdict.changes)} numbers compared, {len(changed)} changed")
        if verdict.times:
            click.echo(f"{verdict.times_agreeing} of {verdict.times} times agree within what both runs' passes spread")
    for name in verdict.only_before:
        click.echo(f"missing: {name} was measured before, and isn't any more", err=True)
    if not verdict.passed:
        context.exit(4)


@click.command("baseline")
@click.argument("results", type=_FOLDER)
@click.option(
    "--out", type=_FOLDER, default=Path("bench/baseline.json"), show_default=True, help="Write the baseline here."
)
def baseline(results: Path, out: Path) -> None:
    """Write the counts of RESULTS as the baseline that later results are compared with."""
    from annserve.compare.results import read_results, rows_of, write_baseline

    write_baseline(out, rows_of(read_results(results)))
    click.echo(f"wrote {out}")


@click.command("report")
@click.argument("results", nargs=-1, required=True, type=_FOLDER)
@click.option("--out", required=True, type=_FOLDER, help="Folder of the page and the pictures.")
@click.option("--target", default=0.95, show_default=True, help="Recall target of the table's times.")
@click.option("--growth", multiple=True, type=_FOLDER, help="Results at several sizes, for the pictures of growth.")
@click.option("--readme", type=_FOLDER, help="Document that has <!-- bench:readme -->: table and pictures go there.")
@click.option("--title", default="annserve and its peers", show_default=True, help="Heading of the page.")
def report(
    results: tuple[Path, ...], out: Path, target: float, growth: tuple[Path, ...], readme: Path | None, title: str
) -> None:
    """Draw the pictures of RESULTS (folders or files), and one page with all of them that opens offline."""
    from annserve.compare.page import html_page
    from annserve.compare.pictures import as_png, draw_growth, draw_sets
    from annserve.compare.results import read_results, read_rows, rows_of
    from annserve.compare.table import markdown_table, picture_links, replace_between, summary_tables
    from annserve.storage.atomic import write_atomically

    found = [one for path in results for one in read_results(path)]
    table = markdown_table(found, target)
    rows = rows_of(found)
    figures = draw_sets(rows) | draw_growth([*rows, *(row for path in growth for row in read_rows(path))])
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        write_atomically(out / f"{name}.png", as_png(figure))
    write_atomically(out / "index.html", html_page(title, found, rows, figures, summary_tables(found, target)).encode())
    write_atomically(out / "table.md", f"{table}\n".encode())
    if readme is not None:
        replace_between(readme, "readme", f"{table}\n\n{picture_links(found, out, readme)}".rstrip())
    click.echo(f"wrote {out / 'index.html'} with {len(figures)} pictures")


COMMANDS: Sequence[click.Command] = (run, list_, show, compare, baseline, report)


def _results_folder(parent: Path, job: str) -> Path:
    """Give the newest folder of a job that isn't finished, or a new one."""
    pattern = f"*-{job}-*cores"
    for folder in sorted(parent.glob(pattern), reverse=True):
        note = folder / "job.json"
        if note.exists() and not json.loads(note.read_text())["finished"]:
            return folder
    return parent / f"{datetime.now(UTC):%Y-%m-%d}-{job}-{os.cpu_count()}cores"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def number(name: str, unit: float = 1, decimals: int = 0) -> str:
        value = row.get(name)
        return "–" if value is None else f"{value / unit:,.{decimals}f}"

    load = row["load"] if row.get("rate_share") is None else f"open {row['rate_share']:.0%}"
    spread = row.get("qps_spread")
    return (
        row["dataset"],
        row["system"],
        row["build"],
        load,
        "–" if row["target"] is None else f"{row['target']:g}",
        f"{row['recall']:.4f}",
        number("recall_p5", decimals=2),
        str(row["threads"]),
        number("qps"),
        "–" if spread is None else f"{spread:.0%}",
        number("latency_us_p50"),
        number("latency_us_p99"),
        number("pages", decimals=1),
        *(number(f"pages_read_{share}") for share in ("p50", "p95", "p99")),
        number("device_bytes_read_mean", 1024),
        number("ram_bytes_per_vector", decimals=1),
    )
