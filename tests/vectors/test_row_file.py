"""Row files: what was written is given, whatever the order, range or thread; what isn't there is told."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.errors import CorruptionError, OutputError
from annserve.metric import rows_to_space
from annserve.spec import IndexSpec
from annserve.vectors.row_file import SpaceRows, create_rows, open_rows


def rows_of(count: int, dim: int, dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, dim)).astype(dtype)


@given(
    count=st.integers(1, 300),
    dim=st.sampled_from([1, 3, 64, 700]),
    dtype=st.sampled_from(["uint8", "float16", "float32"]),
    data=st.data(),
)
def test_rows_come_back_by_range_and_by_number(tmp_path_factory, count, dim, dtype, data):
    rows = rows_of(count, dim, dtype, count)
    path = tmp_path_factory.mktemp("rows") / "x.rows"
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    ranges = list(zip([0, *cuts], [*cuts, count]))
    with create_rows(path, count, dim, np.dtype(dtype)) as file:
        for start, stop in data.draw(st.permutations(ranges)):
            file.write(start, rows[start:stop])
        file.sync()
    with open_rows(path, count, dim, np.dtype(dtype)) as file:
        assert len(file) == count
        assert file.shape == rows.shape
        numbers = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=50)), np.int64)
        assert np.array_equal(file[numbers], rows[numbers])
        start, stop = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
        assert np.array_equal(file[start:stop], rows[start:stop])
        assert np.array_equal(file[:], rows)


def test_threads_write_and_read_side_by_side(tmp_path):
    rows = rows_of(4_000, 96, "float32", 1)
    with create_rows(tmp_path / "x.rows", *rows.shape, rows.dtype) as file, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda start: file.write(start, rows[start : start + 100]), range(0, 4_000, 100)))
        wanted = [np.random.default_rng(seed).integers(0, 4_000, 500) for seed in range(40)]
        for numbers, found in zip(wanted, pool.map(lambda numbers: file[numbers], wanted)):
            assert np.array_equal(found, rows[numbers])


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_rows_of_the_index_space_are_those_of_all_rows_at_once(metric):
    rows = 1 + rows_of(50, 5, "float32", 3)
    spec = IndexSpec(5, "float32", metric)
    space = SpaceRows(rows, spec, 2_000.0)
    whole = rows_to_space(rows, spec, 2_000.0)
    assert space.shape == whole.shape
    assert space.dtype == whole.dtype
    numbers = np.array([7, 7, 0, 49])
    assert np.array_equal(space[numbers], whole[numbers])
    assert np.array_equal(space[10:20], whole[10:20])


def test_a_file_that_was_cut_short_is_told(tmp_path):
    path = tmp_path / "x.rows"
    file = create_rows(path, 10, 8, np.dtype(np.uint8))
    os.truncate(path, 75)
    with pytest.raises(CorruptionError, match="ends at byte 75") as told:
        file.read(0, 10)
    assert told.value.offset == 75
    with pytest.raises(CorruptionError, match="75 bytes, but an earlier step left 80"):
        open_rows(path, 10, 8, np.dtype(np.uint8))
    file.close()
    path.unlink()
    assert not path.exists()
    with pytest.raises(CorruptionError, match="has 0 bytes"):
        open_rows(path, 10, 8, np.dtype(np.uint8))


def test_a_full_device_is_told_before_a_row_is_written(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left"):
        create_rows(tmp_path / "x.rows", 10, 8, np.dtype(np.uint8))
    assert list(tmp_path.iterdir()) == []
