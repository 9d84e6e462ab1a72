"""Files of a pattern or a folder are one set, in the order of their names; what doesn't fit together is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from annserve.errors import CorruptionError, InputError, NotFoundError
from annserve.spec import IndexSpec
from annserve.vectors.formats import create_vectors, open_vectors
from annserve.vectors.staging import stage


def write(path: Path, rows: np.ndarray) -> None:
    with create_vectors(path, *rows.shape, rows.dtype) as writer:
        writer.append(rows)


@pytest.fixture
def parts(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    """A folder of four parts of 1 to 9 rows, and all rows."""
    rows = rng.integers(0, 256, (17, 3)).astype(np.uint8)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, (start, stop) in enumerate(((0, 5), (5, 6), (6, 15), (15, 17))):
        write(folder / f"part-{number}.npy", rows[start:stop])
    return folder, rows


@pytest.mark.parametrize("pattern", ["parts", "parts/*.npy", "parts/part-[0-9].np?", "**/*.npy"])
def test_every_range_and_choice_of_rows_is_that_of_the_whole(parts, tmp_path, pattern) -> None:
    _, rows = parts
    with open_vectors(tmp_path / pattern) as source:
        assert (source.count, source.dim, source.dtype) == (17, 3, np.uint8)
        for start in range(18):
            for stop in range(start, 18):
                np.testing.assert_array_equal(source.read(start, stop), rows[start:stop])
        np.testing.assert_array_equal(source.gather([0, 4, 5, 6, 6, 16]), rows[[0, 4, 5, 6, 6, 16]])
        assert [path.name for path in source.files] == [f"part-{number}.npy" for number in range(4)]


def test_parts_may_have_members_and_formats_of_their_own(tmp_path, rng) -> None:
    rows = rng.normal(size=(6, 2)).astype(np.float32)
    for number in range(2):
        with h5py.File(tmp_path / f"x{number}.hdf5", "w") as file:
            file["emb"] = rows[number::2]
    for source in (open_vectors(f"{tmp_path}/x*.hdf5:emb"), open_vectors(tmp_path, column="emb")):
        with source:
            np.testing.assert_array_equal(source.read(0, 6), np.concatenate((rows[::2], rows[1::2])))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    write(mixed / "a.fbin", rows[:3])
    write(mixed / "b.zarr", rows[3:])
    (mixed / "_SUCCESS").touch()
    with open_vectors(mixed) as source:
        np.testing.assert_array_equal(source.read(0, 6), rows)


@pytest.mark.parametrize("other", [np.ones((2, 4), np.uint8), np.ones((2, 3), np.float32)])
def test_a_part_of_another_dimension_or_type_is_named_beside_the_first(parts, other) -> None:
    folder, _ = parts
    write(folder / "part-9.npy", other)
    message = r"part-9\.npy holds .* of dimension \d, but .*part-0\.npy holds uint8 of dimension 3"
    with pytest.raises(InputError, match=message):
        open_vectors(folder)


def test_a_folder_with_anything_else_in_it_is_refused(parts, tmp_path) -> None:
    folder, _ = parts
    (folder / "README.md").write_text("which files?")
    with pytest.raises(InputError, match=r"holds README\.md, which is no file of vectors; choose by a pattern"):
        open_vectors(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="folder without files of vectors"):
        open_vectors(tmp_path / "empty")
    with pytest.raises(NotFoundError, match=r"no file matches .*\*\.fbin"):
        open_vectors(folder / "*.fbin")


def test_a_bad_row_is_named_by_its_number_its_file_and_its_row_there(parts, tmp_path) -> None:
    folder, _ = parts
    bad = np.ones((4, 3), np.float32)
    bad[3, 1] = np.nan
    for path in folder.iterdir():
        path.unlink()
        write(path, bad if path.name == "part-2.npy" else np.ones_like(bad))
    with (
        open_vectors(folder) as source,
        pytest.raises(InputError, match=r"row 11 of .*parts \(row 3 of .*part-2\.npy\) holds NaN"),
    ):
        stage(source, tmp_path / "stage", IndexSpec(3, "float32", "l2"))


def test_a_part_that_changes_after_its_shape_was_learned_is_an_error(parts) -> None:
    folder, rows = parts
    with open_vectors(folder) as source:
        np.save(folder / "part-2.npy", rows[:3])
        with pytest.raises(CorruptionError, match=r"part-2\.npy held 9 rows .* and now 3"):
            source.read(0, 17)


def test_thousands_of_parts_keep_one_file_open(tmp_path) -> None:
    for number in range(300):
        np.save(tmp_path / f"{number:04}.npy", np.full((1, 2), number % 256, np.uint8))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_vectors(tmp_path) as source:
        assert source.read(0, 300)[:, 0].tolist() == [number % 256 for number in range(300)]
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
