"""What a code is: the codebook's arrays, and how codes lie in RAM.

A code is a string of 4-bit *nibbles*, two to a byte, the low one first. Each nibble holds one or more
*fields*: a field is the quantized value of one component of the transformed residual, 1 to 4 bits wide, at a
shift within its nibble. A component of 5 to 7 bits takes two fields whose levels add. A nibble therefore
chooses one of 16 values of any linear form of the residual, which is what one byte shuffle looks up.

::

    residual r (dim) ── (r − mean) · analysis ──▶ components (m) ── nearest levels ──▶ fields ──▶ nibbles
    code ── levels ──▶ components (m) ── · synthesis + mean ──▶ reconstruction G (dim)

Invariants
----------
- Codes rest by page, transposed: ``codes[page, byte, slot]``. Byte b of all rows of a page is contiguous, so
  a scan loads 32 rows at once; a page of `capacity` rows takes exactly ``code_bytes * capacity`` bytes. A
  load may run past the end of the last page: the array therefore has `SCAN_SLACK_BYTES` more bytes behind it.
- A slot without a row holds code 0.
- Codes of pages rest the same way, by posting: byte b of all pages of a posting is contiguous.
- The numbers of this file are stored in index files and must not change.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError

NIBBLE_BITS = 4
NIBBLE_VALUES = 16
#: Sums of one 8-bit table entry per nibble stay below 2**16 up to here.
CODE_BYTES_MAX = 128
#: Of a page's centroid relative to its head; 16 bytes cost reads, 64 didn't save any.
PAGE_CODE_BYTES = 32
#: Longest code that is scanned with tables of 8-bit entries. Rounding adds 1.4 % to the error scale at 28 bytes,
#: 4 % at 44; longer codes take 16 bits, as two tables and two passes over the codes.
NARROW_BYTES_MAX = 28
#: A component takes at most two fields, 4 low bits and fewer high ones.
COMPONENT_BITS_MAX = 7
#: Rows that one step of the scan looks at, and what its last load may read past the end.
SCAN_ROWS = 32
SCAN_SLACK_BYTES = SCAN_ROWS

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Codebook:
    """How residuals of one kind become codes; made by ``annserve.codes.train``.

    Attributes
    ----------
    mean : (d,) float32
        Of the training residuals.
    analysis : (d, m) float32
        Columns give the components that take bits, those with the most bits first.
    synthesis : (m, d) float32
        Its counterpart: rows give what a component adds to the reconstruction.
    field_component, field_nibble, field_shift, field_bits : (f,) int32
        Which component a field quantizes, and its place in the code.
    field_levels : (f, 16) float32
        Value of each of its ``2**bits`` entries; the rest repeats the last. Ascending.
    """

    mean: F32
    analysis: F32
    synthesis: F32
    field_component: npt.NDArray[np.int32]
    field_nibble: npt.NDArray[np.int32]
    field_shift: npt.NDArray[np.int32]
    field_bits: npt.NDArray[np.int32]
    field_levels: F32

    def __post_init__(self) -> None:
        dim, components = self.analysis.shape if self.analysis.ndim == 2 else (0, 0)
        n_fields = self.field_component.size
        whole = (
            self.mean.shape == (dim,)
            and self.field_component.shape == (n_fields,)
            and self.synthesis.shape == (components, dim)
            and self.field_nibble.shape == (n_fields,)
            and self.field_shift.shape == (n_fields,)
            and self.field_bits.shape == (n_fields,)
            and self.field_levels.shape == (n_fields, NIBBLE_VALUES)
            and n_fields > 0
        )
        if not whole:
            raise CorruptionError("a codebook's arrays disagree in shape; rebuild the index")
        ends = self.field_shift + self.field_bits
        sane = (
            (self.field_bits >= 1).all()
            and (self.field_shift >= 0).all()
            and (ends <= NIBBLE_BITS).all()
            and (self.field_nibble >= 0).all()
            and (self.field_component >= 0).all()
            and (self.field_component < components).all()
            and self.code_bytes <= CODE_BYTES_MAX
        )
        if not sane:
            raise CorruptionError("a codebook's fields lie outside their code; rebuild the index")

    @property
    def dim(self) -> int:
        """Dimension of a residual."""
        return len(self.mean)

    @property
    def n_components(self) -> int:
        """Components that take bits."""
        return int(self.analysis.shape[1])

    @property
    def n_nibbles(self) -> int:
        """Nibbles of a code, an even number."""
        return 2 * self.code_bytes

    @property
    def code_bytes(self) -> int:
        """Bytes of a code."""
        return (int(self.field_nibble.max()) + 2) // 2

    @cached_property
    def tables(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], F32]:
        """Each field's component and nibble, and its level at each value of the nibble, as kernels take them."""
        values = np.arange(NIBBLE_VALUES) >> self.field_shift[:, None] & (1 << self.field_bits[:, None]) - 1
        return self.field_component, self.field_nibble, np.take_along_axis(self.field_levels, values, axis=1)

    @property
    def ram_bytes(self) -> int:
        """Bytes that the arrays take."""
        return sum(array.nbytes for array in self.as_arrays().values())

    def as_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays by name, for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Codebook:
        """Take what `as_arrays` gave.

        Raises
        ------
        CorruptionError
            If an array is missing or they disagree.
        """
        given: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in arrays:
                raise CorruptionError(f"a codebook lacks its array {field.name!r}; rebuild the index")
            whole = field.name.startswith("field_") and field.name != "field_levels"
            given[field.name] = np.ascontiguousarray(arrays[field.name], dtype=np.int32 if whole else np.float32)
        return cls(**given)


def check_code_bytes(code_bytes: int) -> int:
    """Give `code_bytes` back if a code can have that length.

    Raises
    ------
    InputError
        If it isn't in 1 … `CODE_BYTES_MAX`.
    """
    if not 1 <= code_bytes <= CODE_BYTES_MAX:
        raise InputError(f"code_bytes is {code_bytes}; it must lie between 1 and {CODE_BYTES_MAX}", field="code_bytes")
    return int(code_bytes)


def allocate_pages(n_pages: int, code_bytes: int, capacity: int) -> U8:
    """Give zeroed room for the codes of `n_pages` pages, with slack behind it.

    Returns
    -------
    (n_pages, code_bytes, capacity) uint8
        A view of a buffer that is `SCAN_SLACK_BYTES` longer.
    """
    size = n_pages * code_bytes * capacity
    buffer = np.zeros(size + SCAN_SLACK_BYTES, np.uint8)
    return buffer[:size].reshape(n_pages, code_bytes, capacity)


def flat_with_slack(pages: U8) -> U8:
    """Give the buffer that `pages` is a view of, slack included, as kernels take it."""
    base = pages.base
    assert isinstance(base, np.ndarray), "made by allocate_pages"
    assert base.ndim == 1, base.shape
    assert base.size >= pages.size + SCAN_SLACK_BYTES, (base.size, pages.size)
    return base


def flatten_postings(codes: U8, page_offsets: npt.NDArray[np.integer[Any]]) -> U8:
    """Lay the codes of pages by posting, transposed, with slack behind them.

    Parameters
    ----------
    codes : (n_pages, code_bytes) uint8
    page_offsets : (postings + 1,) int
        The pages of each posting.

    Returns
    -------
    (n_pages * code_bytes + slack,) uint8
    """
    flat = np.zeros(codes.size + SCAN_SLACK_BYTES, np.uint8)
    for first, stop in pairwise(page_offsets.tolist()):
        flat[first * codes.shape[1] : stop * codes.shape[1]] = codes[first:stop].T.ravel()
    return flat


def unflatten_postings(flat: U8, code_bytes: int, page_offsets: npt.NDArray[np.integer[Any]]) -> U8:
    """Give the codes that `flatten_postings` laid, (n_pages, code_bytes) uint8."""
    codes = np.empty((int(page_offsets[-1]), code_bytes), np.uint8)
    for first, stop in pairwise(page_offsets.tolist()):
        codes[first:stop] = flat[first * code_bytes : stop * code_bytes].reshape(code_bytes, -1).T
    return codes


def table_passes(code_bytes: int) -> int:
    """Give the number of passes that codes of this length are scanned in."""
    return 1 if code_bytes <= NARROW_BYTES_MAX else 2


def pack_page(codes: U8, pages: U8, page: int) -> None:
    """Write the codes of one page's rows, slot by slot.

    Parameters
    ----------
    codes : (r, code_bytes) uint8, r <= capacity
    pages : (n_pages, code_bytes, capacity) uint8
        Written at `page`.
    """
    pages[page, :, : len(codes)] = codes.T
    pages[page, :, len(codes) :] = 0


def unpack_page(pages: U8, page: int, n_rows: int) -> U8:
    """Give the codes of one page's first `n_rows` rows as (n_rows, code_bytes) uint8."""
    return np.ascontiguousarray(pages[page, :, :n_rows].T)
