"""Synthetic sets are reproducible, as hard as asked for, and come with true neighbours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from annserve.cli.generate import command
from annserve.errors import InputError, OutputError
from annserve.vectors.formats import read_matrix, read_truth
from annserve.vectors.sample import sample_row_ids
from annserve.vectors.synthetic import Model, SyntheticOptions, intrinsic_dimension
from annserve.vectors.truth import exact_neighbours
from tests.oracles import vectors as oracle


def test_rows_do_not_depend_on_how_they_are_read() -> None:
    """Ranges across the ends of blocks, whole reads and chunks give the same rows; another seed others."""
    options = SyntheticOptions(count=20_000, dim=8, intrinsic_dim=4, clusters=10)
    whole = Model(options, 5).base().read(0, 20_000)
    source = Model(options, 5).base()
    for start, stop in ((8_190, 8_195), (0, 1), (16_000, 20_000), (8_192, 8_192 * 2)):
        np.testing.assert_array_equal(source.read(start, stop), whole[start:stop])
    chunked = np.concatenate([rows for _, rows in source.chunks(777)])
    np.testing.assert_array_equal(chunked, whole)
    other = Model(dataclasses.replace(options, seed=2), 5).base().read(0, 100)
    assert not np.array_equal(other, whole[:100])
    assert len(np.unique(whole, axis=0)) == 20_000


@pytest.mark.parametrize("asked", [5.0, 10.0, 18.0])
def test_rows_have_the_intrinsic_dimension_that_was_asked_for(asked: float) -> None:
    """Measured by the oracle, on bytes, with probes that the fit didn't use."""
    options = SyntheticOptions(count=30_000, dim=64, dtype="uint8", intrinsic_dim=asked, clusters=300)
    rows = Model.fitted(options).base().read(0, 30_000)
    probes = sample_row_ids(len(rows), 300, seed=99)
    _, squared = exact_neighbours(rows, rows[probes], 20, "l2", exclude=probes)
    assert oracle.intrinsic_dimension(np.sqrt(squared)) == pytest.approx(asked, rel=0.1)


def test_intrinsic_dimension_of_a_plane_is_two(rng: np.random.Generator) -> None:
    plane = (rng.random((4_000, 2)) @ rng.normal(size=(2, 30))).astype(np.float32)
    assert intrinsic_dimension(plane, np.arange(0, 4_000, 10)) == pytest.approx(2, rel=0.1)


def test_skew_makes_clusters_unequal() -> None:
    """With clusters of a point each, the share of the first is that of the power law."""
    options = SyntheticOptions(count=8_192, dim=16, intrinsic_dim=4, clusters=4, skew=2.0)
    model = Model(options, 4)
    assert model._cumulative[0] == pytest.approx(1 / (1 + 1 / 4 + 1 / 9 + 1 / 16))
    assert Model(dataclasses.replace(options, skew=0.0), 4)._cumulative[0] == pytest.approx(0.25)


def test_shifted_queries_lie_farther_from_the_base() -> None:
    options = SyntheticOptions(count=5_000, dim=32, intrinsic_dim=8, clusters=50, queries=100)
    nearest = []
    for shift in (0.0, 0.5, 1.0):
        model = Model(dataclasses.replace(options, query_shift=shift), 10)
        _, distances = exact_neighbours(model.base(), model.queries().read(0, 100), 1, "l2")
        nearest.append(float(distances.mean()))
    assert nearest[0] < nearest[1] < nearest[2]


@pytest.mark.parametrize(
    ("dtype", "suffix"), [("uint8", "u8bin"), ("int8", "i8bin"), ("float16", "npy"), ("float32", "fbin")]
)
def test_the_command_writes_a_whole_set(tmp_path: Path, dtype: str, suffix: str) -> None:
    folder = tmp_path / "set"
    arguments = [str(folder), "--count", "500", "--dim", "12", "--dtype", dtype, "--intrinsic-dim", "5"]
    arguments += ["--clusters", "9", "--queries", "7", "-k", "10", "--metric", "cosine", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    base, queries = read_matrix(folder / f"base.{suffix}"), read_matrix(folder / f"query.{suffix}")
    assert base.shape == (500, 12)
    assert base.dtype == queries.dtype == dtype
    row_ids, distances = read_truth(folder / "gt.ibin")
    expected_ids, expected = oracle.nearest(base, queries, 10, "cosine")
    np.testing.assert_array_equal(row_ids, expected_ids)
    np.testing.assert_allclose(distances, expected, atol=1e-6)
    facts = json.loads((folder / "synthetic.json").read_text())
    assert facts["seed"] == 1
    assert facts["files"] == [f"base.{suffix}", f"query.{suffix}", "gt.ibin"]
    again = CliRunner().invoke(command, arguments)
    assert isinstance(again.exception, OutputError)


def test_options_out_of_range_are_named() -> None:
    for field, value in {
        "count": 0, "dim": 0, "dtype": "int64", "metric": "x", "intrinsic_dim": 99, "clusters": 0, "skew": -1,
        "queries": 0, "k": 1_001, "seed": -1,
    }.items():  # fmt: skip
        with pytest.raises(InputError) as caught:
            SyntheticOptions(**{"count": 1_000, "dim": 16, "intrinsic_dim": 4, field: value})
        assert caught.value.field == field or field == "dim"
