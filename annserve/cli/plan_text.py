"""What ``annserve plan`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from annserve.cli.render import table_text, tier_cells
from annserve.design.budget import ram_with_codes
from annserve.design.choose import cheapest, why_codes, why_page_bytes
from annserve.design.forecast import Forecast
from annserve.sizes import bytes_text
from annserve.spec import IndexSpec

_WHAT_FOR = {
    "heads": "centroids of postings, and the graph to find them by",
    "page_codes": "rank the pages of near postings",
    "row_codes": "tell what a page is worth before it is read",
    "row_factors": "make estimated distances of codes",
    "codebooks": "one size, whatever the count",
    "cache": "pages asked for often, beside the budget",
}
_WAYS = {"ram": "codes in RAM", "ssd": "codes on SSD", "none": "heads alone"}
_FILES = {"pages": "pages", "vicinities": "codes of rows", "raw_rows": "raw rows", "in_ram": "what RAM holds"}


def plan_text(
    spec: IndexSpec,
    chosen: Forecast,
    codes: str,
    ways: Sequence[Forecast],
    sizes: Sequence[Forecast],
    budgets: Sequence[Forecast],
    targets: Sequence[Forecast],
) -> str:
    """Lay a plan out, with what other ways, sizes of pages, budgets and targets would give."""
    why = [why_codes(spec, chosen, codes), why_page_bytes(spec, 0, sizes)]
    parts = [
        _ram_text(spec, chosen),
        _query_text(chosen),
        "\n".join((*why, "", _ways_text(chosen, ways))),
        *([_sizes_text(sizes)] if sizes else []),
        _others_text(chosen, budgets, targets),
    ]
    return "\n\n".join(parts)


def _ram_text(spec: IndexSpec, plan: Forecast) -> str:
    count = max(plan.pages * spec.page_capacity / plan.copies, 1)
    rows = [(*tier_cells(name, size, count), _WHAT_FOR[name]) for name, size in plan.ram_tiers.items()]
    rows.append(("in all", bytes_text(plan.ram_bytes), f"{plan.ram_bytes_per_vector:.2f}", f"of {plan.ram} allowed"))
    lines = [table_text(("RAM", "bytes", "a vector", "for"), _left(rows))]
    if not plan.code_bytes:
        lines += ["", f"codes in RAM begin at {ram_with_codes(spec):.1f} bytes a vector"]
    parts = ", ".join(f"{_FILES[name]} {bytes_text(size)}" for name, size in plan.disk_parts.items())
    copies = f" ({plan.copies:.1f} copies of a row)" if plan.copies > 1 else ""
    lines += [
        "",
        f"{plan.heads:,} heads, one for {plan.pages_per_posting} pages",
        f"disk   {bytes_text(plan.disk_bytes)}: {plan.pages:,} pages of {spec.page_capacity} rows{copies}; {parts}",
        f"build  about {_time_text(plan.build_seconds)} on {_cores(plan)}, within a factor of two; "
        f"{bytes_text(plan.build_ram_bytes)} RAM, {bytes_text(plan.build_disk_bytes)} disk while it lasts",
    ]
    return "\n".join(lines)


def _cores(plan: Forecast) -> str:
    return f"{plan.threads} cores" if plan.threads > 1 else "1 core"


def _query_text(plan: Forecast) -> str:
    reading = plan.reading
    low, high = reading.pages / reading.factor, reading.pages * reading.factor
    seen = f"{reading.postings:,.0f} postings"
    if plan.code_bytes:
        seen = f"{reading.page_codes:,.0f} page codes and {reading.row_codes:,.0f} row codes of {seen}"
    if reading.vicinities:
        seen += f", row codes on {reading.vicinities:.1f} pages that it reads"
    return "\n".join(
        (
            f"a query for the {plan.k} nearest at recall {plan.recall_target:g}",
            f"  looks at {seen}",
            f"  reads    {reading.pages:.1f} pages in {reading.reads:.1f} reads, {bytes_text(plan.query_bytes)}",
            f"           (of three sets of vectors, two lie within {low:.1f} … {high:.1f} pages)",
            f"  takes    {plan.latency_us:,.0f} µs alone, {plan.cpu_us:,.0f} of them CPU",
            f"  {plan.queries_per_second:,.0f} of them a second on {_cores(plan)}, bound by the {plan.bound_by}",
        )
    )


def _ways_text(chosen: Forecast, ways: Sequence[Forecast]) -> str:
    """Compare the ways to choose pages that the budget allows, at its recall target."""

    def row(plan: Forecast) -> tuple[object, ...]:
        taken = (plan.mode, plan.replicas) == (chosen.mode, chosen.replicas)
        copies = f", {plan.replicas} copies" if plan.replicas > 1 else ""
        return (
            _WAYS[plan.mode] + copies + (" *" if taken else ""),
            f"{plan.ram_bytes_per_vector:.1f} B",
            bytes_text(plan.disk_bytes),
            f"{plan.reading.pages:.1f}",
            f"{plan.reading.reads:.1f}",
            bytes_text(plan.query_bytes),
            f"{plan.disk_us:,.0f}",
            f"{plan.latency_us:,.0f}",
        )

    header = ("pages chosen by", "RAM a vector", "disk", "pages", "reads", "bytes", "µs of the disk", "µs alone")
    return table_text(header, [row(plan) for plan in ways])


def _sizes_text(sizes: Sequence[Forecast]) -> str:
    """Compare the sizes of a page."""
    best = cheapest(sizes)
    rows = [
        (
            f"{plan.page_bytes:,}" + (" *" if plan is best else ""),
            f"{plan.reading.pages:.1f}",
            f"{plan.reading.reads:.1f}",
            bytes_text(plan.query_bytes),
            f"{plan.disk_us:,.0f}",
            f"{plan.latency_us:,.0f}",
        )
        for plan in sizes
    ]
    return table_text(("bytes of a page", "pages", "reads", "bytes", "µs of the disk", "µs alone"), rows)


def _others_text(chosen: Forecast, budgets: Sequence[Forecast], targets: Sequence[Forecast]) -> str:
    def row(plan: Forecast) -> tuple[object, ...]:
        return (
            f"{plan.ram_bytes_per_vector:.1f} B" + (" *" if plan is chosen else ""),
            f"{plan.recall_target:g}",
            f"{plan.code_bytes} on SSD" if plan.mode == "ssd" else plan.code_bytes or "–",
            f"{plan.reading.pages:.1f}",
            f"{plan.reading.reads:.1f}",
            f"{plan.reading.page_codes + plan.reading.row_codes:,.0f}",
            f"{plan.latency_us:,.0f}",
            f"{plan.queries_per_second:,.0f}",
        )

    by_ram = sorted((chosen, *budgets), key=lambda plan: plan.ram_bytes_per_vector)
    by_target = sorted((chosen, *targets), key=lambda plan: plan.recall_target)
    header = ("RAM a vector", "recall", "code", "pages", "reads", "codes seen", "µs", "a second")
    return "\n\n".join(table_text(header, [row(plan) for plan in some]) for some in (by_ram, by_target))


def _left(rows: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Pad the last column, so that text in it starts where it should."""
    width = max(len(row[-1]) for row in rows)
    return [(*row[:3], row[3].ljust(width)) for row in rows]


def _time_text(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
