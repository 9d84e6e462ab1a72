"""One segment: heads, graph, posting table and codes for RAM, pages for the device.

What is for RAM is mapped from its files, not loaded: processes that open the same index share that memory.

``write_heads``, ``write_codes`` and ``open_segment`` are the two ends of ``heads.bin`` and ``codes.bin``; their
sections are in storage/FORMAT.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes.tiers import CodeTiers
from annserve.codes.vicinity_layout import VicinityLayout
from annserve.errors import CorruptionError, ReadError
from annserve.heads.layout import NO_HEAD, HeadNodes, NodeLayout
from annserve.index import names
from annserve.index.manifest import FileEntry, SegmentEntry
from annserve.index.raw_file import RawFile, open_raw
from annserve.index.sealed import read_sealed
from annserve.index.vicinities import Vicinities, open_vicinities
from annserve.metric import METRIC_CODES
from annserve.pages.layout import PageLayout
from annserve.pages.score import PageFacts
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c
from annserve.storage.container import ContainerWriter, open_container
from annserve.storage.layout import BLOCK_BYTES

HEADS_MAGIC = b"ANNHEADS"
CODES_MAGIC = b"ANNCODES"
PAGES_MAGIC = b"ANNPAGES"


@dataclass(frozen=True)
class Segment:
    """An open segment; its arrays lie in RAM, its pages on the device.

    Attributes
    ----------
    spec : IndexSpec
    heads : HeadNodes
    page_offsets : (h + 1,) uint32
        Pages of head i: ``page_offsets[i] … page_offsets[i + 1] - 1``.
    radii : (h,) float32
        Distance (not squared, index space) from a head to the farthest row of its posting, rounded up.
    pages_path : Path
    pages_offset : int
        Byte at which page 0 starts.
    n_pages, n_rows, salt : int
    layout : PageLayout
    codes : CodeTiers or None
        None where the index was built without.
    vicinities : Vicinities or None
        Where the codes of rows lie on the SSD.
    raw : RawFile or None
        None where the index keeps no raw rows.
    plan, report : dict
        What calibration found; how the build went.
    """

    spec: IndexSpec
    heads: HeadNodes
    page_offsets: npt.NDArray[np.uint32]
    radii: npt.NDArray[np.float32]
    pages_path: Path
    pages_offset: int
    n_pages: int
    n_rows: int
    salt: int
    layout: PageLayout
    codes: CodeTiers | None
    vicinities: Vicinities | None
    raw: RawFile | None
    plan: dict[str, Any]
    report: dict[str, Any]

    @cached_property
    def page_facts(self) -> PageFacts:
        """What it takes to score its pages."""
        metric = METRIC_CODES[self.spec.metric]
        return PageFacts(self.layout, metric, self.salt, self.pages_path, self.pages_offset)

    @property
    def copies(self) -> float:
        """Times that a row lies on pages, on average: 1 where there are no replicas."""
        return float(self.report.get("copies", 1.0))

    @property
    def tier_bytes(self) -> dict[str, int]:
        """Bytes in RAM by tier."""
        nodes = self.heads.ram_bytes
        vectors = self.heads.n_heads * self.heads.layout.dim
        return {
            "head_vectors": vectors,
            "head_graph": nodes - vectors,
            "postings": self.page_offsets.nbytes + self.radii.nbytes,
            **(self.codes.tier_bytes if self.codes is not None else {}),
        }


def write_heads(
    path: Path, heads: HeadNodes, page_offsets: npt.NDArray[np.int64], radii: npt.NDArray[np.float32]
) -> None:
    """Write ``heads.bin``.

    Raises
    ------
    OutputError
        If the device refuses.
    """
    with ContainerWriter(path, HEADS_MAGIC) as writer:
        writer.add("nodes", heads.nodes.reshape(-1, heads.layout.page_bytes))
        writer.add("entry", np.array([heads.entry], np.uint32))
        writer.add("scale", np.array([heads.scale], np.float64))
        writer.add("page_offsets", page_offsets.astype(np.uint32))
        writer.add("radii", radii.astype(np.float32))


def read_heads(path: Path, spec: IndexSpec) -> tuple[HeadNodes, npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """Read ``heads.bin``, whose checksum was proven before: heads, first page of each posting, radii."""
    dtype = spec.space_dtype if spec.space_dtype.kind in "ui" else np.dtype(np.int8)
    with open_container(path, HEADS_MAGIC, verify=False) as file:
        page_offsets, radii = file.mapped("page_offsets"), file.mapped("radii")
        heads = HeadNodes(
            NodeLayout(spec.space_dim),
            file.mapped("nodes").reshape(-1),
            len(radii),
            int(file.section("entry")[0]),
            float(file.section("scale")[0]),
            dtype,
        )
    return heads, page_offsets, radii


def write_codes(path: Path, codes: CodeTiers) -> None:
    """Write ``codes.bin``.

    Raises
    ------
    OutputError
        If the device refuses.
    """
    with ContainerWriter(path, CODES_MAGIC) as writer:
        for name, array in codes.as_arrays().items():
            writer.add(name, array)


def read_codes(path: Path) -> CodeTiers:
    """Read ``codes.bin``, whose checksum was proven before.

    Raises
    ------
    CorruptionError
        If its arrays disagree.
    """
    with open_container(path, CODES_MAGIC, verify=False) as file:
        return CodeTiers.from_arrays({name: file.mapped(name) for name in file.names})


def pages_writer(path: Path, page_bytes: int) -> ContainerWriter:
    """Begin ``pages.bin``: append pages, then ``end()`` and ``close()`` it."""
    writer = ContainerWriter(path, PAGES_MAGIC)
    writer.begin("pages", np.uint8, (page_bytes,))
    return writer


def file_checksum(path: Path) -> int:
    """Sum a segment's file for the manifest: all of it, or only the header where each page carries its own."""
    with path.open("rb") as file:
        if path.name in names.PAGED_FILES:
            return crc32c(file.read(BLOCK_BYTES))
        total = 0
        while piece := file.read(1 << 22):
            total = crc32c(piece, total)
        return total


def open_segment(folder: Path, entry: SegmentEntry, spec: IndexSpec) -> Segment:
    """Open a segment and prove every file of it but the pages, which prove themselves when they are read.

    Raises
    ------
    CorruptionError, VersionError, NotFoundError, ReadError
        If a file isn't the one that was published.
    """
    place = folder / entry.name
    for name, facts in entry.files.items():
        _prove_file(place / name, facts)
    # The checksum of the whole file is behind us: what is left is the header, and the pages' own.
    heads, page_offsets, radii = read_heads(place / names.HEADS, spec)
    with open_container(place / names.PAGES, PAGES_MAGIC, verify=False) as file:
        pages_offset, pages_bytes = file.extent("pages")
    codes = _open_codes(place / names.CODES, entry, spec) if names.CODES in entry.files else None
    vicinities = _open_vicinities(place, entry, spec, codes)
    n_places = entry.n_pages * spec.page_capacity
    raw = open_raw(place / names.RAW, spec, n_places) if names.RAW in entry.files else None
    if pages_bytes != entry.n_pages * spec.page_bytes or not _fit(entry, heads, page_offsets, radii):
        raise CorruptionError(
            f"{place} doesn't fit its manifest: {entry.n_heads} heads and {entry.n_pages} pages expected; "
            "restore it, or build the index anew",
            path=place,
        )
    return Segment(
        spec=spec,
        heads=heads,
        page_offsets=page_offsets,
        radii=radii,
        pages_path=place / names.PAGES,
        pages_offset=pages_offset,
        n_pages=entry.n_pages,
        n_rows=entry.n_rows,
        salt=entry.salt,
        layout=PageLayout.of(spec),
        codes=codes,
        vicinities=vicinities,
        raw=raw,
        plan=read_sealed(place / names.PLAN),
        report=read_sealed(place / names.REPORT),
    )


def _open_codes(path: Path, entry: SegmentEntry, spec: IndexSpec) -> CodeTiers:
    codes = read_codes(path)
    n_pages, _, capacity = codes.row_factors.shape
    # Codes of rows lie here or among the vicinities, never at both.
    expected = 0 if names.VICINITIES in entry.files else spec.page_capacity
    if (n_pages, capacity, codes.page_book.dim) != (entry.n_pages, expected, spec.space_dim):
        raise CorruptionError(
            f"{path} holds codes of {n_pages} pages of {capacity} rows, but the index has {entry.n_pages} of "
            f"{expected}; restore it, or build the index anew",
            path=path,
        )
    return codes


def _open_vicinities(place: Path, entry: SegmentEntry, spec: IndexSpec, codes: CodeTiers | None) -> Vicinities | None:
    if names.VICINITIES not in entry.files:
        return None
    if codes is None or int(codes.row_counts.max(initial=0)) > spec.page_capacity:
        raise CorruptionError(
            f"{place} has {names.VICINITIES}, but no {names.CODES} that fits it; restore it, or build the index anew",
            path=place,
        )
    layout = VicinityLayout.of(spec, codes.row_book.code_bytes)
    return open_vicinities(place / names.VICINITIES, entry.n_pages, layout)


def _prove_file(path: Path, facts: FileEntry) -> None:
    try:
        size = path.stat().st_size if path.is_file() else -1
        found = file_checksum(path) if size == facts.n_bytes else 0
    except OSError as error:
        raise ReadError(f"{path} can't be read: {error.strerror}; check its permissions", path=path) from error
    if size != facts.n_bytes:
        what = "is missing" if size < 0 else f"has {size} bytes"
        raise CorruptionError(
            f"{path} {what}, but {facts.n_bytes} were published; restore it, or build the index anew",
            path=path,
            offset=max(size, 0),
        )
    if found != facts.crc32c:
        raise CorruptionError(
            f"{path} isn't the file that was published: checksum {facts.crc32c:08x} expected, {found:08x} found; "
            "restore it, or build the index anew",
            path=path,
            offset=0,
        )


def _fit(entry: SegmentEntry, heads: HeadNodes, page_offsets: npt.NDArray[Any], radii: npt.NDArray[Any]) -> bool:
    """Say whether the tables have the sizes that they should, and lead nowhere that isn't there.

    Kernels trust them from here on.
    """
    if (
        len(heads.nodes) != heads.layout.n_pages(entry.n_heads) * heads.layout.page_bytes
        or heads.nodes.dtype != np.uint8
        or page_offsets.shape != (entry.n_heads + 1,)
        or radii.shape != (entry.n_heads,)
    ):
        return False
    neighbours = heads.neighbours()
    return bool(
        heads.entry < entry.n_heads
        and ((neighbours < entry.n_heads) | (neighbours == NO_HEAD)).all()
        and page_offsets[0] == 0
        and (page_offsets[:-1] < page_offsets[1:]).all()
        and page_offsets[-1] == entry.n_pages
    )
