"""How long a caller still waits for its answer."""

from __future__ import annotations

import grpc

#: A deadline further away than this is none: where a caller gave none, gRPC says some 9e18 seconds.
_NEVER_SECONDS = 1e9


def seconds_left(context: grpc.ServicerContext) -> float | None:
    """Give the seconds until a call's deadline, 0 where it has passed; None where there is none."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _NEVER_SECONDS else remaining
