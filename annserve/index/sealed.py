"""JSON files with a checksum as their last line, so that a flipped byte is an error and not a wrong number.

::

    {…}                      JSON object, UTF-8, keys sorted, one line feed at the end
    crc32c 1f3a90c2          of every byte before this line, and a line feed
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from annserve.errors import CorruptionError, NotFoundError, ReadError
from annserve.storage.atomic import write_atomically
from annserve.storage.checksum import crc32c

_SEAL = re.compile(rb"crc32c ([0-9a-f]{8})\n")
_SEAL_BYTES = len(b"crc32c 00000000\n")


def seal(content: dict[str, Any]) -> bytes:
    """Give the bytes of a sealed file."""
    body = json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    return body + f"crc32c {crc32c(body):08x}\n".encode()


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a sealed file so that it appears whole or not at all.

    Raises
    ------
    OutputError
        If the device refuses.
    """
    write_atomically(path, seal(content))


def read_sealed(path: Path, instead: str = "build the index anew") -> dict[str, Any]:
    """Read a sealed file; `instead` says what to do where it can't be restored.

    Raises
    ------
    NotFoundError
        If there is none.
    CorruptionError
        If its seal is missing or wrong, or the JSON isn't an object.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"there is no file {path}; restore it, or {instead}") from None
    except OSError as error:
        raise ReadError(f"{path} can't be read: {error.strerror}; check its permissions", path=path) from error
    body, last_line = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    match = _SEAL.fullmatch(last_line)
    if match is None:
        raise _damaged(path, len(body), f"its last line is {last_line[:40]!r}, not a checksum", instead)
    expected, found = int(match[1], 16), crc32c(body)
    if expected != found:
        raise _damaged(path, 0, f"checksum {expected:08x} expected, {found:08x} found", instead)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise _damaged(path, 0, "it holds no JSON object", instead)
    return content


def _damaged(path: Path, offset: int, what: str, instead: str) -> CorruptionError:
    return CorruptionError(
        f"{path} is damaged at byte {offset}: {what}; restore the file, or {instead}",
        path=path,
        offset=offset,
    )
