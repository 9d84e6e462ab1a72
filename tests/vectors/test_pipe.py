"""Arrays from a pipe become one file; a pipe that lies, breaks or changes its mind is refused and leaves nothing."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from annserve.errors import CorruptionError, InputError, OutputError
from annserve.vectors import pipe
from annserve.vectors.formats import open_vectors
from annserve.vectors.pipe import spool


def piped(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array, allow_pickle=array.dtype.hasobject)
    return stream.getvalue()


def read(path: Path) -> np.ndarray:
    with open_vectors(path) as source:
        return source.read(0, source.count)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_arrays_of_any_sizes_become_the_rows_in_order(tmp_path, rng, monkeypatch, dtype) -> None:
    monkeypatch.setattr(pipe, "CHUNK_BYTES", 64)
    rows = rng.integers(0, 100, (1_000, 5)).astype(dtype)
    pieces = np.split(rows, [1, 1, 500, 999])
    spool(io.BytesIO(piped(*pieces)), tmp_path / "x.npy")
    np.testing.assert_array_equal(read(tmp_path / "x.npy"), rows)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_doubles_and_other_byte_orders_are_kept_as_they_are_read(tmp_path) -> None:
    rows = np.array([[1.5, 1e300]])
    spool(io.BytesIO(piped(rows, rows.astype(">f8"))), tmp_path / "x.npy")
    assert read(tmp_path / "x.npy").tolist() == [[1.5, np.inf]] * 2


GOOD = np.ones((4, 3), np.float32)


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", InputError, "standard input holds no rows"),
        (piped(GOOD[:0]), InputError, "holds no rows"),
        (piped(GOOD, GOOD.astype(np.float16)), InputError, "array 1 .* float16 of .* 3, but the first holds float32"),
        (piped(GOOD, GOOD, GOOD[:, :2].copy()), InputError, "array 2 .* of dimension 2, but the first"),
        (piped(GOOD[0]), InputError, r"array 0 .* has shape \(3,\)"),
        (piped(GOOD, np.asfortranarray(GOOD)), InputError, "array 1 .* is in Fortran order"),
        (piped(GOOD.astype(np.int64)), InputError, "array 0 .* int64"),
        (piped(np.array([[None]])), InputError, "array 0 .* pickle"),
        (piped(GOOD)[:-1], CorruptionError, "array 0 .* ends within its row 3"),
        (piped(GOOD) + b"\x93NUM", CorruptionError, "array 1 .* npy header"),
        (piped(GOOD) + b"\n", CorruptionError, "array 1 .* npy header"),
        (header((10**12, 3)) + bytes(100), OutputError, "array 0 .* take 12,000,000,000,000 bytes, but"),
        (header((1, 10**12)), InputError, "array 0 .* its dimension from 1 to 32768"),
        (header((10**7, 3)) + bytes(100), CorruptionError, "array 0 .* ends within its row 8"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), CorruptionError, "it says it has 4294967295 bytes"),
    ],
)  # fmt: skip
def test_a_stream_that_is_no_set_is_refused_before_much_is_allocated(tmp_path, data, error, message) -> None:
    tracemalloc.start()
    with pytest.raises(error, match=message):
        spool(io.BytesIO(data), tmp_path / "x.npy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20
    assert list(tmp_path.iterdir()) == []
