"""Packs the pages of a segment, and unpacks them: `kernels` has the bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.codes.layout import Codebook
from annserve.index.segment import Segment
from annserve.packed import kernels
from annserve.spares import Spares


def can_pack(segment: Segment) -> bool:
    """Whether the codes of a segment's rows are in RAM."""
    return segment.codes is not None and not segment.codes.rows_on_ssd


class Packer:
    """Packs pages of one segment; threads may share it.

    Parameters
    ----------
    segment : Segment
        One that `can_pack` says yes to.
    """

    def __init__(self, segment: Segment) -> None:
        codes, heads, layout = segment.codes, segment.heads, segment.layout
        assert codes is not None, "rows are predicted from their codes"
        if layout.has_factors:
            gain = kernels.GAIN_OF_SCALE
        else:
            gain = kernels.GAIN_KEPT if segment.spec.metric == "cosine" else kernels.GAIN_ONE
        self._facts = kernels.Facts(
            page_offsets=segment.page_offsets,
            heads=heads.nodes.view(heads.dtype),
            head_scale=np.float32(heads.scale),
            node_sizes=(
                heads.layout.dim,
                heads.layout.degree,
                heads.layout.nodes_per_page,
                heads.layout.page_bytes,
                heads.layout.stride,
            ),
            page_codes=codes.page_codes,
            row_codes=codes.row_codes,
            page_code=_code(codes.page_book),
            row_code=_code(codes.row_book),
            capacity=layout.capacity,
            dim=layout.dim,
            ids_offset=layout.ids_offset,
            factors_offset=layout.factors_offset if layout.has_factors else 0,
            rows_offset=layout.rows_offset,
            low=int(np.iinfo(layout.dtype).min),
            gain=gain,
        )
        self._page_bytes = layout.page_bytes
        self._spares = Spares(self._make_scratch)

    def pack(self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Pack proven pages, each in its own frame.

        Parameters
        ----------
        page_ids : (p,) uint32
        frames : (p, page_bytes) uint8
            Changed.

        Returns
        -------
        (p,) int64
            Bytes that count of each frame: all where packing saves none.
        """
        return self._code(True, page_ids, np.arange(len(page_ids)), frames)

    def unpack(
        self, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
    ) -> None:
        """Undo `pack`, to the bit; whole pages are left alone.

        Parameters
        ----------
        page_ids : (p,) uint32
            Page i lies in frame i.
        places : (m,) int64
            Which of them to look at.
        frames : (≥ p, page_bytes) uint8
            Changed.
        """
        self._code(False, page_ids, places, frames)

    def _code(
        self,
        pack: bool,
        page_ids: npt.NDArray[np.uint32],
        places: npt.NDArray[np.int64],
        frames: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.int64]:
        sizes = np.empty(len(places), np.int64)
        scratch = self._spares.take()
        kernels.code_pages(self._facts, pack, page_ids, places, frames, sizes, scratch)
        self._spares.give(scratch)
        return sizes

    def _make_scratch(self) -> kernels.Scratch:
        facts, width = self._facts, -(-self._facts.dim // 8) * 8
        capacity, space_dim = facts.capacity, facts.node_sizes[0]
        return kernels.Scratch(
            page_axes=np.zeros((2, len(facts.page_code[3])), np.float32),
            centroid=np.zeros((2, space_dim), np.float32),
            row_axes=np.zeros((capacity + 1, len(facts.row_code[3])), np.float32),
            predicted=np.zeros((capacity + 1, space_dim), np.float32),
            rests=np.zeros((capacity, width), np.uint8),
            guesses=np.zeros((capacity, width), np.uint8),
            gains=np.empty(capacity, np.float32),
            page=np.empty(self._page_bytes, np.uint8),
        )


def _code(book: Codebook) -> tuple[object, ...]:
    return (*book.tables, book.synthesis, book.mean, book.code_bytes)
