"""Sizes as people write and read them: ``512MiB``, ``2GB``, ``25%``; always powers of 1,024."""

from __future__ import annotations

import re
from math import inf

from annserve.errors import InputError

UNITS = {"B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def bytes_of(size: str, field: str) -> int:
    """Give the bytes of a size such as ``256MiB``.

    Parameters
    ----------
    size : str
        A number and B, KiB, MiB, GiB or TiB (the i may be left out); a bare number counts bytes.
    field : str
        Option that it was given for, for the error.

    Raises
    ------
    InputError
        If it is anything else.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGT])I?B|B?)\s*", size.upper())
    if match is None or float(match[1]) == inf:
        raise InputError(f"{field} is {size[:40]!r}; give a size such as 256MiB or 2GiB", field=field)
    return int(float(match[1]) * UNITS[f"{match[2]}IB" if match[2] else "B"])


def budget_of(ram: str) -> tuple[float, str]:
    """Give number and unit of a RAM budget: a share (``25%``), bytes a vector (``20B``) or a total (``2GiB``).

    Raises
    ------
    InputError
        If it is anything else.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:(%|B)|([KMGT])I?B)\s*", ram.upper())
    if match is None or not 0 < float(match[1]) < inf:
        raise InputError(
            f"ram is {ram[:40]!r}; give a share of the INT8 size (25%), bytes a vector (20B) or a total (2GiB)",
            field="ram",
        )
    return float(match[1]), match[2] or f"{match[3]}IB"


def bytes_text(n_bytes: float) -> str:
    """Write a size as people read it: 1536 → '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"
