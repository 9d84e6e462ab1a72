"""``annserve query``: search an index on a server."""

from __future__ import annotations

from pathlib import Path

import click

from annserve.cli.answers import answer_options, give_answers, rerank_options


@click.command("query")
@click.argument("queries", type=click.Path(path_type=Path))
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="HOST:PORT of the server.")
@click.option("--collection", default="", help="Which collection; not needed where only one is served.")
@click.option("-k", type=int, default=10, show_default=True, help="Results per query.")
@click.option("--recall", "recall_target", type=float, help="Recall target.  [default: the server's]")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds that the whole search may take.")
@rerank_options
@answer_options
def command(
    queries: Path,
    address: str,
    collection: str,
    k: int,
    recall_target: float | None,
    timeout: float,
    rerank_queries: Path | None,
    rerank_candidates: int | None,
    out: Path | None,
    distances: Path | None,
    as_json: bool,
) -> None:
    """Find the nearest rows on a server for each vector in the file QUERIES."""
    from annserve.client import Client
    from annserve.vectors.formats import read_matrix

    vectors = read_matrix(queries)
    again = read_matrix(rerank_queries) if rerank_queries else None
    with Client(address, timeout=timeout, collection=collection) as client:
        result = client.search(
            vectors,
            k,
            recall_target=recall_target,
            rerank_queries=again,
            rerank_candidates=rerank_candidates,
        )
    give_answers(result, out, distances, as_json)
