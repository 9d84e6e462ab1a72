"""``annserve verify``: prove that an index is whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from annserve.cli.render import Progress


@click.command("verify")
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(index: Path, as_json: bool) -> None:
    """Read every page of INDEX and prove it: checksums, each row at home exactly once, every head reachable.

    Leaves with 3 if anything is wrong; each damaged page is listed.
    """
    from annserve.build.verify import verify_index
    from annserve.index.snapshot import open_snapshot

    found = verify_index(open_snapshot(index), Progress())
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
    else:
        for problem in found.problems:
            click.echo(problem)
    found.raise_if_broken(index)
    if not as_json:
        replicas = f", {found.replicas:,} replicas" if found.replicas else ""
        more = replicas + (f", {found.raw_pages:,} pages of raw rows" if found.raw_pages else "")
        click.echo(f"{index} is whole: {found.rows:,} rows, {found.pages:,} pages, {found.heads:,} heads{more}")
