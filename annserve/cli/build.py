"""``annserve build``: from a file of vectors to an index."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import BinaryIO

import click

from annserve.cli.event_log import STDERR, build_events
from annserve.design.options import CODES, RERANKS, BuildOptions
from annserve.errors import InputError
from annserve.sizes import bytes_text
from annserve.spec import METRICS, bytes_a_row

_DEFAULTS = BuildOptions()
#: Source that stands for standard input.
_STDIN = "-"


@click.command("build")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the index; new or empty.")
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default=_DEFAULTS.metric,
    show_default=True,
    help="How distance is measured: squared L2, inner product or cosine.",
)
@click.option(
    "--ids", type=click.Path(path_type=Path), help="File (.npy) with one whole number per row. [default: 0 … n−1]"
)
@click.option("--column", help="Array or column that holds the vectors, where the file has several.")
@click.option("--skip-invalid", is_flag=True, help="Leave out rows that can't be indexed, count and list them.")
@click.option(
    "--ram",
    default=_DEFAULTS.ram,
    show_default=True,
    help="RAM of a search: share of the INT8 size (25%), bytes a vector (20B) or total (2GiB).",
)
@click.option(
    "--codes",
    type=click.Choice(CODES),
    default=_DEFAULTS.codes,
    show_default=True,
    help="Choose pages by codes of rows in RAM, by such on the SSD, or by heads alone: whichever reads fewest pages.",
)
@click.option(
    "--replicas",
    type=int,
    default=_DEFAULTS.replicas,
    show_default=True,
    help="Copies of a row at most, 1 … 8, with --codes none: more disk, fewer reads.",
)
@click.option(
    "--rerank",
    type=click.Choice(RERANKS),
    default=_DEFAULTS.rerank,
    show_default=True,
    help="Keep raw rows on disk to settle what INT8 leaves open: where it loses much, never, or always.",
)
@click.option(
    "--rerank-with", type=click.Path(path_type=Path), help="Another encoder's vectors, one per row: rank anew."
)
@click.option("--rerank-metric", type=click.Choice(METRICS), help="Metric of those.  [default: --metric]")
@click.option(
    "--page-bytes",
    type=int,
    default=_DEFAULTS.page_bytes,
    help="Bytes of a page. [default: smallest that holds a row, or by --disk]",
)
@click.option(
    "--disk",
    type=click.Path(path_type=Path),
    help="Prices of the disk, by probe-disk --out: pages of 4, 8 or 16 KB, as it reads them cheapest. [default: none]",
)
@click.option(
    "--calibrate-with",
    type=click.Path(path_type=Path),
    help="File with some hundreds of real queries: recall is delivered to such, in fewer reads. [default: none]",
)
@click.option(
    "--calibration-queries",
    type=int,
    default=_DEFAULTS.calibration_queries,
    show_default=True,
    help="Rows held out to learn how much each recall target takes.",
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True, help="Fixes every random choice.")
@click.option("--threads", type=int, default=_DEFAULTS.threads, help="Threads. [default: one per CPU]")
@click.option(
    "--ram-build",
    default=_DEFAULTS.ram_build,
    help="RAM that the build itself stays within, such as 2GiB. [default: half of what is free]",
)
@click.option(
    "--scratch-limit",
    default=_DEFAULTS.scratch_limit,
    help="Disk that the build's own files may take beside the index. [default: what is free]",
)
@click.option("--resume", "unfinished", flag_value="resume", help="Go on with a build that was interrupted in --out.")
@click.option("--restart", "unfinished", flag_value="restart", help="Drop a build that was interrupted in --out.")
@click.option(
    "--events", help="Append events to this file, a JSON line each; - writes them to stderr in place of progress."
)
@click.option("--json", "as_json", is_flag=True, help="Print the build report as JSON.")
def command(
    source: Path, out: Path, events: str | None, as_json: bool, unfinished: str | None, **options: object
) -> None:
    """Build an index from SOURCE and publish it in the folder --out.

    SOURCE is .npy, .fvecs/.bvecs, .fbin/.u8bin/.i8bin, HDF5, parquet or a zarr v3 folder; several such files, as a
    quoted pattern or a folder, are one set in the order of their names. An array inside a file is named after a colon:
    vectors.hdf5:train. - reads standard input: arrays of rows, one numpy.save after another.

    Nothing can be opened before the build has ended and proven itself; a build that was killed leaves no index, and the
    same command with --resume goes on with it.
    """
    from annserve.build.pipeline import build

    checked = BuildOptions(**options)  # type: ignore[arg-type]
    stream = _standard_input() if str(source) == _STDIN else None
    if stream is None and events != STDERR:
        _announce(source, checked)
    with build_events(events) as listener:
        build(stream or source, out, checked, listener, unfinished=unfinished or "refuse")
    _tell(out, as_json)


def _standard_input() -> BinaryIO:
    if sys.stdin.isatty():
        raise InputError(f"SOURCE is {_STDIN}, but standard input is a terminal; pipe arrays into it, or name a file")
    return sys.stdin.buffer


def _announce(source: Path, options: BuildOptions) -> None:
    """Say what the index will be, before the work."""
    from annserve.design.choose import design
    from annserve.vectors.formats import open_vectors

    with open_vectors(source, column=options.column) as vectors:
        designed = design(options, vectors)
        spec = designed.spec
        pages = int(designed.tiers.copies(spec.page_capacity) * -(-vectors.count // spec.page_capacity))
        about = bytes_text(pages * spec.page_bytes * (2 if designed.tiers.codes_on_ssd else 1))
        lines = (
            f"{vectors.count:,} × {vectors.dim} {vectors.dtype}, metric {options.metric}: "
            f"about {pages:,} pages of {spec.page_capacity} rows, {about} on disk",
            *designed.why.values(),
        )
    click.echo("\n".join(lines), err=True)


def _tell(out: Path, as_json: bool) -> None:
    """Say what was published."""
    from annserve.index.snapshot import open_snapshot

    snapshot = open_snapshot(out)
    report = snapshot.segments[0].report
    if as_json:
        click.echo(json.dumps(report, indent=1, sort_keys=True))
        return
    tiers = snapshot.tier_bytes
    ram = sum(tiers.values())
    skipped = f" ({report['skipped']['rows']:,} left out)" if report["skipped"]["rows"] else ""
    per_vector = bytes_a_row(ram, tiers, report["rows"])
    click.echo(
        f"published {out}: {report['rows']:,} rows{skipped} on {report['pages']:,} pages "
        f"({report['page_fill']:.1%} full), {bytes_text(ram)} RAM ({per_vector:.1f} B a vector), "
        f"{bytes_text(snapshot.disk_bytes)} on disk, "
        f"{report['seconds']:.1f} s"
    )
