"""A query → tables, and tables over codes → inner products with their reconstructions.

Tables are made once per query, not per page: ⟨q − c, G⟩ = ⟨q, G⟩ − ⟨c, G⟩, and the second term belongs to
the row alone (``annserve.codes.estimate`` keeps it in the row's first factor). Entries are rounded on one
scale of 8 bits, which is off by some ``step * sqrt(n_nibbles / 12)``: a twentieth of the error of 16-byte
codes, but more than that of 76-byte ones. Longer codes therefore take 16 bits, as two tables and two
passes over the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.codes import kernels
from annserve.codes.layout import NIBBLE_VALUES, SCAN_ROWS, SCAN_SLACK_BYTES, Codebook

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

#: Longest code whose tables have 8 bits. Rounding adds 1.4 % to the error scale at 28 bytes, 4 % at 44.
NARROW_BYTES_MAX = 28


@dataclass(frozen=True)
class Tables:
    """What one query looks up.

    Attributes
    ----------
    entries : (passes, n_nibbles, 16) uint8
        Of two passes, the second holds the high bytes.
    step, offset : float
        ⟨q, G⟩ is about ``offset + step * sum of entries``.
    """

    entries: U8
    step: float
    offset: float


def exact_tables(codebook: Codebook, query: F32, gains: F32 | None = None) -> F32:
    """Give what each nibble value adds to ⟨q, G⟩, apart from ⟨q, mean⟩.

    Parameters
    ----------
    query : (d,) float32
    gains : (m,) float32, optional
        Factor of each component, learned with the estimate.

    Returns
    -------
    (n_nibbles, 16) float32
    """
    projected = codebook.synthesis @ query
    if gains is not None:
        projected = projected * gains
    tables = np.empty((codebook.n_nibbles, NIBBLE_VALUES), np.float32)
    kernels.nibble_tables(
        np.ascontiguousarray(projected, dtype=np.float32),
        codebook.field_component,
        codebook.field_nibble,
        codebook.field_shift,
        codebook.field_bits,
        codebook.field_levels,
        tables,
    )
    return tables


def make_tables(codebook: Codebook, query: F32, gains: F32 | None = None) -> Tables:
    """Give the rounded tables of one query; see `exact_tables`."""
    exact = exact_tables(codebook, query, gains)
    entries = np.empty((table_passes(codebook.code_bytes), *exact.shape), np.uint8)
    step, offset = kernels.quantize_tables(exact, entries)
    mean_part = float(codebook.mean @ query)
    return Tables(entries, float(step), float(offset) + mean_part)


def table_passes(code_bytes: int) -> int:
    """Give the number of passes that codes of this length are scanned in."""
    return 1 if code_bytes <= NARROW_BYTES_MAX else 2


def scan(tables: Tables, pages: U8, page_ids: npt.NDArray[np.int64]) -> F32:
    """Give ⟨q, G⟩ for every slot of the pages asked for.

    Parameters
    ----------
    pages : (n_pages, code_bytes, capacity) uint8
        As `allocate_pages` gave it: with slack behind it.
    page_ids : (p,) int64

    Returns
    -------
    (p, capacity) float32
    """
    capacity = pages.shape[2]
    width = -(-capacity // SCAN_ROWS) * SCAN_ROWS
    sums = np.empty((len(page_ids), width), np.uint16)
    total = np.zeros((len(page_ids), capacity), np.int32)
    for weight, entries in zip((1, 256), tables.entries, strict=False):
        kernels.scan_pages(flat_with_slack(pages), page_ids, capacity, entries, sums)
        total += weight * sums[:, :capacity].astype(np.int32)
    return np.float32(tables.offset) + np.float32(tables.step) * total.astype(np.float32)


def flat_with_slack(pages: U8) -> U8:
    """Give the buffer that `pages` is a view of, slack included, as kernels take it."""
    base = pages.base
    assert isinstance(base, np.ndarray), "made by allocate_pages"
    assert base.ndim == 1, base.shape
    assert base.size >= pages.size + SCAN_SLACK_BYTES, (base.size, pages.size)
    return base
