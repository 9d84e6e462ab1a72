"""What a build may be given: one file, several, and rows that can't be indexed among them; the same index each time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import COMMAND, Ended, annserve, annserve_process, build_index, search_files

import annserve as product
from annserve.vectors.formats import create_vectors


def write_parts(folder: Path, rows: np.ndarray, suffixes: tuple[str, ...]) -> Path:
    folder.mkdir()
    for number, (some, suffix) in enumerate(zip(np.array_split(rows, len(suffixes)), suffixes)):
        with create_vectors(folder / f"part-{number}{suffix}", *some.shape, some.dtype) as writer:
            writer.append(some)
    return folder


@pytest.mark.parametrize("source", ["parts", "parts/*", "parts/part-*.*"])
def test_parts_of_a_set_give_the_index_of_the_whole(small_rows, small_index, tmp_path, source):
    write_parts(tmp_path / "parts", small_rows, (".npy", ".fbin", ".zarr"))
    assert search_files(build_index(tmp_path / source, tmp_path / "index")) == search_files(small_index)


def piped(folder: Path, *arrays: np.ndarray) -> Path:
    """Write a file that a pipe would carry: arrays one after another."""
    with (folder / "stream").open("wb") as stream:
        for array in arrays:
            np.save(stream, array)
    return folder / "stream"


def build_piped(stream: Path, folder: Path, *options: object) -> Ended:
    with stream.open("rb") as arrays:
        return annserve_process("build", "-", "--out", folder, "--threads", 2, *options, stdin=arrays)


def test_a_pipe_of_chunks_gives_the_index_of_the_whole(small_rows, small_index, tmp_path):
    ended = build_piped(piped(tmp_path, *np.split(small_rows, [1, 100, 599])), tmp_path / "index")
    assert ended.code == 0, ended.err
    assert search_files(tmp_path / "index") == search_files(small_index)
    assert not (tmp_path / "index" / ".build").exists()
    assert ended.err.startswith("spool ")


def test_a_killed_build_of_a_pipe_is_gone_on_with_without_the_pipe(small_rows, small_index, tmp_path):
    """Killed when it says that its rows are staged: what came through the pipe is kept until the index is whole."""
    folder = tmp_path / "index"
    stream = piped(tmp_path, small_rows)
    command = [*COMMAND, "build", "-", "--out", str(folder), "--threads", "2"]
    with (
        stream.open("rb") as arrays,
        subprocess.Popen(command, stdin=arrays, stderr=subprocess.PIPE, text=True) as build,
    ):
        assert build.stderr is not None
        for line in build.stderr:
            if line.startswith("link"):
                build.kill()
                break
        build.stderr.read()
    (tmp_path / "empty").touch()
    ended = build_piped(tmp_path / "empty", folder, "--resume")
    assert ended.code == 0, ended.err
    assert search_files(folder) == search_files(small_index)


def test_a_pipe_that_breaks_leaves_nothing(small_rows, tmp_path):
    stream = piped(tmp_path, small_rows, small_rows)
    for cut, code, said in ((-7, 3, "array 1 of standard input ends within its row 599"), (0, 2, "holds no rows")):
        stream.write_bytes(stream.read_bytes()[:cut])
        ended = build_piped(stream, tmp_path / "deep" / "index")
        assert ended.code == code
        assert said in ended.error
        assert not (tmp_path / "deep").exists()


def test_rows_that_are_left_out_are_counted_and_listed_and_the_others_keep_their_numbers(small_rows, tmp_path):
    """In two files; one index by row numbers, one by ids of the user's, and one of the good rows alone."""
    bad = small_rows.copy()
    bad[[7, 300]], bad[450, 2] = np.nan, 1e20
    write_parts(tmp_path / "parts", bad, (".npy", ".npy"))
    ids = np.random.default_rng(3).permutation(10_000)[:600]
    np.save(tmp_path / "ids.npy", ids)
    ended = annserve("build", tmp_path / "parts", "--out", tmp_path / "index", "--skip-invalid", "--threads", 2)
    assert ended.code == 0, ended.err
    assert "597 rows (3 left out) on" in ended.out
    report = json.loads(annserve("inspect", tmp_path / "index", "--json").out)["report"]
    assert report["skipped"]["faults"] == {"holds NaN or infinity": 2, "holds a value beyond 1e15": 1}
    assert [(one["row"], one["place"].split("(")[1]) for one in report["skipped"]["listed"]] == [
        (7, f"row 7 of {tmp_path}/parts/part-0.npy)"),
        (300, f"row 0 of {tmp_path}/parts/part-1.npy)"),
        (450, f"row 150 of {tmp_path}/parts/part-1.npy)"),
    ]
    named = build_index(tmp_path / "parts", tmp_path / "named", "--skip-invalid", "--ids", tmp_path / "ids.npy")
    good = np.setdiff1d(np.arange(600), [7, 300, 450])
    np.save(tmp_path / "good.npy", small_rows[good])
    with (
        product.open(tmp_path / "index") as index,
        product.open(named) as by_id,
        product.open(build_index(tmp_path / "good.npy", tmp_path / "alone")) as alone,
    ):
        right = alone.search(small_rows[:50], 5, recall_target=1.0)
        for one, numbers in ((index, good), (by_id, ids[good])):
            found = one.search(small_rows[:50], 5, recall_target=1.0)
            np.testing.assert_array_equal(found.distances, right.distances)
            assert (np.sort(found.ids) == np.sort(numbers[right.ids.astype(np.int64)])).mean() > 0.99  # but for twins


def test_a_second_encoders_rows_are_left_out_with_the_first_ones(small_rows, tmp_path):
    bad, other = small_rows.copy(), np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
    bad[:500:7] = np.inf
    np.save(tmp_path / "rows.npy", bad)
    np.save(tmp_path / "other.npy", other)
    options = ("--skip-invalid", "--rerank-with", tmp_path / "other.npy")
    good = np.flatnonzero(np.isfinite(bad).all(axis=1))
    with product.open(build_index(tmp_path / "rows.npy", tmp_path / "index", *options)) as index:
        found = index.search(bad[good], 1, rerank_queries=other[good], recall_target=1.0)
    np.testing.assert_array_equal(found.ids[:, 0], good)


def test_a_bad_row_among_seven_million_is_named(tmp_path):
    """A sparse file: no row of it but one takes a byte of the disk before it is read."""
    count, bad = 7_000_100, 7_000_000
    path = tmp_path / "rows.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, 2)})
        start = file.tell()
        file.truncate(start + count * 8)
        file.seek(start + bad * 8)
        file.write(np.array([1, np.nan], np.float32).tobytes())
    ended = annserve("build", path, "--out", tmp_path / "index", "--threads", 2)
    assert ended.code == 2
    assert f"row 7000000 of {path} holds NaN or infinity; leave it out (--skip-invalid does), or mend it" in ended.error
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_two_dimensions_are_no_set(small_rows, tmp_path):
    write_parts(tmp_path / "parts", small_rows, (".npy", ".npy"))
    np.save(tmp_path / "parts" / "part-9.npy", small_rows[:, :20])
    ended = annserve("build", tmp_path / "parts", "--out", tmp_path / "index")
    assert ended.code == 2
    assert "part-9.npy holds float32 of dimension 20, but" in ended.error
    assert "part-0.npy holds float32 of dimension 24" in ended.error
    assert not (tmp_path / "index").exists()


def test_a_damaged_chunk_of_a_zarr_store_is_named_by_its_rows(small_rows, tmp_path):
    write_parts(tmp_path / "parts", small_rows, (".npy", ".zarr"))
    shard = next(path for path in (tmp_path / "parts" / "part-1.zarr" / "c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    ended = annserve("build", tmp_path / "parts", "--out", tmp_path / "index")
    assert ended.code == 3
    assert "rows 0:300 of" in ended.error
    assert "part-1.zarr can't be decoded" in ended.error
    assert not (tmp_path / "index").exists()
