"""CRC-32C of a page, by the processor's instruction where it has one, else by tables.

References
----------
[1] Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", Intel, 2011 (streams).
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value"
from __future__ import annotations

import os
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import load_u64

_intrinsic: Any = intrinsic

_POLYNOMIAL = 0x82F63B78
#: Bytes of each of three streams that are summed at once: the instruction takes 3 cycles but starts every
#: cycle. Three of 1,360 cover all but 12 bytes of a 4 KB page without its checksum.
_STREAM_BYTES = 1_360


def _byte_table() -> npt.NDArray[np.uint32]:
    """Sum of each single byte (the classic table)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0))
    return table.astype(np.uint32)


def _zeros_tables(n_bytes: int) -> npt.NDArray[np.uint32]:
    """Carry each byte of a sum over `n_bytes` zeros: (4, 256), to be combined by xor."""
    state = np.arange(256, dtype=np.uint32) << (np.uint32(8) * np.arange(4, dtype=np.uint32)[:, None])
    for _ in range(n_bytes):
        state = (state >> np.uint32(8)) ^ _BYTE_TABLE[state & np.uint32(255)]
    return state.astype(np.uint32)


def _slicing_tables() -> npt.NDArray[np.uint32]:
    """Sum of each byte followed by 7, 6, … 0 zeros: (8, 256), to take eight bytes a step."""
    tables = [_BYTE_TABLE]
    for _ in range(7):
        tables.append((tables[-1] >> np.uint32(8)) ^ _BYTE_TABLE[tables[-1] & np.uint32(255)])
    return np.ascontiguousarray(tables[::-1], dtype=np.uint32)


def _crc_instruction() -> bool:
    """Whether kernels are compiled for a processor with the crc32 instruction (SSE4.2).

    numba keys its cache by processor and features, so that a compiled choice is never met by another machine.
    """
    asked_for = os.environ.get("NUMBA_CPU_FEATURES")
    if asked_for is not None:
        return "+sse4.2" in asked_for.split(",")
    if os.environ.get("NUMBA_CPU_NAME") == "generic":
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("sse4.2", False))


_BYTE_TABLE = _byte_table()
_SLICING = _slicing_tables()
_ZEROS = _zeros_tables(_STREAM_BYTES)
HAS_CRC_INSTRUCTION = _crc_instruction()


@_intrinsic
def _crc32_u64(typing_context: Any, crc: Any, word: Any) -> Any:
    """Carry a sum over 8 bytes by the processor's instruction."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        u64 = ir.IntType(64)
        function = builder.module.declare_intrinsic("llvm.x86.sse42.crc32.64.64", (), ir.FunctionType(u64, (u64, u64)))
        return builder.call(function, args)

    return types.uint64(types.uint64, types.uint64), generate


@inline_kernel
def _step_byte(crc: np.uint64, byte: np.uint8) -> np.uint64:
    return (crc >> np.uint64(8)) ^ np.uint64(_BYTE_TABLE[(crc ^ np.uint64(byte)) & np.uint64(255)])


@inline_kernel
def _over_zeros(crc: np.uint64) -> np.uint64:
    """Carry a sum over `_STREAM_BYTES` zeros."""
    return np.uint64(
        _ZEROS[0, crc & np.uint64(255)]
        ^ _ZEROS[1, (crc >> np.uint64(8)) & np.uint64(255)]
        ^ _ZEROS[2, (crc >> np.uint64(16)) & np.uint64(255)]
        ^ _ZEROS[3, (crc >> np.uint64(24)) & np.uint64(255)]
    )


@kernel
def crc32c_of_portable(page_u8: npt.NDArray[np.uint8], start: int, stop: int, seed: np.uint32) -> np.uint32:
    """Sum ``page_u8[start:stop]`` by tables, on any processor; same contract as ``crc32c_of``."""
    base = np.int64(page_u8.ctypes.data)
    crc = np.uint64(seed) ^ np.uint64(0xFFFFFFFF)
    at = np.int64(start)
    while stop - at >= 8:
        word = load_u64(base + at) ^ crc
        crc = np.uint64(0)
        for i in range(8):
            crc ^= np.uint64(_SLICING[i, (word >> np.uint64(8 * i)) & np.uint64(255)])
        at += 8
    while at < stop:
        crc = _step_byte(crc, page_u8[at])
        at += 1
    return np.uint32(crc ^ np.uint64(0xFFFFFFFF))


@kernel
def _crc32c_of_instruction(page_u8: npt.NDArray[np.uint8], start: int, stop: int, seed: np.uint32) -> np.uint32:
    base = np.int64(page_u8.ctypes.data)
    crc = np.uint64(seed) ^ np.uint64(0xFFFFFFFF)
    at = np.int64(start)
    while stop - at >= 3 * _STREAM_BYTES:
        second, third = np.uint64(0), np.uint64(0)
        place = base + at
        for i in range(0, _STREAM_BYTES, 8):
            crc = _crc32_u64(crc, load_u64(place + i))
            second = _crc32_u64(second, load_u64(place + i + _STREAM_BYTES))
            third = _crc32_u64(third, load_u64(place + i + 2 * _STREAM_BYTES))
        crc = _over_zeros(_over_zeros(crc) ^ second) ^ third
        at += 3 * _STREAM_BYTES
    while stop - at >= 8:
        crc = _crc32_u64(crc, load_u64(base + at))
        at += 8
    while at < stop:
        crc = _step_byte(crc, page_u8[at])
        at += 1
    return np.uint32(crc ^ np.uint64(0xFFFFFFFF))


@kernel
def crc32c_of(page_u8: npt.NDArray[np.uint8], start: int, stop: int, seed: np.uint32) -> np.uint32:
    """Sum ``page_u8[start:stop]``, or continue the sum `seed`; equal to ``checksum.crc32c``.

    Parameters
    ----------
    page_u8 : (n,) uint8, C-contiguous  # IN
    start, stop : int
        Trusted: 0 <= start <= stop <= n.
    seed : uint32
        0, or the sum of what came before.

    Returns
    -------
    uint32
    """
    # Decided when it is compiled: the branch that isn't taken is never generated.
    if HAS_CRC_INSTRUCTION:
        return _crc32c_of_instruction(page_u8, start, stop, seed)
    return crc32c_of_portable(page_u8, start, stop, seed)
