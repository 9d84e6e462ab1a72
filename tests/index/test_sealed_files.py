"""A sealed file gives back what was written, or says that it can't."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.storage import crc32c

from annserve.errors import CorruptionError, NotFoundError, ReadError
from annserve.index.sealed import read_sealed, seal, write_sealed

CONTENT = {"name": "Zürich", "list": [1, 2.5, None, True], "nested": {"x": 2**60}}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
@settings(max_examples=60)
def test_what_is_sealed_comes_back(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    write_sealed(path, content)
    assert read_sealed(path) == content


def test_the_seal_is_the_checksum_of_what_stands_before_it():
    body, last, nothing = seal(CONTENT).rsplit(b"\n", 2)
    assert nothing == b""
    checksum = crc32c(body + b"\n")
    assert last == f"crc32c {checksum:08x}".encode()


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "f"
    whole = seal(CONTENT)
    for at in range(len(whole)):
        for pattern in (1, 0x20, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ pattern]) + whole[at + 1 :])
            with pytest.raises(CorruptionError) as caught:
                read_sealed(path)
            assert caught.value.path == path
            assert str(path) in str(caught.value)


def test_every_truncation_and_every_addition_is_found(tmp_path):
    path = tmp_path / "f"
    whole = seal(CONTENT)
    for content in (*(whole[:size] for size in range(len(whole))), whole + b"\n", whole + whole, b"{}" + whole):
        path.write_bytes(content)
        with pytest.raises(CorruptionError):
            read_sealed(path)


@pytest.mark.parametrize("body", [b"[1]\n", b"3\n", b"{'a': 1}\n", b"{\n", b"\xff\xfe\n", b"", b"{" * 100_000])
def test_a_seal_over_what_is_no_object_is_found(tmp_path, body):
    path = tmp_path / "f"
    path.write_bytes(body + f"crc32c {crc32c(body):08x}\n".encode())
    with pytest.raises(CorruptionError, match="holds no JSON object"):
        read_sealed(path)


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(NotFoundError, match="there is no file"):
        read_sealed(tmp_path / "nothing")
    with pytest.raises(ReadError, match="can't be read"):
        read_sealed(tmp_path)


def test_a_number_that_json_lacks_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_sealed(tmp_path / "f", {"x": float("nan")})
    assert os.listdir(tmp_path) == []
