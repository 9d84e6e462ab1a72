"""The file of raw rows of a segment: its writer, and opening it. Its sections are in storage/FORMAT.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annserve.errors import CorruptionError, InputError
from annserve.metric import METRIC_CODES
from annserve.raw.layout import RawLayout
from annserve.spec import IndexSpec
from annserve.storage.container import ContainerWriter, open_container
from annserve.storage.layout import CODE_OF_DTYPE, DTYPE_CODES

RAW_MAGIC = b"ANNRAWRW"
#: What the section ``facts`` holds, in this order.
FACTS = ("dim", "type", "metric", "own", "settle_above")

_METRICS = {code: name for name, code in METRIC_CODES.items()}


@dataclass(frozen=True)
class RawFile:
    """Raw rows on the device.

    Attributes
    ----------
    path : Path
    offset : int
        Byte at which page 0 starts.
    n_pages : int
    layout : RawLayout
    """

    path: Path
    offset: int
    n_pages: int
    layout: RawLayout


def raw_writer(path: Path, layout: RawLayout) -> ContainerWriter:
    """Begin ``raw.bin``: append its pages, then ``end()`` and ``close()`` it."""
    writer = ContainerWriter(path, RAW_MAGIC)
    spec = layout.spec
    thousandths = round(1_000 * layout.settle_above)
    facts = [spec.dim, CODE_OF_DTYPE[layout.dtype], METRIC_CODES[spec.metric], layout.own, thousandths]
    writer.add("facts", np.array(facts, np.uint32))
    writer.begin("pages", np.uint8, (layout.page_bytes,))
    return writer


def open_raw(path: Path, spec: IndexSpec, n_places: int) -> RawFile:
    """Open ``raw.bin``; its pages prove themselves when they are read.

    Parameters
    ----------
    path : Path
    spec : IndexSpec
        Of the index.
    n_places : int
        Posting pages times their capacity.

    Raises
    ------
    CorruptionError, VersionError, NotFoundError, ReadError
        If it isn't whole, or doesn't fit the index.
    """
    with open_container(path, RAW_MAGIC, verify=("facts",)) as file:
        facts = [int(fact) for fact in file.section("facts")]
        offset, n_bytes = file.extent("pages")
    try:
        dim, code, metric, own, thousandths = facts
        raw_spec = IndexSpec(dim, DTYPE_CODES[code].newbyteorder("=").name, _METRICS[metric])
        layout = RawLayout(raw_spec, bool(own), thousandths / 1_000)
        fits = thousandths <= 1_000 and own <= 1 and (not own or (dim, raw_spec.metric) == (spec.dim, spec.metric))
    except (KeyError, ValueError, InputError):
        fits = False
    if not fits or n_bytes != layout.n_pages(n_places) * layout.page_bytes:
        raise CorruptionError(
            f"{path} doesn't fit its index: facts {facts} and {n_bytes:,} bytes of pages for {n_places:,} places; "
            "restore it, or build the index anew",
            path=path,
        )
    return RawFile(path, offset, layout.n_pages(n_places), layout)
