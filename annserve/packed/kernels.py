"""The loops of packed pages: predict each row from its code, then write or read what is left of it.

A packed page of c rows, W being the row's length rounded up to 8::

    0      16         16 + 8c                 … + c
    | header | c × u64 ids | factors | gains | c × u8 b | planes | words … |
             (u32 where all fit)

header  : the page's own, with `PACKED` set in its flags, and `NARROW_IDS` where ids take 4 bytes.
factors : c × f32 scales, c × f32 errors, where rows carry them.
gains   : c × f32, where a row is told from its prediction by its own length (`GAIN_KEPT`).
b       : how many low bits of each element of a row lie in planes.
planes  : of each row b times W / 8 bytes: bit t of byte j is of element t · W / 8 + j.
words   : u64, from the next multiple of 8: of each element, as many zeros as its rest says, and a one.

What an element differs by from its prediction, modulo 256, is folded, 0, −1, 1, −2 … to 0, 1, 2, 3 …, and split in b
low bits and a rest: Rice's code [1], laid out so that low bits are moved by vectors, and rests are found by looking
for the next bit that is set.

Packing and unpacking are one kernel because both must predict the same to the bit: of a prediction that was compiled
twice, each copy may round its sums in its own way.

References
----------
[1] Rice, Plaunt, "Adaptive Variable-Length Coding for Efficient Compression of Spacecraft Television Data", IEEE
    Trans. Commun. 1971.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, assignment, operator"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel, view_kernel
from annserve.kernels.memory import copy
from annserve.packed.rice_kernels import (
    best_low_bits,
    fold,
    read_planes,
    read_words,
    unfold,
    write_planes,
    write_words,
)

#: Set in the flags of a packed page's header, which no page of a file has: that it is packed, and that its ids take
#: 4 bytes.
PACKED, NARROW_IDS = 0x4000, 0x8000
#: What a prediction is multiplied by to meet the elements: 1 / scale of the row, 1, or what packing finds fits best.
GAIN_OF_SCALE, GAIN_ONE, GAIN_KEPT = 0, 1, 2
_HEADER_BYTES = 16
_COUNT_AT, _FLAGS_AT = 8, 10


class Facts(NamedTuple):
    """What packing knows of a segment.

    Attributes
    ----------
    page_offsets : (h + 1,) uint32
        The pages of each head.
    heads : (…,) uint8 or int8
        Nodes, as integers.
    head_scale : float32
    node_sizes : tuple of int
        dim, degree, nodes_per_page, page_bytes, stride.
    page_codes, row_codes : (…,) uint8
        As `codes.tiers` has them.
    page_code, row_code : tuple
        Each field's component and nibble, (f,) int32, and levels, (f, 16) float32; synthesis, (m, space_dim) float32;
        mean, (space_dim,) float32; bytes of a code.
    capacity, dim, ids_offset, factors_offset, rows_offset : int
        Of a page's layout; factors_offset is 0 where rows carry none.
    low : int
        Least value of an element: 0 or −128.
    gain : int
        `GAIN_OF_SCALE`, `GAIN_ONE` or `GAIN_KEPT`.
    """

    page_offsets: npt.NDArray[np.uint32]
    heads: npt.NDArray[Any]
    head_scale: np.float32
    node_sizes: tuple[int, ...]
    page_codes: npt.NDArray[np.uint8]
    row_codes: npt.NDArray[np.uint8]
    page_code: tuple[Any, ...]
    row_code: tuple[Any, ...]
    capacity: int
    dim: int
    ids_offset: int
    factors_offset: int
    rows_offset: int
    low: int
    gain: int


class Scratch(NamedTuple):
    """Room for one page.

    Attributes
    ----------
    page_axes, centroid : (2, …) float32
        Components of a page's code, and its centroid; the second row is room.
    row_axes, predicted : (capacity + 1, …) float32
        The same of its rows; the last is room.
    rests : (capacity, W) uint8
        Folded differences, or what is left of them.
    guesses : (capacity, W) uint8
        Predictions as elements, modulo 256.
    gains : (capacity,) float32
    page : (page_bytes,) uint8
    """

    page_axes: npt.NDArray[np.float32]
    centroid: npt.NDArray[np.float32]
    row_axes: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.float32]
    rests: npt.NDArray[np.uint8]
    guesses: npt.NDArray[np.uint8]
    gains: npt.NDArray[np.float32]
    page: npt.NDArray[np.uint8]


@inline_kernel
def _decode_components(codes, start, stride, code, components):  # type: ignore[no-untyped-def]
    """Look up the components of a code, (m,); byte b of it lies at start + b · stride."""
    of_component, of_nibble, levels = code[0], code[1], code[2]
    components[:] = 0
    for f in range(of_component.shape[0]):
        both = codes[start + (of_nibble[f] >> 1) * stride]
        components[of_component[f]] += levels[f, (both >> (4 * (of_nibble[f] & 1))) & 15]


@inline_kernel
def _add_combined(components, synthesis, n_rows, out):  # type: ignore[no-untyped-def]
    """Add ``components @ synthesis`` to rows, two rows and four axes in one go: a row more than there are is room."""
    n_axes, dim = synthesis.shape
    whole = n_axes - n_axes % 4
    for row in range(0, n_rows, 2):
        a, b, here, there = components[row], components[row + 1], out[row], out[row + 1]
        for i in range(whole, n_axes):
            axis = synthesis[i]
            for d in range(dim):
                here[d] += a[i] * axis[d]
                there[d] += b[i] * axis[d]
    for i in range(0, whole, 4):
        # These axes stay near while all rows take them.
        axis, axis1, axis2, axis3 = synthesis[i], synthesis[i + 1], synthesis[i + 2], synthesis[i + 3]
        for row in range(0, n_rows, 2):
            a, b, here, there = components[row], components[row + 1], out[row], out[row + 1]
            a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
            b0, b1, b2, b3 = b[i], b[i + 1], b[i + 2], b[i + 3]
            for d in range(dim):
                s0, s1, s2, s3 = axis[d], axis1[d], axis2[d], axis3[d]
                here[d] += a0 * s0 + a1 * s1 + a2 * s2 + a3 * s3
                there[d] += b0 * s0 + b1 * s1 + b2 * s2 + b3 * s3


@inline_kernel
def _predict(facts, page, n_rows, scratch):  # type: ignore[no-untyped-def]
    """Decode the codes of a page's rows to ``scratch.predicted``."""
    head = np.searchsorted(facts.page_offsets, np.uint32(page), side="right") - 1
    first = np.int64(facts.page_offsets[head])
    n_pages = np.int64(facts.page_offsets[head + 1]) - first
    dim, degree, per_page, node_page_bytes, node_bytes = facts.node_sizes
    at = head // per_page * node_page_bytes + head % per_page * node_bytes + 4 * degree
    vector = facts.heads[at : at + dim]
    synthesis, mean, code_bytes = facts.page_code[3:]
    _decode_components(
        facts.page_codes, first * code_bytes + page - first, n_pages, facts.page_code, scratch.page_axes[0]
    )
    for d in range(dim):
        scratch.centroid[0, d] = facts.head_scale * np.float32(vector[d]) + mean[d]
    _add_combined(scratch.page_axes, synthesis, 1, scratch.centroid)
    synthesis, mean, code_bytes = facts.row_code[3:]
    start = page * code_bytes * facts.capacity
    for row in range(n_rows):
        _decode_components(facts.row_codes, start + row, facts.capacity, facts.row_code, scratch.row_axes[row])
        for d in range(dim):
            scratch.predicted[row, d] = scratch.centroid[0, d] + mean[d]
    _add_combined(scratch.row_axes, synthesis, n_rows, scratch.predicted)


@inline_kernel
def _guess(predicted, gain, low, guesses):  # type: ignore[no-untyped-def]
    """Round a prediction to elements, modulo 256."""
    least, most = np.float32(low), np.float32(low + 255)
    for d in range(guesses.shape[0]):
        guesses[d] = np.uint8(np.int32(np.rint(min(max(predicted[d] * gain, least), most))) & 255)


@inline_kernel
def _best_gain(predicted, row, low):  # type: ignore[no-untyped-def]
    """Give what a prediction is to be multiplied by to come nearest to a row."""
    product, square = np.float32(0), np.float32(1e-30)
    for d in range(row.shape[0]):
        element = np.float32(row[d]) if low == 0 else np.float32(np.int8(row[d]))
        product += predicted[d] * element
        square += predicted[d] * predicted[d]
    return product / square


@inline_kernel
def _u16_at(array, at):  # type: ignore[no-untyped-def]
    return np.int64(array[at]) | np.int64(array[at + 1]) << 8


@view_kernel
def _f32(array, at, count):  # type: ignore[no-untyped-def]
    return array[at : at + 4 * count].view(np.float32)


@inline_kernel
def _take_gains(facts, scratch, page, n_rows):  # type: ignore[no-untyped-def]
    """Give each row's gain as a whole page tells it."""
    scales = _f32(page, facts.factors_offset, n_rows)
    for row in range(n_rows):
        if facts.gain == GAIN_OF_SCALE:
            scratch.gains[row] = np.float32(1) / scales[row] if scales[row] > 0 else np.float32(0)
        elif facts.gain == GAIN_KEPT:
            start = facts.rows_offset + row * facts.dim
            scratch.gains[row] = _best_gain(scratch.predicted[row], page[start : start + facts.dim], facts.low)
        else:
            scratch.gains[row] = np.float32(1)


@inline_kernel
def _find_gains(facts, scratch, packed, n_rows, at_factors, at_gains):  # type: ignore[no-untyped-def]
    """Give each row's gain as a packed page tells it."""
    scales, kept = _f32(packed, at_factors, n_rows), _f32(packed, at_gains, n_rows)
    for row in range(n_rows):
        if facts.gain == GAIN_OF_SCALE:
            scratch.gains[row] = np.float32(1) / scales[row] if scales[row] > 0 else np.float32(0)
        elif facts.gain == GAIN_KEPT:
            scratch.gains[row] = kept[row]
        else:
            scratch.gains[row] = np.float32(1)


@inline_kernel
def _are_narrow(page, at, n_rows):  # type: ignore[no-untyped-def]
    """Whether the upper halves of all ids are 0."""
    upper = np.uint8(0)
    for row in range(n_rows):
        for byte in range(4, 8):
            upper |= page[at + 8 * row + byte]
    return upper == 0


@inline_kernel
def _write(facts, scratch, page, n_rows, id_bytes, at_factors, at_gains, at_low):  # type: ignore[no-untyped-def]
    """Pack a page into ``scratch.page``; give its size, that of the page if it doesn't pay."""
    dim, width, out = facts.dim, scratch.rests.shape[1], scratch.page
    bits, at = np.int64(0), at_low + n_rows
    for row in range(n_rows):
        start = facts.rows_offset + row * dim
        rests = scratch.rests[row]
        rests[dim:] = 0
        fold(page[start : start + dim], scratch.guesses[row], rests)
        b, more = best_low_bits(rests)
        out[at_low + row] = b
        bits += more
        at += b * (width >> 3)
    at_words = (at + 7) & ~7
    size = at_words + ((bits + 63) >> 6) * 8
    if size < len(page):
        copy(page[:_HEADER_BYTES], out)
        out[_FLAGS_AT + 1] |= (PACKED | (NARROW_IDS if id_bytes == 4 else 0)) >> 8
        for row in range(n_rows):
            for byte in range(id_bytes):
                out[_HEADER_BYTES + row * id_bytes + byte] = page[facts.ids_offset + 8 * row + byte]
        if facts.factors_offset > 0:
            for part in range(2):
                start = facts.factors_offset + part * 4 * facts.capacity
                to = at_factors + part * 4 * n_rows
                copy(page[start : start + 4 * n_rows], out[to:])
        if facts.gain == GAIN_KEPT:
            copy(scratch.gains[:n_rows], _f32(out, at_gains, n_rows))
        at = at_low + n_rows
        for row in range(n_rows):
            b = np.int64(out[at_low + row])
            write_planes(scratch.rests[row], b, out, at)
            at += b * (width >> 3)
        out[at:at_words] = 0
        write_words(scratch.rests, n_rows, out[at_words:size].view(np.uint64))
    else:
        size = len(page)
    return size


@inline_kernel
def _read(facts, scratch, page, n_rows, id_bytes, at_factors, at_low):  # type: ignore[no-untyped-def]
    """Unpack what lies in ``scratch.page`` to a page."""
    dim, width, packed = facts.dim, scratch.rests.shape[1], scratch.page
    page[:] = 0
    copy(packed[:_HEADER_BYTES], page)
    page[_FLAGS_AT + 1] &= np.uint8(255 ^ (PACKED | NARROW_IDS) >> 8)
    for row in range(n_rows):
        for byte in range(id_bytes):
            page[facts.ids_offset + 8 * row + byte] = packed[_HEADER_BYTES + row * id_bytes + byte]
    if facts.factors_offset > 0:
        for part in range(2):
            start = facts.factors_offset + part * 4 * facts.capacity
            at = at_factors + part * 4 * n_rows
            copy(packed[at : at + 4 * n_rows], page[start:])
    at = at_low + n_rows
    for row in range(n_rows):
        at += np.int64(packed[at_low + row]) * (width >> 3)
    read_words(packed[(at + 7) & ~7 :].view(np.uint64), n_rows, scratch.rests)
    at = at_low + n_rows
    for row in range(n_rows):
        b = np.int64(packed[at_low + row])
        read_planes(packed, at, b, scratch.rests[row])
        at += b * (width >> 3)
        start = facts.rows_offset + row * dim
        unfold(scratch.rests[row], scratch.guesses[row], page[start : start + dim])


@kernel
def code_pages(facts, pack, page_ids, places, frames, sizes, scratch):  # type: ignore[no-untyped-def]
    """Pack whole pages, or unpack those that are packed, each in its own frame.

    Parameters
    ----------
    facts : Facts  # IN
    pack : bool  # IN
    page_ids : (p,) uint32  # IN
        Of the segment; page i lies in frame i.
    places : (m,) int64  # IN
        Which of them.
    frames : (≥ p, page_bytes) uint8  # IN, OUT
    sizes : (m,) int64  # OUT
        Bytes that count of each frame: all of them, but where a page was packed.
    scratch : Scratch
    """
    for i in range(len(places)):
        page = frames[places[i]]
        sizes[i] = len(page)
        flags = _u16_at(page, _FLAGS_AT)
        if pack == (flags & PACKED != 0):
            continue
        n_rows = min(_u16_at(page, _COUNT_AT), facts.capacity)
        narrow = _are_narrow(page, facts.ids_offset, n_rows) if pack else flags & NARROW_IDS != 0
        id_bytes = 4 if narrow else 8
        at_factors = _HEADER_BYTES + id_bytes * n_rows
        at_gains = at_factors + (8 * n_rows if facts.factors_offset > 0 else 0)
        at_low = at_gains + (4 * n_rows if facts.gain == GAIN_KEPT else 0)
        _predict(facts, np.int64(page_ids[places[i]]), n_rows, scratch)
        if pack:
            _take_gains(facts, scratch, page, n_rows)
        else:
            copy(page, scratch.page)
            _find_gains(facts, scratch, scratch.page, n_rows, at_factors, at_gains)
        for row in range(n_rows):
            _guess(scratch.predicted[row], scratch.gains[row], facts.low, scratch.guesses[row, : facts.dim])
        if pack:
            size = _write(facts, scratch, page, n_rows, id_bytes, at_factors, at_gains, at_low)
            if size < len(page):
                copy(scratch.page[:size], page)
                sizes[i] = size
        else:
            _read(facts, scratch, page, n_rows, id_bytes, at_factors, at_low)
