"""One open version of an index: what readers hold on to while newer versions are published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from annserve.errors import CorruptionError, NotFoundError
from annserve.index.manifest import Manifest, read_current
from annserve.index.segment import Segment, open_segment

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """A version that was published, proven and open.

    Attributes
    ----------
    folder : Path
    manifest : Manifest
    segments : tuple of Segment
        In the order of the manifest's.
    """

    folder: Path
    manifest: Manifest
    segments: tuple[Segment, ...]

    @property
    def n_heads(self) -> int:
        """Heads of all segments."""
        return sum(segment.heads.n_heads for segment in self.segments)

    @property
    def n_pages(self) -> int:
        """Pages of all segments."""
        return sum(segment.n_pages for segment in self.segments)

    @property
    def copies(self) -> float:
        """Times that a row lies on pages, on average."""
        return sum(segment.copies * segment.n_rows for segment in self.segments) / self.manifest.n_rows

    @property
    def tier_bytes(self) -> dict[str, int]:
        """Bytes in RAM by tier."""
        tiers: dict[str, int] = {}
        for segment in self.segments:
            for name, n_bytes in segment.tier_bytes.items():
                tiers[name] = tiers.get(name, 0) + n_bytes
        return tiers

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
    return at_current(folder, lambda snapshot: snapshot)


def at_current(folder: Path, use: Callable[[Snapshot], T]) -> T:
    """Open the published version and do what else needs its files by name; after that they may go.

    A newer version may be published meanwhile, and take the files of this one away: then all is done anew with that.

    Parameters
    ----------
    folder : Path
    use : callable
        Opens further files of the snapshot.

    Raises
    ------
    NotFoundError, CorruptionError, VersionError, ReadError
        If there is none, or it isn't what was published; and whatever `use` raises.
    """
    while True:
        manifest = read_current(folder)
        try:
            segments = tuple(open_segment(folder, entry, manifest.spec) for entry in manifest.segments)
            _require_one_encoder(folder, segments)
            return use(Snapshot(folder, manifest, segments))
        except (NotFoundError, CorruptionError):
            if read_current(folder).snapshot == manifest.snapshot:
                raise


def _require_one_encoder(folder: Path, segments: tuple[Segment, ...]) -> None:
    """Make sure that what ranks candidates anew is of one kind: their distances are set against each other."""
    raw = [segment.raw.layout for segment in segments if segment.raw is not None and not segment.raw.layout.own]
    if raw and (len(raw) < len(segments) or any(layout.spec != raw[0].spec for layout in raw)):
        raise CorruptionError(
            f"{folder} keeps vectors of another encoder in {len(raw)} of {len(segments)} segments, or of several; "
            "restore it, or build it anew",
            path=folder,
        )
