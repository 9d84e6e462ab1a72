"""Runs of neighbouring numbers: what a device reads at once."""

from __future__ import annotations

from annserve.kernels.jit import kernel


@kernel
def count_runs(numbers, offsets, out):  # type: ignore[no-untyped-def]
    """Count the runs of each part, a run being numbers that each follow the one before.

    Parameters
    ----------
    numbers : (p,) uint32  # IN
    offsets : (n + 1,) int64  # IN
        Part i is ``numbers[offsets[i] : offsets[i + 1]]``.
    out : (n,) int64  # OUT
    """
    for i in range(out.shape[0]):
        runs = 0
        for j in range(offsets[i], offsets[i + 1]):
            runs += int(j == offsets[i] or int(numbers[j]) != int(numbers[j - 1]) + 1)
        out[i] = runs
