"""Conversion keeps every value, or says why it can't."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from annserve.cli.convert import command
from annserve.errors import InputError, OutputError
from annserve.events import StageProgressed
from annserve.vectors.convert import convert
from annserve.vectors.formats import open_vectors, read_matrix
from annserve.vectors.source import ArraySource

SUFFIXES = (".npy", ".fbin", ".fvecs", ".hdf5", ".parquet", ".zarr")


@pytest.mark.parametrize("second", SUFFIXES)
@pytest.mark.parametrize("first", SUFFIXES)
def test_there_and_back_is_identity(tmp_path: Path, rng: np.random.Generator, first: str, second: str) -> None:
    rows = rng.normal(size=(23, 5)).astype(np.float32)
    there, back = tmp_path / f"there{first}", tmp_path / f"back{second}"
    assert convert(ArraySource(rows), there) == np.float32
    with open_vectors(there) as source:
        convert(source, back)
    np.testing.assert_array_equal(read_matrix(back), rows)


def test_types_that_lose_nothing_are_widened_unasked(tmp_path: Path) -> None:
    for dtype in ("uint8", "int8", "float16"):
        rows = np.array([[0, 1], [100, 7]], dtype)
        convert(ArraySource(rows), tmp_path / f"{dtype}.fbin")
        np.testing.assert_array_equal(read_matrix(tmp_path / f"{dtype}.fbin"), rows)


@pytest.mark.parametrize(("dtype", "suffix"), [("float32", ".u8bin"), ("float16", ".i8bin"), ("uint8", ".i8bin")])
def test_narrowing_is_refused_unless_asked_for(tmp_path: Path, dtype: str, suffix: str) -> None:
    rows = np.array([[0, 1], [100, 7]], dtype)
    path = tmp_path / f"narrow{suffix}"
    with pytest.raises(InputError, match="can't hold every"):
        convert(ArraySource(rows), path)
    assert not path.exists()
    asked = {".u8bin": "uint8", ".i8bin": "int8"}[suffix]
    convert(ArraySource(rows), path, dtype=asked)
    np.testing.assert_array_equal(read_matrix(path), rows)


@pytest.mark.parametrize(
    ("value", "dtype"), [(255.5, "uint8"), (-0.6, "uint8"), (128, "int8"), (np.nan, "int8"), (1e6, "float16")]
)
def test_a_value_beyond_the_type_names_its_row(tmp_path: Path, value: float, dtype: str) -> None:
    rows = np.zeros((9, 3), np.float32)
    rows[7, 2] = value
    with pytest.raises(InputError, match=r"row 7 .* dimension 2"):
        convert(ArraySource(rows), tmp_path / "x.npy", dtype=dtype, rows=(2, 9))
    assert list(tmp_path.iterdir()) == []


def test_asked_for_integers_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    rows = np.array([[0.4, 0.6, 254.9, -0.4]], np.float32)
    convert(ArraySource(rows), tmp_path / "x.npy", dtype="uint8")
    np.testing.assert_array_equal(read_matrix(tmp_path / "x.npy"), [[0, 1, 255, 0]])


def test_a_part_of_the_rows_is_that_part(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    done: list[int] = []
    convert(
        ArraySource(rows),
        tmp_path / "x.npy",
        rows=(3, 7),
        listener=lambda event: done.append(event.done) if isinstance(event, StageProgressed) else None,
    )
    np.testing.assert_array_equal(read_matrix(tmp_path / "x.npy"), rows[3:7])
    assert done == [4]
    for part in ((3, 3), (-1, 2), (0, 11)):
        with pytest.raises(InputError, match="no part of"):
            convert(ArraySource(rows), tmp_path / "y.npy", rows=part)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="doesn't exist"):
        convert(ArraySource(np.zeros((1, 1), np.float32)), tmp_path / "none" / "x.npy")


def test_a_set_larger_than_the_disk_is_refused_before_writing(tmp_path: Path) -> None:
    huge = ArraySource(np.broadcast_to(np.float32(0), (1 << 40, 1 << 14)))
    with pytest.raises(OutputError, match="are free in"):
        convert(huge, tmp_path / "x.npy")


@pytest.mark.parametrize("size", [1 << 10, 1 << 16])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_device_that_fills_up_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str, size: int) -> None:
    """Files of this process may not outgrow `size`, as on a full disk; SIGXFSZ is ignored by Python."""
    rows = np.random.default_rng(1).random((1_000, 64), np.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(OutputError, match="can't be written"):
            convert(ArraySource(rows), tmp_path / f"x{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_command_converts_and_says_what_it_wrote(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.uint8).reshape(10, 4)
    np.save(tmp_path / "a.npy", rows)
    result = CliRunner().invoke(command, [f"{tmp_path}/a.npy", f"{tmp_path}/b.hdf5:test", "--rows", "2:", "--json"])
    assert result.exit_code == 0, result.output
    assert '"count": 8' in result.stdout
    np.testing.assert_array_equal(read_matrix(f"{tmp_path}/b.hdf5:test"), rows[2:])
    failed = CliRunner().invoke(command, [f"{tmp_path}/a.npy", f"{tmp_path}/c.npy", "--rows", "x"])
    assert isinstance(failed.exception, InputError)
