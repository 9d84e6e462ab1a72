"""Files appear whole or not at all; one writer per folder."""

from __future__ import annotations

import fcntl
import os
import shutil

import numpy as np
import pytest

from annserve.errors import ConflictError, OutputError
from annserve.storage import atomic
from annserve.storage.atomic import AtomicFile, free_bytes, fsync_folder, locked, write_atomically


def test_content_replaces_what_was_there_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "CURRENT"
    write_atomically(path, b"old")
    write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["CURRENT"]


def test_a_callback_writes_arrays_and_goes_back(tmp_path):
    def write(file: AtomicFile) -> None:
        file.write(bytes(4))
        file.write(np.arange(3, dtype=np.uint16))
        file.write(b"head", 0)

    write_atomically(tmp_path / "f", write)
    assert (tmp_path / "f").read_bytes() == b"head\0\0\1\0\2\0"


def test_the_order_is_write_sync_rename_sync_folder(tmp_path, monkeypatch):
    """A crash between any two of them leaves the old file or the new one: only in this order."""
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd):
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"
        calls.append(f"sync {kind}")
        real_fsync(fd)

    def replace(old, new):
        calls.append("rename")
        real_replace(old, new)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(atomic.os, "replace", replace)
    write_atomically(tmp_path / "f", b"x")
    assert calls == ["sync file", "rename", "sync folder"]


def test_an_exception_leaves_the_old_content_alone(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def fail(file: AtomicFile) -> None:
        file.write(b"half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / "f.tmp").write_bytes(b"long leftover of a killed writer")
    write_atomically(tmp_path / "f", b"short")
    assert (tmp_path / "f").read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["f"]


def test_two_writers_of_one_file_are_a_conflict(tmp_path):
    with AtomicFile(tmp_path / "f") as first:
        first.write(b"first")
        with pytest.raises(ConflictError, match="another writer"):
            AtomicFile(tmp_path / "f")
        first.commit()
    assert (tmp_path / "f").read_bytes() == b"first"


def test_a_file_published_while_another_writer_waits_is_not_emptied(tmp_path, monkeypatch):
    """The first writer takes its name after the second has opened the temporary file, before it locks it."""
    first = AtomicFile(tmp_path / "f")
    first.write(b"first")
    real = atomic.fcntl.flock

    def flock(fd, operation):
        if first._fd >= 0:
            first.commit()
        real(fd, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    with AtomicFile(tmp_path / "f") as second:
        assert (tmp_path / "f").read_bytes() == b"first"
        second.write(b"second")
        second.commit()
    assert (tmp_path / "f").read_bytes() == b"second"


def test_a_missing_folder_is_an_output_error_that_says_so(tmp_path):
    with pytest.raises(OutputError, match="create the folder") as caught:
        write_atomically(tmp_path / "nowhere" / "f", b"x")
    assert caught.value.path == tmp_path / "nowhere" / "f"
    with pytest.raises(OutputError):
        fsync_folder(tmp_path / "nowhere")
    with pytest.raises(OutputError), locked(tmp_path / "nowhere"):
        pass


def test_a_folder_in_the_files_place_is_an_output_error(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(OutputError, match="directory"):
        write_atomically(tmp_path / "f", b"x")
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user other than root, who may write anywhere")
def test_a_forbidden_folder_is_an_output_error_that_says_so(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="may write"):
        write_atomically(tmp_path / "f", b"x")


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(ConflictError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_lock_ends_with_its_process(tmp_path):
    child = os.fork()
    if child == 0:
        locked(tmp_path).__enter__()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with locked(tmp_path):
        pass


def test_free_space_is_told_for_a_path_yet_to_be_made(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0


def test_a_lock_on_a_folder_that_its_writer_removed_is_none(tmp_path, monkeypatch):
    """The writer before ends between our opening of its lock and our taking it."""
    folder = tmp_path / "work"
    folder.mkdir()
    real = fcntl.flock

    def flock(fd, how):
        shutil.rmtree(folder)
        folder.mkdir()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConflictError, match="try again"), locked(folder):
        pass
