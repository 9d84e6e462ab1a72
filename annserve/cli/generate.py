"""``annserve generate``: synthetic vectors with queries and their exact neighbours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from annserve.cli.render import Progress
from annserve.spec import METRICS, ROW_TYPES
from annserve.vectors.synthetic import SyntheticOptions, generate


@click.command("generate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", type=int, default=1_000_000, show_default=True, help="Vectors of the base.")
@click.option("--dim", type=int, default=128, show_default=True, help="Their dimension.")
@click.option("--dtype", type=click.Choice(ROW_TYPES), default="float32", show_default=True, help="Their type.")
@click.option(
    "--intrinsic-dim", type=float, default=18.0, show_default=True, help="Local intrinsic dimension: hardness."
)
@click.option("--clusters", type=int, default=1_000, show_default=True, help="Clusters of the mixture.")
@click.option("--skew", type=float, default=1.0, show_default=True, help="Power law of their sizes.")
@click.option("--queries", type=int, default=1_000, show_default=True, help="Held-out queries.")
@click.option("--query-shift", type=float, default=0.0, show_default=True, help="How far from the base queries come.")
@click.option("-k", type=int, default=100, show_default=True, help="Exact neighbours of each query.")
@click.option("--metric", type=click.Choice(METRICS), default="l2", show_default=True, help="Their metric.")
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same set.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def command(folder: Path, as_json: bool, **options: Any) -> None:
    """Generate vectors into FOLDER, which must be new: base, query, gt.ibin and synthetic.json."""
    facts = generate(folder, SyntheticOptions(**options), Progress())
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(
            f"{folder}: {facts['count']:,} vectors × {facts['dim']} {facts['dtype']}, "
            f"{facts['queries']:,} queries, intrinsic dimension {facts['intrinsic_dim_measured']}"
        )
