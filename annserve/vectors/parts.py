"""A set of vectors in several files, one after another: how large sets are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError
from annserve.vectors.source import VectorSource


class PartedSource(VectorSource):
    """Files of one dimension and one type, their rows numbered through.

    Each is opened once to learn its shape; of thousands only the one that is read stays open.

    Parameters
    ----------
    paths : sequence of Path
        At least one, in order.
    open_part : callable
        Gives the source of a path.
    path : Path, optional
        What stands for all of them in messages; the first of them by default.

    Raises
    ------
    InputError
        If two of them differ in dimension or type.
    """

    def __init__(
        self, paths: Sequence[Path], open_part: Callable[[Path], VectorSource], path: Path | None = None
    ) -> None:
        self._paths, self._open_part = tuple(paths), open_part
        self._number, self._part = 0, open_part(self._paths[0])
        first, counts = self._part, [self._part.count]
        for other in self._paths[1:]:
            with open_part(other) as part:
                if (part.dim, part.dtype) != (first.dim, first.dtype):
                    self.close()
                    raise InputError(
                        f"{part.path} holds {part.dtype} of dimension {part.dim}, but {first.path} holds "
                        f"{first.dtype} of dimension {first.dim}; parts of one set are alike"
                    )
                counts.append(part.count)
        self._starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        super().__init__(path or first.path, (int(self._starts[-1]), first.dim), first.dtype)

    @property
    def files(self) -> tuple[Path, ...]:
        """The parts."""
        return self._paths

    def place_of(self, row: int) -> str:
        """Say in which part a row stands, and where there."""
        number = self._part_of(row)
        return f"row {row} of {self.path} (row {row - self._starts[number]} of {self._paths[number]})"

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = np.empty((stop - start, self.dim), self.dtype)
        for number in range(self._part_of(start), self._part_of(stop - 1) + 1):
            first, end = self._starts[number : number + 2].tolist()
            low, high = max(start, first), min(stop, end)
            rows[low - start : high - start] = self._open(number).read(low - first, high - first)
        return rows

    def _part_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _open(self, number: int) -> VectorSource:
        """Give a part, which must be what it was when its shape was learned."""
        if number != self._number:
            self._part.close()
            self._part, self._number = self._open_part(self._paths[number]), number
            count = int(self._starts[number + 1] - self._starts[number])
            if (self._part.count, self._part.dim, self._part.dtype) != (count, self.dim, self.dtype):
                raise CorruptionError(
                    f"{self._paths[number]} held {count} rows of dimension {self.dim} and type {self.dtype}, and now "
                    f"{self._part.count} of {self._part.dim} and {self._part.dtype}; don't change a file while it "
                    "is read",
                    path=self._paths[number],
                )
        return self._part

    def close(self) -> None:
        """Close the part that is open."""
        self._part.close()
