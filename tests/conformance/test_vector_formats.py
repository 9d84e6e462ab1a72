"""One suite for every format of vectors: what any of them promises, each must keep.

`written` makes a file by our own writer; `FOREIGN` makes one by the library that owns the format (NumPy,
h5py, pyarrow, zarr, struct), so that writer and reader can't share a mistake.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from annserve.errors import AnnserveError, CorruptionError, InputError, NotFoundError, OutputError
from annserve.vectors.formats import create_vectors, forced_type, open_vectors, read_matrix

TYPES = ("uint8", "int8", "float16", "float32")
ANY = (".npy", ".hdf5", ".parquet", ".zarr")
PACKED = {".fbin": "float32", ".u8bin": "uint8", ".i8bin": "int8", ".ibin": "int32"}
VECS = {".fvecs": "float32", ".bvecs": "uint8", ".ivecs": "int32"}
CASES = [(suffix, dtype) for suffix in ANY for dtype in TYPES] + [*PACKED.items(), *VECS.items()]

Writer = Callable[[Path, np.ndarray], None]


def foreign_packed(path: Path, rows: np.ndarray) -> None:
    path.write_bytes(struct.pack("<II", *rows.shape) + rows.tobytes())


def foreign_vecs(path: Path, rows: np.ndarray) -> None:
    path.write_bytes(b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in rows))


def foreign_hdf5(path: Path, rows: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=rows, chunks=(3, rows.shape[1]), compression="gzip")
        file.create_dataset("test", data=rows[:1])


def foreign_parquet(path: Path, rows: np.ndarray) -> None:
    lists = pa.array(list(rows), pa.list_(pa.from_numpy_dtype(rows.dtype)))
    table = pa.table({"id": pa.array(range(len(rows))), "vector": lists})
    pq.write_table(table, path, row_group_size=4)


def foreign_zarr(path: Path, rows: np.ndarray) -> None:
    array = zarr.create_array(
        str(path), shape=rows.shape, dtype=rows.dtype, chunks=(3, max(1, rows.shape[1] // 2)),
        config={"write_empty_chunks": True},
    )  # fmt: skip
    array[:] = rows


FOREIGN: dict[str, Writer] = {
    ".npy": lambda path, rows: np.save(path, rows),
    ".hdf5": foreign_hdf5,
    ".parquet": foreign_parquet,
    ".zarr": foreign_zarr,
    **dict.fromkeys(PACKED, foreign_packed),
    **dict.fromkeys(VECS, foreign_vecs),
}


def written(path: Path, rows: np.ndarray) -> None:
    with create_vectors(path, *rows.shape, rows.dtype) as writer:
        for start in range(0, len(rows), 5):
            writer.append(rows[start : start + 5])


def written_short(path: Path, rows: np.ndarray) -> None:
    with create_vectors(path, *rows.shape, rows.dtype) as writer:
        writer.append(rows[:3])


def some_rows(dtype: str, count: int = 11, dim: int = 7) -> np.ndarray:
    rng = np.random.default_rng(7)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=(count, dim)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (count, dim), dtype=dtype, endpoint=True)


def name_of(case: tuple[str, str]) -> str:
    return "-".join(case).strip(".")


@pytest.fixture(params=CASES, ids=name_of)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    suffix, dtype = request.param
    return tmp_path / f"rows{suffix}", some_rows(dtype)


@pytest.mark.parametrize("how", ["ours", "foreign"])
def test_what_was_written_is_what_is_read(case: tuple[Path, np.ndarray], how: str) -> None:
    path, rows = case
    (written if how == "ours" else FOREIGN[path.suffix])(path, rows)
    with open_vectors(path) as source:
        assert (source.count, source.dim, source.dtype) == (11, 7, rows.dtype)
        got = source.read(0, 11)
        assert got.dtype == rows.dtype
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, rows)
    np.testing.assert_array_equal(read_matrix(path), rows)


@pytest.mark.parametrize("how", ["ours", "foreign"])
def test_any_range_in_any_order_gives_its_rows(case: tuple[Path, np.ndarray], how: str) -> None:
    path, rows = case
    (written if how == "ours" else FOREIGN[path.suffix])(path, rows)
    rng = np.random.default_rng(3)
    with open_vectors(path) as source:
        for _ in range(20):
            start, stop = sorted(rng.integers(0, 12, 2).tolist())
            np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])
        for size in (1, 4, 11, 100):
            pieces = [(start, chunk) for start, chunk in source.chunks(size)]
            assert [start for start, _ in pieces] == list(range(0, 11, size))
            np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in pieces]), rows)
        row_ids = np.sort(rng.integers(0, 11, 9))
        np.testing.assert_array_equal(source.gather(row_ids), rows[row_ids])
        assert source.gather([]).shape == (0, 7)


def test_what_is_read_belongs_to_the_reader(case: tuple[Path, np.ndarray]) -> None:
    path, rows = case
    written(path, rows)
    with open_vectors(path) as source:
        source.read(0, 5)[:] = 0
        np.testing.assert_array_equal(source.read(0, 5), rows[:5])


def test_ranges_outside_are_refused(case: tuple[Path, np.ndarray]) -> None:
    path, rows = case
    written(path, rows)
    with open_vectors(path) as source:
        for start, stop in ((-1, 2), (0, 12), (5, 4)):
            with pytest.raises(InputError, match="don't lie within"):
                source.read(start, stop)
        for row_ids in ([3, 2], [-1], [11]):
            with pytest.raises(InputError, match=r"ascends|don't lie within"):
                source.gather(row_ids)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (6, 1)])
def test_the_smallest_shapes_survive(case: tuple[Path, np.ndarray], shape: tuple[int, int]) -> None:
    path, rows = case[0], some_rows(case[1].dtype.name, *shape)
    written(path, rows)
    np.testing.assert_array_equal(read_matrix(path), rows)


# A zarr store is a folder; its chunks are cut in another test.
@pytest.mark.parametrize("case", [case for case in CASES if case[0] != ".zarr"], indirect=True, ids=name_of)
def test_a_truncated_file_is_a_typed_error_wherever_it_is_cut(case: tuple[Path, np.ndarray]) -> None:
    """Cut at every byte of small files: an error names the file, and no cut gives other rows."""
    path, rows = case
    written(path, rows)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 97)):
        if path.suffix in VECS and size and size % (4 + rows.itemsize * 7) == 0:
            continue  # nothing in such a file says how many rows there were
        path.write_bytes(whole[:size])
        with pytest.raises(AnnserveError, match="rows") as caught:
            read_matrix(path)
        assert isinstance(caught.value, CorruptionError | InputError)


# The libraries of the other formats may have read the file already.
@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] not in (".hdf5", ".parquet", ".zarr")], indirect=True, ids=name_of
)
def test_a_file_that_shrinks_while_it_is_open_is_an_error(case: tuple[Path, np.ndarray]) -> None:
    path, rows = case
    written(path, rows)
    with open_vectors(path) as source:
        path.open("r+b").truncate(path.stat().st_size - 1)
        with pytest.raises(CorruptionError, match="ends at byte"):
            source.read(0, 11)


def test_a_missing_file_is_said(case: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(NotFoundError, match="there is no file"):
        open_vectors(case[0])


def test_an_empty_file_is_a_typed_error(case: tuple[Path, np.ndarray]) -> None:
    path = case[0]
    path.write_bytes(b"")
    with pytest.raises((CorruptionError, InputError), match=path.name):
        open_vectors(path)


def test_a_folder_in_place_of_a_file_is_said(case: tuple[Path, np.ndarray]) -> None:
    path = case[0]
    path.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        open_vectors(path)


def test_random_bytes_are_a_typed_error(case: tuple[Path, np.ndarray]) -> None:
    path = case[0]
    for seed in range(20):
        path.write_bytes(np.random.default_rng(seed).bytes(300))
        with pytest.raises((CorruptionError, InputError), match=path.name):
            read_matrix(path)


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(case: tuple[Path, np.ndarray]) -> None:
    path, rows = case
    written(path, rows)
    with pytest.raises(OutputError, match="exists already"):
        written(path, rows[:2])
    np.testing.assert_array_equal(read_matrix(path), rows)
    with create_vectors(path, 2, 7, rows.dtype, overwrite=True) as writer:
        writer.append(rows[:2])
    np.testing.assert_array_equal(read_matrix(path), rows[:2])


def test_a_failed_write_leaves_nothing(case: tuple[Path, np.ndarray]) -> None:
    path, rows = case
    with pytest.raises(AssertionError, match="3 rows"):
        written_short(path, rows)
    assert list(path.parent.iterdir()) == []


def test_other_types_than_the_suffix_says_are_refused() -> None:
    for suffix, dtype in {**PACKED, **VECS}.items():
        assert forced_type(f"x{suffix}") == dtype
        with pytest.raises(InputError, match=dtype), create_vectors(f"x{suffix}", 1, 1, "float16"):
            pass
