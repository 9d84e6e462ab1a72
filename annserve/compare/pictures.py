"""The pictures that people expect of a benchmark, one for each data set, drawn from result rows.

==============  ==========================================================================================
recall–QPS      one caller, closed loop; the settings of all builds that nothing beats, from recall 0.7 up
recall–pages    the same for systems that read pages
latency–load    open loop: p50, and p99 dashed, against the rate of arrivals
RAM–recall      what a process grew by for its index, and the recalls that it was asked for
build           CPU seconds of each build
growth          pages, and codes scanned, at the middle target against the number of rows, where a set was taken at
                several sizes; the exponent is that of the straight line through them
==============  ==========================================================================================

matplotlib draws and is needed by this module alone. SVG goes into the page, PNG beside it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from annserve.compare.results import Row
from annserve.errors import InputError

#: Colours that stay apart for the colour-blind (Okabe, Ito), and markers, in the order of systems.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SIZE_INCHES = (9.0, 4.6)
#: Below it nobody compares.
_RECALL_MIN = 0.7


def draw_sets(rows: Sequence[Row]) -> dict[str, Any]:
    """Draw every picture of one set that the rows have numbers for.

    Parameters
    ----------
    rows : sequence of row
        Of ``annserve.compare.results.rows_of``.

    Returns
    -------
    dict
        Name (``sift-photos-500000-recall-qps``) → figure, in the order of the table above.

    Raises
    ------
    InputError
        If matplotlib isn't installed.
    """
    pyplot, styles = _pyplot(), _styles(rows)
    figures: dict[str, Any] = {}
    for name, count in dict.fromkeys((row["dataset"], row["count"]) for row in rows):
        of_set = [row for row in rows if (row["dataset"], row["count"]) == (name, count)]
        for what, draw in _PICTURES.items():
            figure, axes = pyplot.subplots(figsize=_SIZE_INCHES, layout="constrained")
            if draw(axes, of_set, styles):
                axes.set_title(f"{name}, {count:,} rows")
                figures[f"{name}-{count}-{what}"] = figure
            pyplot.close(figure)
    return figures


def draw_growth(rows: Sequence[Row]) -> dict[str, Any]:
    """Draw how pages and codes grow with the rows, for every set that was taken at several sizes."""
    pyplot, styles = _pyplot(), _styles(rows)
    figures: dict[str, Any] = {}
    for name in dict.fromkeys(row["dataset"] for row in rows):
        of_name = [row for row in rows if row["dataset"] == name]
        for number, label in (("pages", "pages"), ("codes_scanned_mean", "codes scanned")):
            figure, axes = pyplot.subplots(figsize=_SIZE_INCHES, layout="constrained")
            if _growth(axes, of_name, styles, number, label):
                axes.set_title(f"{name}, growth of {label}")
                figures[f"{name}-growth-{label.replace(' ', '-')}"] = figure
            pyplot.close(figure)
    return figures


def as_svg(figure: Any) -> str:
    """Give a figure as an ``<svg>`` element, the same bytes for the same numbers; its text stays text."""
    pyplot = _pyplot()
    text = io.StringIO()
    with pyplot.rc_context({"svg.hashsalt": "annserve", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def as_png(figure: Any) -> bytes:
    """Give a figure as PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120, metadata={"Software": None})
    return data.getvalue()


def _recall_qps(axes: Any, rows: Sequence[Row], styles: dict[str, int]) -> bool:
    axes.set(xlabel=f"recall@{rows[0]['k']}", ylabel="queries a second, one caller", yscale="log")
    return _fronts(axes, rows, styles, "qps", larger=True)


def _recall_pages(axes: Any, rows: Sequence[Row], styles: dict[str, int]) -> bool:
    axes.set(xlabel=f"recall@{rows[0]['k']}", ylabel="4 KiB pages a query", yscale="log")
    reading = [row for row in rows if row["pages"]]
    return bool(reading) and _fronts(axes, reading, styles, "pages", larger=False)


def _fronts(axes: Any, rows: Sequence[Row], styles: dict[str, int], number: str, *, larger: bool) -> bool:
    fewest = min(row["threads"] for row in rows)
    shown = (row for row in rows if row["recall"] >= _RECALL_MIN)
    for system, of_system in _systems(row for row in shown if row["load"] == "closed" and row["threads"] == fewest):
        front: list[Row] = []
        for row in sorted(of_system, key=lambda row: (-row["recall"], row[number] * (-1 if larger else 1))):
            better = not front or (row[number] > front[-1][number] if larger else row[number] < front[-1][number])
            if better:
                front.append(row)
        _line(axes, system, styles, [row["recall"] for row in front], [row[number] for row in front])
    return _finish(axes)


def _latency_load(axes: Any, rows: Sequence[Row], styles: dict[str, int]) -> bool:
    axes.set(xlabel="arrivals a second", ylabel="latency, ms: p50, and p99 dashed", xscale="log", yscale="log")
    for system, of_system in _systems(row for row in rows if row["load"] == "open"):
        ordered = sorted({row["rate"]: row for row in of_system}.values(), key=lambda row: row["rate"])
        rates = [row["rate"] for row in ordered]
        _line(axes, system, styles, rates, [row["latency_us_p50"] / 1e3 for row in ordered])
        p99 = [row["latency_us_p99"] / 1e3 for row in ordered]
        _line(axes, "_p99", styles, rates, p99, of=system, linestyle="--")
    return _finish(axes)


def _ram_recall(axes: Any, rows: Sequence[Row], styles: dict[str, int]) -> bool:
    axes.set(xlabel="RAM, bytes a vector", ylabel=f"recall@{rows[0]['k']}", xscale="log")
    for system, of_system in _systems(row for row in rows if row["target"] and row["ram_bytes_per_vector"]):
        chosen = sorted(of_system, key=lambda row: (row["build"], row["recall"]))
        ram = [row["ram_bytes_per_vector"] for row in chosen]
        _line(axes, system, styles, ram, [row["recall"] for row in chosen], linestyle="")
    return _finish(axes)


def _build(axes: Any, rows: Sequence[Row], styles: dict[str, int]) -> bool:
    # What took no tick of the clock still has a bar.
    seconds = {
        f"{row['system']} ({row['build']})": (max(row["build_cpu_seconds"], 0.01), styles[row["system"]])
        for row in rows
    }
    names = sorted(seconds, key=lambda name: -seconds[name][0])
    colours = [_COLOURS[seconds[name][1] % len(_COLOURS)] for name in names]
    axes.barh(names, [seconds[name][0] for name in names], color=colours)
    axes.set(xlabel="CPU seconds of the build", xscale="log")
    axes.tick_params(axis="y", labelsize=7)
    return bool(names)


def _growth(axes: Any, rows: Sequence[Row], styles: dict[str, int], number: str, label: str) -> bool:
    targets = sorted({row["target"] for row in rows if row["target"]})
    if len({row["count"] for row in rows}) < 2 or not targets:
        return False
    target = targets[len(targets) // 2]
    axes.set(xlabel="rows", ylabel=f"{label} a query, recall target {target:g}", xscale="log", yscale="log")
    fitting = (row for row in rows if row["target"] == target and row["load"] == "closed" and row[number])
    for system, of_system in _systems(fitting):
        fewest = {count: min(r[number] for r in of_system if r["count"] == count) for count in _counts(of_system)}
        if len(fewest) > 1:
            exponent = np.polyfit(np.log(list(fewest)), np.log(list(fewest.values())), 1)[0]
            name = f"{system}: n^{exponent:.2f}"
            _line(axes, name, styles, list(fewest), list(fewest.values()), of=system)
    return _finish(axes)


def _styles(rows: Sequence[Row]) -> dict[str, int]:
    """Number the systems, so that each looks the same wherever it stands."""
    return {system: place for place, system in enumerate(sorted({row["system"] for row in rows}, key=str.lower))}


def _counts(rows: Sequence[Row]) -> list[int]:
    return sorted({row["count"] for row in rows})


def _systems(rows: Any) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["system"], []).append(row)
    return sorted(groups.items(), key=lambda group: group[0].lower())


def _line(
    axes: Any,
    label: str,
    styles: dict[str, int],
    x: list[float],
    y: list[float],
    of: str | None = None,
    **kind: Any,
) -> None:
    place = styles[of or label]
    # More systems than colours: the next round of colours goes with other markers.
    colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)]
    axes.plot(x, y, label=label, color=colour, marker=marker, markersize=5, linewidth=1.4, **kind)


def _finish(axes: Any) -> bool:
    """Add grid and legend; False if nothing was drawn."""
    axes.grid(True, which="both", alpha=0.25)
    if not axes.lines:
        return False
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return True


_PICTURES: dict[str, Callable[[Any, Sequence[Row], dict[str, int]], bool]] = {
    "recall-qps": _recall_qps,
    "recall-pages": _recall_pages,
    "latency-load": _latency_load,
    "ram-recall": _ram_recall,
    "build": _build,
}


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("pictures need matplotlib, which isn't installed: pip install 'annserve[bench]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
