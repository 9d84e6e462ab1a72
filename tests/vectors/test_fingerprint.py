"""An input that was changed is told from what it was, and what changed is said; one that wasn't, never."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from annserve.errors import NotFoundError
from annserve.vectors.fingerprint import fingerprint, what_changed
from annserve.vectors.formats import create_vectors, open_vectors


def taken(path: Path) -> dict:
    with open_vectors(path) as source:
        return json.loads(json.dumps(fingerprint(source)))


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two parts of 40,000 rows in all, the second one a zarr store."""
    place = tmp_path / "parts"
    place.mkdir()
    for name in ("a.npy", "b.zarr"):
        with create_vectors(place / name, 20_000, 8, np.uint8) as writer:
            writer.append(rng.integers(0, 256, (20_000, 8)).astype(np.uint8))
    return place


def keeping_time(path: Path, change: Callable[[], None]) -> None:
    facts = path.stat()
    change()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_the_same_input_is_the_same_wherever_it_lies(folder, tmp_path) -> None:
    before = taken(folder)
    assert what_changed(before, taken(folder)) is None
    shutil.move(folder, tmp_path / "elsewhere")
    assert what_changed(before, taken(tmp_path / "elsewhere")) is None


def spoil_first_row(folder: Path) -> None:
    def spoil() -> None:
        with (folder / "a.npy").open("r+b") as file:
            file.seek(-160_000, os.SEEK_END)
            file.write(b"\0\1\2\3\4\5\6\7")

    keeping_time(folder / "a.npy", spoil)


def rewrite_shard(folder: Path) -> None:
    shard = next(path for path in (folder / "b.zarr" / "c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (spoil_first_row, "rows from 0 on hold other values"),
        (lambda folder: os.utime(folder / "a.npy"), "a.npy was written to"),
        (rewrite_shard, "b.zarr was written to"),
        (
            lambda folder: np.save(folder / "a.npy", np.zeros((20_001, 8), np.uint8)),
            "rows were 40000, and are 40001; a.npy had 160,128 bytes, and has 160,136",
        ),
        (lambda folder: (folder / "a.npy").rename(folder / "c.npy"), "a.npy is gone; c.npy has come"),
        (lambda folder: (folder / "a.npy").unlink(), "rows were 40000, and are 20000; a.npy is gone"),
        (
            lambda folder: [np.save(folder / f"x{i}.npy", np.zeros((1, 8), np.uint8)) for i in range(5)],
            "rows were 40000, and are 40005; x0.npy has come; x1.npy has come; 3 changes more",
        ),
    ],
)
def test_a_change_is_said_in_words(folder, change, said) -> None:
    before = taken(folder)
    change(folder)
    assert what_changed(before, taken(folder)) == said


def test_another_type_or_dimension_is_said(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 8), np.uint8))
    before = taken(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((5, 2), np.float32))
    after = taken(tmp_path / "a.npy")
    assert what_changed(before, after).startswith("dimensions were 8, and are 2; elements were uint8, and are float32")


def test_a_file_that_is_gone_is_an_error(folder) -> None:
    with open_vectors(folder) as source:
        shutil.rmtree(folder / "b.zarr")
        with pytest.raises(NotFoundError, match=r"b\.zarr"):
            fingerprint(source)


def test_only_blocks_are_read(tmp_path, monkeypatch) -> None:
    """Sixteen blocks of 64 KiB of 64 MiB, first and last rows among them."""
    np.save(tmp_path / "a.npy", np.zeros((1 << 20, 64), np.uint8))
    with open_vectors(tmp_path / "a.npy") as source:
        read, ranges = source.read, []
        monkeypatch.setattr(source, "read", lambda start, stop: ranges.append((start, stop)) or read(start, stop))
        fingerprint(source)
    assert len(ranges) == 16
    assert sum(stop - start for start, stop in ranges) == 16 * 1024
    assert (ranges[0][0], ranges[-1][1]) == (0, 1 << 20)
