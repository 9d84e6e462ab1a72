"""``annserve plan``: what an index would take and do, before anything is built."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from annserve.design.options import CODES, MODES, REPLICAS_MAX, BuildOptions
from annserve.errors import InputError
from annserve.sizes import bytes_of
from annserve.spec import METRICS, RECALL_TARGET_DEFAULT, ROW_TYPES, IndexSpec, check_k, check_recall_target

if TYPE_CHECKING:
    from annserve.design.forecast import Forecast
    from annserve.storage.prices import DiskPrices

#: Budgets and targets that stand beside the one asked for.
_BUDGET_FACTORS = (0.5, 0.75, 1.5, 2.0)
_TARGETS = (0.80, 0.90, 0.95, 0.98, 0.99)
#: Beyond that it is a slip of the pen.
COUNT_MAX = 10**12
#: Ways to choose pages that stand beside it: codes and replicas.
_WAYS = (*((mode, 1) for mode in MODES), ("none", REPLICAS_MAX))
_RAW_TYPES = ("none", "float32", "float16")


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
    type=click.Choice(CODES),
    default=BuildOptions.codes,
    show_default=True,
    help="As for build; every way stands beside it.",
)
@click.option("--replicas", type=int, default=BuildOptions.replicas, show_default=True, help="As for build.")
@click.option(
    "--page-bytes", type=int, default=0, help="Bytes of a page. [default: smallest that holds a row; by --disk]"
)
@click.option("--rerank", type=click.Choice(_RAW_TYPES), default="none", show_default=True, help="Raw rows on disk.")
@click.option("--cache", default="0", help="RAM for pages beside --ram, as 256MiB.  [default: none]")
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
    replicas: int,
    page_bytes: int,
    rerank: str,
    cache: str,
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

    The build's own planner spends the budget and chooses how pages are chosen and, by --disk, how large they are. What
    queries read comes from a model fitted to measurements, given with its uncertainty; vectors of the same kind
    (--like) or an index of them (--index) make it better. Nothing is written.
    """
    from annserve.cli.plan_text import plan_text
    from annserve.design.choose import cheapest, page_sizes
    from annserve.design.forecast import forecast
    from annserve.design.likeness import Likeness, like_file, like_index
    from annserve.raw.layout import RawLayout

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
    BuildOptions(codes=codes, replicas=replicas)
    prices, priced = _prices(disk)
    sizes: tuple[Forecast, ...] = ()
    if disk is not None and not page_bytes:
        sizes = page_sizes(
            spec,
            n_rows,
            prices,
            ram=ram,
            codes=codes,
            replicas=replicas,
            intrinsic_dim=hardness,
            k=k,
            recall_target=recall_target,
            anchor=known.anchor,
        )
        spec = replace(spec, page_bytes=cheapest(sizes).page_bytes)
    raw = None if rerank == "none" else RawLayout(IndexSpec(spec.dim, rerank, spec.metric), own=True)
    cache_bytes = bytes_of(cache, "cache")

    def at(ram: str, target: float, codes: str = codes, replicas: int = replicas) -> Forecast:
        return forecast(
            spec,
            n_rows,
            prices,
            ram=ram,
            codes=codes,
            replicas=replicas,
            raw=raw,
            cache_bytes=cache_bytes,
            k=k,
            recall_target=target,
            threads=threads,
            intrinsic_dim=hardness,
            anchor=known.anchor,
        )

    def that_fit(asked: Iterable[tuple[str, str, int]]) -> list[Forecast]:
        """Forecast those budgets and ways that allow an index."""
        found = []
        for ram, codes, replicas in asked:
            with suppress(InputError):
                found.append(at(ram, recall_target, codes, replicas))
        return found

    chosen = at(ram, recall_target)
    per_vector = chosen.ram_bytes_per_vector
    ways = that_fit((ram, *way) for way in _WAYS)
    budgets = that_fit((f"{factor * per_vector:.3f}B", codes, replicas) for factor in _BUDGET_FACTORS)
    targets = [at(ram, target) for target in _TARGETS if target != recall_target]
    if as_json:
        asked = {"count": n_rows, **spec.as_dict(), "intrinsic_dim": hardness, "disk": priced}
        groups = {"ways": ways, "page_sizes": sizes, "others": (*budgets, *targets)}
        told = {name: [one.as_dict() for one in some] for name, some in groups.items()}
        click.echo(json.dumps({"asked": asked, "plan": chosen.as_dict(), **told}, indent=1))
        return
    header = f"{n_rows:,} × {spec.dim} {spec.row_type}, metric {spec.metric}, intrinsic dimension {hardness:g}"
    click.echo(
        "\n".join((header, f"disk: {priced}", "", plan_text(spec, chosen, codes, ways, sizes, budgets, targets)))
    )


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
    from annserve.storage.prices import MADE_BY, TYPICAL, DiskPrices

    prices = TYPICAL if disk is None else DiskPrices.of(read_sealed(disk, MADE_BY))
    whose = f"as probed, {disk}" if disk else "a virtual disk that was probed; give the prices of yours by --disk"
    first = f"{prices.wait_us:.0f} µs for the first read, {prices.next_us:.1f} for each further one"
    return prices, f"{first} and {1024 * prices.next_byte_us:.2f} a KiB ({whose})"
