"""``annserve compact``: make one segment of several."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from annserve.cli.event_log import build_events
from annserve.design.options import CODES
from annserve.sizes import bytes_text


@click.command("compact")
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what it would take, and do nothing.")
@click.option("--ram", help="RAM of a search, as of build.  [default: as before]")
@click.option("--codes", type=click.Choice(CODES), help="How pages are chosen, as of build.  [default: as before]")
@click.option("--threads", type=int, default=0, help="Threads. [default: one per CPU]")
@click.option("--ram-build", help="RAM that the build stays within, such as 2GiB. [default: half of what is free]")
@click.option("--scratch-limit", help="Disk that the build's own files may take. [default: what is free]")
@click.option(
    "--events", help="Append events to this file, a JSON line each; - writes them to stderr in place of progress."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(index: Path, dry_run: bool, events: str | None, as_json: bool, **options: object) -> None:
    """Merge the segments of INDEX into one, from what is stored: no file of vectors is needed.

    Whoever has the index open keeps the version that was opened. A compaction that was killed leaves the index as it
    was; until it is done, there must be room for both.
    """
    from annserve.update.compact import CompactOptions, compact, outlook

    checked = CompactOptions(**options)  # type: ignore[arg-type]
    if dry_run:
        ahead = outlook(index)
        text = (
            f"{index} has {ahead.rows:,} rows on {ahead.pages:,} pages in {ahead.segments} segments; compacting makes "
            f"one of about {ahead.pages_after:,} pages, and takes about {bytes_text(ahead.disk_bytes)} of disk until "
            f"it is done ({bytes_text(ahead.free_bytes)} are free)"
        )
        click.echo(json.dumps(asdict(ahead), indent=1) if as_json else text)
        return
    with build_events(events) as listener:
        done = compact(index, checked, listener)
    if as_json:
        click.echo(json.dumps(asdict(done) if done else None, indent=1))
    elif done is None:
        click.echo(f"{index} has one segment: there is nothing to do")
    else:
        click.echo(
            f"compacted {index} into {done.segment}: {done.rows:,} rows, snapshot {done.snapshot}, {done.seconds:.1f} s"
        )
