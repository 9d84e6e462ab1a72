"""Queries and their exact neighbours, from files, with the hashes that name them in a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from annserve.measure.machine import hash_file
from annserve.measure.truth import Truth, check_truth
from annserve.vectors.formats import Location, read_matrix, read_truth


@dataclass(frozen=True)
class Workload:
    """What is asked, and what the right answers are.

    Attributes
    ----------
    queries : (nq, dim) array
        In the type of their file.
    truth : Truth
        Of exactly these queries.
    inputs : dict
        For the report: path, sha256 and shape of each file; the truth's depth, and how many of its lists end
        in the middle of a tie.
    """

    queries: npt.NDArray[Any]
    truth: Truth
    inputs: dict[str, Any]


def load_workload(
    queries_path: str | Path,
    truth_path: str | Path,
    truth_distances_path: str | Path | None = None,
    *,
    k: int,
) -> Workload:
    """Read queries and truth whole; they are small beside any index.

    Parameters
    ----------
    queries_path, truth_path : str or Path
        Any format of ``annserve.vectors.formats``; ``file.hdf5:test`` and ``file.hdf5:neighbors`` too.
    truth_distances_path : str or Path, optional
        Distances (or similarities) beside the ids. A big-ann file of exact neighbours carries its own.
    k : int
        Results per query that will be judged.

    Raises
    ------
    AnnserveError
        If a file can't be read, or the truth doesn't fit the queries or k.
    """
    queries = read_matrix(queries_path)
    distances: npt.NDArray[Any] | None
    ids, distances = read_truth(truth_path)
    if truth_distances_path is not None:
        distances = read_matrix(truth_distances_path)
    truth = check_truth(ids, distances, n_queries=len(queries), k=k)
    inputs = {
        "queries": _account_of(queries_path, queries),
        "truth": _account_of(truth_path, ids) | {"depth": truth.depth, "ties_cut": truth.ties_cut(k)},
    }
    if truth_distances_path is not None and distances is not None:
        inputs["truth_distances"] = _account_of(truth_distances_path, distances)
    return Workload(queries, truth, inputs)


def _account_of(path: str | Path, values: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "path": str(path),
        "sha256": hash_file(Location.of(path).path),
        "shape": list(values.shape),
        "dtype": str(values.dtype),
    }
