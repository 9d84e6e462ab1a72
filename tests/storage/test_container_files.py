"""Containers: what is added comes back, from a layout that an independent parser reads too."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import storage as oracle

from annserve.errors import CorruptionError, NotFoundError, VersionError
from annserve.storage import layout
from annserve.storage.checksum import crc32c
from annserve.storage.container import FORMAT_VERSION, ContainerWriter, open_container

MAGIC = b"ANNTESTS"
ARRAYS = st.sampled_from(list(layout.CODE_OF_DTYPE)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=40))
)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Bytes, type and shape agree (NaN is a value like any other here)."""
    return (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@given(arrays=st.lists(ARRAYS, max_size=5))
@settings(max_examples=60)
def test_arrays_come_back_as_they_were(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("container") / "f"
    with ContainerWriter(path, MAGIC) as writer:
        for i, array in enumerate(arrays):
            writer.add(f"section {i}", array)
    with open_container(path, MAGIC) as container:
        assert container.names == tuple(f"section {i}" for i in range(len(arrays)))
        for name, array in zip(container.names, arrays, strict=True):
            found = container.section(name)
            assert same(found, array)
            assert not found.flags.writeable
    parsed = oracle.read_container(path)
    assert parsed["version"] == FORMAT_VERSION
    assert parsed["file_bytes"] == os.path.getsize(path)
    for name, array in zip(parsed["sections"], arrays, strict=True):
        found, offset, crc = parsed["sections"][name]
        assert same(found, array)
        assert offset % 4_096 == 0
        assert crc == layout_crc(parsed["content"], offset, array.nbytes)


def layout_crc(content: bytes, offset: int, n_bytes: int) -> int:
    return crc32c(content[offset : offset + layout.aligned(n_bytes)])


def test_rows_that_come_in_pieces_are_one_section(tmp_path):
    rows = np.arange(5_000, dtype=np.int32).reshape(-1, 5)
    with ContainerWriter(tmp_path / "f", MAGIC) as writer:
        writer.begin("rows", np.int32, (5,))
        for start, stop in [(0, 1), (1, 1), (1, 700), (700, 1_000)]:
            writer.append(rows[start:stop])
        writer.end()
    with open_container(tmp_path / "f", MAGIC) as container:
        assert same(container.section("rows"), rows)
        assert container.extent("rows") == (4_096, rows.nbytes)


def test_arrays_outlive_their_container(tmp_path):
    with ContainerWriter(tmp_path / "f", MAGIC) as writer:
        writer.add("a", np.arange(10))
    container = open_container(tmp_path / "f", MAGIC)
    array = container.section("a")
    container.close()
    (tmp_path / "f").unlink()
    assert array.tolist() == list(range(10))


def test_what_was_copied_out_of_a_container_is_held_once(tmp_path):
    """Another section outlives the container, so that the file stays mapped."""
    with ContainerWriter(tmp_path / "f", MAGIC) as writer:
        writer.add("copied", np.ones(2**20))
        writer.add("kept", np.arange(10))
    with open_container(tmp_path / "f", MAGIC) as container:
        copied, kept = np.array(container.section("copied")), container.section("kept")
        assert kilobytes_of(tmp_path / "f") >= 8_192
    assert kilobytes_of(tmp_path / "f") == 0
    assert copied.sum() == 2**20
    assert kept.tolist() == list(range(10))


def kilobytes_of(path: Path) -> int:
    """Give the resident memory of a mapped file in this process."""
    _, _, rest = Path("/proc/self/smaps").read_text().partition(f"{path}\n")
    return int(rest.partition("Rss:")[2].split()[0])


def test_the_same_arrays_make_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        with ContainerWriter(tmp_path / name, MAGIC) as writer:
            writer.add("x", np.arange(100))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_writer_leaves_nothing(tmp_path):
    def fail() -> None:
        with ContainerWriter(tmp_path / "f", MAGIC) as writer:
            writer.add("x", np.arange(100))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_stored_is_a_bug_of_the_caller(tmp_path):
    with ContainerWriter(tmp_path / "f", MAGIC) as writer:
        writer.add("x", np.arange(3))
        for name, dtype, row_shape in [
            ("x", "u1", ()),
            ("", "u1", ()),
            ("a name of 17 char", "u1", ()),
            ("ö", "u1", ()),
            ("y", "c8", ()),
            ("y", "u1", (1, 1, 1)),
        ]:
            with pytest.raises(AssertionError):
                writer.begin(name, dtype, row_shape)
        writer.begin("y", np.float32, (2,))
        with pytest.raises(AssertionError):
            writer.append(np.zeros((1, 2)))
        with pytest.raises(AssertionError):
            writer.append(np.zeros((1, 3), np.float32))
        writer.end()


@pytest.fixture
def container_path(tmp_path: Path) -> Path:
    with ContainerWriter(tmp_path / "f", MAGIC) as writer:
        writer.add("first", np.arange(10, dtype=np.uint32))
        writer.add("second", np.ones((3, 4), np.float32))
    return tmp_path / "f"


def test_a_missing_file_and_a_missing_section_are_not_found(container_path):
    with pytest.raises(NotFoundError, match="no file"):
        open_container(container_path.with_name("g"), MAGIC)
    with (
        open_container(container_path, MAGIC) as container,
        pytest.raises(NotFoundError, match="first, second"),
    ):
        container.section("third")


def test_another_version_is_refused_with_both_versions_said(container_path):
    content = bytearray(container_path.read_bytes())
    content[8] = 9
    container_path.write_bytes(content)
    with pytest.raises(VersionError, match=r"format version 9.*version 1"):
        open_container(container_path, MAGIC)


def test_another_kind_of_file_is_refused(container_path):
    with pytest.raises(CorruptionError, match="ANNTESTS"):
        open_container(container_path, b"ANNOTHER")


@pytest.mark.parametrize("size", [0, 1, 4_095, 4_096, 8_192, 12_287])
def test_truncated_file_is_an_error_that_names_the_offset(container_path, size):
    os.truncate(container_path, size)
    with pytest.raises(CorruptionError, match=f"at byte {size}") as caught:
        open_container(container_path, MAGIC)
    assert caught.value.offset == size


def test_a_longer_file_is_an_error(container_path):
    with open(container_path, "ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptionError, match="12289 bytes, but its header says 12288"):
        open_container(container_path, MAGIC)


def test_only_the_named_sections_are_verified(container_path):
    content = bytearray(container_path.read_bytes())
    content[8_192] ^= 1
    container_path.write_bytes(content)
    open_container(container_path, MAGIC, verify=["first"]).close()
    with open_container(container_path, MAGIC, verify=False) as container:
        with pytest.raises(CorruptionError, match=r"'second' .* at byte 8192") as caught:
            container.verify("second")
        assert caught.value.offset == 8_192
    with pytest.raises(CorruptionError):
        open_container(container_path, MAGIC, verify=["second"])
