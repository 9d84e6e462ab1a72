"""``annserve query``: search an index on a server."""

from __future__ import annotations

from pathlib import Path

import click

from annserve.cli.answers import answer_options, give_answers, rerank_options
from annserve.cli.remote import Remote, server_options


@click.command("query")
@click.argument("queries", type=click.Path(path_type=Path))
@click.option("--collection", default="", help="Which collection; not needed where only one is served.")
@click.option("-k", type=int, default=10, show_default=True, help="Results per query.")
@click.option("--recall", "recall_target", type=float, help="Recall target.  [default: the server's]")
@click.option("--exact", is_flag=True, help="Score every row: slow, and certain.")
@click.option(
    "--on-deadline",
    type=click.Choice(["error", "partial"]),
    default="error",
    show_default=True,
    help="Where time runs out: fail, or give what was found.",
)
@click.option("--session", default="", help="Names the queries' conversation, for the server's cache.")
@server_options
@rerank_options
@answer_options
def command(
    queries: Path,
    collection: str,
    k: int,
    recall_target: float | None,
    exact: bool,
    on_deadline: str,
    session: str,
    server: Remote,
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
    with Client(server.address, collection=collection, **server.settings) as client:
        result = client.search(
            vectors,
            k,
            recall_target=recall_target,
            exact=exact,
            on_deadline=on_deadline,
            session=session,
            rerank_queries=again,
            rerank_candidates=rerank_candidates,
        )
    give_answers(result, out, distances, as_json)
