"""Room for large messages: how many bytes of them a process holds at once, those that wait for their turn among them.

The queues bound how many calls wait. Of the largest messages that they may bring, ten gigabytes would wait with them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from annserve.errors import BusyError

#: Smaller ones are bounded by the number of calls; our clients send none that is larger.
LARGE_BYTES = 1 << 20
#: Bytes of large messages at once, where one message may have less than a quarter of it.
ROOM_BYTES = 256 << 20
_RETRY_MS = 200


class Room:
    """Holds large messages; threads may share it. One message has room always, however large it is.

    Parameters
    ----------
    n_bytes : int
        Of all large messages together.
    """

    def __init__(self, n_bytes: int = ROOM_BYTES) -> None:
        self._n_bytes = n_bytes
        self._held = 0
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, message_bytes: int) -> Iterator[None]:
        """Hold a message of this size until the context ends.

        Raises
        ------
        BusyError
            If there is no room for it.
        """
        if message_bytes <= LARGE_BYTES:
            yield
            return
        with self._lock:
            if self._held and self._held + message_bytes > self._n_bytes:
                raise BusyError(
                    f"requests of {self._held} bytes wait already, and {message_bytes} more are too many; come again "
                    f"later, or ask for less at once: up to {LARGE_BYTES} bytes a request count for nothing",
                    retry_after_ms=_RETRY_MS,
                )
            self._held += message_bytes
        try:
            yield
        finally:
            with self._lock:
                self._held -= message_bytes
