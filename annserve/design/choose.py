"""What is decided before any work: the bytes of a page, how pages are chosen, what the budget buys, and why.

What is asked for wins. Else a page is the smallest that holds a row, or, where the disk's prices are known, the size
whose reads are predicted to cost it least (`page_sizes`); the way to choose pages is the one that reads the
fewest of them (``design.budget``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from annserve.design.budget import TierPlan, plan_tiers, ram_codes_pay
from annserve.design.forecast import Forecast, forecast
from annserve.design.likeness import hardness_of
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.index.sealed import read_sealed
from annserve.search.page_model import INTRINSIC_DIM, Anchor
from annserve.spec import RECALL_TARGET_DEFAULT, IndexSpec
from annserve.storage.prices import MADE_BY, DiskPrices
from annserve.vectors.source import VectorSource

#: Sizes of a page that are tried where a disk's prices are known.
PAGE_SIZES = (4_096, 8_192, 16_384)

#: Larger pages must save more than that: the model promised 8 % too much of 8 KB, measured on 100,000 rows of SIFT.
_DOUBT = 0.1


@dataclass(frozen=True)
class Design:
    """What is decided before any work.

    Attributes
    ----------
    spec : IndexSpec
    tiers : TierPlan
    why : dict of str
        A sentence each for ``codes`` and ``page_bytes``, for the report.
    """

    spec: IndexSpec
    tiers: TierPlan
    why: dict[str, str]


def design(options: BuildOptions, source: VectorSource) -> Design:
    """Decide what an index of these vectors will be.

    Raises
    ------
    InputError
        If the budget is below the least that such an index takes.
    NotFoundError, CorruptionError
        If the disk's prices can't be read.
    """
    spec = IndexSpec(source.dim, str(source.dtype), options.metric, options.page_bytes)
    # A sample of queries sets limits on worth, which only codes in RAM give.
    codes = "ram" if options.codes == "auto" and options.calibrate_with else options.codes
    sizes: tuple[Forecast, ...] = ()
    if options.disk is not None and not options.page_bytes:
        sizes = page_sizes(
            spec,
            source.count,
            DiskPrices.of(read_sealed(options.disk, MADE_BY)),
            ram=options.ram,
            codes=codes,
            replicas=options.replicas,
            intrinsic_dim=hardness_of(source) or INTRINSIC_DIM,
        )
        spec = replace(spec, page_bytes=cheapest(sizes).page_bytes)
    tiers = plan_tiers(spec, source.count, options.ram, codes, options.replicas)
    asked = "as a sample of queries needs them" if codes != options.codes else "as asked"
    why = {
        "codes": why_codes(spec, tiers, codes, asked),
        "page_bytes": why_page_bytes(spec, options.page_bytes, sizes),
    }
    return Design(spec, tiers, why)


def cheapest(sizes: Sequence[Forecast]) -> Forecast:
    """Give the forecast whose queries take the disk the least time: the smallest pages that come near it."""
    least = min(one.disk_us for one in sizes)
    return next(one for one in sizes if one.disk_us <= (1 + _DOUBT) * least)


def page_sizes(
    spec: IndexSpec,
    n_rows: int,
    prices: DiskPrices,
    *,
    ram: str,
    codes: str,
    replicas: int,
    intrinsic_dim: float,
    k: int = 10,
    recall_target: float = RECALL_TARGET_DEFAULT,
    anchor: Anchor | None = None,
) -> tuple[Forecast, ...]:
    """Forecast an index with each size of page that its rows and its budget allow, smallest first."""
    found = []
    least = IndexSpec(spec.dim, spec.row_type, spec.metric).page_bytes
    for page_bytes in sorted({max(least, size) for size in PAGE_SIZES}):
        sized = replace(spec, page_bytes=page_bytes)
        try:
            found.append(
                forecast(
                    sized,
                    n_rows,
                    prices,
                    ram=ram,
                    codes=codes,
                    replicas=replicas,
                    k=k,
                    recall_target=recall_target,
                    intrinsic_dim=intrinsic_dim,
                    anchor=anchor,
                )
            )
        except InputError:
            # Larger pages take less RAM, so that a budget may allow them alone.
            if page_bytes == max(least, PAGE_SIZES[-1]):
                raise
    return tuple(found)


def why_codes(spec: IndexSpec, taken: TierPlan | Forecast, codes: str, asked: str = "as asked") -> str:
    """Say in a sentence how pages are chosen, and why so; `codes` is one of ``design.options.CODES``."""
    how = {
        "ram": f"codes of rows in RAM, {taken.code_bytes} bytes each",
        "ssd": f"codes of rows on the SSD, {taken.code_bytes} bytes each",
        "none": "heads alone" + (f", up to {taken.replicas} copies of a row" if taken.replicas > 1 else ""),
    }[taken.mode]
    if codes != "auto":
        return f"{how}: {asked}"
    if taken.mode == "none":
        return f"{how}: codes find no room or read no less"
    return f"{how}: those in RAM read fewer pages from {ram_codes_pay(spec):.1f} bytes a vector"


def why_page_bytes(spec: IndexSpec, asked: int, sizes: Sequence[Forecast]) -> str:
    """Say in a sentence how large pages are, and why so."""
    size = f"pages of {spec.page_bytes:,} bytes"
    if asked:
        return f"{size}: as asked"
    if not sizes:
        return f"{size}: the smallest that holds a row; a disk's prices may say otherwise"
    costs = ", ".join(f"{one.disk_us:.0f} µs with {one.page_bytes:,}" for one in sizes)
    return f"{size}: a query should take the disk {costs}, of which the model can't tell {_DOUBT:.0%} apart"
