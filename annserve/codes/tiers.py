"""Codes of one segment, ready to be scanned: a code per page, and a code per row in the order of the pages.

Codes of rows may lie on the SSD instead (``vicinity_layout``): then their two arrays are there, without a slot.

Sections of ``codes.bin`` (storage/FORMAT.md) are these arrays; those of the two codebooks and of the estimate carry
a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes.estimate import FACTOR_BYTES, Estimate
from annserve.codes.layout import SCAN_SLACK_BYTES, Codebook
from annserve.errors import CorruptionError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

#: Arrays of this class itself: their type and number of axes. Kernels trust both.
_PLAIN = {
    "page_codes": (np.uint8, 1),
    "page_constants": (np.float32, 1),
    "page_spreads": (np.float32, 1),
    "row_codes": (np.uint8, 1),
    "row_counts": (np.uint16, 1),
    "row_factors": (np.uint8, 3),
}
#: What only an encoder needs.
ENCODER_ARRAYS = ("p.analysis", "r.analysis")
#: Names of sections have 16 characters.
_SHORT = {"field_component": "f_component", "constant_min": "const_min", "constant_step": "const_step"} | {
    "distance_scale": "dist_scale",
}
_LONG = {short: long for long, short in _SHORT.items()}


@dataclass(frozen=True)
class CodeTiers:
    """Page codes and row codes.

    Attributes
    ----------
    page_book : Codebook
        Of page centroids relative to their heads.
    page_codes : (pages * code_bytes + slack,) uint8
        See ``layout``: transposed by posting.
    page_constants : (pages,) float32
        See ``estimate.centroid_constants``.
    page_spreads : (pages,) float32
        Log of the mean squared distance of a page's rows to its decoded centroid.
    row_book : Codebook
        Of rows relative to the decoded centroid of their page.
    row_codes : (pages * code_bytes * capacity + slack,) uint8
        See ``layout``: transposed by page.
    row_counts : (pages,) uint16
        Rows of each page.
    row_factors : (pages, 2, capacity) uint8
        See ``estimate``: all constants of a page, then all shrinks. Capacity 0 where rows' codes are on the SSD.
    estimate : Estimate
        Its `origin` is what queries are taken relative to.
    """

    page_book: Codebook
    page_codes: U8
    page_constants: F32
    page_spreads: F32
    row_book: Codebook
    row_codes: U8
    row_counts: npt.NDArray[np.uint16]
    row_factors: U8
    estimate: Estimate

    def __post_init__(self) -> None:
        typed = all(
            getattr(self, name).dtype == dtype and getattr(self, name).ndim == axes
            for name, (dtype, axes) in _PLAIN.items()
        )
        n_pages, n_factors, capacity = self.row_factors.shape if typed else (0, 0, 0)
        whole = typed and (
            n_factors == FACTOR_BYTES
            and self.page_codes.shape == (n_pages * self.page_book.code_bytes + SCAN_SLACK_BYTES,)
            and self.page_constants.shape == self.page_spreads.shape == self.row_counts.shape == (n_pages,)
            and self.row_codes.shape == (n_pages * self.row_book.code_bytes * capacity + SCAN_SLACK_BYTES,)
            and self.estimate.gains.shape == (self.row_book.n_components,)
            and self.estimate.origin.shape == (self.page_book.dim,) == (self.row_book.dim,)
        )
        if not whole or (capacity and int(self.row_counts.max(initial=0)) > capacity):
            raise CorruptionError("the arrays of the codes disagree; restore them, or build the index anew")

    @property
    def rows_on_ssd(self) -> bool:
        """Whether RAM holds no codes of rows."""
        return bool(self.row_factors.shape[2] == 0)

    def without_rows(self) -> CodeTiers:
        """Give these tiers without the codes of rows, for an index that has them on the SSD."""
        none = np.zeros(SCAN_SLACK_BYTES, np.uint8)
        return replace(self, row_codes=none, row_factors=np.zeros((len(self.row_counts), FACTOR_BYTES, 0), np.uint8))

    @property
    def tier_bytes(self) -> dict[str, int]:
        """Bytes in RAM by tier; the codebooks alone don't grow with the rows."""
        per_page = (self.page_codes, self.page_constants, self.page_spreads, self.row_counts)
        encoder = self.page_book.analysis.nbytes + self.row_book.analysis.nbytes
        return {
            "page_codes": sum(array.nbytes for array in per_page),
            "row_codes": self.row_codes.nbytes,
            "row_factors": self.row_factors.nbytes,
            "codebooks": self.page_book.ram_bytes + self.row_book.ram_bytes - encoder,
        }

    def as_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays by name, for a file."""
        arrays = {name: getattr(self, name) for name in _PLAIN}
        for prefix, part in (("p", self.page_book), ("r", self.row_book), ("e", self.estimate)):
            for name, array in part.as_arrays().items():
                arrays[f"{prefix}.{_SHORT.get(name, name)}"] = array
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> CodeTiers:
        """Take what `as_arrays` gave.

        Raises
        ------
        CorruptionError
            If an array is missing or they disagree.
        """

        def part(prefix: str) -> dict[str, npt.NDArray[Any]]:
            named = ((name.partition("."), array) for name, array in arrays.items())
            return {_LONG.get(name, name): array for (start, _, name), array in named if start == prefix}

        missing = [name for name in _PLAIN if name not in arrays]
        if missing:
            raise CorruptionError(f"the codes lack their array {missing[0]!r}; build the index anew")
        return cls(
            page_book=Codebook.from_arrays(part("p")),
            row_book=Codebook.from_arrays(part("r")),
            estimate=Estimate.from_arrays(part("e")),
            **{name: arrays[name] for name in _PLAIN},
        )
