"""The folder that a build works in: free to be used, large enough, held by one build, and left clean.

An unfinished build is a folder with ``.build`` and no CURRENT. One that has a step behind it is kept until somebody
says what to do with it; one that has none is cleared. Only names that a build makes are ever removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from annserve.build.steps import unfinished_steps
from annserve.design.budget import TierPlan
from annserve.design.memory import scratch_bytes
from annserve.errors import ConflictError, InputError, OutputError
from annserve.index import names
from annserve.raw.layout import RawLayout
from annserve.sizes import bytes_of, bytes_text
from annserve.spec import IndexSpec
from annserve.storage.atomic import free_bytes, locked

#: Files of an index that a build which was killed while it published may have left beside manifests.
_LEFT_BEHIND = (f"{names.CURRENT}.tmp", names.REPORT_PAGE, f"{names.REPORT_PAGE}.tmp")
#: What to do with an unfinished build.
UNFINISHED = ("refuse", "resume", "restart")


def require_space(
    folder: Path, count: int, spec: IndexSpec, raw: RawLayout | None, tiers: TierPlan, scratch_limit: str | None = None
) -> None:
    """Refuse before the work what would fail after hours: pages, codes, heads, raw and scratch rows must fit.

    Parameters
    ----------
    folder : Path
    count : int
        Rows.
    spec : IndexSpec
    raw : RawLayout, optional
    tiers : TierPlan
    scratch_limit : str, optional
        What the files of the build itself may take.

    Raises
    ------
    OutputError
        If they don't; the message says how much is needed.
    """
    scratch = scratch_bytes(count, spec, raw)
    if scratch_limit is not None and scratch > bytes_of(scratch_limit, "scratch_limit"):
        raise OutputError(
            f"scratch_limit is {scratch_limit}, but the build's own files take about {bytes_text(scratch)} at a time; "
            "allow that much",
            path=folder,
        )
    copies = tiers.copies(spec.page_capacity)
    pages = int(copies * count / spec.page_capacity + 1) * spec.page_bytes
    pages += pages if tiers.codes_on_ssd else 0
    if raw is not None:
        pages += raw.n_pages(int(copies * count)) * raw.page_bytes
    needed = int(1.1 * (scratch + pages)) + (16 << 20)
    free = free_bytes(folder)
    if free < needed:
        raise OutputError(
            f"{folder} has {bytes_text(free)} free, but the build needs about {bytes_text(needed)}; free some space, "
            "or choose another folder",
            path=folder,
        )


@contextmanager
def workplace(folder: Path, unfinished: str = "refuse") -> Iterator[Path]:
    """Give a working folder inside `folder`, which must be free; remove it at the end.

    On failure what steps left stays, if one is behind the build; else, and after an error of the input, all that was
    made is removed.

    Raises
    ------
    OutputError
        If the folder holds something else, or can't be written.
    ConflictError
        If another build is at work in it; if one is unfinished there, and `unfinished` is ``refuse``.
    """
    assert unfinished in UNFINISHED, unfinished
    work = folder / names.BUILD_FOLDER
    if (folder / names.CURRENT).exists():
        raise OutputError(
            f"{folder} holds an index already; add to it by 'annserve append', remove it, or choose another folder",
            path=folder,
        )
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not work.exists())):
        raise OutputError(f"{folder} exists and isn't an empty folder; choose another", path=folder)
    made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(made)
        raise OutputError(f"{folder} can't be written: {error.strerror}; choose another folder", path=folder) from error
    with locked(work):
        behind = [] if unfinished == "restart" else unfinished_steps(work)
        if behind and unfinished == "refuse":
            raise ConflictError(
                f"{folder} holds an unfinished build with {', '.join(behind)} behind it; --resume goes on with it, "
                "--restart begins anew"
            )
        if not behind:
            _clear(folder, keep=work)
        try:
            yield work
        except BaseException as error:
            # After an error of input or options there is nothing that could be gone on with.
            if isinstance(error, InputError) or not unfinished_steps(work):
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
        elif names.is_manifest_name(entry.name.removesuffix(".tmp")) or entry.name in _LEFT_BEHIND:
            entry.unlink()
