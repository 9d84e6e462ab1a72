"""CRC-32C: the library, the instruction and the tables give the number that long division gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import storage as oracle

from annserve.storage import crc_kernels
from annserve.storage.checksum import crc32c

KERNELS = [crc_kernels.crc32c_of, crc_kernels.crc32c_of_portable]
BYTES = np.random.default_rng(7).integers(0, 256, 20_000, dtype=np.uint8)


@pytest.mark.parametrize("kernel", KERNELS)
@given(start=st.integers(0, 9_000), length=st.integers(0, 10_000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_kernels_sum_any_stretch_as_the_library_does(kernel, start, length, seed):
    expected = crc32c(BYTES[start : start + length], seed)
    assert kernel(BYTES, start, start + length, np.uint32(seed)) == expected


@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32 - 1))
def test_the_library_sums_as_long_division_does(data, seed):
    assert crc32c(data, seed) == oracle.crc32c(data, seed)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_published_check_value_comes_out(kernel):
    """The check value of CRC-32C (RFC 3720, appendix B.4, and every catalogue) for "123456789"."""
    digits = np.frombuffer(b"123456789", np.uint8).copy()
    assert kernel(digits, 0, 9, np.uint32(0)) == 0xE3069283 == crc32c(b"123456789")


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 4_079, 4_080, 4_081, 4_092, 8_160, 8_161])
def test_lengths_around_the_streams_are_summed_whole(fill, length):
    data = np.full(length, fill, np.uint8)
    for kernel in KERNELS:
        assert kernel(data, 0, length, np.uint32(0)) == crc32c(data)


def test_a_sum_continues_where_it_stopped():
    whole = crc32c(BYTES)
    assert crc32c(BYTES[1_234:], crc32c(BYTES[:1_234])) == whole
    assert crc32c(BYTES.view(np.float32).reshape(-1, 10)) == whole
    assert crc32c(b"") == 0


def test_long_buffers_are_summed_in_pieces_that_join():
    data = np.tile(BYTES, 200)
    assert crc32c(data) == crc_kernels.crc32c_of(data, 0, len(data), np.uint32(0))
