"""``annserve bench trace``, ``cache``: which pages queries read, recorded, and replayed through caches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from annserve.cli.render import table_text
from annserve.errors import InputError
from annserve.spec import RECALL_TARGET_DEFAULT

_FILE = click.Path(path_type=Path)


@click.command("trace")
@click.argument("index", type=_FILE)
@click.argument("queries", type=_FILE)
@click.option("--out", required=True, type=_FILE, help="Trace to write.")
@click.option("--sessions", type=_FILE, help="File with a whole number for each query: its session.")
@click.option("-k", type=int, default=10, show_default=True, help="Results per query.")
@click.option(
    "--recall", "recall_target", type=float, default=RECALL_TARGET_DEFAULT, show_default=True, help="Recall target."
)
def trace(index: Path, queries: Path, out: Path, sessions: Path | None, k: int, recall_target: float) -> None:
    """Record which pages of INDEX each vector in the file QUERIES reads, in their order."""
    from annserve.measure.cache_trace import record_trace
    from annserve.spec import K_MAX, check_k, check_recall_target
    from annserve.storage.atomic import AtomicFile
    from annserve.vectors.formats import read_list, read_matrix

    if check_recall_target(recall_target) == 1.0:
        raise InputError("at recall 1 every query reads every page; give a target below", field="recall")
    labels = read_list(sessions) if sessions else None
    # Claimed first, lest the work end in a refusal.
    with AtomicFile(out) as file:
        found = record_trace(index, read_matrix(queries), check_k(k, K_MAX), recall_target, labels)
        file.write(found.as_bytes())
        file.commit()
    click.echo(f"{out}: {len(found):,} queries, {len(found.pages) / len(found):.2f} of {found.n_pages:,} pages each")


@click.command("cache")
@click.argument("trace_file", metavar="TRACE", type=_FILE)
@click.option("--share", default="0.05,0.1,0.2", show_default=True, help="Sizes of caches: shares of the pages.")
@click.option("--json", "as_json", is_flag=True, help="Print the shares of misses as JSON.")
def cache(trace_file: Path, share: str, as_json: bool) -> None:
    """Replay TRACE through page caches of many policies, with answers kept beside the pages and without.

    TRACE is what 'annserve bench trace' recorded.

    A cell is the share of pages that must be read; in brackets with a sixteenth of the bytes spent on answers.
    `counts` is what searches use, `belady` looks into the future.
    """
    from annserve.measure.cache_trace import read_trace, replay

    try:
        shares = [float(word) for word in share.split(",")]
    except ValueError:
        raise InputError(
            f"--share is {share!r}; give numbers with commas between, as 0.05,0.1", field="share"
        ) from None
    if not all(0 < one <= 1 for one in shares):
        raise InputError(f"--share is {share!r}; each must lie between 0 and 1", field="share")
    records = replay(read_trace(trace_file), shares)
    if as_json:
        click.echo(json.dumps(records, indent=1))
        return
    header = ["cache", "answers", *records[0]["missed"]]
    rows = [
        (
            f"{record['share']:.0%}",
            f"{record['repeats']:.1%}",
            *(
                f"{missed:.3f} ({record['missed_beside_answers'][name]:.3f})"
                for name, missed in record["missed"].items()
            ),
        )
        for record in records
    ]
    click.echo(table_text(header, rows))


COMMANDS: Sequence[click.Command] = (trace, cache)
