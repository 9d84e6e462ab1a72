"""Where a data set lies: from its name, or a path, to the files of base, queries and exact neighbours.

=====================  ==========================================================================================
layout                 files
=====================  ==========================================================================================
folder                 ``base.*``, ``query.*`` or ``queries.*``, ``gt.*`` (optional), as ``annserve generate`` and
                       the bundled sets have them; several dots are fine (``base.f16.npy``)
ann-benchmarks         one HDF5 file: ``train``, ``test``, ``neighbors``, ``distances``; attribute ``distance``
VectorDBBench          folder: ``train.parquet`` or ``shuffle_train.parquet``, whole or in parts
                       (``train-00-of-10.parquet``), ``test.parquet``, ``neighbors.parquet``
big-ann-benchmarks     the files of the sets in `BIG_ANN`, in the folders that its own downloader makes
generated              options of ``annserve.vectors.synthetic``, made once and kept
=====================  ==========================================================================================

Nothing is read here but names and metadata; ``annserve.compare.prepare`` reads and checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from annserve.errors import InputError, NotFoundError
from annserve.events import Listener, ignore
from annserve.spec import METRICS
from annserve.vectors import bundled
from annserve.vectors.synthetic import SyntheticOptions, generate

#: Metrics of sets whose files don't say it.
_METRICS = {
    "sift-photos": "l2",
    "squad-minilm": "cosine",
    "sgd-minilm": "cosine",
    "clinc-minilm": "cosine",
    "stdlib-minilm": "cosine",
}
#: What ann-benchmarks calls the metrics.
_HDF5_METRICS = {"euclidean": "l2", "angular": "cosine", "dot": "ip"}


@dataclass(frozen=True)
class Files:
    """The files of one set; each path may name a member after a colon.

    Attributes
    ----------
    base, queries : str
        Vectors. A base in several parts has a star where their numbers stand.
    truth, truth_distances : str or None
        Exact neighbours of the queries in the whole base.
    metric : str
    rows : int or None
        Only so many first rows of the base belong to the set; None for all.
    base_ids : str or None
        Ids by which the truth names the rows, where those aren't their numbers.
    """

    base: str
    queries: str
    truth: str | None
    metric: str
    truth_distances: str | None = None
    rows: int | None = None
    base_ids: str | None = None


@dataclass(frozen=True)
class BigAnn:
    """A set of big-ann-benchmarks at one size: its folder and files as its downloader names them."""

    folder: str
    base: str
    queries: str
    metric: str
    truths: Mapping[int, str]


#: Sets of big-ann-benchmarks; millions of rows → file of exact neighbours.
BIG_ANN = {
    "bigann": BigAnn(
        "bigann", "base.1B.u8bin", "query.public.10K.u8bin", "l2",
        {10: "bigann-10M", 100: "bigann-100M", 1000: "GT.public.1B.ibin"},
    ),
    "deep": BigAnn(
        "deep1b", "base.1B.fbin", "query.public.10K.fbin", "l2",
        {10: "deep-10M", 100: "deep-100M", 1000: "deep_new_groundtruth.public.10K.bin"},
    ),
    "msturing": BigAnn(
        "MSTuringANNS", "base1b.fbin", "query100K.fbin", "l2",
        {1: "msturing-gt-1M", 10: "msturing-gt-10M", 100: "msturing-gt-100M", 1000: "query_gt100.bin"},
    ),
    "msspacev": BigAnn(
        "MSSPACEV1B", "spacev1b_base.i8bin", "query.i8bin", "l2",
        {1: "msspacev-gt-1M", 10: "msspacev-gt-10M", 100: "msspacev-gt-100M", 1000: "public_query_gt100.bin"},
    ),
    "text2image": BigAnn(
        "text2image1B", "base.1B.fbin", "query.public.100K.fbin", "ip",
        {10: "text2image-10M", 100: "text2image-100M", 1000: "t2i_new_groundtruth.public.100K.bin"},
    ),
}  # fmt: skip


def locate_dataset(
    name: str,
    folders: Sequence[Path],
    *,
    path: Path | None = None,
    metric: str | None = None,
    generated: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    listener: Listener = ignore,
) -> Files:
    """Find the files of a data set.

    Parameters
    ----------
    name : str
        Of a folder or an HDF5 file in one of `folders`, of a big-ann set at some size (``bigann-10M``), or of a
        bundled set.
    folders : sequence of Path
        Looked through in order.
    path : Path, optional
        The folder or file itself, whatever its name.
    metric : str, optional
        Needed where neither the files nor the name say it.
    generated : mapping, optional
        Options of ``SyntheticOptions``; the set is made in `cache`, or found there.
    cache : Path, optional
        Where generated sets are kept.
    listener : Listener
        Told of generation.

    Raises
    ------
    NotFoundError
        If there is no such set; the message names the places that were searched.
    InputError
        If what lies there isn't a set, or its metric isn't known.
    """
    if metric is not None and metric not in METRICS:
        raise InputError(f"metric {metric!r} is unknown; use one of {', '.join(METRICS)}", field="metric")
    if generated is not None:
        assert cache is not None, "generated sets need a place"
        return _of_folder(_generate(generated, cache, listener), metric)
    if path is not None:
        if not path.exists():
            raise NotFoundError(f"data set {name}: there is no file or folder {path}; check the path")
        return _of_folder(path, metric) if path.is_dir() else _of_hdf5(path, metric)
    for folder in folders:
        if (folder / name).is_dir():
            return _of_folder(folder / name, metric or _METRICS.get(name))
        if (folder / f"{name}.hdf5").is_file():
            return _of_hdf5(folder / f"{name}.hdf5", metric)
        found = _of_big_ann(folder, name)
        if found is not None:
            return found
    try:
        return _of_folder(bundled.locate(name), metric or _METRICS.get(name))
    except NotFoundError as error:
        places = ", ".join(map(str, folders)) or "no folder"
        raise NotFoundError(
            f"there is no data set {name!r} in {places}, nor is one bundled; give its path, or the folder that "
            f"holds it. There are: {', '.join(dataset_names(folders)) or 'none'}"
        ) from error


def dataset_names(folders: Iterable[Path]) -> list[str]:
    """Give the names of all sets that `locate_dataset` would find in some folders."""
    names = set()
    for folder in folders:
        if not folder.is_dir():
            continue
        for entry in folder.iterdir():
            if entry.suffix == ".hdf5":
                names.add(entry.stem)
            elif entry.is_dir() and (_first(entry, "base.*") or (entry / "test.parquet").exists()):
                names.add(entry.name)
        sizes = ((name, millions) for name, one in BIG_ANN.items() for millions in one.truths)
        names |= {f"{name}-{m}M" for name, m in sizes if _of_big_ann(folder, f"{name}-{m}M") is not None}
    return sorted(names)


def _of_folder(folder: Path, metric: str | None) -> Files:
    """Recognise a folder by the names of its files."""
    if (folder / "test.parquet").exists():
        return _of_vector_db_bench(folder, metric)
    base = _first(folder, "base.*")
    queries = _first(folder, "query.*") or _first(folder, "queries.*")
    if base is None or queries is None:
        raise InputError(f"{folder} isn't a data set: it holds no base.* or no query.* (or queries.*) of vectors")
    made = folder / "synthetic.json"
    if metric is None and made.exists():
        metric = json.loads(made.read_text())["metric"]
    truth = _first(folder, "gt.ibin*") or _first(folder, "gt.ids.*")
    distances = _first(folder, "gt.distances.*") or _first(folder, "gt.sims.*")
    return Files(
        base=str(base),
        queries=str(queries),
        truth=None if truth is None else str(truth),
        truth_distances=None if distances is None else str(distances),
        metric=_known(metric, folder),
    )


def _of_vector_db_bench(folder: Path, metric: str | None) -> Files:
    names = ("shuffle_train.parquet", "train.parquet", "shuffle_train-*-of-*.parquet", "train-*-of-*.parquet")
    found = next((name for name in names if _first(folder, name)), None)
    if found is None:
        raise InputError(f"{folder} holds no base: there is none of {', '.join(names)}")
    base = folder / found
    truth = _first(folder, "neighbors.parquet")
    return Files(
        base=f"{base}:emb",
        queries=f"{folder / 'test.parquet'}:emb",
        truth=None if truth is None else f"{truth}:neighbors_id",
        metric=_known(metric or "cosine", folder),
        base_ids=f"{base}:id",
    )


def _of_hdf5(path: Path, metric: str | None) -> Files:
    if path.suffix not in (".hdf5", ".h5"):
        raise InputError(f"{path} is one file, but not HDF5; give the folder of the set")
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path} needs h5py: pip install 'annserve[hdf5]'") from error
    with h5py.File(path) as file:
        named = str(file.attrs.get("distance", ""))
        has = set(file)
    return Files(
        base=f"{path}:train",
        queries=f"{path}:test",
        truth=f"{path}:neighbors" if "neighbors" in has else None,
        truth_distances=f"{path}:distances" if "distances" in has else None,
        metric=_known(metric or _HDF5_METRICS.get(named), path),
    )


def _of_big_ann(folder: Path, name: str) -> Files | None:
    """Find ``bigann-10M`` and its like: the whole base, or the crop that the downloader leaves."""
    stem, _, size = name.rpartition("-")
    if stem not in BIG_ANN or not size.endswith("M") or not size[:-1].isdigit():
        return None
    one, millions = BIG_ANN[stem], int(size[:-1])
    base = folder / one.folder / one.base
    rows = millions * 1_000_000
    crop = base.with_name(f"{base.name}.crop_nb_{rows}")
    queries = folder / one.folder / one.queries
    if not (base.exists() or crop.exists()) or not queries.exists():
        return None
    truth = folder / one.folder / one.truths[millions] if millions in one.truths else None
    return Files(
        base=str(crop if crop.exists() else base),
        queries=str(queries),
        truth=str(truth) if truth is not None and truth.exists() else None,
        metric=one.metric,
        rows=rows,
    )


def _generate(generated: Mapping[str, Any], cache: Path, listener: Listener) -> Path:
    try:
        options = SyntheticOptions(**generated)
    except TypeError as error:
        raise InputError(f"generate: {error}; see 'annserve generate --help'", field="generate") from error
    key = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / "generated" / key
    if not (folder / "synthetic.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        generate(folder, options, listener)
    return folder


def _first(folder: Path, pattern: str) -> Path | None:
    """Give the file of vectors that fits a pattern, shortest name first; ids and labels beside it don't count."""
    found = [path for path in folder.glob(pattern) if not path.name.endswith((".u16.npy", ".intent.npy", ".tmp"))]
    return min(found, key=lambda path: (len(path.name), path.name), default=None)


def _known(metric: str | None, place: Path) -> str:
    if metric is None:
        raise InputError(f"{place} doesn't say its metric; add metric = one of {', '.join(METRICS)}", field="metric")
    return metric
