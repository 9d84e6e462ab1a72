"""``vicinities.bin``: the codes of rows that lie on the SSD; its two ends. Sections are in storage/FORMAT.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annserve.codes.vicinity_layout import VicinityLayout
from annserve.errors import CorruptionError
from annserve.storage.container import ContainerWriter, open_container
from annserve.storage.reader import PageReader, open_reader

VICINITIES_MAGIC = b"ANNVICIN"


@dataclass(frozen=True)
class Vicinities:
    """Where the vicinities of a segment lie, one for each of its pages.

    Attributes
    ----------
    path : Path
    pages_offset : int
        Byte at which that of page 0 starts.
    n_pages : int
    layout : VicinityLayout
    """

    path: Path
    pages_offset: int
    n_pages: int
    layout: VicinityLayout

    def open_reader(self, kind: str = "auto") -> PageReader:
        """Open a reader of them, as ``storage.reader.open_reader`` does."""
        return open_reader(self.path, self.pages_offset, self.layout.page_bytes, self.n_pages, kind)


def vicinities_writer(path: Path, layout: VicinityLayout) -> ContainerWriter:
    """Begin ``vicinities.bin``: append vicinities, then ``end()`` and ``close()`` it."""
    writer = ContainerWriter(path, VICINITIES_MAGIC)
    writer.begin("vicinities", np.uint8, (layout.page_bytes,))
    return writer


def open_vicinities(path: Path, n_pages: int, layout: VicinityLayout) -> Vicinities:
    """Open ``vicinities.bin``: its header is proven here, each vicinity when it is read.

    Raises
    ------
    CorruptionError
        If it isn't a file of so many vicinities.
    """
    with open_container(path, VICINITIES_MAGIC, verify=False) as file:
        pages_offset, n_bytes = file.extent("vicinities")
    if n_bytes != n_pages * layout.page_bytes:
        raise CorruptionError(
            f"{path} holds {n_bytes:,} bytes of vicinities, but the index has {n_pages:,} pages of "
            f"{layout.page_bytes:,}; restore it, or build the index anew",
            path=path,
        )
    return Vicinities(path, pages_offset, n_pages, layout)
