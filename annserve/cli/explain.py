"""``annserve explain``: what one query did, stage by stage."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from annserve.cli.render import table_text
from annserve.errors import InputError
from annserve.search.explain import Explanation, PageExplained
from annserve.sizes import bytes_text
from annserve.spec import RECALL_TARGET_DEFAULT

#: Pages and results that the tables show.
_SHOWN = 20


@click.command("explain")
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--query", required=True, help="File of query vectors, and which of them: queries.npy:3. [default: :0]")
@click.option("-k", type=int, default=10, show_default=True, help="Results.")
@click.option(
    "--recall",
    "recall_target",
    type=float,
    default=RECALL_TARGET_DEFAULT,
    show_default=True,
    help="Recall target, 0.80 … 0.99; 1 reads every page.",
)
@click.option("--io", default="auto", show_default=True, help="How pages are read: auto, uring, pread, mmap.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(index: Path, query: str, k: int, recall_target: float, io: str, as_json: bool) -> None:
    """Search INDEX for one vector and show what that took: what was looked at, what was read and why, what it brought.

    It is the engine's own search, watched; times are those of a second run, when kernels are loaded.
    """
    from annserve import collection
    from annserve.vectors.formats import read_matrix

    path, row = _file_and_row(query)
    vectors = read_matrix(path)
    if row >= len(vectors):
        raise InputError(f"{path} holds {len(vectors)} vectors, counted from 0; there is no query {row}", field="query")
    with collection.open(index, io=io, threads=1) as opened:
        found = opened.explain(np.asarray(vectors[row]), k, recall_target=recall_target)
    if as_json:
        click.echo(json.dumps({"segments": [one.as_dict() for one in found]}, indent=1))
    else:
        click.echo(f"query {row} of {path} in {index}: the {k} nearest, recall target {recall_target:g}\n")
        click.echo(_text(found))


def _file_and_row(query: str) -> tuple[str, int]:
    """Part ``queries.npy:3``; the name of an array inside a file may stand between."""
    match = re.fullmatch(r"(.+):(\d+)", query)
    return (match[1], int(match[2])) if match else (query, 0)


def _text(found: Sequence[Explanation]) -> str:
    tables = []
    for number, segment in enumerate(found, 1):
        if len(found) > 1:
            tables.append(f"segment {number} of {len(found)}, pages chosen for {segment.k} of the nearest")
        tables += [_stages(segment), _pages(segment)]
    return "\n\n".join([*tables, _answer(found[0])])


def _stages(found: Explanation) -> str:
    def time(stage: str) -> str:
        return f"{1e6 * found.seconds.get(stage, 0.0):,.0f}"

    share = found.pages_read and found.rows_scored / found.pages_read
    codes = found.codes
    vicinities = codes.vicinities if codes is not None else 0
    batches = f"{vicinities:,} vicinities first, then the rest" if vicinities else "all asked for together"
    read = f"{found.pages_read:,} pages, {bytes_text(found.bytes_read)}, in {found.reads:,} reads, {batches}"
    lines = []
    if found.recall_target < 1:
        visited = f"{found.heads_visited:,} of {found.heads:,} heads compared; the pages of the nearest "
        lines.append(("navigate", f"{visited}{found.postings_ranked:,} are in question", time("navigate")))
    if codes is not None:
        lines += [
            ("rate", f"{codes.page_codes:,} pages ranked by their codes, {codes.pages_passed_over:,} passed over", ""),
            ("", f"{codes.row_codes:,} codes of rows looked at, on {codes.pages_rated:,} pages", time("rate")),
            ("", f"{codes.hits_expected:.2f} hits expected, nearer than {_number(codes.threshold)}", ""),
            ("choose", f"best pages first, until they promise {codes.hits_wanted:.2f} hits", time("choose")),
        ]
    elif found.recall_target < 1:
        lines.append(("choose", "all of their pages", time("choose")))
    lines += [
        ("read", read, time("read")),
        ("score", f"{found.rows_scored:,} rows, {share:.1f} a page", time("score")),
        *([("rerank", f"{found.rows_reranked:,} raw rows", time("rerank"))] if "rerank" in found.seconds else []),
        ("", f"result {len(found.ids)} lies at {_number(found.distances[-1])}", ""),
    ]
    if found.rounds > 1:
        lines.append(("again", f"{found.rounds} rounds: the first pages held fewer than {found.k} rows", ""))
    width = max(len(text) for _, text, _ in lines)
    rows = [(stage, text.ljust(width), spent) for stage, text, spent in lines]
    return table_text(("stage", "what it did".ljust(width), "µs"), rows)


def _pages(found: Explanation) -> str:
    shown, rest = found.pages[:_SHOWN], found.pages[_SHOWN:]
    rows = [
        (
            page.page_id,
            page.posting,
            page.rows,
            page.hits or "·",
            "" if page.best_place is None else f"#{page.best_place}",
            *(() if page.worth is None else (f"{page.worth:.2f}", page.rank)),
        )
        for page in shown
    ]
    if rest:
        rows.append((f"{len(rest)} more", "", *_sums(rest, found)))
    rows.append(("in all", "", *_sums(found.pages, found)))
    header = ("page", "posting", "rows", "hits", "nearest", *(("promised", "rank") if found.codes else ()))
    return table_text(header, rows)


def _sums(pages: Sequence[PageExplained], found: Explanation) -> tuple[object, ...]:
    rows, hits = sum(page.rows for page in pages), sum(page.hits for page in pages)
    promised = f"{sum(page.worth or 0 for page in pages):.2f}"
    return (rows, hits, "", *((promised, "") if found.codes else ()))


def _answer(found: Explanation) -> str:
    rows = [
        (f"#{place}", row_id, _number(distance))
        for place, (row_id, distance) in enumerate(zip(found.ids[:_SHOWN], found.distances), 1)
    ]
    text = table_text(("answer", "id", "distance"), rows)
    return text + (f"\n… {len(found.ids) - _SHOWN} more" if len(found.ids) > _SHOWN else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
