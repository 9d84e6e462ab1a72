"""From files to what a run needs: the base as one npy file, the queries, and exact neighbours that are proven.

Neighbours that came with a set are checked three ways: their shape (depth, one list per query, no id beyond the
base), and a few queries' lists against the base itself, row by row. The last catches a truth of another metric,
of another base, or of a base of another size, whatever it claims. Where there is none, or only the first rows
of a base are taken, they are computed and kept under the hash of what they were computed from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.compare.datasets import Files
from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.events import Listener, ignore
from annserve.measure.machine import hash_file
from annserve.measure.truth import Truth, check_truth
from annserve.storage.atomic import write_atomically
from annserve.vectors.convert import convert
from annserve.vectors.flat import PACKED_TYPES, FlatSource, write_truth
from annserve.vectors.formats import Location, open_vectors, read_matrix, read_truth
from annserve.vectors.source import VectorSource
from annserve.vectors.truth import exact_neighbours

#: Neighbours that are computed for each query, so that ties at k are seen.
_DEPTH = 100
#: Queries whose given truth is compared with the base itself.
_PROVEN_QUERIES = 4
#: A given k-th distance may exceed the exact one by this share: the truth's own rounding.
_SLACK = 1e-4


@dataclass(frozen=True)
class Prepared:
    """A data set that can be run.

    Attributes
    ----------
    name, metric : str
    base_path : Path
        npy file, (n, dim).
    rows, dim, dtype
        Of the base.
    queries : (nq, dim) array
    truth : Truth
    hashes : dict
        sha256 of base, queries and truth.
    """

    name: str
    metric: str
    base_path: Path
    rows: int
    dim: int
    dtype: str
    queries: npt.NDArray[Any]
    truth: Truth
    hashes: dict[str, str]

    @property
    def base(self) -> npt.NDArray[Any]:
        """The rows, mapped."""
        base: npt.NDArray[Any] = np.load(self.base_path, mmap_mode="r", allow_pickle=False)
        return base


def prepare(
    name: str,
    files: Files,
    cache: Path,
    *,
    k: int,
    rows: int | None = None,
    n_queries: int | None = None,
    listener: Listener = ignore,
) -> Prepared:
    """Read, check and stage a data set.

    Parameters
    ----------
    name : str
        For messages and results.
    files : Files
    cache : Path
        Folder for staged bases and computed truths; shared by all jobs.
    k : int
        Results that will be judged.
    rows : int, optional
        Take only so many first rows; their truth is computed anew.
    n_queries : int, optional
        Take only so many queries, evenly spread.
    listener : Listener
        Told of staging and of the computation of truth.

    Raises
    ------
    AnnserveError
        If a file can't be read, or the truth isn't that of this base, these queries and this metric.
    """
    queries = read_vectors(files.queries)
    base_path, base_hash = _stage_base(files, rows, cache, listener)
    with open_vectors(base_path) as base:
        if queries.shape[1] != base.dim:
            raise InputError(f"{name}: queries have dimension {queries.shape[1]}, the base {base.dim}")
        hashes = {"base": base_hash, "queries": hashlib.sha256(np.ascontiguousarray(queries).tobytes()).hexdigest()}
        whole = rows is None or rows == _count(files)
        if files.truth is not None and whole:
            truth = _given_truth(name, files, base, queries, k)
        else:
            truth = _computed_truth(base, queries, files.metric, max(k, _DEPTH), hashes, cache, listener)
        if n_queries is not None:
            queries, truth = _some_queries(name, queries, truth, n_queries)
            hashes["queries"] = hashlib.sha256(np.ascontiguousarray(queries).tobytes()).hexdigest()
        hashes["truth"] = hashlib.sha256(truth.ids.tobytes()).hexdigest()
        return Prepared(
            name, files.metric, base_path, base.count, base.dim, str(base.dtype), queries, truth, hashes
        )  # fmt: skip


def spread(count: int, n_chosen: int) -> npt.NDArray[np.int64]:
    """Choose so many of `count` things, evenly spread, ascending; all if there aren't as many."""
    chosen: npt.NDArray[np.int64] = np.arange(min(count, n_chosen), dtype=np.int64) * count // min(count, n_chosen)
    return chosen


def read_vectors(path: str) -> npt.NDArray[Any]:
    """Read queries whole."""
    with _open(path) as source:
        return source.read(0, source.count)


def _open(path: str) -> VectorSource:
    """Open vectors in any format, in parts or whole, and crops of big-ann-benchmarks (``….u8bin.crop_nb_10000000``)."""
    if len(_parts(path)) > 1:
        return open_vectors(path)
    location = Path(path)
    stem, crop, _ = location.name.partition(".crop_nb_")
    if not crop:
        return open_vectors(path)
    stored = np.dtype(PACKED_TYPES[Path(stem).suffix])
    count, dim = (int(value) for value in np.fromfile(location, "<u4", 2))
    expected = 8 + count * dim * stored.itemsize
    if location.stat().st_size != expected:
        raise CorruptionError(
            f"{path} says {count} rows of dimension {dim}, which take {expected} bytes, but it has "
            f"{location.stat().st_size}; it is cut short: fetch it anew",
            path=location,
            offset=0,
        )
    return FlatSource(location, 8, (count, dim), stored)


def _parts(location: str) -> list[str]:
    """Give the files that a path with a star means, in order; the path itself if it has none.

    Raises
    ------
    NotFoundError
        If a part is missing: ``…-00-of-10`` says how many there are.
    """
    where = Location.of(location)
    if "*" not in where.path.name:
        return [location]
    found = sorted(where.path.parent.glob(where.path.name))
    n_parts = int(found[0].stem.rpartition("-of-")[2]) if found else 0
    if not found or len(found) != n_parts:
        raise NotFoundError(f"{where.path} should be {n_parts} files, but there are {len(found)}; fetch the others")
    return [f"{path}:{where.member}" if where.member else str(path) for path in found]


def _count(files: Files) -> int:
    with _open(files.base) as source:
        return min(source.count, files.rows or source.count)


def _stage_base(files: Files, rows: int | None, cache: Path, listener: Listener) -> tuple[Path, str]:
    """Give the base as an npy file, and its sha256; both are kept for as long as the source doesn't change."""
    paths = [Location.of(part).path for part in _parts(files.base)]
    with _open(files.base) as source:
        count = rows or files.rows or source.count
        if count > source.count:
            raise InputError(f"{files.base} has {source.count} rows, but {count} are asked for", field="rows")
        if paths[0].suffix == ".npy" and count == source.count:
            return paths[0], _remembered_hash(paths[0], cache)
        stamps = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
        key = f"{stamps} {files.base} {count}"
        staged = cache / "bases" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        if not staged.exists():
            staged.parent.mkdir(parents=True, exist_ok=True)
            convert(source, staged, rows=(0, count), listener=listener, stage="stage")
    return staged, _remembered_hash(staged, cache)


def _remembered_hash(path: Path, cache: Path) -> str:
    """Hash a file once for as long as neither its size nor its time of change is another."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    memo = cache / "hashes" / key
    if not memo.exists():
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memo, json.dumps({"path": path.name, "sha256": hash_file(path)}).encode())
    return str(json.loads(memo.read_text())["sha256"])


def _some_queries(name: str, queries: npt.NDArray[Any], truth: Truth, n_queries: int) -> tuple[npt.NDArray[Any], Truth]:
    if not 0 < n_queries <= len(queries):
        raise InputError(f"{name} has {len(queries)} queries, but {n_queries} are asked for", field="queries")
    chosen = spread(len(queries), n_queries)
    return queries[chosen], truth.of(chosen)


def _given_truth(name: str, files: Files, base: VectorSource, queries: npt.NDArray[Any], k: int) -> Truth:
    assert files.truth is not None
    ids, distances = _read_given(files)
    if files.base_ids is not None:
        ids = _row_numbers(name, ids, read_matrix_of_ids(files.base_ids))
    truth = check_truth(ids, distances, n_queries=len(queries), k=k)
    largest = int(truth.ids.max())
    if largest >= base.count:
        raise InputError(
            f"{name}: the truth names row {largest}, but the base has {base.count} rows; "
            "it is the truth of another base",
            field="truth",
        )
    _prove(name, files.metric, base, queries, truth, k)
    return truth


def _read_given(files: Files) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Read ids and distances; files of big-ann-benchmarks hold both, whatever their suffix."""
    assert files.truth is not None
    path = Path(files.truth)
    if path.is_file() and path.suffix in ("", ".bin"):
        count, depth = (int(value) for value in np.fromfile(path, "<u4", 2))
        if path.stat().st_size != 8 + 8 * count * depth:
            raise CorruptionError(
                f"{path} says {count} lists of {depth} neighbours, {8 + 8 * count * depth} bytes, but it has "
                f"{path.stat().st_size}; it is no file of exact neighbours, or cut short",
                path=path,
                offset=0,
            )
        ids = np.fromfile(path, "<i4", count * depth, offset=8).reshape(count, depth)
        return ids, np.fromfile(path, "<f4", count * depth, offset=8 + 4 * count * depth).reshape(count, depth)
    ids, distances = read_truth(files.truth)
    if files.truth_distances is not None:
        return ids, read_matrix(files.truth_distances)
    return ids, distances


def read_matrix_of_ids(location: str) -> npt.NDArray[np.int64]:
    """Read the column of ids beside a base in parquet, ``train.parquet:id``."""
    import pyarrow.parquet

    ids = []
    for part in _parts(location):
        path, _, column = part.rpartition(":")
        ids.append(np.asarray(pyarrow.parquet.read_table(path, columns=[column])[column].to_numpy(), np.int64))
    return np.concatenate(ids)


def _row_numbers(name: str, ids: npt.NDArray[Any], base_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Turn the ids that a truth names into numbers of rows."""
    order = np.argsort(base_ids, kind="stable")
    place = np.searchsorted(base_ids[order], ids)
    known = base_ids[order[np.minimum(place, len(order) - 1)]] == ids
    if not known.all():
        stranger = int(ids[~known][0])
        raise InputError(f"{name}: the truth names id {stranger}, which no row of the base has", field="truth")
    return order[place].astype(np.int64)


def _prove(name: str, metric: str, base: VectorSource, queries: npt.NDArray[Any], truth: Truth, k: int) -> None:
    """Look at every row for a few queries, and compare with what the truth says."""
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(_PROVEN_QUERIES, len(queries))).astype(int))
    exact_ids, exact = exact_neighbours(base, queries[chosen], k, metric, threads=1)
    for row, ids, distances in zip(chosen, exact_ids, exact):
        listed = np.sort(truth.ids[row, :k].astype(np.int64))
        _, given = exact_neighbours(base.gather(listed), queries[row : row + 1], k, metric, threads=1)
        if given[0, -1] > distances[-1] + _SLACK * max(abs(distances[-1]), 1e-9):
            nearer = next(int(one) for one in ids if one not in listed)
            raise InputError(
                f"{name}: the truth of query {row} leaves out row {nearer}, which is nearer under {metric}; "
                "it is the truth of another base or another metric",
                field="truth",
            )


def _computed_truth(
    base: VectorSource,
    queries: npt.NDArray[Any],
    metric: str,
    depth: int,
    hashes: dict[str, str],
    cache: Path,
    listener: Listener,
) -> Truth:
    depth = min(depth, base.count)
    key = hashlib.sha256(f"{hashes['base']} {hashes['queries']} {metric} {depth}".encode()).hexdigest()[:16]
    path = cache / "truths" / f"{key}.ibin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        row_ids, distances = exact_neighbours(base, queries, depth, metric, listener=listener)
        partial = path.with_suffix(".tmp")
        write_truth(partial, row_ids, distances)
        partial.rename(path)
    ids, distances_read = read_truth(path)
    # In float32 two distances that differ may look equal, never the other way round.
    return check_truth(ids, distances_read, n_queries=len(queries), k=1)
