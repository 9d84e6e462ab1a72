"""``annserve probe-disk``: what reads cost on a disk."""

from __future__ import annotations

import json
from pathlib import Path

import click

from annserve.cli.render import Progress, table_text
from annserve.sizes import bytes_text
from annserve.storage.prices import DiskPrices


@click.command("probe-disk")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seconds", type=float, default=20.0, show_default=True, help="Time of all reads together.")
@click.option("--mib", type=int, default=1_024, show_default=True, help="Size of the file that is read; removed after.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the prices here, for plan --disk.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(folder: Path, seconds: float, mib: int, out: Path | None, as_json: bool) -> None:
    """Measure random reads on the disk of FOLDER, by size and by how many are in flight, and fit their prices.

    A file is made there and removed. Reads go past the page cache where the file system allows it.
    """
    from annserve.index.sealed import write_sealed
    from annserve.storage.probe import probe_disk

    prices = probe_disk(folder, mib=mib, seconds=seconds, listener=Progress())
    if out is not None:
        write_sealed(out, prices.as_dict())
    click.echo(json.dumps(prices.as_dict(), indent=1) if as_json else _text(folder, prices))


def _text(folder: Path, prices: DiskPrices) -> str:
    way = "past the page cache (O_DIRECT)" if prices.direct else "through the page cache: these are prices of RAM"
    depths = sorted({cell.depth for cell in prices.cells})
    rates = {(cell.read_bytes, cell.depth): cell.reads_per_second for cell in prices.cells}
    rows = []
    for size in sorted({cell.read_bytes for cell in prices.cells}):
        most = max(rates[size, depth] for depth in depths)
        counts = [f"{rates[size, depth]:,.0f}" for depth in depths]
        rows.append((bytes_text(size), *counts, f"{most * size / 1e6:,.0f} MB/s"))
    table = table_text(("read of", *(f"{depth} in flight" for depth in depths), "at most"), rows)
    first = f"{prices.wait_us:.1f} µs and {1024 * prices.wait_byte_us:.2f} µs a KiB"
    next_ = f"{prices.next_us:.1f} µs and {1024 * prices.next_byte_us:.2f} µs a KiB"
    return "\n".join(
        (
            f"{folder}: {prices.reader}, {way}; random reads a second",
            "",
            table,
            "",
            f"the first read of a batch costs {first}",
            f"each further one            {next_}",
            f"these prices miss the rates above by {prices.error_median:.0%} (median), {prices.error_max:.0%} at most",
        )
    )
