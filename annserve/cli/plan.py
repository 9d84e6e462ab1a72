"""``annserve plan``: what an index would take and do, before anything is built."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from annserve.build.options import CODES, BuildOptions
from annserve.cli.render import bytes_text, table_text
from annserve.errors import InputError
from annserve.spec import METRICS, RECALL_TARGET_DEFAULT, ROW_TYPES, IndexSpec, check_k, check_recall_target

if TYPE_CHECKING:
    from annserve.build.forecast import Forecast
    from annserve.storage.prices import DiskPrices

#: Budgets and targets that stand beside the one asked for.
_BUDGET_FACTORS = (0.5, 0.75, 1.5, 2.0)
_TARGETS = (0.80, 0.90, 0.95, 0.98, 0.99)
#: Beyond that it is a slip of the pen.
COUNT_MAX = 10**12
_WHAT_FOR = {
    "heads": "centroids of postings, and the graph to find them by",
    "page_codes": "rank the pages of near postings",
    "row_codes": "tell what a page is worth before it is read",
    "row_factors": "make estimated distances of codes",
    "codebooks": "one size, whatever the count",
}
#: The page model was fitted to codes in RAM.
_FORECAST = tuple(one for one in CODES if one != "ssd")


@click.command("plan")
@click.option("--count", help="Vectors: 1000000, 1e9.  [default: those of --like]")
@click.option("--dim", type=int, help="Their dimension.  [default: that of --like or --index]")
@click.option(
    "--dtype", type=click.Choice(ROW_TYPES), help="Their type.  [default: that of --like or --index; float32]"
)
@click.option("--metric", type=click.Choice(METRICS), help="Their metric.  [default: that of --index; l2]")
@click.option(
    "--ram", default=BuildOptions.ram, show_default=True, help="As for build: 25%, 20B a vector, 32GiB in all."
)
@click.option(
    "--codes",
    type=click.Choice(_FORECAST),
    default=BuildOptions.codes,
    show_default=True,
    help="As for build; codes on the SSD aren't forecast.",
)
@click.option("--page-bytes", type=int, default=0, help="Bytes of a page. [default: smallest that holds a row]")
@click.option("-k", type=int, default=10, show_default=True, help="Results per query.")
@click.option(
    "--recall",
    "recall_target",
    type=float,
    default=RECALL_TARGET_DEFAULT,
    show_default=True,
    help="Recall target, 0.80 … 0.99.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores that search, or build.")
@click.option("--disk", type=click.Path(path_type=Path), help="Prices of the disk, by probe-disk --out.")
@click.option("--like", help="File of vectors of the same kind: dimension, type and hardness are taken from it.")
@click.option(
    "--index", type=click.Path(path_type=Path), help="Index of such vectors: what it reads corrects the model."
)
@click.option(
    "--intrinsic-dim", type=float, help="Local intrinsic dimension, where it is known.  [default: of --like; 16]"
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    count: str | None,
    dim: int | None,
    dtype: str | None,
    metric: str | None,
    ram: str,
    codes: str,
    page_bytes: int,
    k: int,
    recall_target: float,
    threads: int,
    disk: Path | None,
    like: str | None,
    index: Path | None,
    intrinsic_dim: float | None,
    as_json: bool,
) -> None:
    """Say what an index would take and do: RAM by tier, disk, reads, latency, throughput, and its build.

    The build's own planner spends the budget. What queries read comes from a model fitted to measurements, given with
    its uncertainty; vectors of the same kind (--like) or an index of them (--index) make it better. Nothing is written.
    """
    from annserve.build.forecast import forecast
    from annserve.build.likeness import Likeness, like_file, like_index

    recall_target = check_recall_target(recall_target)
    if recall_target == 1.0:
        raise InputError("recall_target is 1, which reads every page; plan for 0.80 … 0.99", field="recall_target")
    known = Likeness() if like is None else like_file(like, metric or "l2")
    hardness = known.intrinsic_dim if intrinsic_dim is None else _checked(intrinsic_dim)
    if index is not None:
        known = like_index(index, k, recall_target, hardness)
    n_rows = _count(count, known.count)
    k = check_k(k, n_rows)
    spec = _spec(known.spec, dim, dtype, metric, page_bytes)
    prices, priced = _prices(disk)

    def at(ram: str, target: float) -> Forecast:
        return forecast(
            spec,
            n_rows,
            prices,
            ram=ram,
            codes=codes,
            k=k,
            recall_target=target,
            threads=threads,
            intrinsic_dim=hardness,
            anchor=known.anchor,
        )

    chosen = at(ram, recall_target)
    per_vector = chosen.ram_bytes_per_vector
    budgets = [at(f"{factor * per_vector:.3f}B", recall_target) for factor in _BUDGET_FACTORS]
    targets = [at(ram, target) for target in _TARGETS if target != recall_target]
    if as_json:
        asked = {"count": n_rows, **spec.as_dict(), "intrinsic_dim": hardness, "disk": priced}
        others = [one.as_dict() for one in (*budgets, *targets)]
        click.echo(json.dumps({"asked": asked, "plan": chosen.as_dict(), "others": others}, indent=1))
        return
    header = f"{n_rows:,} × {spec.dim} {spec.row_type}, metric {spec.metric}, intrinsic dimension {hardness:g}"
    click.echo("\n".join((header, f"disk: {priced}", "", plan_text(spec, chosen, budgets, targets))))


def _count(given: str | None, known: int | None) -> int:
    """Read a count such as 1e9."""
    if given is None:
        if known is None:
            raise InputError("count isn't given; give --count, such as 1e9", field="count")
        return known
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 1 <= number <= COUNT_MAX or number != int(number):
        raise InputError(
            f"count is {given!r}; give a whole number of vectors up to {COUNT_MAX:,}, such as 1e9", field="count"
        )
    return int(number)


def _checked(intrinsic_dim: float) -> float:
    if not 0.5 <= intrinsic_dim <= 1_000:
        raise InputError(
            f"intrinsic_dim is {intrinsic_dim:g}; it must lie between 0.5 and 1,000", field="intrinsic_dim"
        )
    return intrinsic_dim


def _spec(
    known: IndexSpec | None, dim: int | None, dtype: str | None, metric: str | None, page_bytes: int
) -> IndexSpec:
    """Put together what is given and what is known; what is given counts."""
    if dim is None and known is None:
        raise InputError("dim isn't given; give --dim, or vectors of the same kind by --like or --index", field="dim")
    if known is None:
        return IndexSpec(dim or 0, dtype or "float32", metric or "l2", page_bytes)
    return IndexSpec(known.dim if dim is None else dim, dtype or known.row_type, metric or known.metric, page_bytes)


def _prices(disk: Path | None) -> tuple[DiskPrices, str]:
    """Give the prices to reckon with, and say in a line whose they are."""
    from annserve.index.sealed import read_sealed
    from annserve.storage.prices import TYPICAL, DiskPrices

    prices = TYPICAL if disk is None else DiskPrices.of(read_sealed(disk))
    whose = f"as probed, {disk}" if disk else "a virtual disk that was probed; give the prices of yours by --disk"
    first = f"{prices.wait_us:.0f} µs for the first read, {prices.next_us:.1f} for each further one"
    return prices, f"{first} and {1024 * prices.next_byte_us:.2f} a KiB ({whose})"


def plan_text(spec: IndexSpec, chosen: Forecast, budgets: Sequence[Forecast], targets: Sequence[Forecast]) -> str:
    """Lay a plan out, with what other budgets and targets would give."""
    return "\n\n".join((_ram_text(spec, chosen), _query_text(chosen), _others_text(chosen, budgets, targets)))


def _ram_text(spec: IndexSpec, plan: Forecast) -> str:
    from annserve.build.budget import ram_with_codes

    count = max(plan.pages * spec.page_capacity, 1)
    rows = [(name, bytes_text(size), f"{size / count:.2f}", _WHAT_FOR[name]) for name, size in plan.ram_tiers.items()]
    rows.append(("in all", bytes_text(plan.ram_bytes), f"{plan.ram_bytes_per_vector:.2f}", f"of {plan.ram} allowed"))
    lines = [table_text(("RAM", "bytes", "a vector", "for"), _left(rows))]
    if plan.code_bytes:
        codes = f"codes of {plan.code_bytes} bytes a row"
    else:
        codes = f"no codes, heads alone choose pages: codes begin at {ram_with_codes(spec):.1f} bytes a vector"
    lines += [
        "",
        f"{codes}; {plan.heads:,} heads, one for {plan.pages_per_posting} pages",
        f"disk   {bytes_text(plan.disk_bytes)}: {plan.pages:,} pages of {spec.page_capacity} rows",
        f"build  about {_time_text(plan.build_seconds)} on {plan.threads} cores, within a factor of two; "
        f"{bytes_text(plan.build_ram_bytes)} RAM, {bytes_text(plan.build_disk_bytes)} disk while it lasts",
    ]
    return "\n".join(lines)


def _query_text(plan: Forecast) -> str:
    reading = plan.reading
    low, high = reading.pages / reading.factor, reading.pages * reading.factor
    seen = f"{reading.postings:,.0f} postings"
    if plan.code_bytes:
        seen = f"{reading.page_codes:,.0f} page codes and {reading.row_codes:,.0f} row codes of {seen}"
    return "\n".join(
        (
            f"a query for the {plan.k} nearest at recall {plan.recall_target:g}",
            f"  looks at {seen}",
            f"  reads    {reading.pages:.1f} pages in {reading.reads:.1f} reads, {bytes_text(plan.query_bytes)}",
            f"           (of three sets of vectors, two lie within {low:.1f} … {high:.1f} pages)",
            f"  takes    {plan.latency_us:,.0f} µs alone, {plan.cpu_us:,.0f} of them CPU",
            f"  {plan.queries_per_second:,.0f} of them a second on {plan.threads} cores, bound by the {plan.bound_by}",
        )
    )


def _others_text(chosen: Forecast, budgets: Sequence[Forecast], targets: Sequence[Forecast]) -> str:
    def row(plan: Forecast) -> tuple[object, ...]:
        return (
            f"{plan.ram_bytes_per_vector:.1f} B" + (" *" if plan is chosen else ""),
            f"{plan.recall_target:g}",
            plan.code_bytes or "–",
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
