"""The folder that a build works in: free to be used, large enough, held by one build, and left clean.

An unfinished build is a folder with ``.build`` and no CURRENT; the next build clears it. Only names that a build
makes are ever removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from annserve.build.budget import TierPlan
from annserve.errors import OutputError
from annserve.index import names
from annserve.raw.layout import RawLayout
from annserve.spec import IndexSpec
from annserve.storage.atomic import free_bytes, locked


def require_space(folder: Path, count: int, spec: IndexSpec, raw: RawLayout | None, tiers: TierPlan) -> None:
    """Refuse before the work what would fail after hours: pages, codes, heads, raw and staged rows must fit.

    Parameters
    ----------
    folder : Path
    count : int
        Rows.
    spec : IndexSpec
    raw : RawLayout, optional
    tiers : TierPlan

    Raises
    ------
    OutputError
        If they don't; the message says how much is needed.
    """
    staged = count * spec.dim * np.dtype(spec.row_type).itemsize
    copies = tiers.copies(spec.page_capacity)
    pages = int(copies * count / spec.page_capacity + 1) * spec.page_bytes
    pages += pages if tiers.codes_on_ssd else 0
    if raw is not None:
        pages += raw.n_pages(int(copies * count)) * raw.page_bytes
        staged += 0 if raw.own else count * raw.row_bytes
    needed = int(1.1 * (staged + pages)) + (16 << 20)
    free = free_bytes(folder)
    if free < needed:
        raise OutputError(
            f"{folder} has {free:,} bytes free, but the build needs about {needed:,}; free some space, or choose "
            "another folder",
            path=folder,
        )


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Give a staging folder inside `folder`, which must be free; remove it, and on failure all that was made."""
    work = folder / names.BUILD_FOLDER
    if (folder / names.CURRENT).exists():
        raise OutputError(f"{folder} holds an index already; remove it, or choose another folder", path=folder)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not work.exists())):
        raise OutputError(f"{folder} exists and isn't an empty folder; choose another", path=folder)
    made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(made)
        raise OutputError(f"{folder} can't be written: {error.strerror}; choose another folder", path=folder) from error
    with locked(work):
        _clear(folder, keep=work)
        try:
            yield work
        except BaseException:
            _clear(folder, keep=work)
            shutil.rmtree(work)
            _remove_empty(made)
            raise
        shutil.rmtree(work)


def _remove_empty(made: list[Path]) -> None:
    """Remove folders that this build made, innermost first, unless something else has come into them."""
    for place in made:
        with suppress(OSError):
            place.rmdir()


def _clear(folder: Path, keep: Path) -> None:
    """Remove what an unfinished build left; only names that a build makes are touched."""
    for entry in (*folder.iterdir(), *keep.iterdir()):
        if names.is_segment_name(entry.name) or entry.parent == keep:
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "LOCK":
                entry.unlink()
        elif names.is_manifest_name(entry.name.removesuffix(".tmp")) or entry.name == f"{names.CURRENT}.tmp":
            entry.unlink()
