"""Room for large messages: how many bytes of them a process holds at once.

The queues bound how many calls wait; of the largest messages that they may bring, ten gigabytes would wait with them.
An answer stays until its caller has taken it, and who asks much and takes nothing would fill the memory by and by.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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

    def keep(self, message_bytes: int, until_over: Callable[[Callable[[], None]], bool]) -> None:
        """Hold a message of this size until its call is over.

        Parameters
        ----------
        message_bytes : int
        until_over : callable
            Is given what is to be called then, as ``ServicerContext.add_callback`` is; says False where it is over.

        Raises
        ------
        BusyError
            If there is no room for it.
        """
        self._take(message_bytes)
        if not until_over(lambda: self._give(message_bytes)):
            self._give(message_bytes)

    @contextmanager
    def holding(self, message_bytes: int) -> Iterator[None]:
        """Hold a message of this size until the context ends.

        Raises
        ------
        BusyError
            If there is no room for it.
        """
        self._take(message_bytes)
        try:
            yield
        finally:
            self._give(message_bytes)

    def _take(self, message_bytes: int) -> None:
        if message_bytes <= LARGE_BYTES:
            return
        with self._lock:
            if self._held and self._held + message_bytes > self._n_bytes:
                raise BusyError(
                    f"requests and answers of {self._held} bytes are held already, and {message_bytes} more are too "
                    f"many; come again later, or ask for less at once: messages up to {LARGE_BYTES} bytes have room",
                    retry_after_ms=_RETRY_MS,
                )
            self._held += message_bytes

    def _give(self, message_bytes: int) -> None:
        if message_bytes > LARGE_BYTES:
            with self._lock:
                self._held -= message_bytes
