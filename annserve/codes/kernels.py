"""Writing, reading and scanning codes.

Loop order: a scan goes byte by byte over a page, 32 rows at a time, so memory is read in sequence and each
table of 16 entries is loaded once. On x86 with AVX2 and on ARM with NEON the step is a byte shuffle per nibble
(FastScan [1]), written in LLVM; elsewhere plain loops give the same integers.

References
----------
[1] André, Kermarrec, Le Scouarnec, "Cache locality is not enough: high-performance nearest neighbor search
    with product quantization fast scan", VLDB 2015.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"
from __future__ import annotations

import platform

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from annserve.kernels.jit import inline_kernel, kernel

_ROWS = 32
_HOST = llvmlite.binding.get_host_cpu_features()


def _shuffle_here() -> str | None:
    """Say which byte shuffle this machine has."""
    if platform.machine() in ("x86_64", "AMD64"):
        return "avx2" if _HOST.get("avx2", False) else None
    return "neon" if platform.machine() in ("aarch64", "arm64") else None


SHUFFLE = _shuffle_here()


@kernel
def encode_components(components, of_component, of_nibble, shifts, bits, levels, codes):
    """Write the nearest level of each component into its fields.

    A component's two fields, if it has two, are one evenly spaced scale: the low field (4 bits) counts steps,
    the high one sixteens of them.

    Parameters
    ----------
    components : (n, m) float32  # IN
    of_component, of_nibble, shifts, bits : (f,) int32  # IN
    levels : (f, 16) float32, ascending  # IN
    codes : (n, code_bytes) uint8, zeroed  # OUT
    """
    n_fields = of_component.shape[0]
    for f in range(n_fields):
        partner = -1
        for other in range(n_fields):
            if other != f and of_component[other] == of_component[f]:
                partner = other
        count = 1 << bits[f]
        byte = of_nibble[f] >> 1
        shift = shifts[f] + 4 * (of_nibble[f] & 1)
        for i in range(components.shape[0]):
            value = components[i, of_component[f]]
            chosen = np.int64(0)
            if partner < 0:
                # Halfway between two levels the lower one is taken, as a search in midpoints does.
                while chosen < count - 1 and value > (levels[f, chosen] + levels[f, chosen + 1]) * np.float32(0.5):
                    chosen += 1
            else:
                low = f if bits[f] == 4 else partner
                high = partner if bits[f] == 4 else f
                step = levels[low, 1]
                first = levels[low, 0] + levels[high, 0]
                last = (1 << (4 + bits[high])) - 1
                place = np.float32(0)
                if step > 0:
                    place = (value - first) / step + np.float32(0.5)
                whole = np.int64(min(max(place, np.float32(0)), np.float32(last)))
                chosen = whole & 15 if low == f else whole >> 4
            codes[i, byte] |= np.uint8(chosen << shift)


@kernel
def decode_components(codes, of_component, of_nibble, shifts, bits, levels, components):
    """Add each field's level to its component.

    Parameters
    ----------
    codes : (n, code_bytes) uint8  # IN
    components : (n, m) float32, zeroed  # OUT
    """
    for i in range(codes.shape[0]):
        for f in range(of_component.shape[0]):
            nibble = codes[i, of_nibble[f] >> 1] >> (4 * (of_nibble[f] & 1))
            value = (nibble >> shifts[f]) & ((1 << bits[f]) - 1)
            components[i, of_component[f]] += levels[f, value]


@inline_kernel
def nibble_tables(projected, fields, tables):
    """Give what each nibble value adds to the inner product with a projected query.

    Parameters
    ----------
    projected : (m,) float32  # IN
        The query's own components.
    fields : tuple  # IN
        Component and nibble of each field, (f,) int32, and its level at each value of the nibble, (f, 16) float32.
    tables : (n_nibbles, 16) float32  # OUT
    """
    of_component, of_nibble, entries = fields
    tables[:] = 0
    for f in range(of_component.shape[0]):
        weight = projected[of_component[f]]
        entry = entries[f]
        table = tables[of_nibble[f]]
        for x in range(16):
            table[x] += weight * entry[x]


@inline_kernel
def smallest_of(values):
    """Give the least of (n,) float32. Not ``values.min()``, which takes 0.6 s to compile."""
    found = values[0]
    for x in range(1, values.shape[0]):
        found = min(found, values[x])
    return found


@inline_kernel
def largest_of(values):
    """Give the greatest of (n,) float32."""
    found = values[0]
    for x in range(1, values.shape[0]):
        found = max(found, values[x])
    return found


@inline_kernel
def quantize_tables(tables, quantized):
    """Round tables on one scale, each from its own minimum, so that no nibble's errors lean to one side.

    Parameters
    ----------
    tables : (n_nibbles, 16) float32  # IN
    quantized : (passes, n_nibbles, 16) uint8  # OUT
        One pass holds 8-bit entries; of two, the first holds the low bytes of 16-bit entries.

    Returns
    -------
    (step, offset) : float32, float32
        A sum of table entries is about ``offset + step * sum of quantized entries``.
    """
    widest = np.float32(0)
    for m in range(tables.shape[0]):
        widest = max(widest, largest_of(tables[m]) - smallest_of(tables[m]))
    most = np.float32(255 if quantized.shape[0] == 1 else 65535)
    step = widest / most
    scale = np.float32(0)
    if step > 0:
        scale = np.float32(1) / step
    offset = np.float32(0)
    for m in range(tables.shape[0]):
        low = smallest_of(tables[m])
        lean = np.float32(0)
        for x in range(16):
            entry = np.int32(min((tables[m, x] - low) * scale + np.float32(0.5), most))
            lean += tables[m, x] - low - step * np.float32(entry)
            quantized[0, m, x] = np.uint8(entry & 255)
            if quantized.shape[0] == 2:
                quantized[1, m, x] = np.uint8(entry >> 8)
        offset += low + lean / np.float32(16)
    return step, offset


def look_up(builder, shuffle, table, nibbles):
    """Give entries of a table of 16 bytes at 32 places, in LLVM.

    Parameters
    ----------
    builder : ir.IRBuilder
    shuffle : str
        ``avx2`` or ``neon``.
    table : <16 x i8> value
    nibbles : <32 x i8> value
        Below 16.

    Returns
    -------
    <32 x i8> value
    """
    places = ir.VectorType(ir.IntType(32), 32)
    if shuffle == "avx2":
        # The instruction looks up each half of its lanes in that half of the table.
        twice = builder.shuffle_vector(table, table, ir.Constant(places, [*range(16), *range(16)]))
        kind = ir.FunctionType(nibbles.type, [nibbles.type, nibbles.type])
        return builder.call(builder.module.declare_intrinsic("llvm.x86.avx2.pshuf.b", (), kind), [twice, nibbles])
    kind = ir.FunctionType(table.type, [table.type, table.type])
    function = builder.module.declare_intrinsic("llvm.aarch64.neon.tbl1.v16i8", (), kind)
    half = ir.VectorType(ir.IntType(32), 16)
    low, high = (
        builder.call(
            function,
            [table, builder.shuffle_vector(nibbles, nibbles, ir.Constant(half, [*range(first, first + 16)]))],
        )
        for first in (0, 16)
    )
    return builder.shuffle_vector(low, high, ir.Constant(places, [*range(32)]))


@intrinsic
def _shuffle_step(typingctx, codes, start, stride, n_bytes, tables, sums, at):
    """Sum table entries of 32 rows into ``sums[at:]``; byte b of them lies at ``start + b * stride``."""
    signature = types.void(codes, start, stride, n_bytes, tables, sums, at)

    def generate(context, builder, signature, arguments):
        byte, word = ir.IntType(8), ir.IntType(16)
        lanes, pairs = ir.VectorType(byte, 32), ir.VectorType(word, 16)

        def data_of(number):
            array = context.make_array(signature.args[number])(context, builder, arguments[number])
            return builder.bitcast(array.data, ir.PointerType(byte))

        def splat(kind, value, count):
            return ir.Constant(kind, [value] * count)

        codes_at, tables_at = data_of(0), data_of(4)
        sums_at = builder.bitcast(data_of(5), ir.PointerType(word))
        start, stride, n_bytes, at = arguments[1], arguments[2], arguments[3], arguments[6]
        even = cgutils.alloca_once_value(builder, ir.Constant(pairs, None))
        odd = cgutils.alloca_once_value(builder, ir.Constant(pairs, None))
        one = ir.Constant(stride.type, 1)

        def table(number):
            place = builder.gep(tables_at, [builder.mul(number, ir.Constant(number.type, 16))])
            return builder.load(builder.bitcast(place, ir.PointerType(ir.VectorType(byte, 16))), align=1)

        with cgutils.for_range(builder, n_bytes) as loop:
            place = builder.gep(codes_at, [builder.add(start, builder.mul(loop.index, stride))])
            both = builder.load(builder.bitcast(place, ir.PointerType(lanes)), align=1)
            low = builder.and_(both, splat(lanes, 15, 32))
            high = builder.lshr(both, splat(lanes, 4, 32))
            first = builder.shl(loop.index, one)
            for nibbles, number in ((low, first), (high, builder.add(first, one))):
                entries = builder.bitcast(look_up(builder, SHUFFLE, table(number), nibbles), pairs)
                upper = builder.lshr(entries, splat(pairs, 8, 16))
                builder.store(builder.add(builder.load(even), entries), even)
                builder.store(builder.add(builder.load(odd), upper), odd)
        # Pairs were added whole: `even` holds its sums plus 256 times the odd ones, modulo 2**16.
        excess = builder.shl(builder.load(odd), splat(pairs, 8, 16))
        builder.store(builder.sub(builder.load(even), excess), even)
        # Rows 0, 2, 4 … are summed in `even`, 1, 3, 5 … in `odd`: interleave them again.
        merge = ir.Constant(ir.VectorType(ir.IntType(32), 32), [i // 2 + 16 * (i % 2) for i in range(32)])
        merged = builder.shuffle_vector(builder.load(even), builder.load(odd), merge)
        target = builder.gep(sums_at, [at])
        builder.store(merged, builder.bitcast(target, ir.PointerType(merged.type)), align=1)
        return context.get_dummy_value()

    return signature, generate


@kernel
def scan_page_portable(codes, start, capacity, n_rows, tables, sums):
    """Sum 8-bit table entries over the nibbles of each row of a page, in plain loops.

    Parameters
    ----------
    codes : (bytes + slack,) uint8, C-contiguous  # IN
        Codes of all pages, flat (see layout).
    start : int
        Where the page begins in it.
    capacity : int
        Slots of a page, the stride between two bytes of one code.
    n_rows : int
        Rows wanted.
    tables : (n_nibbles, 16) uint8  # IN
    sums : (>= n_rows rounded up to 32,) uint16  # OUT
    """
    for i in range(n_rows):
        sums[i] = 0
    for byte in range(tables.shape[0] // 2):
        for i in range(n_rows):
            both = codes[start + byte * capacity + i]
            sums[i] += np.uint16(tables[2 * byte, both & 15]) + np.uint16(tables[2 * byte + 1, both >> 4])


if SHUFFLE:

    @inline_kernel
    def scan_page(codes, start, capacity, n_rows, tables, sums):
        """Do what `scan_page_portable` does, 32 rows at a time."""
        for first in range(0, n_rows, _ROWS):
            _shuffle_step(codes, start + first, capacity, tables.shape[0] // 2, tables, sums, first)

else:
    scan_page = scan_page_portable
