"""Storage on a device that refuses, fails or lies: each an error that says so, never a wrong byte."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from annserve.errors import CorruptionError, OutputError, ReadError, VersionError
from annserve.storage import atomic
from annserve.storage.atomic import write_atomically
from annserve.storage.checksum import crc32c
from annserve.storage.container import ContainerWriter, open_container
from annserve.storage.direct import PreadReader
from annserve.storage.layout import HEADER_DTYPE
from annserve.storage.pagefile import PageFile
from annserve.storage.reader import aligned_frames
from annserve.storage.uring import UringReader

MAGIC = b"ANNTESTS"


def write_container(path: Path) -> None:
    with ContainerWriter(path, MAGIC) as writer:
        writer.add("ids", np.arange(50, dtype=np.uint64))
        writer.add("empty", np.zeros((0, 3), np.float32))
        writer.add("rows", np.arange(300, dtype=np.int16).reshape(10, 30))


def test_every_flipped_byte_of_a_container_is_found(tmp_path):
    """All 12,288 bytes in turn, header and zeros included, each with another bit pattern."""
    path = tmp_path / "f"
    write_container(path)
    content = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ (1 + at % 255)]), at)
            with pytest.raises((CorruptionError, VersionError)) as caught:
                open_container(path, MAGIC)
            assert caught.value.path == path
            assert caught.value.offset is not None
            os.pwrite(file.fileno(), bytes([byte]), at)
    open_container(path, MAGIC).close()


def test_every_truncation_of_a_container_is_found(tmp_path):
    path = tmp_path / "f"
    write_container(path)
    for size in range(path.stat().st_size - 1, 0, -97):
        os.truncate(path, size)
        with pytest.raises(CorruptionError, match=f"byte {size}"):
            open_container(path, MAGIC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("section_count", 56),
        ("section_count", 4),
        ("section_count", 2),
        ("reserved_a", 1),
        ("reserved_b", b"\1" * 96),
        ("name", b""),
        ("name", b"empty"),
        ("name", b"\xff"),
        ("dtype", 0),
        ("dtype", 12),
        ("ndim", 0),
        ("ndim", 4),
        ("shape", (49, 0, 0)),
        ("shape", (50, 1, 0)),
        ("shape", (2**63, 2**63, 2**63)),
        ("offset", 0),
        ("offset", 8_192),
        ("bytes", 399),
        ("reserved", 1),
    ],
)
def test_a_header_that_lies_behind_a_good_checksum_is_refused(tmp_path, field, value):
    """What a faulty writer may sign: the fields are tested one by one, not trusted for their checksum."""
    path = tmp_path / "f"
    write_container(path)
    block = bytearray(path.read_bytes()[:4_096])
    header = np.frombuffer(block, HEADER_DTYPE, 1)[0]
    target = header if field in (HEADER_DTYPE.names or ()) else header["sections"][0]
    target[field] = value
    header["crc32c"] = 0
    header["crc32c"] = crc32c(bytes(block))
    with open(path, "r+b") as file:
        file.write(block)
    with pytest.raises(CorruptionError):
        open_container(path, MAGIC)


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """Make the system refuse to let a file grow past a size, as a full device does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("limit", [0, 100, 4_096, 5_000, 12_000])
def test_a_full_device_is_an_output_error_and_leaves_the_old_file(tmp_path, limit):
    path = tmp_path / "f"
    with ContainerWriter(path, MAGIC) as writer:
        writer.add("old", np.arange(3))
    with file_size_limit(limit), pytest.raises(OutputError, match="free some space") as caught:
        write_container(path)
    assert caught.value.path == path
    assert os.listdir(tmp_path) == ["f"]
    with open_container(path, MAGIC) as container:
        assert container.names == ("old",)


@pytest.mark.parametrize("step", ["pwrite", "fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "may write"),
        (errno.EIO, "check the device"),
    ],
)
def test_each_failing_step_leaves_the_old_file(tmp_path, monkeypatch, step, code, advice):
    path = tmp_path / "CURRENT"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, step, fail)
        with pytest.raises(OutputError, match=advice):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["CURRENT"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(atomic.os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:7], offset))
    write_atomically(tmp_path / "f", bytes(range(100)))
    assert (tmp_path / "f").read_bytes() == bytes(range(100))


@pytest.fixture
def own_memory(monkeypatch) -> tuple[PageFile, int]:
    """The memory of this process as a file of 64 KB pages, and the number of one that can be read.

    Where nothing is mapped, a read of it fails with a true EIO, from Linux itself.
    """
    monkeypatch.setattr(PageFile, "check_size", lambda self: None)
    try:
        file = PageFile("/proc/self/mem", 0, 65_536, 1 << 32, direct=False)
    except ReadError as error:
        pytest.skip(f"needs /proc/self/mem: {error}")
    memory = aligned_frames(32, 4_096)
    memory[:] = np.arange(32)[:, None]
    file.memory = memory
    return file, -(-memory.ctypes.data // 65_536)


@pytest.mark.parametrize("make", [UringReader, PreadReader], ids=["uring", "pread"])
def test_an_io_error_names_its_byte_and_the_next_read_works(own_memory, make):
    file, good = own_memory
    try:
        reader = make(file)
    except ReadError as error:
        pytest.skip(str(error))
    frames = aligned_frames(200, 65_536)
    ids = np.full(200, good, np.uint32)
    assert reader.read(ids, frames) == 200
    expected = frames[0].copy()
    assert expected.any()
    ids[60] = 0
    frames[:] = 0
    with pytest.raises(ReadError, match=r"at byte 0: input/output error"):
        reader.read(ids, frames)
    ids[60] = good
    assert reader.read(ids, frames) == 200
    assert (frames == expected).all()
