"""Small sets of vectors in two parts, and indexes of the first that tests add the second to."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.update.append import AppendOptions, append
from annserve.vectors.truth import exact_neighbours

OLD, NEW, DIM = 700, 130, 24


@dataclass(frozen=True)
class Case:
    """Two parts of a set, and an index of the first.

    Attributes
    ----------
    old, new : array
        Rows; half of the new part is longer than any of the old one.
    queries : array
    metric : str
    index : Path
        A copy that the test may change.
    source : Path
        File of the new part; ``other.npy`` beside it has another encoder's vectors of it, where the index wants some.
    """

    old: np.ndarray
    new: np.ndarray
    queries: np.ndarray
    metric: str
    index: Path
    source: Path

    @property
    def rows(self) -> np.ndarray:
        """All rows; their numbers are their ids."""
        return np.concatenate((self.old, self.new))

    def nearest(self, k: int) -> np.ndarray:
        """Give the k nearest of all rows, exactly."""
        return exact_neighbours(self.rows, self.queries, k, self.metric)[0]


#: Name → type of rows, metric, options of the build.
KINDS = {
    "uint8-l2": ("uint8", "l2", {}),
    "float32-ip": ("float32", "ip", {}),
    "float16-cosine": ("float16", "cosine", {}),
    "float32-l2-raw": ("float32", "l2", {"rerank": "float32"}),
    "float32-ip-rounded-raw": ("float32", "ip", {"rerank": "float16"}),
    "uint8-l2-replicas": ("uint8", "l2", {"codes": "none", "replicas": 3, "ram": "100%"}),
    "float32-l2-ssd": ("float32", "l2", {"codes": "ssd"}),
    "uint8-l2-other": ("uint8", "l2", {"rerank_with": "other"}),
}


@pytest.fixture(scope="session")
def make_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Give a case of a kind, its index built once and copied each time."""
    built: dict[str, Case] = {}

    def make(kind: str) -> Case:
        if kind not in built:
            built[kind] = _build(tmp_path_factory.mktemp(kind), *KINDS[kind])
        case = built[kind]
        copy = tmp_path_factory.mktemp("copy") / "index"
        shutil.copytree(case.index, copy)
        return replace(case, index=copy)

    return make


@pytest.fixture(scope="session")
def make_appended(make_case: Callable[[str], Case]) -> Callable[[str], Case]:
    """Give a case of a kind whose new rows were appended, once; its index is copied each time."""
    made: dict[str, Case] = {}
    count = itertools.count()

    def make(kind: str) -> Case:
        if kind not in made:
            made[kind] = make_case(kind)
            append(made[kind].index, made[kind].source, options_for(made[kind]))
        copy = made[kind].index.with_name(f"appended-{next(count)}")
        shutil.copytree(made[kind].index, copy)
        return replace(made[kind], index=copy)

    return make


def options_for(case: Case, **more: object) -> AppendOptions:
    """Give the options that an append of the new rows takes."""
    other = case.source.with_name("other.npy")
    return AppendOptions(rerank_with=other if other.exists() else None, threads=1, **more)  # type: ignore[arg-type]


def _build(folder: Path, row_type: str, metric: str, options: dict[str, object]) -> Case:
    rng = np.random.default_rng(9)
    places = rng.integers(40, 190, (15, DIM))
    count = OLD + NEW + 40
    rows = (places[rng.integers(0, 15, count)] + rng.normal(0, 15, (count, DIM))).clip(0, 120)
    rows[OLD::2] *= 1.9  # of the new rows and of the queries
    rows = rows.clip(0, 255).astype(row_type)
    old, new, queries = np.split(rows, [OLD, OLD + NEW])
    np.save(folder / "old.npy", old)
    np.save(folder / "new.npy", new)
    chosen: dict[str, object] = {"ram": "80%", "rerank": "none", **options}
    if "rerank_with" in chosen:
        mix = rng.normal(size=(DIM, 12))
        np.save(folder / "old_other.npy", (old @ mix).astype(np.float32))
        np.save(folder / "other.npy", (new @ mix).astype(np.float32))
        chosen |= {"rerank_with": folder / "old_other.npy", "rerank": "auto", "rerank_metric": "cosine"}
    build(
        folder / "old.npy",
        folder / "index",
        BuildOptions(metric=metric, calibration_queries=120, threads=1, **chosen),
    )
    return Case(old, new, queries, metric, folder / "index", folder / "new.npy")
