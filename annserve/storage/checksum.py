"""CRC-32C (Castagnoli) of whole buffers, the checksum of every stored byte.

Kernels that check pages as they score them use ``kernels.crc32c_of``, which gives the same numbers.

References
----------
[1] Castagnoli, Braeuer, Herrmann, "Optimization of Cyclic Redundancy-Check Codes with 24 and 32 Parity Bits",
    IEEE Transactions on Communications 41(6), 1993.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

#: The library holds the GIL while it sums; other threads get a turn after each such piece (0.1 ms).
_PIECE_BYTES = 1 << 20


def crc32c(data: bytes | npt.NDArray[Any], seed: int = 0) -> int:
    """Sum a buffer, or continue a sum.

    Parameters
    ----------
    data : bytes or C-contiguous array
        An array is summed as the bytes that it occupies.
    seed : int
        Sum of what came before: ``crc32c(b, crc32c(a)) == crc32c(a + b)``.

    Returns
    -------
    int
        0 … 2³² − 1; 0 for nothing.
    """
    flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
    total = seed
    for start in range(0, len(flat), _PIECE_BYTES):
        total = google_crc32c.extend(total, flat[start : start + _PIECE_BYTES])
    return int(total)
