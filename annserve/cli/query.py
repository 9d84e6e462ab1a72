"""``annserve query``: search an index on a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt

from annserve.cli.render import bytes_text, table_text
from annserve.client import Client
from annserve.results import SearchResult
from annserve.vectors.formats import create_vectors, read_matrix

#: Queries whose neighbours are shown where no file takes them.
SHOWN_MAX = 10


@click.command("query")
@click.argument("queries")
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="HOST:PORT of the server.")
@click.option("--collection", default="", help="Which collection; not needed where only one is served.")
@click.option("-k", "--k", default=10, show_default=True, help="Neighbours of each query.")
@click.option("--recall", type=float, help="Recall target.  [default: the server's]")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds that the whole search may take.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the ids, one row per query.")
@click.option("--distances", type=click.Path(path_type=Path), help="File for the distances.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    queries: str,
    address: str,
    collection: str,
    k: int,
    recall: float | None,
    timeout: float,
    out: Path | None,
    distances: Path | None,
    as_json: bool,
) -> None:
    """Search an index on a server for the vectors in the file QUERIES."""
    vectors = read_matrix(queries)
    with Client(address, timeout=timeout, collection=collection) as client:
        result = client.search(vectors, k, recall_target=recall)
    _write(out, result.ids)
    _write(distances, result.distances)
    if as_json:
        # Ids and distances are left out where a file has them.
        answer: dict[str, Any] = {"queries": len(result.ids), "k": k, "stats": _stats(result)}
        if out is None:
            answer |= {"ids": result.ids.tolist(), "distances": result.distances.tolist()}
        click.echo(json.dumps(answer))
        return
    if out is None:
        click.echo(_neighbours_text(result))
    click.echo(_summary_text(result))


def _write(path: Path | None, columns: npt.NDArray[Any]) -> None:
    if path is not None:
        count, dim = columns.shape
        with create_vectors(path, count, dim, columns.dtype, overwrite=True) as file:
            file.append(columns)


def _neighbours_text(result: SearchResult) -> str:
    ids, distances = result.ids[:SHOWN_MAX].tolist(), result.distances[:SHOWN_MAX].tolist()
    rows = [
        (query, rank, id_, f"{distance:.6g}")
        for query, pair in enumerate(zip(ids, distances))
        for rank, (id_, distance) in enumerate(zip(*pair), start=1)
    ]
    text = table_text(("query", "rank", "id", "distance"), rows)
    hidden = len(result.ids) - len(ids)
    return f"{text}\n… and {hidden:,} more queries; --out FILE takes them all" if hidden else text


def _stats(result: SearchResult) -> dict[str, Any]:
    stats = result.stats
    means = stats.means() if len(result.ids) else {}
    return means | {"seconds": stats.seconds, "stage_seconds": stats.stage_seconds}


def _summary_text(result: SearchResult) -> str:
    count, k = result.ids.shape
    text = f"{count:,} queries, {k} neighbours each, {result.stats.seconds * 1e3:.1f} ms on the server"
    if count:
        pages, size = result.stats.pages_read.mean(), float(result.stats.bytes_read.mean())
        text += f"; {pages:.1f} pages ({bytes_text(size)}) read per query"
    return text
