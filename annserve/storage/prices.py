"""What reads cost on a disk: a price for each read and one for each of its bytes, as ``storage.probe`` measured them.

The first read of a batch takes *wait* until it is there, and each further one in flight beside it takes *next*: d reads
together take wait + (d − 1) · next, of which a disk that is kept busy sees only the second part. Measured on a virtual
disk, 4 KB reads: 111 µs and 14.7 µs, which say 9.0, 37, 56 and 65 thousand reads a second at depths 1, 8, 32 and 128,
where 9, 38, 56 and 68 were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError

#: Names the layout of `DiskPrices.as_dict`.
FORMAT = "annserve-disk-1"
#: How a file of them is made.
MADE_BY = "measure the disk by 'annserve probe-disk FOLDER --out FILE'"
#: Least price of a read.
_LEAST_US = 0.01


@dataclass(frozen=True)
class Cell:
    """Random reads of one size, as many in flight as `depth` says.

    Attributes
    ----------
    read_bytes, depth : int
    reads_per_second : float
    """

    read_bytes: int
    depth: int
    reads_per_second: float


@dataclass(frozen=True)
class DiskPrices:
    """Prices of reads, microseconds.

    Attributes
    ----------
    wait_us, wait_byte_us : float
        Of a lone read, and of each of its bytes.
    next_us, next_byte_us : float
        Of each further read in flight, and of each of its bytes: what a read takes of a disk that is kept busy.
    reader : str
        How it was read: ``uring`` or ``pread``.
    direct : bool
        Whether past the page cache; prices of a page cache say little about its disk.
    cells : tuple of Cell
        What was measured.
    error_median, error_max : float
        Of the reads a second that these prices imply, as shares of those measured.
    """

    wait_us: float
    wait_byte_us: float
    next_us: float
    next_byte_us: float
    reader: str
    direct: bool
    cells: tuple[Cell, ...]
    error_median: float
    error_max: float

    def batch_us(self, reads: float, n_bytes: float) -> float:
        """Give the time until a batch of reads, begun together on an idle disk, has come."""
        if reads <= 0:
            return 0.0
        size = n_bytes / reads
        first = self.wait_us + size * self.wait_byte_us
        return first + max(reads - 1, 0) * (self.next_us + size * self.next_byte_us)

    def busy_us(self, reads: float, n_bytes: float) -> float:
        """Give the time that some reads take of a disk that is kept busy."""
        return reads * self.next_us + n_bytes * self.next_byte_us

    def reads_per_second(self, read_bytes: float, depth: int) -> float:
        """Give the reads of a size that come in a second, with `depth` of them in flight."""
        return 1e6 * depth / self.batch_us(depth, depth * read_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for a sealed file."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> DiskPrices:
        """Read what `as_dict` wrote.

        Raises
        ------
        CorruptionError
            If it is something else, or holds a price that can't be.
        """
        if content.get("format") != FORMAT:
            raise CorruptionError(
                f"these are no prices of a disk (format {content.get('format')!r}); make them with "
                "'annserve probe-disk PATH --out prices.json'"
            )
        try:
            cells = tuple(Cell(**cell) for cell in content["cells"])
            prices = cls(**{**{name: content[name] for name in cls.__dataclass_fields__}, "cells": cells})
            sane = min(prices.wait_us, prices.next_us) > 0 and min(prices.wait_byte_us, prices.next_byte_us) >= 0
        except (KeyError, TypeError) as error:
            raise CorruptionError(
                f"the prices lack a field or hold a wrong one: {error}; probe the disk anew"
            ) from error
        if not sane:
            raise CorruptionError("the prices of the disk aren't positive; probe it anew")
        return prices


#: Where no other disk is named: a virtual one over NVMe, as probed (bench/results/2026-11-21-plan/disk.json; a test
#: compares). It says nothing of another disk.
TYPICAL = DiskPrices(
    wait_us=53.33575363619842,
    wait_byte_us=0.0008501868134317436,
    next_us=7.305658610609173,
    next_byte_us=0.000870788228450699,
    reader="uring",
    direct=True,
    cells=(),
    error_median=0.04957800278028973,
    error_max=0.17948978348627653,
)


def fit_prices(cells: Sequence[Cell], reader: str, direct: bool) -> DiskPrices:
    """Fit prices to measured rates, to the least relative errors.

    Parameters
    ----------
    cells : sequence of Cell
        Of several sizes and depths, depth 1 among them.
    reader, direct
        As in `DiskPrices`.
    """
    sizes = np.array([cell.read_bytes for cell in cells], np.float64)
    depths = np.array([cell.depth for cell in cells], np.float64)
    rates = np.array([cell.reads_per_second for cell in cells])
    batches_us = 1e6 * depths / rates
    columns = np.column_stack((np.ones_like(sizes), sizes, depths - 1, (depths - 1) * sizes)) / batches_us[:, None]
    wait, wait_byte, next_, next_byte = _not_negative(columns).tolist()
    prices = DiskPrices(wait, wait_byte, next_, next_byte, reader, direct, tuple(cells), 0.0, 0.0)
    implied = np.array([prices.reads_per_second(cell.read_bytes, cell.depth) for cell in cells])
    errors = np.abs(implied / rates - 1)
    return replace(prices, error_median=float(np.median(errors)), error_max=float(errors.max()))


def _not_negative(columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Find the four prices, none below zero, that bring the columns' sum nearest to one; all sets of zeros tried."""
    best, least = np.full(4, _LEAST_US), np.inf
    for kept in product((False, True), repeat=4):
        if not (kept[0] and kept[2]):
            continue
        chosen = np.array(kept)
        prices = np.zeros(4)
        prices[chosen], *_ = np.linalg.lstsq(columns[:, chosen], np.ones(len(columns)), rcond=None)
        miss = float(((columns @ prices - 1) ** 2).sum())
        if prices.min() >= 0 and miss < least:
            best, least = prices, miss
    # A read itself is never free, whatever noise says.
    return np.asarray(np.maximum(best, (_LEAST_US, 0, _LEAST_US, 0)))
