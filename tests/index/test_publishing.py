"""A version appears whole or not at all, wherever publishing is cut."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

import annserve
from annserve.errors import OutputError
from annserve.index import names, publish
from annserve.index.manifest import read_current
from annserve.index.sealed import read_sealed

SYSTEM_CALLS = ("open", "pwrite", "fsync", "replace")


class Cut(BaseException):
    """The power fails here: nothing after it runs, not even clean-up that catches `Exception`."""


def cut_at(monkeypatch, step, error):
    """Let the first `step` system calls of writing happen, and the next raise; count them."""
    counted = [0]

    def wrap(call):
        def limited(*arguments, **options):
            if counted[0] >= step:
                raise error()
            counted[0] += 1
            return call(*arguments, **options)

        return limited

    for name in SYSTEM_CALLS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    return counted


def next_version(folder):
    """A second version over the same segment."""
    return replace(read_current(folder), snapshot=2)


def count_steps(copy_index, monkeypatch):
    folder = copy_index("counted")
    manifest = next_version(folder)
    with monkeypatch.context() as patch:
        counted = cut_at(patch, 10**9, Cut)
        publish.publish(folder, manifest)
    assert read_current(folder).snapshot == 2
    return counted[0]


@pytest.mark.parametrize("error", [Cut, lambda: OSError(28, "No space left on device")])
def test_a_cut_at_any_step_leaves_the_old_version_or_the_new_one(copy_index, monkeypatch, error):
    """Each system call of publishing fails in turn. Until CURRENT is renamed the old version is read."""
    n_steps = count_steps(copy_index, monkeypatch)
    assert n_steps > 10
    seen = []
    for step in range(n_steps):
        folder = copy_index(f"cut-{step}")
        manifest = next_version(folder)
        with monkeypatch.context() as patch:
            cut_at(patch, step, error)
            with pytest.raises((Cut, OutputError)):
                publish.publish(folder, manifest)
        with annserve.open(folder) as index:
            seen.append(index.info()["snapshot"])
            assert index.search(np.zeros(400, np.float32), 60, recall_target=1.0).ids.shape == (1, 60)
        publish.publish(folder, manifest)
        assert read_current(folder).snapshot == 2
        assert not list(folder.glob("*.tmp"))
    assert seen == sorted(seen)
    assert seen[0] == 1


def test_a_first_version_that_is_cut_is_no_index(copy_index, monkeypatch):
    n_steps = count_steps(copy_index, monkeypatch)
    seen = []
    for step in range(n_steps):
        folder = copy_index(f"cut-{step}")
        manifest = read_current(folder)
        for file in (names.CURRENT, names.manifest_name(1)):
            (folder / file).unlink()
        with monkeypatch.context() as patch:
            cut_at(patch, step, Cut)
            with pytest.raises(Cut):
                publish.publish(folder, manifest)
        seen.append((folder / names.CURRENT).exists())
        if seen[-1]:
            assert read_current(folder) == manifest
        else:
            with pytest.raises(annserve.errors.NotFoundError):
                annserve.open(folder)
    assert seen == sorted(seen)
    assert not seen[0]


def test_everything_is_durable_before_current_names_it(copy_index, monkeypatch):
    """The order of system calls: segment folder, manifest, then CURRENT, each synced before the next is begun."""
    folder = copy_index("ordered")
    manifest = next_version(folder)
    told, paths = [], {}
    real_open, real_fsync, real_replace = os.open, os.fsync, os.replace

    def open_(path, *arguments, **options):
        fd = real_open(path, *arguments, **options)
        paths[fd] = os.fspath(path)
        return fd

    def fsync(fd):
        told.append(("fsync", os.path.relpath(paths[fd], folder)))
        real_fsync(fd)

    def replace_(source, target):
        told.append(("rename", os.path.relpath(target, folder)))
        real_replace(source, target)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace_)
    publish.publish(folder, manifest)
    assert told == [
        ("fsync", "segment-000001"),
        ("fsync", "manifest-000002.json.tmp"),
        ("rename", "manifest-000002.json"),
        ("fsync", "."),
        ("fsync", "CURRENT.tmp"),
        ("rename", "CURRENT"),
        ("fsync", "."),
        ("fsync", ".."),
    ]


def test_a_published_index_can_be_moved(copy_index, tmp_path):
    """No path in any file leads outside of the folder, or depends on where it lies."""
    folder = copy_index("here")
    moved = folder.rename(tmp_path / "there")
    with annserve.open(moved) as index:
        assert index.n_rows == 60
    for name in (names.CURRENT, "manifest-000001.json", "segment-000001/report.json"):
        assert str(tmp_path) not in str(read_sealed(moved / name))
