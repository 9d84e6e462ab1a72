"""A hint to the processor: bring memory near before it is needed."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from annserve.kernels.jit import inline_kernel

_intrinsic: Any = intrinsic


@_intrinsic
def _prefetch_line(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, for reading, into all caches."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, pointer_type = ir.IntType(32), ir.IntType(8).as_pointer()
        function = builder.module.declare_intrinsic(
            "llvm.prefetch.p0", (), ir.FunctionType(ir.VoidType(), (pointer_type, i32, i32, i32))
        )
        hints = [ir.Constant(i32, hint) for hint in (0, 3, 1)]
        builder.call(function, [builder.inttoptr(args[0], pointer_type), *hints])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@inline_kernel
def prefetch(address, n_bytes):  # type: ignore[no-untyped-def]
    """Ask for `n_bytes` at an address; one that isn't there does no harm."""
    for at in range(0, n_bytes, 64):
        _prefetch_line(address + at)
