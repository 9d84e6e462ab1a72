"""``annserve convert``: vectors from one file format to another."""

from __future__ import annotations

import json

import click

from annserve.cli.render import Progress
from annserve.errors import InputError
from annserve.sizes import bytes_text
from annserve.spec import ROW_TYPES
from annserve.vectors.convert import convert
from annserve.vectors.formats import open_vectors


@click.command("convert")
@click.argument("source")
@click.argument("destination")
@click.option("--dtype", type=click.Choice(ROW_TYPES), help="Type to write, even if digits are lost.")
@click.option("--rows", metavar="START:STOP", help="Write only these rows; STOP is left out.")
@click.option("--overwrite", is_flag=True, help="Replace DESTINATION if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def command(source: str, destination: str, dtype: str | None, rows: str | None, overwrite: bool, as_json: bool) -> None:
    """Convert vectors from SOURCE to DESTINATION; the suffixes decide the formats.

    npy, fbin, u8bin, i8bin, ibin, fvecs, bvecs, ivecs, hdf5, parquet and zarr are understood. A dataset,
    column or array is named after a colon: glove.hdf5:test, wiki.parquet:embedding.
    """
    with open_vectors(source) as vectors:
        part = _rows(rows, vectors.count)
        written = convert(vectors, destination, dtype=dtype, rows=part, overwrite=overwrite, listener=Progress())
        count, dim = part[1] - part[0], vectors.dim
    if as_json:
        facts = {"destination": destination, "count": count, "dim": dim, "dtype": written.name}
        click.echo(json.dumps(facts))
    else:
        size = bytes_text(count * dim * written.itemsize)
        click.echo(f"{destination}: {count:,} vectors × {dim} {written.name}, {size}")


def _rows(text: str | None, count: int) -> tuple[int, int]:
    """Read START:STOP; either may be left out."""
    if text is None:
        return 0, count
    start, colon, stop = text.partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (start, stop)):
        raise InputError(f"--rows is {text!r}; give START:STOP, such as 0:1000 or 5000:", field="rows")
    return int(start or 0), int(stop or count)
