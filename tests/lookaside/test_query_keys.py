"""Keys of queries: those of SipHash, for any number of bytes, and another for every byte that differs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from oracles.siphash import siphash_128

from annserve.lookaside.key_kernels import write_key


def key_of(data: bytes, secret: bytes) -> bytes:
    out = np.empty(2, np.uint64)
    write_key(np.frombuffer(bytearray(data), np.uint8), np.frombuffer(bytearray(secret), np.uint64), out)
    return out.tobytes()


def test_keys_are_those_that_the_authors_of_the_hash_published():
    secret = bytes(range(16))
    assert key_of(b"", secret).hex() == "a3817f04ba25a8e66df67214c7550293"
    assert key_of(b"\x00", secret).hex() == "da87c1d86b99af44347659119b22fc45"


@given(data=st.binary(max_size=600), secret=st.binary(min_size=16, max_size=16))
def test_a_key_is_that_of_its_plain_twin(data, secret):
    assert key_of(data, secret) == siphash_128(data, secret)


@given(data=st.binary(min_size=1, max_size=99), place=st.integers(0, 98), change=st.integers(1, 255))
def test_no_byte_is_left_out(data, place, change):
    other = bytearray(data)
    other[place % len(data)] ^= change
    assert key_of(bytes(other), bytes(16)) != key_of(data, bytes(16))
