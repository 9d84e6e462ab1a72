"""A set of vectors in several files, one after another: how large sets are published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.vectors.source import VectorSource


class PartedSource(VectorSource):
    """Sources of one dimension and one type, their rows numbered through.

    Parameters
    ----------
    parts : sequence of VectorSource
        At least one, in order; closed with this one.
    """

    def __init__(self, parts: Sequence[VectorSource]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if (part.dim, part.dtype) != (first.dim, first.dtype):
                raise InputError(
                    f"{part.path} holds {part.dtype} of dimension {part.dim}, but {first.path} holds {first.dtype} of "
                    f"dimension {first.dim}; parts of one set are alike"
                )
        self._parts = tuple(parts)
        self._starts = np.concatenate(([0], np.cumsum([part.count for part in parts], dtype=np.int64)))
        super().__init__(first.path, (int(self._starts[-1]), first.dim), first.dtype)

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = np.empty((stop - start, self.dim), self.dtype)
        for part, first in zip(self._parts, self._starts[:-1].tolist()):
            low, high = max(start, first), min(stop, first + part.count)
            if low < high:
                rows[low - start : high - start] = part.read(low - first, high - first)
        return rows

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.close()
