"""The next version of an index: one writer at a time, the published version untouched, nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annserve.errors import ConflictError, OutputError
from annserve.index import names
from annserve.index.manifest import Manifest, read_current
from annserve.index.publish import publish
from annserve.report.page import write_page
from annserve.storage.atomic import locked


@contextmanager
def next_version(folder: Path) -> Iterator[tuple[Manifest, Path]]:
    """Hold an index for writing.

    What neither the published version names nor a reader looks for is removed at both ends: first what a killed writer
    left; last what the block built without publishing it, or the files of the version before.

    Yields
    ------
    manifest : Manifest
        Of the published version.
    work : Path
        An empty folder for the files of the work itself.

    Raises
    ------
    NotFoundError, CorruptionError, VersionError
        If there is no whole version.
    ConflictError
        If another writer is at work.
    OutputError
        If the folder can't be written.
    """
    read_current(folder)
    work = folder / names.BUILD_FOLDER
    try:
        work.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error.strerror}; check its permissions", path=folder) from error
    with locked(work):
        manifest = read_current(folder)
        _clear(folder, manifest)
        for entry in work.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "LOCK":
                entry.unlink()
        try:
            yield manifest, work
        finally:
            _clear(folder, read_current(folder))
            shutil.rmtree(work)


def next_number(manifest: Manifest) -> int:
    """Give the number of the next segment: above all that the version names, so that no published name comes again."""
    return 1 + max(names.segment_number(segment.name) for segment in manifest.segments)


def publish_after(folder: Path, before: Manifest, after: Manifest) -> None:
    """Publish a version made from `before`.

    Raises
    ------
    ConflictError
        If `before` isn't the published version any more.
    OutputError
        If the device refuses; the version that was there stays.
    """
    found = read_current(folder).snapshot
    if found != before.snapshot:
        raise ConflictError(
            f"{folder} moved on from snapshot {before.snapshot} to {found} meanwhile; try again on what is there now"
        )
    write_page(folder, after.segments[-1].name)
    publish(folder, after)


def _clear(folder: Path, manifest: Manifest) -> None:
    """Remove what a version doesn't name; only names that annserve makes are touched."""
    named = {names.CURRENT, names.manifest_name(manifest.snapshot), *(segment.name for segment in manifest.segments)}
    for entry in folder.iterdir():
        name = entry.name.removesuffix(".tmp")
        if entry.name in named:
            continue
        if names.is_segment_name(name) and entry.is_dir():
            shutil.rmtree(entry)
        elif names.is_manifest_name(name) or entry.name == f"{names.CURRENT}.tmp":
            entry.unlink()
