"""Bits of a word, in one instruction each."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_intrinsic: Any = intrinsic


@_intrinsic
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Give the place of the lowest bit that is set in a u64, from 0; 64 if there is none."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate
