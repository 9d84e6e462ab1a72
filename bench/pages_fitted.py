"""Fit the model behind ``annserve plan`` to what was measured, and say how far it misses.

    python bench/pages_fitted.py bench/results/<date>-plan/pages.json bench/results/<date>-growth/*B.json \
        bench/results/<date>-auto/modes.json --out bench/results/<date>-auto/model.json

Its input is what ``bench/pages_measured.py`` wrote; what ``bench/modes.py`` did, for other ways to choose pages and
other sizes of them; and, for growth with the rows, what ``bench/growth.py`` did.
The constants that it prints stand in ``annserve/search/page_model.py``. Errors are of sets that a fit hasn't seen: all
runs on one source of vectors (each generated dimension is one) are left out in turn, and predicted from the others.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annserve.design.budget import plan_tiers
from annserve.design.options import MODES
from annserve.search.page_model import Workload, expected_reading
from annserve.spec import IndexSpec

#: Weight of a k: what most people ask for counts most.
WEIGHTS = {1: 0.3, 10: 1.0, 100: 0.5}
TARGETS = (0.80, 0.90, 0.95, 0.98, 0.99)
#: Intrinsic dimension of the sets of bench/growth.py, on 30,000 rows.
GROWN = {"sift": 16.46, "generated": 18.0}
#: Error of an exponent of growth that one decade of sizes can't exclude.
GROWTH_ERROR = 0.04
START = {
    "floor.base": -0.1, "floor.rows": 0.1, "floor.dim": 0.3, "floor.capacity": -0.1, "floor.k": 0.75,
    "floor.missed": 1.2, "floor.missed_power": 0.72,
    "blur.base": -1.3, "blur.rows": 0.1, "blur.dim": 1.0, "blur.capacity": 0.0, "blur.k": -0.5,
    "blur.miss": 1.5, "blur.bytes": -1.4,
    "postings.base": 3.5, "postings.rows": 0.5, "postings.dim": 0.5, "postings.capacity": -0.5, "postings.k": 0.05,
    "postings.miss": 0.4,
    "row_codes.base": 7.5, "row_codes.rows": 0.4, "row_codes.dim": 0.5, "row_codes.capacity": 0.0, "row_codes.k": 0.3,
    "row_codes.miss": 0.6,
    "probes.base": 2.0, "probes.rows": 0.3, "probes.dim": 0.5, "probes.capacity": 0.0, "probes.k": 0.4,
    "floor.page": -0.3, "floor.page_k": -0.1, "blur.page": -0.5, "postings.page": -0.9, "row_codes.page": 0.5,
    "probes.page": 0.0, "vicinities.page": -0.3,
    "probes.miss": 1.0, "probes.posting": -0.5, "probes.copies": -1.0,
    "vicinities.base": 2.0, "vicinities.rows": 0.1, "vicinities.dim": 0.5, "vicinities.capacity": 0.0,
    "vicinities.k": 0.3, "vicinities.miss": 0.5, "ssd.base": 0.0,
    "reads.base": 0.03, "reads.pages": 0.5, "reads.rows": -0.2,
    "error.codes": 0.0, "error.probes": 0.0, "error.ssd": 0.0,
    "error.anchored": 0.0, "error.growth": GROWTH_ERROR,
    "rows_max.codes": 5e5, "rows_max.probes": 5e5, "rows_max.ssd": 5e5,
}  # fmt: skip
#: Logarithm beyond which a point is odd.
OUTLIER = 0.3
#: A weak pull of every constant towards its start, so that what the data can't tell apart stays sane; a stronger one on
#: growth with the rows, which few sets show.
PULL, PULL_ROWS = 0.05, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files = [json.loads(path.read_text()) for path in options.measured]
    points = [point for file in files for point in (points_of(file["runs"]) if "runs" in file else growth_of(file))]
    constants = fit(points)
    unseen = errors_unseen(points)
    for name, mode in (("codes", "ram"), ("ssd", "ssd"), ("probes", "none")):
        constants[f"error.{name}"] = two_thirds([e for p, e in zip(points, unseen) if mode_of(p) == mode])
        constants[f"rows_max.{name}"] = max(p["work"].n_rows for p in points if mode_of(p) == mode)
    constants["error.anchored"] = two_thirds(within_sources(points, unseen))
    report = {"constants": constants, "points": len(points), "errors": summary(points, constants, unseen)}
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def points_of(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    points = []
    for run in runs:
        for asked in run["asked"]:
            work = work_of(run, asked)
            postings = asked["postings"][1]
            page_codes = min(postings * work.pages_per_posting, run["pages"])
            row_pages = asked["rows_scored_mean"] * run["pages"] / (run["n_rows"] * work.copies)
            points.append(
                {
                    "case": run["case"],
                    "source": run["case"].removesuffix("-none").rsplit("-", 1)[0],
                    "ram": run["ram"],
                    "work": work,
                    "pages": asked["pages_read_mean"],
                    "reads": asked["reads_mean"],
                    "postings": postings,
                    # Heads that are passed over hide what those that aren't have, so codes are fitted to runs before.
                    "row_codes": 0.0 if "codes" in run else max(asked["codes_scanned_mean"] - page_codes, 1.0),
                    "vicinities": max(asked["pages_read_mean"] - row_pages, 1.0),
                    "weight": WEIGHTS[asked["k"]],
                }
            )
    return points


def work_of(run: dict[str, Any], asked: dict[str, Any]) -> Workload:
    """Give the workload of a query of a measured index."""
    replicas = run.get("replicas", 1) > 1
    return Workload(
        run["n_rows"],
        run["intrinsic_dim"],
        run["page_capacity"],
        run["code_bytes"],
        max(round(run["pages"] / run["heads"]), 1),
        asked["k"],
        asked["recall_target"],
        codes_on_ssd=run.get("codes") == "ssd",
        copies=run["pages"] * run["page_capacity"] / run["n_rows"] if replicas else 1.0,
        page_bytes=run["page_bytes"],
    )


def mode_of(point: dict[str, Any]) -> str:
    work: Workload = point["work"]
    return "ssd" if work.codes_on_ssd else "ram" if work.code_bytes else "none"


def growth_of(file: dict[str, Any]) -> list[dict[str, Any]]:
    """Take the points of one index of bench/growth.py: 128 bytes a row."""
    if "points" not in file:
        return []
    spec = IndexSpec(128, "uint8", "l2")
    tiers = plan_tiers(spec, file["rows"], file["ram"], "ram")
    return [
        {
            "case": f"{file['set']}-growth",
            "source": "sift" if file["set"] == "sift" else "gen128-m18",
            "ram": file["ram"],
            "work": Workload(
                file["rows"], GROWN[file["set"]], spec.page_capacity, tiers.code_bytes, 16, 10, point["target"]
            ),
            "pages": point["pages"],
            "reads": point["reads"],
            "postings": point["page_codes"] / 16,
            "row_codes": point["row_codes"],
            "weight": WEIGHTS[10],
        }
        for point in file["points"]
        if point["target"] in TARGETS
    ]


def fit(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Fit each part by itself: pages with codes, pages without, vicinities, reads, codes."""
    constants = dict(START)
    coded, far, bare = ([point for point in points if mode_of(point) == mode] for mode in ("ram", "ssd", "none"))
    # k = 1 is left out of the codes: calibration finds too few hits there to pass over pages by.
    deep = [point for point in coded if point["work"].k > 1 and point["row_codes"]]
    for names, some, what in (
        (("floor", "blur"), coded, "pages"),
        (("postings",), deep, "postings"),
        (("row_codes",), deep, "row_codes"),
        (("probes",), bare, "pages"),
        (("vicinities",), far, "vicinities"),
        (("ssd",), far, "pages"),
        (("reads",), coded, "reads"),
    ):
        free = [name for name in constants if name.split(".")[0] in names]
        if some:
            least_squares(constants, free, lambda c, some=some, what=what: tempered(misses(some, c, what)))
    return {name: round(value, 4) for name, value in constants.items()}


def misses(points: Sequence[dict[str, Any]], constants: dict[str, float], what: str) -> np.ndarray:
    """Give log(predicted / measured), weighted; reads are predicted from the measured pages' own factor."""
    out = []
    for point in points:
        found = expected_reading(point["work"], constants=constants)
        predicted, measured = getattr(found, what), point[what]
        if what == "reads":
            predicted, measured = joined(point, constants), point["reads"]
        out.append(point["weight"] * math.log(predicted / max(measured, 1e-9)))
    return np.array(out)


def tempered(errors: np.ndarray) -> np.ndarray:
    """Let errors beyond OUTLIER count as their root: a few odd points shall not bend the rest."""
    size = np.abs(errors)
    return np.sign(errors) * np.where(size < OUTLIER, size, np.sqrt(OUTLIER * size))


def joined(point: dict[str, Any], c: dict[str, float]) -> float:
    rows = (point["work"].n_rows / 1e5) ** c["reads.rows"]
    return point["pages"] * math.exp(-c["reads.base"] * point["pages"] ** c["reads.pages"] * rows)


def least_squares(
    constants: dict[str, float], free: Sequence[str], miss_of: Callable[[dict[str, float]], np.ndarray]
) -> None:
    """Levenberg–Marquardt on the free constants, in place."""
    start = np.array([constants[name] for name in free])
    pull = np.array([PULL_ROWS if name.endswith(".rows") else PULL for name in free])
    values, damping = start.copy(), 1e-2

    def residuals(at: np.ndarray) -> np.ndarray:
        return np.concatenate((miss_of(constants | dict(zip(free, at))), pull * (at - start)))

    found = residuals(values)
    for _ in range(200):
        slopes = np.array([(residuals(values + step) - found) / 1e-5 for step in 1e-5 * np.eye(len(free))]).T
        normal = slopes.T @ slopes
        move = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -slopes.T @ found)
        tried = residuals(values + np.clip(move, -0.5, 0.5))
        if tried @ tried < found @ found:
            done = found @ found - tried @ tried < 1e-9 * (found @ found)
            values, found, damping = values + np.clip(move, -0.5, 0.5), tried, damping / 3
            if done:
                break
        else:
            damping *= 4
            if damping > 1e9:
                break
    constants.update(zip(free, values.tolist()))


def errors_unseen(points: Sequence[dict[str, Any]]) -> list[float]:
    """Give log(predicted / measured) of pages, each source predicted by a fit to all others."""
    errors = [0.0] * len(points)
    for source in sorted({point["source"] for point in points}):
        constants = fit([point for point in points if point["source"] != source])
        for i, point in enumerate(points):
            if point["source"] == source:
                errors[i] = math.log(
                    expected_reading(point["work"], constants=constants).pages / max(point["pages"], 1e-9)
                )
    return errors


def within_sources(points: Sequence[dict[str, Any]], unseen: Sequence[float]) -> list[float]:
    """Give what is left of errors at k = 10 once one point of the same source is known: that at recall 0.95."""
    left = []
    for source in {point["source"] for point in points}:
        own = [i for i, p in enumerate(points) if p["source"] == source and p["work"].k == 10 and mode_of(p) == "ram"]
        for known in own:
            if points[known]["work"].recall_target == 0.95:
                left += [unseen[i] - unseen[known] for i in own if i != known]
    return left


def two_thirds(errors: Sequence[float]) -> float:
    """Give the size that two of three errors stay below."""
    return round(float(np.percentile(np.abs(errors), 100 * 2 / 3)), 3) if len(errors) else 0.0


def rms(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else 0.0


def summary(points: Sequence[dict[str, Any]], constants: dict[str, float], unseen: Sequence[float]) -> dict[str, Any]:
    """Errors as logarithms' RMS: seen and unseen, by case and k; the worst points."""
    seen = [math.log(expected_reading(p["work"], constants=constants).pages / max(p["pages"], 1e-9)) for p in points]
    groups: dict[str, Any] = {}
    for name in sorted({point["case"] for point in points}):
        for k in WEIGHTS:
            chosen = [i for i, p in enumerate(points) if (p["case"], p["work"].k) == (name, k)]
            if chosen:
                pair = rms([seen[i] for i in chosen]), rms([unseen[i] for i in chosen])
                groups[f"{name}, k = {k}"] = {"seen": round(pair[0], 3), "unseen": round(pair[1], 3)}
    deep = [p for p in points if p["row_codes"] and mode_of(p) == "ram" and p["work"].k > 1]
    codes = {what: round(rms(misses(deep, constants, what).tolist()), 3) for what in ("postings", "row_codes", "reads")}
    by_mode = {}
    for mode in MODES:
        tens = [i for i, p in enumerate(points) if p["work"].k == 10 and mode_of(p) == mode]
        pair = rms([seen[i] for i in tens]), rms([unseen[i] for i in tens])
        by_mode[mode] = {"seen": round(pair[0], 3), "unseen": round(pair[1], 3)}
    return {"pages_k10_rms": by_mode, "others_rms": codes, "by_case": groups}


if __name__ == "__main__":
    main()
