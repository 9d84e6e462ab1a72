"""``annserve query``: search an index on a server."""

from __future__ import annotations

import os
from pathlib import Path

import click

from annserve.cli.answers import answer_options, give_answers, rerank_options
from annserve.errors import InputError


@click.command("query")
@click.argument("queries", type=click.Path(path_type=Path))
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="HOST:PORT of the server.")
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
@click.option("--tls", is_flag=True, help="Encrypt; trust the certificates that this machine trusts.")
@click.option("--tls-ca", type=click.Path(path_type=Path), help="Encrypt; trust what these certificates signed (PEM).")
@click.option("--tls-certificate", type=click.Path(path_type=Path), help="Certificate to show to the server (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key (PEM).")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="File with the API key to show.  [default: the environment's ANNSERVE_API_KEY]",
)
@click.option("--timeout", default=30.0, show_default=True, help="Seconds that the whole search may take.")
@rerank_options
@answer_options
def command(
    queries: Path,
    address: str,
    collection: str,
    k: int,
    recall_target: float | None,
    exact: bool,
    on_deadline: str,
    tls: bool,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    key_file: Path | None,
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
    door = Client(
        address,
        timeout=timeout,
        collection=collection,
        tls=tls,
        tls_ca=tls_ca,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        api_key=_key(key_file),
    )
    with door as client:
        result = client.search(
            vectors,
            k,
            recall_target=recall_target,
            exact=exact,
            on_deadline=on_deadline,
            rerank_queries=again,
            rerank_candidates=rerank_candidates,
        )
    give_answers(result, out, distances, as_json)


def _key(file: Path | None) -> str | None:
    """Give the key to show, if any; never a flag, for others see the flags of a process."""
    if file is None:
        return os.environ.get("ANNSERVE_API_KEY") or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} can't be read: {error}; give the file that holds the key", field="key_file") from None
