"""Lists given a page at a time: a token is the name of the last entry of the page before."""

from __future__ import annotations

from collections.abc import Sequence

from annserve.errors import InputError

#: Entries on one page.
PAGE_SIZE_MAX = 100


def page_of(names: Sequence[str], size: int, token: str) -> tuple[list[str], str]:
    """Give a page of names, and the token of the next one, empty where this is the last.

    Raises
    ------
    InputError
        If the size is negative, or the token stands for no entry.
    """
    if size < 0:
        raise InputError(f"page_size is {size}; it can't be negative", field="page_size")
    begin = 0
    if token:
        if token not in names:
            raise InputError(
                f"page_token {token[:60]!r} stands for nothing that is listed now; start without one",
                field="page_token",
            )
        begin = names.index(token) + 1
    page = list(names[begin : begin + min(size or PAGE_SIZE_MAX, PAGE_SIZE_MAX)])
    return page, page[-1] if page and begin + len(page) < len(names) else ""
