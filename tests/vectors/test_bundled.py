"""The bundled set is what its README says, and nothing altered passes for it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from annserve.errors import CorruptionError, NotFoundError
from annserve.vectors import bundled

NAME = "stdlib-minilm"
FILES = (
    "base.f16.npy",
    "queries.f16.npy",
    "gt.ids.npy",
    "gt.distances.npy",
    "texts.jsonl.gz",
    "questions.jsonl",
)


@pytest.fixture(scope="module")
def stdlib() -> bundled.BundledSet:
    return bundled.load(NAME)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the set that a test may damage."""
    shutil.copytree(bundled.locate(NAME), tmp_path / NAME)
    monkeypatch.setenv("ANNSERVE_DATASETS", str(tmp_path))
    return tmp_path / NAME


def test_shapes_and_types_are_those_of_the_readme(stdlib: bundled.BundledSet) -> None:
    assert stdlib.base.shape == (10_000, 384)
    assert stdlib.base.dtype == np.float16
    assert stdlib.queries.shape == (274, 384)
    assert stdlib.queries.dtype == np.float16
    assert stdlib.truth_ids.shape == stdlib.truth_distances.shape == (274, 100)
    assert stdlib.truth_ids.dtype == np.int32
    assert stdlib.truth_distances.dtype == np.float64


def test_vectors_have_unit_length_up_to_float16_rounding(stdlib: bundled.BundledSet) -> None:
    for vectors in (stdlib.base, stdlib.queries):
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, 1.0, atol=1e-3)


def test_no_two_rows_are_equal(stdlib: bundled.BundledSet) -> None:
    assert len(np.unique(stdlib.base, axis=0)) == len(stdlib.base)


def test_truth_equals_brute_force(stdlib: bundled.BundledSet) -> None:
    """Recomputed in float64, query by query; dot products of float16 unit vectors are exact there."""
    rows = stdlib.base.astype(np.float64)
    row_norms = np.linalg.norm(rows, axis=1)
    for query, ids, distances in zip(
        stdlib.queries.astype(np.float64), stdlib.truth_ids, stdlib.truth_distances, strict=True
    ):
        found = 1.0 - rows @ query / (row_norms * np.linalg.norm(query))
        np.testing.assert_allclose(distances, found[ids], atol=1e-14)
        assert (np.diff(distances) >= 0).all()
        ties = np.diff(distances) == 0
        assert (np.diff(ids)[ties] > 0).all()
        # Nothing that was left out is nearer than what was kept.
        assert np.delete(found, ids).min() >= distances[-1] - 1e-14


def test_texts_are_distinct_and_name_what_they_describe(stdlib: bundled.BundledSet) -> None:
    texts = [record["text"] for record in stdlib.texts]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert all(text == " ".join(text.split()) and 12 <= len(text) <= 500 for text in texts)
    kinds = {record["kind"] for record in stdlib.texts}
    assert kinds == {"module", "class", "function", "method", "property", "topic"}
    parts = [(record["name"], record["part"]) for record in stdlib.texts]
    assert len(set(parts)) == len(parts)
    assert all(record["part"] < record["parts"] for record in stdlib.texts)


def test_questions_are_distinct_and_point_to_texts_that_are_there(stdlib: bundled.BundledSet) -> None:
    names = {record["name"] for record in stdlib.texts}
    assert all(question["name"] in names for question in stdlib.questions if question["name"])
    assert len({question["question"].casefold() for question in stdlib.questions}) == len(stdlib.questions)


def test_neighbours_mean_something(stdlib: bundled.BundledSet) -> None:
    """More than half of the named texts are among the first ten, so rows, texts and queries are in step."""
    hits = [
        question["name"] in {stdlib.texts[row]["name"] for row in ids[:10]}
        for question, ids in zip(stdlib.questions, stdlib.truth_ids, strict=True)
        if question["name"]
    ]
    assert np.mean(hits) > 0.5


def test_the_set_takes_less_than_15_mb_and_carries_its_licence() -> None:
    folder = bundled.locate(NAME)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15_000_000
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in (folder / "LICENSE-PSF").read_text()


def test_the_readme_shows_the_hashes_of_the_files() -> None:
    folder = bundled.locate(NAME)
    readme = (folder / "README.md").read_text()
    for name in FILES:
        assert f"`{hashlib.sha256((folder / name).read_bytes()).hexdigest()}`" in readme


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_an_error_that_names_it(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(CorruptionError, match=f"SHA-256 mismatch in .*{name}"):
        bundled.load(NAME)


def test_a_missing_file_is_an_error_that_names_it(copied: Path) -> None:
    (copied / "gt.ids.npy").unlink()
    with pytest.raises(CorruptionError, match=r"gt\.ids\.npy is missing in .*stdlib"):
        bundled.load(NAME)


def test_a_file_that_no_hash_vouches_for_is_an_error(copied: Path) -> None:
    lines = (copied / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copied / "SHA256SUMS").write_text("".join(line for line in lines if "texts" not in line))
    with pytest.raises(CorruptionError, match=r"texts.jsonl.gz is missing in .*SHA256SUMS"):
        bundled.load(NAME)


def test_a_table_of_hashes_that_is_none_is_an_error(copied: Path) -> None:
    (copied / "SHA256SUMS").write_text("not a table\n")
    with pytest.raises(CorruptionError, match="line 1 of"):
        bundled.load(NAME)


def test_files_of_two_sets_are_an_error_even_if_their_hashes_hold(copied: Path) -> None:
    path = copied / "questions.jsonl"
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    new = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = copied / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, new))
    with pytest.raises(CorruptionError, match="don't belong together"):
        bundled.load(NAME)


def test_a_missing_set_is_an_error_that_says_which_are_there() -> None:
    with pytest.raises(NotFoundError, match=rf"no bundled set 'nowhere'.*{NAME}.*ANNSERVE_DATASETS"):
        bundled.load("nowhere")


def test_a_name_does_not_lead_out_of_the_folder(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = copied.parent / "inner"
    inner.mkdir()
    monkeypatch.setenv("ANNSERVE_DATASETS", str(inner))
    with pytest.raises(NotFoundError):
        bundled.locate(f"../{NAME}")
