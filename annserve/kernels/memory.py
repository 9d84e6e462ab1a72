"""Memory at an address: loads and stores, what threads need to share it, and a hint to bring it near.

Addresses to load and store at are trusted: whoever computes one answers for it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from annserve.kernels.jit import inline_kernel

_intrinsic: Any = intrinsic


@_intrinsic
def load_u64(typing_context: Any, address: Any) -> Any:
    """Load 8 bytes from any address, aligned or not."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(types.int64), generate


@_intrinsic
def store_u64(typing_context: Any, address: Any, value: Any) -> Any:
    """Store 8 bytes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_intrinsic
def copy_bytes(typing_context: Any, target: Any, source: Any, n_bytes: Any) -> Any:
    """Copy bytes from one address to another, apart from it: an eighth of the time that a loop over arrays takes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer_type = ir.IntType(8).as_pointer()
        to, at = (builder.inttoptr(address, pointer_type) for address in args[:2])
        cgutils.raw_memcpy(builder, to, at, args[2], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@_intrinsic
def load_acquire(typing_context: Any, address: Any) -> Any:
    """Load a u32; nothing after it moves before it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        return builder.load_atomic(pointer, "acquire", 4)

    return types.uint32(types.int64), generate


@_intrinsic
def store_release(typing_context: Any, address: Any, value: Any) -> Any:
    """Store a u32; nothing before it moves after it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        builder.store_atomic(args[1], pointer, "release", 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32), generate


@_intrinsic
def fence(typing_context: Any) -> Any:
    """Let no load or store pass this place, whether the compiler or the processor moves it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@_intrinsic
def try_lock(typing_context: Any, address: Any) -> Any:
    """Turn a u32 that is 0 into 1, and say whether that was this thread's doing; nobody ever waits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        pointer = builder.inttoptr(args[0], i32.as_pointer())
        outcome = builder.cmpxchg(pointer, ir.Constant(i32, 0), ir.Constant(i32, 1), "acq_rel", "acquire")
        return builder.extract_value(outcome, 1)

    return types.boolean(types.int64), generate


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


@inline_kernel
def copy(source, target):  # type: ignore[no-untyped-def]
    """Copy (n,) elements to the front of (>= n,) of the same type.

    ``target[:n] = source`` compiles an error's text of both shapes with it, which takes seconds.
    """
    for i in range(source.shape[0]):
        target[i] = source[i]
