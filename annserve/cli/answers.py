"""What ``search`` and ``query`` do with their answers: files of ids and distances, JSON, or a short table."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from annserve.cli.render import table_text
from annserve.results import SearchResult
from annserve.sizes import bytes_text

#: Queries and results that the table shows.
_SHOWN_QUERIES, _SHOWN_RESULTS = 5, 5


def answer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --out, --distances and --json to a command."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print ids, distances and costs as JSON."),
        click.option("--distances", type=click.Path(path_type=Path), help="Write the distances here, as .npy."),
        click.option("--out", type=click.Path(path_type=Path), help="Write the ids here, as .npy (uint64)."),
    ):
        command = option(command)
    return command


def rerank_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --rerank-queries and --rerank-candidates to a command."""
    for option in (
        click.option("--rerank-candidates", type=int, help="How many these rank.  [default: ten a result]"),
        click.option(
            "--rerank-queries",
            type=click.Path(path_type=Path),
            help="The same queries by the other encoder of the index (build --rerank-with): rank anew by them.",
        ),
    ):
        command = option(command)
    return command


def give_answers(result: SearchResult, out: Path | None, distances: Path | None, as_json: bool) -> None:
    """Write files where asked, and print JSON or a short table."""
    for path, array in ((out, result.ids), (distances, result.distances)):
        if path is not None:
            _save(path, array)
    costs = result.stats.means() if len(result.ids) else {}
    if as_json:
        content = {
            "ids": result.ids.tolist(),
            "distances": result.distances.astype(float).tolist(),
            "stats": {
                **costs,
                "seconds": result.stats.seconds,
                "stage_seconds": result.stats.stage_seconds,
                "cache": result.stats.cache,
            },
            "truncated": result.truncated.tolist(),
        }
        click.echo(json.dumps(content))
        return
    if out is None:
        shown = result.ids[:_SHOWN_QUERIES, :_SHOWN_RESULTS]
        near = result.distances[:_SHOWN_QUERIES, :_SHOWN_RESULTS]
        rows = [
            [str(i), *(f"{id_} ({distance:.4g})" for id_, distance in zip(ids, row))]
            for i, (ids, row) in enumerate(zip(shown, near))
        ]
        header = ["query", *(f"#{rank + 1}" for rank in range(shown.shape[1]))]
        click.echo(table_text(header, rows))
        if result.ids.shape > shown.shape:
            click.echo("… give --out FILE for all of them")
    spent = f"{len(result.ids):,} queries in {result.stats.seconds * 1e3:.1f} ms"
    if costs:
        size = bytes_text(costs["bytes_read_mean"])
        spent += f"; {costs['pages_read_mean']:.1f} pages ({size}) in {costs['reads_mean']:.1f} reads a query"
        if costs["pages_cached_mean"]:
            spent += f", {costs['pages_cached_mean']:.1f} pages from the cache"
    if result.stats.cache:
        grades = Counter(result.stats.cache)
        spent += f"; answers by cache: {', '.join(f'{n:,} {grade}' for grade, n in grades.most_common())}"
    click.echo(spent, err=True)
    if result.partial:
        cut = np.count_nonzero(result.truncated)
        click.echo(f"time ran out: the answers to {cut:,} queries are what was found until then", err=True)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    from annserve.storage.atomic import write_atomically

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())
