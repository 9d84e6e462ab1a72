"""Rice's code of small differences in two parts, low bits in planes and rests as zeros before a one: see `kernels`."""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, assignment, operator"
from __future__ import annotations

import numpy as np

from annserve.kernels.bits import trailing_zeros
from annserve.kernels.jit import inline_kernel

#: Values of the number of low bits.
_LOW_BITS = 8


@inline_kernel
def fold(row, guesses, rests):  # type: ignore[no-untyped-def]
    """Fold the differences between elements and their predictions."""
    for d in range(row.shape[0]):
        apart = np.int32(np.int8(np.uint8(row[d] - guesses[d])))
        rests[d] = np.uint8((apart << 1) ^ (apart >> 31))


@inline_kernel
def unfold(rests, guesses, row):  # type: ignore[no-untyped-def]
    """Undo `fold`."""
    for d in range(row.shape[0]):
        folded = np.int32(rests[d])
        row[d] = np.uint8(np.int32(guesses[d]) + ((folded >> 1) ^ -(folded & 1)))


@inline_kernel
def best_low_bits(rests):  # type: ignore[no-untyped-def]
    """Give the number of low bits that takes the fewest bits in all, and how many bits rests take then."""
    chosen, least, bits = 0, np.int64(1) << 40, np.int64(0)
    for b in range(_LOW_BITS):
        total = np.int32(0)
        for d in range(rests.shape[0]):
            total += np.int32(rests[d] >> np.uint8(b))
        size = np.int64(total) + b * rests.shape[0]
        if size < least:
            chosen, least, bits = b, size, np.int64(total)
    return chosen, bits + rests.shape[0]


@inline_kernel
def write_planes(rests, b, packed, at):  # type: ignore[no-untyped-def]
    """Move b low bits of each element to planes, leave its rest."""
    width = rests.shape[0] >> 3
    for plane in range(b):
        out = packed[at + plane * width : at + (plane + 1) * width]
        out[:] = 0
        for t in range(8):
            some = rests[t * width : (t + 1) * width]
            for j in range(width):
                out[j] |= ((some[j] >> np.uint8(plane)) & np.uint8(1)) << np.uint8(t)
    for d in range(rests.shape[0]):
        rests[d] >>= np.uint8(b)


@inline_kernel
def read_planes(packed, at, b, rests):  # type: ignore[no-untyped-def]
    """Put an element's low bits under its rest."""
    width = rests.shape[0] >> 3
    for d in range(rests.shape[0]):
        rests[d] <<= np.uint8(b)
    for plane in range(b):
        some = packed[at + plane * width : at + (plane + 1) * width]
        for t in range(8):
            out = rests[t * width : (t + 1) * width]
            for j in range(width):
                out[j] |= ((some[j] >> np.uint8(t)) & np.uint8(1)) << np.uint8(plane)


@inline_kernel
def write_words(rests, n_rows, words):  # type: ignore[no-untyped-def]
    """Write each rest as zeros and a one."""
    word, place, filled = np.int64(0), np.int64(0), np.uint64(0)
    for row in range(n_rows):
        for d in range(rests.shape[1]):
            place += np.int64(rests[row, d])
            while place >= 64:
                words[word] = filled
                word, filled, place = word + 1, np.uint64(0), place - 64
            filled |= np.uint64(1) << np.uint64(place)
            place += 1
    while place > 0:
        words[word] = filled
        word, filled, place = word + 1, np.uint64(0), place - 64


@inline_kernel
def read_words(words, n_rows, rests):  # type: ignore[no-untyped-def]
    """Find each rest by the next bit that is set."""
    flat = rests.reshape(-1)
    n, found, before, base = n_rows * rests.shape[1], np.int64(0), np.int64(-1), np.int64(0)
    for word in words:
        left = np.uint64(word)
        while left != 0 and found < n:
            place = base + trailing_zeros(left)
            flat[found] = np.uint8(place - before - 1)
            left &= left - np.uint64(1)
            before = place
            found += 1
        if found == n:
            break
        base += 64
