"""What an input looked like, so that a build that goes on later knows whether it is still the same.

A fingerprint is plain values, for a sealed file: names, sizes and times of the files, the shape, and checksums of some
blocks of rows. Names are those of the files alone, for data may be moved as a whole. Times find what was rewritten
between the blocks; blocks find what was changed under an old time.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from annserve.errors import NotFoundError
from annserve.vectors.source import VectorSource

#: Blocks of rows that are read, first and last among them, and about how many bytes each has.
_BLOCKS, _BLOCK_BYTES = 16, 64 << 10
#: Changes that are told one by one.
_TOLD = 3


def fingerprint(source: VectorSource) -> dict[str, Any]:
    """Give what tells this input from another, or from itself before it was changed.

    Parameters
    ----------
    source : VectorSource

    Returns
    -------
    dict
        ``files``: of each its name, bytes and time of change (of a folder, all bytes and the newest time in it);
        ``rows``, ``dim``, ``dtype``; ``blocks``: first row, and checksum of the rows from there.

    Raises
    ------
    NotFoundError
        If a file is gone.
    CorruptionError, ReadError
        If a block can't be read.

    Notes
    -----
    Reads at most sixteen blocks of 64 KiB (or one row), however large the input is.
    """
    per_block = max(1, _BLOCK_BYTES // source.row_bytes)
    starts = np.unique(np.linspace(0, max(source.count - per_block, 0), _BLOCKS).astype(np.int64)).tolist()
    blocks = []
    for start in starts:
        rows = source.read(start, min(start + per_block, source.count))
        blocks.append([start, hashlib.blake2b(rows.data, digest_size=16).hexdigest()])
    return {
        "files": [_facts(path) for path in source.files],
        "rows": source.count,
        "dim": source.dim,
        "dtype": str(source.dtype),
        "blocks": blocks,
    }


def fingerprint_of_file(path: Path) -> dict[str, Any]:
    """Give the fingerprint of a file that is no set of vectors: nothing but what the file system knows.

    Raises
    ------
    NotFoundError
        If it isn't there.
    """
    return {"files": [_facts(path)], "rows": None, "dim": None, "dtype": None, "blocks": []}


def what_changed(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Say in words how an input differs from what it was.

    Parameters
    ----------
    before, after : dict
        Of ``fingerprint``.

    Returns
    -------
    str or None
        Reads on after "the input isn't what it was: "; None if it is the same.
    """
    if before == after:
        return None
    changes = [
        f"{what} were {before[name]}, and are {after[name]}"
        for name, what in (("rows", "rows"), ("dim", "dimensions"), ("dtype", "elements"))
        if before[name] != after[name]
    ]
    old, new = ([file["name"] for file in one["files"]] for one in (before, after))
    if old != new:
        gone, came = ([name for name in these if name not in those] for these, those in ((old, new), (new, old)))
        changes += [f"{name} is gone" for name in gone] + [f"{name} has come" for name in came]
        if not gone and not came:
            changes.append("its files stand in another order")
    else:
        for was, is_ in zip(before["files"], after["files"]):
            if was["bytes"] != is_["bytes"]:
                changes.append(f"{was['name']} had {was['bytes']:,} bytes, and has {is_['bytes']:,}")
            elif was["modified_ns"] != is_["modified_ns"]:
                changes.append(f"{was['name']} was written to")
    if not changes:
        other = next(was[0] for was, is_ in zip(before["blocks"], after["blocks"]) if was != is_)
        changes.append(f"rows from {other} on hold other values")
    more = [f"{len(changes) - _TOLD} changes more"] if len(changes) > _TOLD else []
    return "; ".join(changes[:_TOLD] + more)


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = path.stat()
        sizes, times = [facts.st_size], [facts.st_mtime_ns]
        if path.is_dir():
            below = [os.stat(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names]
            sizes, times = [one.st_size for one in below], [one.st_mtime_ns for one in below]
    except FileNotFoundError:
        raise NotFoundError(f"{path} was there, and is gone; bring it back, or build anew") from None
    return {"name": path.name, "bytes": sum(sizes), "modified_ns": max(times, default=0)}
