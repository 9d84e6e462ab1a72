"""The vector sets that come with the repository: found by name, checked by SHA-256, read whole.

A set is a folder under ``datasets/`` (or under the folder that ``ANNSERVE_DATASETS`` names); its files are
listed in ``datasets/README.md``. Every byte that is given out was hashed and compared with the set's
``SHA256SUMS`` first. How a set is made is no concern of this module: that needs a model and stands in
``tools/``.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, NotFoundError

DATASETS_VARIABLE = "ANNSERVE_DATASETS"
SUMS_NAME = "SHA256SUMS"


@dataclass(frozen=True)
class BundledSet:
    """A bundled set in memory; the row number is the id.

    Attributes
    ----------
    base : (n, d) float16
        Vectors of the texts, of unit length up to rounding.
    queries : (nq, d) float16
        Vectors of the questions, the same way.
    truth_ids : (nq, 100) int32
        Ids of the nearest rows, nearest first, ties by the smaller id.
    truth_distances : (nq, 100) float64
        Their cosine distances, 1 − cos.
    texts : list of dict
        One record per row: ``name``, ``kind``, ``part``, ``parts``, ``text``.
    questions : list of dict
        One record per query: ``question``, and ``name`` of the text it was written for or None.
    """

    base: npt.NDArray[np.float16]
    queries: npt.NDArray[np.float16]
    truth_ids: npt.NDArray[np.int32]
    truth_distances: npt.NDArray[np.float64]
    texts: list[dict[str, Any]]
    questions: list[dict[str, Any]]


def load(name: str) -> BundledSet:
    """Read a bundled set and check every file of it.

    Raises
    ------
    NotFoundError
        If there is no set of that name.
    CorruptionError
        If a file is missing, differs from its SHA-256, or the files don't belong together.
    """
    folder = locate(name)
    sums = _read_sums(folder / SUMS_NAME)
    found = BundledSet(
        base=_array(folder / "base.f16.npy", sums),
        queries=_array(folder / "queries.f16.npy", sums),
        truth_ids=_array(folder / "gt.ids.npy", sums),
        truth_distances=_array(folder / "gt.distances.npy", sums),
        texts=_records(gzip.decompress(_checked(folder / "texts.jsonl.gz", sums))),
        questions=_records(_checked(folder / "questions.jsonl", sums)),
    )
    _check_together(folder, found)
    return found


def locate(name: str) -> Path:
    """Find the folder of a bundled set.

    Raises
    ------
    NotFoundError
        If there is no set of that name; the message lists those that are there.
    """
    root = Path(os.environ.get(DATASETS_VARIABLE) or Path(__file__).resolve().parents[2] / "datasets")
    # Only names that were listed are ever joined to the path, so a name can't lead out of the folder.
    names = sorted(path.parent.name for path in root.glob(f"*/{SUMS_NAME}"))
    if name not in names:
        raise NotFoundError(
            f"no bundled set {name!r} in {root} (found: {', '.join(names) or 'none'}); bundled sets come "
            f"with the repository: work in a clone, or set {DATASETS_VARIABLE} to its folder 'datasets'"
        )
    return root / name


def _read_sums(path: Path) -> dict[str, str]:
    """Read the table that ``sha256sum`` writes: file name → hexadecimal digest."""
    lines = path.read_text(encoding="utf-8").splitlines()
    sums = {}
    for number, line in enumerate(lines, 1):
        digest, _, file_name = line.partition("  ")
        if len(digest) != 64 or not file_name:
            raise CorruptionError(
                f"line {number} of {path} is {line!r}, not a SHA-256 and a file name; restore the file",
                path=path,
            )
        sums[file_name] = digest
    return sums


def _checked(path: Path, sums: dict[str, str]) -> bytes:
    """Give a file's bytes if they have the digest that was published."""
    expected = sums.get(path.name)
    if expected is None or not path.is_file():
        where = f"in {path.parent / SUMS_NAME}" if expected is None else f"in {path.parent}"
        raise CorruptionError(f"{path.name} is missing {where}; restore the set's folder", path=path)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CorruptionError(
            f"SHA-256 mismatch in {path}: expected {expected}, found {found}; restore the file", path=path
        )
    return content


def _array(path: Path, sums: dict[str, str]) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(io.BytesIO(_checked(path, sums)), allow_pickle=False)
    return array


def _records(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode("utf-8").splitlines()]


def _check_together(folder: Path, found: BundledSet) -> None:
    rows = (len(found.base), len(found.texts))
    queries = (len(found.queries), len(found.questions), len(found.truth_ids), len(found.truth_distances))
    if len(set(rows)) > 1 or len(set(queries)) > 1:
        raise CorruptionError(
            f"the files of {folder} don't belong together: base and texts have {rows} rows, queries, "
            f"questions and truth {queries}; restore the set's folder",
            path=folder,
        )
