"""What an index would take and do, before a row of it is read: RAM, disk, reads, latency, throughput, build.

The budget is spent by the build's own planner (``design.budget``); what queries read comes from a model fitted to
measurements (``search.page_model``); what reads cost from a disk's prices (``storage.prices``). Times of the CPU are
those of one core of the machine that the constants below were measured on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from annserve.design.budget import plan_tiers, tier_bytes
from annserve.design.memory import least_bytes, scratch_bytes
from annserve.design.options import BuildOptions
from annserve.raw.layout import RawLayout
from annserve.search.page_model import INTRINSIC_DIM, Anchor, Reading, Workload, expected_reading
from annserve.spec import IndexSpec
from annserve.storage.prices import DiskPrices

#: CPU of a query in a batch, microseconds: whatever it looks at; a head and a row at 128 dimensions; a row code of 16
#: bytes; a page code; a page, with read and checksum. By bench/cpu_fitted.py on a busy machine, so rather too high.
CPU_US = {"fixed": 9.7975, "head": 0.01, "row": 0.0074, "row_code": 0.0055, "page_code": 0.0272, "page": 10.1352}
#: Distances that a walk computes for each head it wants.
_WALK_FACTOR = 6

#: CPU of a build at 128 dimensions: seconds whatever the rows are, and microseconds a row for staging, clustering,
#: codes and pages; held-out queries look at every row, 7 ns each.
BUILD_FIXED_S, BUILD_ROW_US, BUILD_TRUTH_US = 110.0, 190.0, 0.007
#: Codebooks: two matrices of the index space.
_CODEBOOK_BYTES = 8


@dataclass(frozen=True)
class Forecast:
    """An index that isn't built yet, asked for one k and recall target.

    Attributes
    ----------
    ram : str
        The budget, as given.
    mode : str
        How pages are chosen, one of ``design.options.MODES``.
    page_bytes, code_bytes, pages_per_posting, replicas, heads, pages : int
        What the budget buys; code_bytes is 0 where heads alone choose pages.
    copies : float
        Of a row, on average: at most so many.
    ram_tiers, disk_parts : dict
        Bytes in RAM by tier, and on disk by file.
    ram_bytes, ram_bytes_per_vector, disk_bytes : float
        Bytes a vector without the codebooks, which don't grow, and without the page cache.
    reading : Reading
        What a query looks at and reads.
    query_bytes, disk_us, cpu_us, latency_us : float
        Of one query: what it reads, the time that takes of a busy disk, and of a core; latency is that of one alone.
        What a page cache holds isn't read.
    queries_per_second : float
        On `threads` cores, many queries at once.
    bound_by : str
        ``disk`` or ``cpu``: what keeps it from being more.
    build_seconds, build_ram_bytes, build_disk_bytes : float
        On `threads` cores; the least RAM that a build can be told to stay within, and the index with the build's own
        files.
    """

    k: int
    recall_target: float
    ram: str
    threads: int
    mode: str
    page_bytes: int
    code_bytes: int
    pages_per_posting: int
    replicas: int
    heads: int
    pages: int
    copies: float
    ram_tiers: dict[str, float]
    disk_parts: dict[str, float]
    ram_bytes: float
    ram_bytes_per_vector: float
    disk_bytes: float
    reading: Reading
    query_bytes: float
    disk_us: float
    cpu_us: float
    latency_us: float
    queries_per_second: float
    bound_by: str
    build_seconds: float
    build_ram_bytes: float
    build_disk_bytes: float

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for JSON."""
        return asdict(self)


def forecast(
    spec: IndexSpec,
    n_rows: int,
    prices: DiskPrices,
    *,
    ram: str = BuildOptions.ram,
    codes: str = BuildOptions.codes,
    replicas: int = BuildOptions.replicas,
    raw: RawLayout | None = None,
    cache_bytes: float = 0.0,
    k: int = 10,
    recall_target: float,
    intrinsic_dim: float = INTRINSIC_DIM,
    threads: int = 1,
    anchor: Anchor | None = None,
) -> Forecast:
    """Plan an index and say what it would take and do.

    Parameters
    ----------
    spec : IndexSpec
    n_rows : int
    prices : DiskPrices
    ram, codes, replicas
        As a build takes them.
    raw : RawLayout, optional
        Of raw rows that are kept on disk beside the pages.
    cache_bytes : float
        Of a page cache, beside the budget. It is taken to hold any page as likely as another, which is the least that
        it can save: queries that come again find more.
    k, recall_target
        Of a query; 0.80 … 0.99.
    intrinsic_dim : float
        Of the rows, see ``search.page_model``.
    threads : int
        Cores that search, or build.
    anchor : Anchor, optional

    Returns
    -------
    Forecast

    Raises
    ------
    InputError
        If the budget is below the least that such an index takes; the message says what that is.
    """
    tiers = plan_tiers(spec, n_rows, ram, codes, replicas)
    ram_tiers = tier_bytes(spec, n_rows, tiers)
    if tiers.code_bytes:
        ram_tiers["codebooks"] = _CODEBOOK_BYTES * spec.space_dim**2
    n_heads = max(-(-n_rows // tiers.rows_at_home), 1)
    home_pages = max(-(-n_rows // spec.page_capacity), 1)
    copies = tiers.copies(spec.page_capacity)
    n_pages = ceil(home_pages * copies)
    work = Workload(
        n_rows,
        intrinsic_dim,
        spec.page_capacity,
        tiers.code_bytes,
        tiers.pages_per_posting,
        k,
        recall_target,
        tiers.codes_on_ssd,
        copies,
        spec.page_bytes,
    )
    reading = expected_reading(work, anchor)
    disk_parts = _disk_parts(spec, n_pages, tiers.codes_on_ssd, raw, sum(ram_tiers.values()))
    paged = sum(disk_parts[name] for name in ("pages", "vicinities") if name in disk_parts)
    missed = 1 - min(cache_bytes / paged, 1.0)
    reads, query_bytes = missed * reading.reads, missed * reading.pages * spec.page_bytes
    if cache_bytes:
        ram_tiers["cache"] = cache_bytes
    cpu_us = _cpu_us(spec, reading, n_heads, tiers.code_bytes)
    disk_us = prices.busy_us(reads, query_bytes)
    # Vicinities come before pages are chosen: a batch of their own.
    waited = prices.batch_us(reads, query_bytes) + (prices.wait_us if tiers.codes_on_ssd and reads else 0.0)
    disk_bytes = sum(disk_parts.values())
    return Forecast(
        k=k,
        recall_target=recall_target,
        ram=ram,
        threads=threads,
        mode=tiers.mode,
        page_bytes=spec.page_bytes,
        code_bytes=tiers.code_bytes,
        pages_per_posting=tiers.pages_per_posting,
        replicas=tiers.replicas,
        heads=n_heads,
        pages=n_pages,
        copies=copies,
        ram_tiers=ram_tiers,
        disk_parts=disk_parts,
        ram_bytes=sum(ram_tiers.values()),
        ram_bytes_per_vector=tiers.bytes_per_vector,
        disk_bytes=disk_bytes,
        reading=reading,
        query_bytes=query_bytes,
        disk_us=disk_us,
        cpu_us=cpu_us,
        latency_us=cpu_us + waited,
        queries_per_second=1e6 / max(cpu_us / threads, disk_us),
        bound_by="disk" if disk_us > cpu_us / threads else "cpu",
        build_seconds=_build_cpu_seconds(spec, n_rows) / threads,
        build_ram_bytes=least_bytes(spec, n_rows, tiers),
        build_disk_bytes=disk_bytes + scratch_bytes(n_rows, spec, raw),
    )


def _disk_parts(
    spec: IndexSpec, n_pages: int, codes_on_ssd: bool, raw: RawLayout | None, ram_bytes: float
) -> dict[str, float]:
    """Give the bytes of each file."""
    parts = {"pages": float(n_pages * spec.page_bytes)}
    if codes_on_ssd:
        parts["vicinities"] = float(n_pages * spec.page_bytes)
    if raw is not None:
        parts["raw_rows"] = float(raw.n_pages(n_pages * spec.page_capacity) * raw.page_bytes)
    return parts | {"in_ram": ram_bytes}


def _cpu_us(spec: IndexSpec, reading: Reading, n_heads: int, code_bytes: int) -> float:
    width = spec.space_dim / 128
    compared = min(_WALK_FACTOR * reading.postings, n_heads)
    rows = reading.pages * spec.page_capacity
    work = {
        "fixed": 1.0,
        "head": compared * width,
        "row": rows * width,
        "row_code": reading.row_codes * (0.5 + 0.5 * code_bytes / 16),
        "page_code": reading.page_codes,
        "page": reading.pages,
    }
    return sum(CPU_US[name] * amount for name, amount in work.items())


def _build_cpu_seconds(spec: IndexSpec, n_rows: int) -> float:
    width = spec.space_dim / 128
    truth_us = BuildOptions.calibration_queries * BUILD_TRUTH_US
    return BUILD_FIXED_S * (1 + width) / 2 + 1e-6 * n_rows * width * (BUILD_ROW_US + truth_us)
