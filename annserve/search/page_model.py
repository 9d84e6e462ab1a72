"""What queries of an index that isn't built yet will read: a small model, fitted to measurements.

::

    pages    = floor · (1 + blur)
    floor    = a · k^… · m^… · c^… · n^… · (1 − b · (1 − R)^…)       pages that hold R · k of the k nearest
    blur     = e · log(1/(1−R))^… · bytes^… · k^… · m^… · c^… · n^…   what codes can't tell apart
    reads    = pages · exp(−g · pages^… · n^…)                         neighbouring pages share one
    postings = h · n^… · k^… · log(1/(1−R))^… · m^…                    whose pages are ranked
    row codes; vicinities, where codes lie on the SSD; postings read, where there are no codes: as postings

with recall target R, k, n rows of intrinsic dimension m, c rows for each 4 KB of a page, and the bytes of a row's code.
Each part also has a power of the bytes of a page, which says what larger pages do to the same vectors. Heads alone
probe postings by the pages of those at home there, and fewer of them where replicas fill the rest. The exponents come
from ``bench/pages_fitted.py``, which also found how far the model misses sets that it wasn't fitted to; what it says
beyond the sizes that were measured is extrapolation, and less certain with every factor of ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from annserve.codes.vicinity_layout import VicinityLayout
from annserve.index.segment import Segment
from annserve.spec import PAGE_BYTES_MIN
from annserve.storage.pagefile import READ_BYTES_MAX

#: k below this count as this where codes are concerned: calibration passes over no page there.
_CODES_K_MIN = 10
#: The k at which the size of a page has its plain exponent.
_PAGE_K = 10
#: Where exponents are neutral: a typical size, dimension, page and code.
ROWS, INTRINSIC_DIM, CAPACITY, CODE_BYTES = 1e5, 16.0, 30.0, 16.0


@dataclass(frozen=True)
class Workload:
    """What decides how much a query reads.

    Attributes
    ----------
    n_rows : float
    intrinsic_dim : float
        Local intrinsic dimension, as ``vectors.synthetic.intrinsic_dimension`` measures it on 30,000 of the rows.
    page_capacity : int
        Rows on a page.
    code_bytes : int
        Of a row's code; 0 where there are none.
    pages_per_posting : int
    k : int
    recall_target : float
        0.80 … 0.99.
    codes_on_ssd : bool
        Whether the codes of rows lie there, in vicinities.
    copies : float
        Pages that there are, as a multiple of those that one copy of each row fills.
    page_bytes : int
    """

    n_rows: float
    intrinsic_dim: float
    page_capacity: int
    code_bytes: int
    pages_per_posting: int
    k: int
    recall_target: float
    codes_on_ssd: bool = False
    copies: float = 1.0
    page_bytes: int = PAGE_BYTES_MIN

    @property
    def page_size(self) -> float:
        """Bytes of a page, as a multiple of the least."""
        return self.page_bytes / PAGE_BYTES_MIN

    @property
    def miss(self) -> float:
        """How high the target lies: log(1/(1 − R))."""
        return -log(1 - self.recall_target)


def workload_of(segment: Segment, k: int, recall_target: float, intrinsic_dim: float | None = None) -> Workload:
    """Give the workload of an index that is there; its build measured its hardness, unless it is given."""
    return Workload(
        n_rows=segment.n_rows,
        intrinsic_dim=intrinsic_dim or segment.report.get("intrinsic_dim") or INTRINSIC_DIM,
        page_capacity=segment.spec.page_capacity,
        code_bytes=0 if segment.codes is None else segment.codes.row_book.code_bytes,
        pages_per_posting=max(round(segment.n_pages / segment.heads.n_heads), 1),
        k=k,
        recall_target=recall_target,
        codes_on_ssd=segment.vicinities is not None,
        copies=segment.n_pages * segment.spec.page_capacity / segment.n_rows if segment.copies > 1 else 1.0,
        page_bytes=segment.spec.page_bytes,
    )


@dataclass(frozen=True)
class Reading:
    """What a query is expected to look at and read, on average.

    Attributes
    ----------
    postings, page_codes, row_codes : float
    pages, reads : float
        Vicinities among them, where codes lie on the SSD.
    vicinities : float
    factor : float
        Two of three sets lie within pages / factor … pages · factor.
    """

    postings: float
    page_codes: float
    row_codes: float
    pages: float
    reads: float
    vicinities: float
    factor: float


@dataclass(frozen=True)
class Anchor:
    """What an index of the same kind of vectors was seen to read, to correct the model by.

    Attributes
    ----------
    work : Workload
        Of that index and those queries.
    pages : float
        Read on average.
    """

    work: Workload
    pages: float


def expected_reading(
    work: Workload, anchor: Anchor | None = None, *, constants: Mapping[str, float] | None = None
) -> Reading:
    """Say what a query will read.

    Parameters
    ----------
    work : Workload
    anchor : Anchor, optional
        Without one, the vectors are taken to be as hard as others of their dimension.
    constants : mapping, optional
        Other constants than the fitted ones, for whoever fits.

    Returns
    -------
    Reading
    """
    c = constants or CONSTANTS
    correction = anchor.pages / expected_reading(anchor.work, constants=c).pages if anchor else 1.0
    n_pages = max(work.copies * work.n_rows / work.page_capacity, 1.0)
    n_postings = max(n_pages / work.pages_per_posting, 1.0)
    row_codes = vicinities = 0.0
    if work.code_bytes:
        least = max(work.recall_target * work.k / work.page_capacity, 1.0)
        pages = max(_floor(work, c) * (1 + _blur(work, c)), least)
        postings = min(_power(work, c, "postings", k_min=_CODES_K_MIN), n_postings)
        row_codes = min(_power(work, c, "row_codes", k_min=_CODES_K_MIN), work.n_rows)
    else:
        held = work.k * work.recall_target / work.page_capacity
        home_pages = work.pages_per_posting * work.page_size / work.copies
        probes = _power(work, c, "probes") * home_pages ** c["probes.posting"] * work.copies ** c["probes.copies"]
        postings = min(max(probes, 1.0), n_postings)
        pages = max(postings * work.pages_per_posting, held)
    if work.codes_on_ssd:
        vicinities = min(max(_power(work, c, "vicinities"), 1.0), n_pages) * correction
        held = VicinityLayout(work.page_bytes, work.page_capacity, work.code_bytes).capacity
        row_codes = min(vicinities * held, work.n_rows)
        pages = pages * exp(c["ssd.base"])
    pages = min(max(pages * correction, 1.0), n_pages)
    # Pages of one posting lie together; a read takes 64 KB at most.
    apart = pages if work.code_bytes else min(postings * correction, pages)
    joined = exp(-c["reads.base"] * apart ** c["reads.pages"] * (work.n_rows / ROWS) ** c["reads.rows"])
    reads = max(apart * joined, pages * work.page_bytes / READ_BYTES_MAX, 1.0)
    page_codes = postings * work.pages_per_posting if work.code_bytes else 0.0
    pages, reads = pages + vicinities, reads + vicinities * joined
    return Reading(postings, page_codes, row_codes, pages, reads, vicinities, _factor(work, anchor, c))


def _floor(work: Workload, c: Mapping[str, float]) -> float:
    share = 1 - c["floor.missed"] * (1 - work.recall_target) ** c["floor.missed_power"]
    # Many neighbours fill pages, of which larger ones hold as many more.
    larger = work.page_size ** (c["floor.page_k"] * log(work.k / _PAGE_K))
    return float(_shape(work, c, "floor") * work.k ** c["floor.k"] * share * larger)


def _blur(work: Workload, c: Mapping[str, float]) -> float:
    length = (work.code_bytes / CODE_BYTES) ** c["blur.bytes"]
    return float(_shape(work, c, "blur") * work.k ** c["blur.k"] * work.miss ** c["blur.miss"] * length)


def _power(work: Workload, c: Mapping[str, float], name: str, k_min: int = 1) -> float:
    return float(_shape(work, c, name) * max(work.k, k_min) ** c[f"{name}.k"] * work.miss ** c[f"{name}.miss"])


def _shape(work: Workload, c: Mapping[str, float], name: str) -> float:
    """What size, dimension and page make of a quantity."""
    return float(
        exp(c[f"{name}.base"])
        * (work.n_rows / ROWS) ** c[f"{name}.rows"]
        * (work.intrinsic_dim / INTRINSIC_DIM) ** c[f"{name}.dim"]
        * (work.page_capacity / work.page_size / CAPACITY) ** c[f"{name}.capacity"]
        * work.page_size ** c[f"{name}.page"]
    )


def _factor(work: Workload, anchor: Anchor | None, c: Mapping[str, float]) -> float:
    """How far the model may miss: what it missed sets by that it didn't know, and its growth beyond them."""
    mode = "ssd" if work.codes_on_ssd else "codes" if work.code_bytes else "probes"
    missed, known_rows = c[f"error.{mode}"], c[f"rows_max.{mode}"]
    if anchor is not None:
        missed, known_rows = c["error.anchored"], anchor.work.n_rows
    beyond = abs(log(work.n_rows / known_rows)) if anchor else max(log(work.n_rows / known_rows), 0.0)
    return exp((missed**2 + (c["error.growth"] * beyond) ** 2) ** 0.5)


#: Fitted by bench/pages_fitted.py (bench/results/2026-11-21-auto/model.json; a test compares them with its answer).
CONSTANTS: Mapping[str, float] = {
    "floor.base": 0.7144,
    "floor.rows": 0.0287,
    "floor.dim": 0.3345,
    "floor.capacity": 0.0204,
    "floor.k": 0.7857,
    "floor.missed": 0.9083,
    "floor.missed_power": 0.1939,
    "blur.base": -0.2583,
    "blur.rows": 0.2992,
    "blur.dim": 1.416,
    "blur.capacity": -1.1901,
    "blur.k": -0.6308,
    "blur.miss": 1.2841,
    "blur.bytes": -1.3081,
    "postings.base": 3.4177,
    "postings.rows": 0.5159,
    "postings.dim": 0.0885,
    "postings.capacity": -0.9232,
    "postings.k": 0.1033,
    "postings.miss": 0.6023,
    "row_codes.base": 6.472,
    "row_codes.rows": 0.2826,
    "row_codes.dim": 0.7999,
    "row_codes.capacity": 0.4326,
    "row_codes.k": 0.5051,
    "row_codes.miss": 0.7952,
    "probes.base": 2.1576,
    "probes.rows": 0.3546,
    "probes.dim": 1.033,
    "probes.capacity": -0.6182,
    "probes.k": 0.1987,
    "floor.page": -0.4562,
    "floor.page_k": -0.0866,
    "blur.page": 0.2103,
    "postings.page": -0.9,
    "row_codes.page": 0.5,
    "probes.page": -0.0554,
    "vicinities.page": -0.5643,
    "probes.miss": 1.5748,
    "probes.posting": -0.3787,
    "probes.copies": -1.4503,
    "vicinities.base": 0.7661,
    "vicinities.rows": 0.2694,
    "vicinities.dim": -0.0985,
    "vicinities.capacity": -0.5032,
    "vicinities.k": 0.1753,
    "vicinities.miss": 1.4026,
    "ssd.base": 0.3026,
    "reads.base": 0.0348,
    "reads.pages": 0.538,
    "reads.rows": -0.2701,
    "error.codes": 0.335,
    "error.probes": 0.494,
    "error.ssd": 0.816,
    "error.anchored": 0.268,
    "error.growth": 0.04,
    "rows_max.codes": 7_000_000,
    "rows_max.probes": 125_000,
    "rows_max.ssd": 500_000,
}
