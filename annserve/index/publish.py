"""Making a version visible: files first, then the manifest, then CURRENT, each durable before the next.

A crash before the last rename leaves the version that was there (or none); after it, the new one. Nothing in
between can be opened.
"""

from __future__ import annotations

from pathlib import Path

from annserve.index import names
from annserve.index.manifest import FileEntry, Manifest, SegmentEntry
from annserve.index.sealed import write_sealed
from annserve.index.segment import file_checksum
from annserve.storage.atomic import fsync_folder
from annserve.storage.layout import FORMAT_VERSION


def describe_segment(folder: Path, name: str, *, n_rows: int, n_heads: int, n_pages: int, salt: int) -> SegmentEntry:
    """Take length and checksum of each file of a written segment."""
    place = folder / name
    present = [*names.SEGMENT_FILES, *(file for file in names.OPTIONAL_FILES if (place / file).exists())]
    files = {file: describe_file(place / file) for file in present}
    return SegmentEntry(name, n_rows, n_heads, n_pages, salt, files)


def describe_file(path: Path) -> FileEntry:
    """Take length and checksum of a file of a segment."""
    return FileEntry(path.stat().st_size, file_checksum(path))


def publish(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` the version that readers open.

    Raises
    ------
    OutputError
        If the device refuses; the version that was there stays.
    """
    for segment in manifest.segments:
        fsync_folder(folder / segment.name)
    name = names.manifest_name(manifest.snapshot)
    write_sealed(folder / name, manifest.as_dict())
    write_sealed(folder / names.CURRENT, {"format_version": FORMAT_VERSION, "manifest": name})
    # The index folder may be new: its own name must survive a power cut too.
    fsync_folder(folder.absolute().parent)
