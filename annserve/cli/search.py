"""``annserve search``: search an index in this process."""

from __future__ import annotations

from pathlib import Path

import click

from annserve.cli.answers import answer_options, give_answers, rerank_options
from annserve.spec import RECALL_TARGET_DEFAULT


@click.command("search")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("queries", type=click.Path(path_type=Path))
@click.option("-k", type=int, default=10, show_default=True, help="Results per query.")
@click.option(
    "--recall",
    "recall_target",
    type=float,
    default=RECALL_TARGET_DEFAULT,
    show_default=True,
    help="Recall target, 0.80 … 0.99; 1 reads every page.",
)
@click.option("--io", default="auto", show_default=True, help="How pages are read: auto, uring, pread, mmap.")
@click.option("--cache", default="0", help="RAM for pages asked for often, as 256MiB.  [default: none]")
@click.option("--cache-packed", is_flag=True, help="Pack the pages in it: a third more fit, each costs some CPU.")
@click.option("--threads", type=int, help="Threads. [default: one per CPU]")
@rerank_options
@answer_options
def command(
    index: Path,
    queries: Path,
    k: int,
    recall_target: float,
    io: str,
    cache: str,
    cache_packed: bool,
    threads: int | None,
    rerank_queries: Path | None,
    rerank_candidates: int | None,
    out: Path | None,
    distances: Path | None,
    as_json: bool,
) -> None:
    """Find the nearest rows of INDEX for each vector in the file QUERIES."""
    from annserve import collection
    from annserve.vectors.formats import read_matrix

    vectors = read_matrix(queries)
    again = read_matrix(rerank_queries) if rerank_queries else None
    with collection.open(index, io=io, threads=threads, cache_bytes=cache, cache_packed=cache_packed) as opened:
        result = opened.search(
            vectors,
            k,
            recall_target=recall_target,
            rerank_queries=again,
            rerank_candidates=rerank_candidates,
        )
    give_answers(result, out, distances, as_json)
