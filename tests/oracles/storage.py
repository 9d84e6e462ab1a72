"""Storage as plain as can be: one bit at a time, one page at a time, one struct at a time."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np


def crc32c(data: bytes, seed: int = 0) -> int:
    """CRC-32C by long division, reflected polynomial 0x82F63B78."""
    remainder = seed ^ 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def read_pages(path: Path, data_offset: int, page_bytes: int, page_ids: np.ndarray) -> np.ndarray:
    """Give pages by seek and read: (p, page_bytes) uint8."""
    pages = np.zeros((len(page_ids), page_bytes), np.uint8)
    with open(path, "rb") as file:
        for row, page_id in zip(pages, page_ids, strict=True):
            file.seek(data_offset + int(page_id) * page_bytes)
            row[:] = np.frombuffer(file.read(page_bytes), np.uint8)
    return pages


def count_reads(page_ids: np.ndarray, pages_per_read: int, places: np.ndarray | None = None) -> int:
    """Count operations where pages that are neighbours, in the file and in memory, share one of a bounded length."""
    places = np.arange(len(page_ids)) if places is None else places
    n_reads, run = 0, 0
    for i, page_id in enumerate(page_ids):
        adjacent = i > 0 and int(page_id) == int(page_ids[i - 1]) + 1 and places[i] == places[i - 1] + 1
        if adjacent and run < pages_per_read:
            run += 1
        else:
            n_reads, run = n_reads + 1, 1
    return n_reads


def read_container(path: Path) -> dict[str, Any]:
    """Parse a container from the tables of FORMAT.md, without trusting or testing anything."""
    content = path.read_bytes()
    magic, version, header_crc, count, _, file_bytes = struct.unpack_from("<8sIIIIQ", content)
    formats = dict(enumerate(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"], start=1))
    sections = {}
    for i in range(count):
        name, dtype, ndim, *shape, offset, n_bytes, crc, _ = struct.unpack_from("<16sIIQQQQQII", content, 128 + 72 * i)
        array = np.frombuffer(content[offset : offset + n_bytes], "<" + formats[dtype]).reshape(shape[:ndim])
        sections[name.rstrip(b"\0").decode()] = (array, offset, crc)
    return {
        "magic": magic,
        "version": version,
        "crc32c": header_crc,
        "file_bytes": file_bytes,
        "content": content,
        "sections": sections,
    }
