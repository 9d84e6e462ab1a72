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
    shard = next(path for path in (tmp_path / "stage" / "c").rglob("*") if path.is_file())
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
    writer = zarr_store.ZarrWriter(tmp_path / "foreign", None, 1, 1, np.dtype(np.uint8))
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
