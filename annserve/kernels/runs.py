"""Runs of neighbouring numbers: what a device reads at once."""

from __future__ import annotations

from annserve.kernels.jit import kernel


@kernel
def count_runs(numbers, offsets, longest, out):  # type: ignore[no-untyped-def]
    """Count the runs of each part, a run being at most `longest` numbers that each follow the one before.

    Parameters
    ----------
    numbers : (p,) uint32  # IN
    offsets : (n + 1,) int64  # IN
        Part i is ``numbers[offsets[i] : offsets[i + 1]]``.
    longest : int
        1 at least.
    out : (n,) int64  # OUT
    """
    for i in range(out.shape[0]):
        runs = 0
        size = longest
        for j in range(offsets[i], offsets[i + 1]):
            if size == longest or int(numbers[j]) != int(numbers[j - 1]) + 1:
                runs += 1
                size = 0
            size += 1
        out[i] = runs
