"""``annserve verify``: prove that an index is whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from annserve.cli.event_log import build_events


@click.command("verify")
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "--queries",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Rows that are asked for; 0 asks for none.",
)
@click.option(
    "--events", help="Append events to this file, a JSON line each; - writes them to stderr in place of progress."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(index: Path, queries: int, events: str | None, as_json: bool) -> None:
    """Prove that INDEX is whole: checksums, each row at home exactly once, every head reachable, recall delivered.

    Every page is read. Then some rows are asked for, and what is found is held against every row: an index that
    delivers less than its default recall target is at fault too. Leaves with 3 if anything is wrong; each damaged page
    is listed.
    """
    from annserve.index.snapshot import open_snapshot
    from annserve.report.recall_sample import sample_recall
    from annserve.report.verify import verify_index

    snapshot, sample = open_snapshot(index), None
    with build_events(events, "verified") as listener:
        found = verify_index(snapshot, listener)
        # Damaged pages have no answers to judge.
        if queries and not found.problems:
            (sample,) = sample_recall(snapshot, queries, threads=len(os.sched_getaffinity(0)), listener=listener)
        if sample is not None and sample.problem:
            found.problems.append(sample.problem)
        if as_json:
            click.echo(json.dumps(asdict(found) | {"recall": asdict(sample) if sample else None}, indent=1))
        else:
            for problem in found.problems:
                click.echo(problem)
        found.raise_if_broken(index)
    if not as_json:
        replicas = f", {found.replicas:,} replicas" if found.replicas else ""
        more = replicas + (f", {found.raw_pages:,} pages of raw rows" if found.raw_pages else "")
        click.echo(f"{index} is whole: {found.rows:,} rows, {found.pages:,} pages, {found.heads:,} heads{more}")
        if sample is not None:
            click.echo(
                f"recall@{sample.k} of {sample.queries:,} rows is {sample.recall:.4f} where {sample.recall_target} was "
                f"asked for, in {sample.pages:.1f} pages each; for all rows it lies between {sample.recall_low:.4f} "
                f"and {sample.recall_high:.4f}"
            )
