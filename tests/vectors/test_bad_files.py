"""Each way in which a file of vectors can be wrong is its own clear error, before anything large is allocated."""

from __future__ import annotations

import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from annserve.errors import CorruptionError, InputError, NotFoundError, ReadError
from annserve.vectors.formats import open_vectors, read_matrix, read_truth
from annserve.vectors.source import ArraySource


def test_a_header_that_lies_about_its_count_is_refused_at_once(tmp_path: Path) -> None:
    """Counts that would take terabytes: the error must come from the file's size, not from the allocator."""
    for suffix in (".fbin", ".u8bin", ".i8bin", ".ibin"):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(struct.pack("<II", 2**32 - 1, 2**31) + bytes(100))
        with pytest.raises(CorruptionError, match=r"says 4294967295 rows .* but it has 108") as caught:
            read_matrix(path)
        assert caught.value.path == path
        assert caught.value.offset == 108
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 128)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(CorruptionError, match="says 1000000000000 rows"):
        read_matrix(path)
    path = tmp_path / "x.fvecs"
    path.write_bytes(struct.pack("<i", 2**30) + bytes(100))
    with pytest.raises(CorruptionError, match="first row has dimension 1073741824"):
        read_matrix(path)


def test_bytes_behind_the_last_row_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.u8bin"
    path.write_bytes(struct.pack("<II", 2, 3) + bytes(7))
    with pytest.raises(CorruptionError, match="followed by other bytes"):
        open_vectors(path)


def test_chunks_that_were_never_written_are_no_zeros(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("train", (10**9, 100), np.float32, chunks=(1000, 100))
        file.create_dataset("flat", (100, 100), np.float32)
    for member in ("train", "flat"):
        with pytest.raises(CorruptionError, match="were ever written"):
            open_vectors(tmp_path / "x.hdf5", column=member)
    zarr.create_array(str(tmp_path / "x.zarr"), shape=(10**12, 100), dtype="f4", chunks=(1000, 100))
    with pytest.raises(CorruptionError, match="has 0 of the 1000000000 chunk files"):
        open_vectors(tmp_path / "x.zarr")


def test_a_row_of_another_dimension_in_fvecs_is_found(tmp_path: Path) -> None:
    rows = [struct.pack("<i3f", 3, 1, 2, 3) for _ in range(5)]
    rows[3] = struct.pack("<i3f", 4, 1, 2, 3)
    (tmp_path / "x.fvecs").write_bytes(b"".join(rows))
    with open_vectors(tmp_path / "x.fvecs") as source:
        assert source.read(0, 3).shape == (3, 3)
        with pytest.raises(CorruptionError, match=r"row 3 .* at byte 48, says dimension 4") as caught:
            source.read(2, 5)
    assert caught.value.offset == 48


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5, np.float32), "1 axes"),
        (np.float32(3), "0 axes"),
        (np.zeros((2, 3, 4), np.float32), "3 axes"),
        (np.zeros((0, 3), np.float32), "holds no rows"),
        (np.zeros((3, 0), np.float32), "dimension 0"),
        (np.zeros((3, 2), np.int64), "type int64"),
        (np.zeros((3, 2), np.complex64), "type complex64"),
        (np.zeros((3, 2), bool), "type bool"),
        (np.array([["a", "b"]]), "type <U1"),
        (np.zeros((3, 2), [("a", "f4")]), r"type \[\('a'"),
        (np.zeros((3, 2), "datetime64[s]"), "type datetime64"),
    ],
)
def test_arrays_that_are_no_matrix_of_numbers_are_refused(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message):
        open_vectors(tmp_path / "x.npy")


def test_empty_packed_files_are_refused(tmp_path: Path) -> None:
    for shape, message in (((0, 5), "no rows"), ((5, 0), "dimension 0"), ((0, 0), "no rows")):
        (tmp_path / "x.fbin").write_bytes(struct.pack("<II", *shape))
        with pytest.raises(InputError, match=message):
            open_vectors(tmp_path / "x.fbin")


class Bomb:
    """Unpickling it would leave a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_pickled_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.array([[Bomb()]], object), allow_pickle=True)
    for read in (open_vectors, read_matrix):
        with pytest.raises(InputError, match="pickle"):
            read("x.npy")
    Path("y.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CorruptionError, match="npy header"):
        open_vectors("y.npy")
    assert not Path("exploded").exists()


def parquet(path: Path, values: list[Any], kind: pa.DataType, **more: Any) -> Path:
    pq.write_table(pa.table({"vector": pa.array(values, kind), **more}), path)
    return path


def test_parquet_rows_that_are_no_whole_vector_are_named(tmp_path: Path) -> None:
    floats, good = pa.list_(pa.float32()), [[1.0, 2.0]] * 9
    path = tmp_path / "x.parquet"
    for bad, message in (
        ([1.0], "row 9 .* has 1 elements, but row 0 has 2"),
        (None, "row 9 .* is null"),
        ([1.0, None], "row 9 .* null element"),
        ([], "row 9 .* has 0 elements"),
    ):
        with (
            open_vectors(parquet(path, [*good, bad], floats)) as source,
            pytest.raises(InputError, match=message),
        ):
            source.read(0, source.count)
    fixed = pa.list_(pa.float32(), 2)
    with (
        open_vectors(parquet(path, [*good, None], fixed)) as source,
        pytest.raises(InputError, match=r"row 9 .* is null"),
    ):
        source.read(0, source.count)
    for first, message in ((None, "row 0 .* is null"), ([], "dimension 0")):
        with pytest.raises(InputError, match=message):
            open_vectors(parquet(path, [first, [1.0]], floats))
    with pytest.raises(InputError, match="no rows"):
        open_vectors(parquet(path, [], floats))


def test_the_column_is_chosen_or_asked_for(tmp_path: Path) -> None:
    path, floats = tmp_path / "x.parquet", pa.list_(pa.float32())
    parquet(path, [[1.0]], floats, second=pa.array([[2.0]], floats), name=pa.array(["a"]))
    with pytest.raises(InputError, match="vector, second"):
        open_vectors(path)
    with pytest.raises(NotFoundError, match="no column 'third'"):
        open_vectors(f"{path}:third")
    with pytest.raises(InputError, match="type string"):
        open_vectors(path, column="name")
    with pytest.raises(InputError, match="say one"):
        open_vectors(f"{path}:second", column="vector")
    assert read_matrix(f"{path}:second").tolist() == [[2.0]]
    with pytest.raises(InputError, match="not lists of numbers"):
        open_vectors(parquet(path, [["a"]], pa.list_(pa.string())))


def test_members_that_are_absent_are_listed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["test"] = np.zeros((1, 1), np.float32)
        file["group/deep"] = np.zeros((1, 1), np.float32)
    with pytest.raises(NotFoundError, match=r"'train'; choose .*group, test"):
        open_vectors(tmp_path / "x.hdf5")
    assert read_matrix(f"{tmp_path}/x.hdf5:group/deep").shape == (1, 1)
    zarr.open_group(str(tmp_path / "x.zarr"), mode="w").create_array("rows", data=np.ones((1, 1), np.float32))
    with pytest.raises(InputError, match=r"is a group.*rows"):
        open_vectors(tmp_path / "x.zarr")
    with pytest.raises(NotFoundError, match="'none'"):
        open_vectors(f"{tmp_path}/x.zarr:none")
    assert read_matrix(f"{tmp_path}/x.zarr:rows").tolist() == [[1.0]]


def test_rows_in_other_files_are_refused(tmp_path: Path) -> None:
    """An HDF5 dataset may point at any file of the machine."""
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("train", (2, 2), np.float32, external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(InputError, match="other files"):
        open_vectors(tmp_path / "x.hdf5")


def test_version_two_zarr_is_refused(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "x.zarr"), shape=(2, 2), dtype="f4", zarr_format=2)
    with pytest.raises(InputError, match="not a zarr v3 store"):
        open_vectors(tmp_path / "x.zarr")


def test_an_unknown_suffix_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"'.csv'.*\.npy.*\.zarr"):
        open_vectors(tmp_path / "x.csv")


@pytest.mark.parametrize(("suffix", "module", "extra"), [(".hdf5", "h5py", "hdf5"), (".parquet", "pyarrow", "parquet")])
def test_an_extra_that_is_absent_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / f"x{suffix}").write_bytes(b"x")
    with pytest.raises(InputError, match=rf"pip install 'annserve\[{extra}\]'"):
        open_vectors(tmp_path / f"x{suffix}")


def test_doubles_are_read_as_floats_and_what_overflows_becomes_infinite(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.5, 1e300]]))
    with open_vectors(tmp_path / "x.npy") as source:
        assert source.dtype == np.float32
        assert source.read(0, 1).tolist() == [[1.5, np.inf]]


def test_fortran_order_and_big_endian_arrays_are_read_right(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rng.normal(size=(40, 6)).astype(np.float32)
    np.save(tmp_path / "f.npy", np.asfortranarray(rows))
    np.save(tmp_path / "b.npy", rows.astype(">f4"))
    for name in ("f", "b"):
        with open_vectors(tmp_path / f"{name}.npy") as source:
            assert source.dtype == np.dtype(np.float32)
            np.testing.assert_array_equal(source.read(7, 31), rows[7:31])
        np.testing.assert_array_equal(read_matrix(tmp_path / f"{name}.npy"), rows)


def test_exact_neighbours_are_read_with_their_distances(tmp_path: Path) -> None:
    ids, distances = np.array([[3, 1], [2, 0]], np.int32), np.array([[0.5, 1], [2, 3]], np.float32)
    for name in ("gt.ibin", "gt.ibin100"):
        (tmp_path / name).write_bytes(struct.pack("<II", 2, 2) + ids.tobytes() + distances.tobytes())
        got_ids, got_distances = read_truth(tmp_path / name)
        np.testing.assert_array_equal(got_ids, ids)
        np.testing.assert_array_equal(got_distances, distances)
        np.testing.assert_array_equal(read_matrix(tmp_path / name), ids)
    np.save(tmp_path / "gt.npy", ids.astype(np.int64))
    got_ids, none = read_truth(tmp_path / "gt.npy")
    assert got_ids.dtype == np.int64
    assert none is None
    np.save(tmp_path / "gt.npy", distances)
    with pytest.raises(InputError, match="ids of neighbours are integers"):
        read_truth(tmp_path / "gt.npy")


def test_a_large_row_group_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """One row group of 100 MB: what Arrow holds at once stays a fraction of it, in order and out of order."""
    rows = np.random.default_rng(1).random((200_000, 128), np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 128)
    table = pa.table({"vector": lists})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1 << 20)
    del lists, table
    pool = pa.system_memory_pool()
    default = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        before = pool.bytes_allocated()
        peak = 0
        with open_vectors(tmp_path / "x.parquet") as source:
            for start, chunk in source.chunks():
                np.testing.assert_array_equal(chunk, rows[start : start + len(chunk)])
                peak = max(peak, pool.bytes_allocated() - before)
            np.testing.assert_array_equal(source.read(50_000, 50_010), rows[50_000:50_010])
            peak = max(peak, pool.bytes_allocated() - before)
        assert peak < 40 << 20, f"{peak:,} bytes"
    finally:
        pa.set_memory_pool(default)


def test_a_file_without_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, for root may read everything."""
    np.save(tmp_path / "x.npy", np.ones((1, 1), np.float32))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ReadError, match="Permission denied"):
        open_vectors(tmp_path / "x.npy")


def test_a_memory_source_copies_what_it_gives() -> None:
    rows = np.ones((2, 2), np.float32)
    ArraySource(rows).read(0, 2)[:] = 5
    assert (rows == 1).all()
