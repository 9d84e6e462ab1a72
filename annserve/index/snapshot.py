"""One open version of an index: what readers hold on to while newer versions are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from annserve.index.manifest import Manifest, read_current
from annserve.index.segment import Segment, open_segment


@dataclass(frozen=True)
class Snapshot:
    """A version that was published, proven and open.

    Attributes
    ----------
    folder : Path
    manifest : Manifest
    segment : Segment
        The one segment that this release knows.
    """

    folder: Path
    manifest: Manifest
    segment: Segment

    @property
    def disk_bytes(self) -> int:
        """Bytes of its segment files."""
        return sum(facts.n_bytes for entry in self.manifest.segments for facts in entry.files.values())


def open_snapshot(folder: Path) -> Snapshot:
    """Open the published version of an index.

    Raises
    ------
    NotFoundError, CorruptionError, VersionError, ReadError
        If there is none, or it isn't what was published.
    """
    manifest = read_current(folder)
    return Snapshot(folder, manifest, open_segment(folder, manifest.segments[0], manifest.spec))
