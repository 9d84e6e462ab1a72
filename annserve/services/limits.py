"""What one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from annserve.spec import K_MAX


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
