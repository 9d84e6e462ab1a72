"""How many threads the library of linear algebra takes: its products start as many as there are processors, unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


@contextmanager
def without_blas_threads() -> Iterator[None]:
    """Let products meanwhile be computed by whoever asks for them, alone; it holds for the process.

    Threads of the library wait for each other by looking again and again. Where somebody else has some of the
    processors, that is most of what they do: 3,000 rows of 384 d were encoded in 6 s by one thread, in 150 s by four of
    a busy machine of four. Of a large build, products that one thread computes are some hundredths.
    """
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        yield
