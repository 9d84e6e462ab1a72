"""How a RAM budget is spent: by which codes pages are chosen, and on how many heads and bytes of code.

==========  ==============================================  =============================================
mode        RAM                                             a query reads
==========  ==============================================  =============================================
``ram``     heads, codes of pages and rows                  the pages its codes choose
``ssd``     heads, codes of pages                           vicinities (codes of rows), then pages
``none``    heads alone                                     whole postings, on more disk with replicas
==========  ==============================================  =============================================

Bytes a vector, at c rows a page and p pages a posting: heads (links and vector) / (c · p), page tier 42 / c, row codes
(code bytes + 2) / fill. Bytes of a row's code save most reads, so what heads and pages leave goes there. The codebooks
(up to 8 · dim² bytes) don't grow with the rows and aren't counted here; ``inspect`` shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from annserve.codes.estimate import FACTOR_BYTES
from annserve.codes.layout import CODE_BYTES_MAX, PAGE_CODE_BYTES
from annserve.codes.vicinity_layout import NO_PLACE
from annserve.errors import InputError
from annserve.heads.layout import NodeLayout
from annserve.sizes import UNITS, budget_of
from annserve.spec import IndexSpec

#: Pages of a posting where page codes rank them: measured best at every budget.
PAGES_PER_POSTING = 16
#: Constant, spread and count of a page beside its code.
_PAGE_FACTS_BYTES = 10
#: Offset and radius of a posting.
_POSTING_BYTES = 8
#: Pages are at least so full; fewer rows share a page's bytes.
_FILL = 0.985
#: Shorter codes of rows tell too little apart.
_CODE_BYTES_MIN = 4
#: Longer codes on the SSD leave fewer pages to read, but fill more vicinities.
_SSD_DIMS_PER_BYTE = 8
#: Below, heads alone read no more pages than codes on the SSD: 7.9 and 8.1 at 16 dimensions.
_SSD_DIM_MIN = 32
#: Training takes time in proportion to dim³ (some minutes here) and codebooks 8 · dim² bytes; embeddings have fewer.
CODE_DIM_MAX = 4_096
#: Without codes every page of a posting is read.
_PAGES_PER_POSTING_MAX = 256
#: Places of a posting for each row at home there, at least, where there are replicas.
_ROOM_MIN = 1.25


@dataclass(frozen=True)
class TierPlan:
    """What a budget buys.

    Attributes
    ----------
    code_bytes : int
        Of a row's code; 0 where there are none.
    pages_per_posting : int
        At most.
    bytes_per_vector : float
        Predicted RAM.
    rows_at_home : int
        Rows that a posting is home of, at most.
    codes_on_ssd : bool
        Whether the codes of rows lie on the SSD.
    replicas : int
        Copies of a row, at most.
    """

    code_bytes: int
    pages_per_posting: int
    bytes_per_vector: float
    rows_at_home: int
    codes_on_ssd: bool = False
    replicas: int = 1

    @property
    def mode(self) -> str:
        """How pages are chosen, one of ``design.options.MODES``."""
        if not self.code_bytes:
            return "none"
        return "ssd" if self.codes_on_ssd else "ram"

    def copies(self, page_capacity: int) -> float:
        """Give the places that there are for a row: how often it lies on pages, on average, at most."""
        if self.replicas == 1:
            return 1.0
        return min(self.pages_per_posting * page_capacity / self.rows_at_home, float(self.replicas))


def ram_per_vector(ram: str, spec: IndexSpec, n_rows: int) -> float:
    """Read a budget, as bytes a vector.

    Parameters
    ----------
    ram : str
        A share of the vectors' INT8 size (``25%``), bytes a vector (``20B``), or a total (``2GiB``).

    Raises
    ------
    InputError
        If it is none of these.
    """
    number, unit = budget_of(ram)
    if unit == "%":
        return number / 100 * spec.dim
    if unit == "B":
        return number
    return number * UNITS[unit] / n_rows


def plan_tiers(spec: IndexSpec, n_rows: int, ram: str, codes: str, replicas: int = 1) -> TierPlan:
    """Spend a budget.

    Parameters
    ----------
    spec : IndexSpec
    n_rows : int
    ram : str
        See `ram_per_vector`.
    codes : str
        One of ``design.options.MODES``, or ``auto``: the one of them that reads the fewest pages at recall 0.95.
    replicas : int
        Copies of a row at most; more than one only without codes.

    Raises
    ------
    InputError
        If the budget is below the least that such an index of this shape takes; the message says what that is.
    """
    budget = ram_per_vector(ram, spec, n_rows)
    if codes == "auto":
        codes = _best_mode(spec, n_rows, budget)
    if codes != "none" and spec.space_dim > CODE_DIM_MAX:
        raise InputError(
            f"codes need at most {CODE_DIM_MAX:,} dimensions, these rows have {spec.space_dim:,}; choose codes=none",
            field="codes",
        )
    if codes == "ram":
        return _plan_ram(spec, budget)
    if codes == "ssd":
        return _plan_ssd(spec, budget)
    return _plan_heads(spec, n_rows, budget, replicas)


def ram_codes_pay(spec: IndexSpec) -> float:
    """Give the RAM, in bytes a vector, from which codes of rows in RAM read fewer pages than those on the SSD.

    Notes
    -----
    At recall 0.95 both read as many with 5 bytes of code in RAM at 31,250 rows of 128 dimensions, 6 at 125,000 and at
    500,000, 9 at 32,000 of 384 (dialogues), 11 at 12,000 of these (paragraphs): half the root of the dimensions.
    Measured by ``bench/modes.py``, bench/results/2026-11-21-auto.
    """
    code_bytes = max(ceil(spec.space_dim**0.5 / 2), _CODE_BYTES_MIN)
    return ram_with_codes(spec, min(code_bytes, _ssd_code_bytes(spec)))


def _best_mode(spec: IndexSpec, n_rows: int, budget: float) -> str:
    """Give the mode that reads the fewest pages."""
    if spec.space_dim > CODE_DIM_MAX:
        return "none"
    ssd_fits = budget >= _ram_ssd(spec, _PAGES_PER_POSTING_MAX) and n_rows <= _FILL * NO_PLACE
    ssd_fits &= spec.space_dim >= _SSD_DIM_MIN
    if budget >= (ram_codes_pay(spec) if ssd_fits else ram_with_codes(spec)):
        return "ram"
    return "ssd" if ssd_fits else "none"


def tier_bytes(spec: IndexSpec, n_rows: int, tiers: TierPlan) -> dict[str, float]:
    """Say how much RAM each tier of a plan takes, in bytes, codebooks aside."""
    ram_bytes = {"heads": n_rows / (tiers.rows_at_home * _FILL) * _head_bytes(spec)}
    if tiers.code_bytes:
        n_pages = n_rows / (spec.page_capacity * _FILL)
        ram_bytes["page_codes"] = n_pages * (PAGE_CODE_BYTES + _PAGE_FACTS_BYTES)
    if tiers.code_bytes and not tiers.codes_on_ssd:
        ram_bytes["row_codes"] = n_rows * tiers.code_bytes / _FILL
        ram_bytes["row_factors"] = n_rows * FACTOR_BYTES / _FILL
    return ram_bytes


def ram_with_codes(spec: IndexSpec, code_bytes: int = _CODE_BYTES_MIN) -> float:
    """Give the RAM, in bytes a vector, of an index with row codes of a length; by default the shortest that pay."""
    per_page = spec.page_capacity * _FILL
    of_page = _head_bytes(spec) / PAGES_PER_POSTING + PAGE_CODE_BYTES + _PAGE_FACTS_BYTES
    return of_page / per_page + (code_bytes + FACTOR_BYTES) / _FILL


def _head_bytes(spec: IndexSpec) -> float:
    node = NodeLayout(spec.space_dim)
    return node.page_bytes / node.nodes_per_page + _POSTING_BYTES


def _ram_ssd(spec: IndexSpec, pages_per_posting: int) -> float:
    """Give the RAM, in bytes a vector, with codes of rows on the SSD."""
    of_page = _head_bytes(spec) / pages_per_posting + PAGE_CODE_BYTES + _PAGE_FACTS_BYTES
    return of_page / (spec.page_capacity * _FILL)


def _plan_ram(spec: IndexSpec, budget: float) -> TierPlan:
    """Spend a budget on codes of rows: as many bytes as heads and pages leave."""
    left = int((budget - ram_with_codes(spec, 0)) * _FILL)
    if left < _CODE_BYTES_MIN:
        raise InputError(
            f"ram allows {budget:.3f} bytes a vector, but with codes of rows in RAM the least is "
            f"{_up(ram_with_codes(spec)):.3f}; give more, or choose codes=auto",
            field="ram",
        )
    code_bytes = min(left, CODE_BYTES_MAX, spec.space_dim)
    ram_bytes = ram_with_codes(spec, code_bytes)
    return TierPlan(code_bytes, PAGES_PER_POSTING, ram_bytes, PAGES_PER_POSTING * spec.page_capacity)


def _ssd_code_bytes(spec: IndexSpec) -> int:
    return min(max(spec.space_dim // _SSD_DIMS_PER_BYTE, _CODE_BYTES_MIN), CODE_BYTES_MAX, spec.space_dim)


def _plan_ssd(spec: IndexSpec, budget: float) -> TierPlan:
    """Spend a budget where the codes of rows lie on the SSD: page codes always, heads as many as there is room for."""
    for pages_per_posting in (PAGES_PER_POSTING << doublings for doublings in range(5)):
        ram_bytes = _ram_ssd(spec, pages_per_posting)
        if ram_bytes <= budget:
            rows_at_home = pages_per_posting * spec.page_capacity
            return TierPlan(_ssd_code_bytes(spec), pages_per_posting, ram_bytes, rows_at_home, codes_on_ssd=True)
    raise InputError(
        f"ram allows {budget:.3f} bytes a vector, but with codes on SSD the least is {_up(ram_bytes):.3f}: a code for "
        "each page, and heads of postings of 256 pages; give more, or choose codes=none",
        field="ram",
    )


def _plan_heads(spec: IndexSpec, n_rows: int, budget: float, replicas: int) -> TierPlan:
    """Spend a budget on heads alone."""
    head, per_page = _head_bytes(spec), spec.page_capacity * _FILL
    if replicas > 1 and head <= budget * per_page * _PAGES_PER_POSTING_MAX:
        return _plan_replicas(spec.page_capacity, head / _FILL, budget, replicas)
    for pages_per_posting in range(1, _PAGES_PER_POSTING_MAX + 1):
        ram_bytes = head / (per_page * pages_per_posting)
        if ram_bytes <= budget:
            return TierPlan(0, pages_per_posting, ram_bytes, pages_per_posting * spec.page_capacity)
    least = _up(ram_bytes)
    raise InputError(
        f"ram allows {budget:.3f} bytes a vector, but the least is {least:.3f}, {ceil(least * n_rows):,} bytes in all: "
        f"heads of postings of {_PAGES_PER_POSTING_MAX} pages; give more",
        field="ram",
    )


def _up(ram_bytes: float) -> float:
    """Round up, so that what is told is enough."""
    return ceil(1e3 * ram_bytes) / 1e3


def _plan_replicas(page_capacity: int, head: float, budget: float, replicas: int) -> TierPlan:
    """Spend a budget on heads alone: fewer rows at home, and pages so that half of all replicas find room.

    Parameters
    ----------
    page_capacity : int
    head : float
        Bytes of a head for each row of a full posting.
    budget : float
        Bytes a vector.
    replicas : int
    """
    # More heads than that, and rows can't fill their pages.
    rows_at_home = max(ceil(head / budget), ceil(page_capacity / replicas))
    pages = max(rows_at_home * replicas // (2 * page_capacity), ceil(_ROOM_MIN * rows_at_home / page_capacity))
    return TierPlan(0, pages, head / rows_at_home, rows_at_home, replicas=replicas)
