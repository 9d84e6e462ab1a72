"""``annserve append``: add vectors to an index."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from annserve.cli.event_log import build_events
from annserve.design.options import CODES


@click.command("append")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--ids", type=click.Path(path_type=Path), help="File (.npy) of one new whole number per row. [default: go on]"
)
@click.option("--column", help="Array or column that holds the vectors, where the file has several.")
@click.option("--skip-invalid", is_flag=True, help="Leave out rows that can't be indexed, count and list them.")
@click.option(
    "--rerank-with", type=click.Path(path_type=Path), help="The other encoder's vectors, where the index keeps such."
)
@click.option("--ram", help="RAM of a search for the new rows, as of build.  [default: as before]")
@click.option(
    "--codes", type=click.Choice(CODES), help="How their pages are chosen, as of build.  [default: as before]"
)
@click.option("--threads", type=int, default=0, help="Threads. [default: one per CPU]")
@click.option("--ram-build", help="RAM that the build stays within, such as 2GiB. [default: half of what is free]")
@click.option("--scratch-limit", help="Disk that the build's own files may take. [default: what is free]")
@click.option(
    "--events", help="Append events to this file, a JSON line each; - writes them to stderr in place of progress."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(index: Path, source: Path, events: str | None, as_json: bool, **options: object) -> None:
    """Add the vectors in SOURCE to INDEX, as a segment beside those that are there.

    Old and new rows are searched together. Whoever has the index open keeps the version that was opened; the new one
    is seen by opening anew. An append that was killed leaves the index as it was. Segments cost pages: annserve
    compact makes one of them.
    """
    from annserve.update.append import AppendOptions, append

    checked = AppendOptions(**options)  # type: ignore[arg-type]
    with build_events(events) as listener:
        done = append(index, source, checked, listener)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=1))
        return
    click.echo(
        f"appended {done.rows:,} rows to {index} as {done.segment}: {done.rows_in_all:,} rows in {done.segments} "
        f"segments, snapshot {done.snapshot}, {done.seconds:.1f} s"
    )
