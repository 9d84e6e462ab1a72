"""What is staged is valid, whole and the same rows; anything else is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.spec import IndexSpec
from annserve.vectors import zarr_store
from annserve.vectors.source import ArraySource
from annserve.vectors.staging import largest_norm, open_staged, stage


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a hundred rows fill several shards."""
    monkeypatch.setattr(zarr_store, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(zarr_store, "_CHUNKS_PER_SHARD", 3)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_staged_rows_are_the_rows(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    rows = rng.integers(1, 100, (101, 5)).astype(dtype)
    staged = stage(ArraySource(rows), tmp_path / "stage", IndexSpec(5, dtype, "cosine"))
    for source in (staged, open_staged(tmp_path / "stage")):
        assert source.dtype == dtype
        np.testing.assert_array_equal(source.read(0, 101), rows)
        np.testing.assert_array_equal(source.read(17, 60), rows[17:60])
        assert source.metric == "cosine"
        assert source.norm_max == np.linalg.norm(rows.astype(np.float64), axis=1).max()
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


@pytest.mark.parametrize(
    ("value", "metric", "reason"),
    [(np.nan, "l2", "NaN"), (np.inf, "ip", "infinity"), (1e16, "l2", "1e15"), (0, "cosine", "zero vector")],
)
def test_a_row_that_cannot_be_indexed_is_named_by_its_number(
    tmp_path: Path, value: float, metric: str, reason: str
) -> None:
    rows = np.ones((101, 5), np.float32)
    rows[77] = value
    with pytest.raises(InputError, match=rf"row 77 of array .*{reason}"):
        stage(ArraySource(rows), tmp_path / "stage", IndexSpec(5, "float32", metric))
    assert list(tmp_path.iterdir()) == []


def test_another_dimension_or_type_than_the_spec_is_refused(tmp_path: Path) -> None:
    source = ArraySource(np.ones((3, 5), np.float32))
    for spec in (IndexSpec(4, "float32", "l2"), IndexSpec(5, "uint8", "l2")):
        with pytest.raises(InputError, match="float32 vectors of dimension 5"):
            stage(source, tmp_path / "stage", spec)


def test_every_flipped_or_missing_byte_of_a_chunk_is_an_error(tmp_path: Path, rng: np.random.Generator) -> None:
    """Chunks carry checksums; so does the table of chunks at the end of a shard."""
    rows = rng.integers(0, 256, (20, 5)).astype(np.uint8)
    stage(ArraySource(rows), tmp_path / "stage", IndexSpec(5, "uint8", "l2"))
    shard = next(path for path in (tmp_path / "stage" / "rows" / "c").rglob("*") if path.is_file())
    whole = shard.read_bytes()
    for position in range(len(whole)):
        shard.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(CorruptionError):
            open_staged(tmp_path / "stage").read(0, 20)
        shard.write_bytes(whole[:position])
        with pytest.raises(CorruptionError):
            open_staged(tmp_path / "stage").read(0, 20)
    shard.unlink()
    with pytest.raises(CorruptionError, match="chunk files"):
        open_staged(tmp_path / "stage")


def test_a_stage_that_is_absent_or_foreign_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_staged(tmp_path / "none")
    writer = zarr_store.ZarrWriter(tmp_path / "foreign", "rows", 1, 1, np.dtype(np.uint8))
    writer.append(np.ones((1, 1), np.uint8))
    writer.close()
    with pytest.raises(CorruptionError, match="isn't a whole stage"):
        open_staged(tmp_path / "foreign")


def test_the_largest_norm_is_found_in_any_block(rng: np.random.Generator) -> None:
    rows = rng.integers(0, 10, (9_000, 3)).astype(np.uint8)
    for row in (0, 4_095, 4_096, 8_999):
        large = rows.copy()
        large[row] = 255
        assert largest_norm(large) == np.linalg.norm([255.0, 255.0, 255.0])


def spoiled(rng: np.random.Generator, bad: list[int]) -> np.ndarray:
    """Rows of which some can't be indexed under cosine, by each fault in turn."""
    rows = rng.normal(size=(101, 5)).astype(np.float32)
    for number, row in enumerate(bad):
        rows[row, slice(None) if number % 3 == 2 else 3] = (np.nan, 1e16, 0)[number % 3]
    return rows


@pytest.mark.parametrize("bad", [[], [0], [100], [0, 1, 2, 50, 99, 100], list(range(0, 101, 2)), list(range(90))])
def test_rows_that_are_left_out_are_told_and_the_others_keep_their_numbers(tmp_path, rng, bad) -> None:
    rows = spoiled(rng, bad)
    source, spec = ArraySource(rows), IndexSpec(5, "float32", "cosine")
    stage(source, tmp_path / "stage", spec, skip_invalid=True)
    staged = open_staged(tmp_path / "stage")
    good = np.setdiff1d(np.arange(101), bad)
    assert staged.count == len(good)
    np.testing.assert_array_equal(staged.skipped, bad)
    np.testing.assert_array_equal(staged.input_rows(0, staged.count), good)
    np.testing.assert_array_equal(staged.input_rows(3, 9), good[3:9])
    np.testing.assert_array_equal(staged.read(0, staged.count), rows[good])
    assert staged.norm_max == np.linalg.norm(rows[good].astype(np.float64), axis=1).max()
    told = staged.tell_skipped(source)
    assert told["rows"] == len(bad)
    assert sum(told["faults"].values()) == len(bad)
    assert [(one["row"], one["place"], one["fault"].split()[-1]) for one in told["listed"]] == [
        (row, f"row {row} of array", ("infinity", "1e15", "undefined")[number % 3]) for number, row in enumerate(bad)
    ]


def test_all_rows_left_out_are_counted_and_some_are_listed(tmp_path) -> None:
    rows = np.zeros((1_500, 5), np.float32)
    rows[700] = 1
    staged = stage(ArraySource(rows), tmp_path / "stage", IndexSpec(5, "float32", "cosine"), skip_invalid=True)
    told = staged.tell_skipped(ArraySource(rows))
    assert (told["rows"], len(told["listed"])) == (1_499, 1_000)
    assert staged.input_rows(0, 1).tolist() == [700]


def test_an_input_of_invalid_rows_alone_is_an_error(tmp_path) -> None:
    source = ArraySource(np.full((7, 5), np.nan, np.float32))
    with pytest.raises(InputError, match="none of the 7 rows of array can be indexed; the first holds NaN"):
        stage(source, tmp_path / "stage", IndexSpec(5, "float32", "l2"), skip_invalid=True)
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_rows_left_out_that_was_changed_is_found(tmp_path, rng) -> None:
    stage(ArraySource(spoiled(rng, [3, 9])), tmp_path / "stage", IndexSpec(5, "float32", "cosine"), skip_invalid=True)
    listed = tmp_path / "stage" / "skipped.npy"
    np.save(listed, np.load(listed) + 1)
    with pytest.raises(CorruptionError, match="doesn't list the rows"):
        open_staged(tmp_path / "stage")
    listed.unlink()
    with pytest.raises(NotFoundError, match=r"skipped\.npy"):
        open_staged(tmp_path / "stage")
