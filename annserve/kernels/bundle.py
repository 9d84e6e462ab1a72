"""Many arrays, in tuples of tuples, handed to a kernel as one array of their addresses and extents.

Handing over an array takes a tenth of a microsecond where everything is warm, and several times that where a search has
just gone through a megabyte of codes; tuples take more, whose types are looked up anew each time. What stays the same
from call to call is bundled once.

A bundle's kinds say what it holds: ``"f4:2 (u1:1 i8:1)"`` is a matrix of float32, and a tuple of two.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj, numpy_support

# numba has no types that mypy knows.
_intrinsic: Any = intrinsic
_arrays: Any = arrayobj
_cgutils: Any = cgutils
_tuple_type: Any = types.BaseTuple
#: Numbers of an array: its address, and as many extents.
_NDIM_MAX = 3
_NUMBERS = 1 + _NDIM_MAX


class Bundle:
    """Arrays that live as long as it does.

    Parameters
    ----------
    kinds : str
        What the kernel takes them for.
    arrays : tuple
        Of C-contiguous arrays and of tuples.

    Attributes
    ----------
    numbers : (4 · arrays,) int64
        What the kernel takes.
    """

    def __init__(self, kinds: str, arrays: tuple[Any, ...]) -> None:
        given = kinds_of(arrays)
        assert given == kinds, (given, kinds)
        self._arrays = arrays
        self.numbers = np.array([_numbers_of(array) for array in _flat(arrays)], np.int64).ravel()


def kinds_of(arrays: tuple[Any, ...]) -> str:
    """Give the kinds of arrays in tuples of tuples."""
    return " ".join(
        f"({kinds_of(one)})" if isinstance(one, tuple) else f"{one.dtype.str[1:]}:{one.ndim}" for one in arrays
    )


def _flat(arrays: tuple[Any, ...]) -> list[npt.NDArray[Any]]:
    return [leaf for one in arrays for leaf in (_flat(one) if isinstance(one, tuple) else [one])]


def _numbers_of(array: npt.NDArray[Any]) -> list[int]:
    assert array.flags.c_contiguous, array.strides
    assert array.ndim <= _NDIM_MAX, array.ndim
    return [array.ctypes.data, *array.shape, *[0] * (_NDIM_MAX - array.ndim)]


def _type_of(tokens: list[str]) -> Any:
    """Give the type of a tuple whose tokens begin here, and take them away."""
    members: list[Any] = []
    while tokens:
        token = tokens.pop(0)
        if token == ")":
            break
        if token == "(":
            members.append(_type_of(tokens))
        else:
            dtype, ndim = token.split(":")
            members.append(types.Array(numpy_support.from_dtype(np.dtype(dtype)), int(ndim), "C"))
    return _tuple_type.from_types(members)


@_intrinsic(prefer_literal=True)
def unbundled(typing_context: Any, numbers: Any, kinds: Any) -> Any:
    """Give the arrays of a bundle, in tuples of tuples.

    Parameters
    ----------
    numbers : (4 · arrays,) int64
        ``Bundle.numbers``; whoever calls keeps the bundle meanwhile.
    kinds : str
        A constant.
    """
    if not isinstance(kinds, types.StringLiteral):
        return None
    result = _type_of(re.findall(r"[()]|[^() ]+", kinds.literal_value))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory = _arrays.make_array(signature.args[0])(context, builder, args[0]).data
        at = [0]

        def number(place: int) -> Any:
            return builder.load(_cgutils.gep_inbounds(builder, memory, at[0] + place))

        def made(kind: Any) -> Any:
            if isinstance(kind, _tuple_type):
                return context.make_tuple(builder, kind, [made(member) for member in kind])
            array = _arrays.make_array(kind)(context, builder)
            extents = [number(1 + axis) for axis in range(kind.ndim)]
            item = context.get_abi_sizeof(context.get_data_type(kind.dtype))
            strides: list[Any] = []
            step = context.get_constant(types.intp, item)
            for extent in reversed(extents):
                strides.insert(0, step)
                step = builder.mul(step, extent)
            _arrays.populate_array(
                array,
                data=builder.inttoptr(number(0), array.data.type),
                shape=extents,
                strides=strides,
                itemsize=context.get_constant(types.intp, item),
                meminfo=None,
            )
            at[0] += _NUMBERS
            return array._getvalue()

        return made(result)

    return result(numbers, kinds), generate
