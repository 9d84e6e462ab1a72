"""What one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from annserve.errors import InputError
from annserve.spec import K_MAX, check_k

#: Neighbours of a query whose request doesn't say, as the proto promises.
K_DEFAULT = 10


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes
    ----------
    message_bytes : int
        Bytes of a request, and of an answer. gRPC refuses larger requests before they are read.
    queries : int
        Queries in one request.
    k : int
        Neighbours of one query, and candidates that its second vector ranks.
    """

    message_bytes: int = 64 << 20
    queries: int = 16_384
    k: int = K_MAX

    def check_k(self, k: int, n_rows: int) -> int:
        """Give `k` if so many neighbours may be asked of a collection of so many rows.

        Raises
        ------
        InputError
            If they may not.
        """
        if check_k(k, n_rows) > self.k:
            raise InputError(f"k is {k}; this server gives at most {self.k}", field="k")
        return k
