"""The manifest: which files make one version of an index, and how long each is and what it sums to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from annserve.errors import AnnserveError, CorruptionError, NotFoundError, VersionError
from annserve.heads.layout import HEADS_MAX
from annserve.index import names
from annserve.index.sealed import read_sealed
from annserve.spec import IndexSpec
from annserve.storage.layout import FORMAT_VERSION


@dataclass(frozen=True)
class FileEntry:
    """Length and header checksum of one file of a segment.

    `crc32c` is of the whole file; for pages and raw rows it is of the first 4,096 bytes (the container's header),
    because every page carries its own.
    """

    n_bytes: int
    crc32c: int


@dataclass(frozen=True)
class SegmentEntry:
    """One segment: rows that were built together.

    `norm_max` is that of its index space where it differs from the manifest's.
    """

    name: str
    n_rows: int
    n_heads: int
    n_pages: int
    salt: int
    files: dict[str, FileEntry]
    norm_max: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the JSON object of it; what it doesn't have, it doesn't name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """One version of an index.

    Attributes
    ----------
    snapshot : int
        Counts published versions, from 1.
    spec : IndexSpec
    norm_max : float
        Largest norm of a row; gives the index space under inner product.
    segments : tuple of SegmentEntry
        At least one, oldest first; no row id stands in two of them.
    """

    snapshot: int
    spec: IndexSpec
    norm_max: float
    segments: tuple[SegmentEntry, ...]

    @property
    def n_rows(self) -> int:
        """Rows of all segments."""
        return sum(segment.n_rows for segment in self.segments)

    def norm_max_of(self, segment: SegmentEntry) -> float:
        """Give the largest norm that a segment's index space was made with."""
        return self.norm_max if segment.norm_max is None else segment.norm_max

    def extended(self, segment: SegmentEntry, norm_max: float) -> Manifest:
        """Give the next version, with one segment more, whose longest row has this norm.

        Segments keep the index space that they were built in: under inner product its largest norm is then recorded
        with those whose isn't the index's.
        """
        largest = max(self.norm_max, norm_max)
        known = [(one, self.norm_max_of(one)) for one in self.segments] + [(segment, norm_max)]
        kept = [replace(one, norm_max=None if self.spec.metric != "ip" or m == largest else m) for one, m in known]
        return Manifest(self.snapshot + 1, self.spec, largest, tuple(kept))

    def as_dict(self) -> dict[str, Any]:
        """Give the JSON object that the file holds."""
        return {
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "segments": [segment.as_dict() for segment in self.segments],
        }


def read_current(folder: Path) -> Manifest:
    """Read the manifest of the published version.

    Raises
    ------
    NotFoundError
        If the folder holds no published index.
    VersionError
        If another format version wrote it.
    CorruptionError
        If CURRENT or the manifest is damaged.
    """
    if not (folder / names.CURRENT).exists():
        if (folder / names.BUILD_FOLDER).exists():
            raise NotFoundError(f"{folder} holds an unfinished build, no index; go on with 'annserve build … --resume'")
        if not folder.exists():
            raise NotFoundError(f"there is no index {folder}; 'annserve build' makes one")
        raise NotFoundError(f"{folder} holds no index (no file {names.CURRENT}); 'annserve build' makes one")
    current = read_sealed(folder / names.CURRENT)
    _check_version(current, folder / names.CURRENT)
    name = current.get("manifest")
    if not isinstance(name, str) or not names.is_manifest_name(name):
        raise CorruptionError(
            f"{folder / names.CURRENT} names the manifest {name!r}, which isn't a manifest's name; "
            "restore it, or build the index anew",
            path=folder / names.CURRENT,
        )
    path = folder / name
    try:
        content = read_sealed(path)
    except NotFoundError:
        if read_sealed(folder / names.CURRENT).get("manifest") != name:
            # A newer version was published in between.
            return read_current(folder)
        raise
    _check_version(content, path)
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AnnserveError) as error:
        raise CorruptionError(
            f"{path} lacks a field or holds a wrong one ({error}); restore it, or build the index anew",
            path=path,
        ) from error


def _check_version(content: dict[str, Any], path: Path) -> None:
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise VersionError(
            f"{path} was written in format version {version}, but this program reads version {FORMAT_VERSION}; "
            "build the index anew, or use the program that wrote it",
            path=path,
        )


def _parse(content: dict[str, Any]) -> Manifest:
    segments = tuple(
        SegmentEntry(**{**entry, "files": {name: FileEntry(**facts) for name, facts in entry["files"].items()}})
        for entry in content["segments"]
    )
    norm_max = float(content["norm_max"])
    if not segments or len({segment.name for segment in segments}) < len(segments):
        raise ValueError(f"segments {[segment.name for segment in segments]}; there must be one, and none twice")
    for segment in segments:
        files = set(segment.files) - set(names.OPTIONAL_FILES)
        if not names.is_segment_name(segment.name) or files != set(names.SEGMENT_FILES):
            raise ValueError(f"segment {segment.name!r} with files {sorted(segment.files)}")
        _require_whole("n_rows", segment.n_rows, 1, 2**63 - 1)
        _require_whole("n_heads", segment.n_heads, 1, HEADS_MAX)
        _require_whole("n_pages", segment.n_pages, 1, 2**32 - 1)
        _require_whole("salt", segment.salt, 0, 2**32 - 1)
        if segment.norm_max is not None and not 0 <= segment.norm_max < norm_max:
            raise ValueError(f"norm_max of {segment.name} is {segment.norm_max!r}, that of the index {norm_max}")
    return Manifest(int(content["snapshot"]), IndexSpec(**content["spec"]), norm_max, segments)


def _require_whole(field: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{field} is {value!r}, not a whole number between {least} and {most}")
