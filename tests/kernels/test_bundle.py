"""A bundle gives a kernel the very arrays that were put in, and takes no others than the kernel knows."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.kernels.bundle import Bundle, kinds_of, unbundled
from annserve.kernels.jit import kernel

KINDS = "f4:2 (u1:3 (i8:1 f8:1)) u4:1"


@kernel
def _copied(bundle, out):  # type: ignore[no-untyped-def]
    """Add up what is at the ends of each array, and mark one."""
    matrix, (cube, (longs, doubles)), ids = unbundled(bundle, KINDS)
    out[0] = matrix[0, 0] + 10 * matrix[matrix.shape[0] - 1, matrix.shape[1] - 1]
    out[1] = cube[1, 1, 0] + 10 * cube[cube.shape[0] - 1, cube.shape[1] - 1, cube.shape[2] - 1]
    out[2] = longs.sum() + doubles.sum()
    out[3] = ids.shape[0]
    longs[0] = -7


def arrays_of() -> tuple:
    cube = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    return matrix, (cube, (np.arange(5), np.full(3, 0.5))), np.zeros(0, np.uint32)


def test_a_kernel_sees_the_arrays_themselves():
    arrays, out = arrays_of(), np.zeros(4)
    _copied(Bundle(KINDS, arrays).numbers, out)
    assert out.tolist() == [50.0, 16.0 + 230.0, 11.5, 0.0]
    assert arrays[1][1][0][0] == -7


def test_other_arrays_than_the_kernel_takes_are_refused():
    matrix, (cube, pair), ids = arrays_of()
    assert kinds_of((matrix, (cube, pair), ids)) == KINDS
    for wrong in ((matrix, (cube, pair)), (matrix.astype(np.float64), (cube, pair), ids), (matrix, cube, pair, ids)):
        with pytest.raises(AssertionError):
            Bundle(KINDS, wrong)
    with pytest.raises(AssertionError):
        Bundle("f4:2", (matrix.T,))
