"""Codes on disk: what comes back is what was written, and arrays that disagree never reach a kernel."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.codes.estimate import FACTOR_BYTES, FACTOR_VALUES, Estimate
from annserve.codes.layout import allocate_pages, flat_with_slack
from annserve.codes.tiers import ENCODER_ARRAYS, CodeTiers
from annserve.codes.train import train_codebook
from annserve.errors import CorruptionError
from annserve.index.segment import CODES_MAGIC, write_codes
from annserve.storage.container import open_container

PAGES, CAPACITY, DIM = 7, 30, 9


@pytest.fixture(scope="module")
def tiers() -> CodeTiers:
    rng = np.random.default_rng(4)
    page_book = train_codebook(rng.normal(size=(200, DIM)).astype(np.float32), 4)
    row_book = train_codebook(rng.normal(size=(200, DIM)).astype(np.float32), 3)
    row_codes = flat_with_slack(allocate_pages(PAGES, 3, CAPACITY))
    row_codes[:-32] = rng.integers(0, 256, PAGES * 3 * CAPACITY)
    values = rng.normal(size=(2, FACTOR_VALUES)).astype(np.float32)
    return CodeTiers(
        page_book=page_book,
        page_codes=rng.integers(0, 256, PAGES * 4 + 32).astype(np.uint8),
        page_constants=rng.normal(size=PAGES).astype(np.float32),
        page_spreads=rng.normal(size=PAGES).astype(np.float32),
        row_book=row_book,
        row_codes=row_codes,
        row_counts=rng.integers(1, CAPACITY + 1, PAGES).astype(np.uint16),
        row_factors=rng.integers(0, 256, (PAGES, FACTOR_BYTES, CAPACITY)).astype(np.uint8),
        estimate=Estimate(
            np.ones(DIM, np.float32),
            np.ones(row_book.n_components, np.float32),
            *values,
            np.arange(3, dtype=np.float32),
            1.5,
            -2.5,
            0.75,
            0.375,
            -8.0,
            0.0625,
        ),
    )


def test_codes_survive_their_file(tiers, tmp_path):
    write_codes(tmp_path / "codes.bin", tiers)
    with open_container(tmp_path / "codes.bin", CODES_MAGIC) as file:
        assert set(file.names) == set(tiers.as_arrays())
        again = CodeTiers.from_arrays({name: np.array(file.section(name)) for name in file.names})
    for name, array in tiers.as_arrays().items():
        np.testing.assert_array_equal(again.as_arrays()[name], array, err_msg=name)
        assert again.as_arrays()[name].dtype == array.dtype, name
    assert again.tier_bytes == tiers.tier_bytes


def test_names_of_sections_are_short_enough_and_differ(tiers):
    names = list(tiers.as_arrays())
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 16
    assert set(ENCODER_ARRAYS) <= set(names)


def test_tiers_count_every_byte_but_what_stays_on_disk(tiers):
    on_disk = {name for name in tiers.as_arrays() if name in ENCODER_ARRAYS or name.startswith("e.")}
    in_ram = sum(array.nbytes for name, array in tiers.as_arrays().items() if name not in on_disk)
    assert sum(tiers.tier_bytes.values()) == in_ram


@pytest.mark.parametrize(
    "name",
    [
        "page_codes", "page_constants", "page_spreads", "row_codes", "row_counts", "row_factors", "p.mean",
        "p.f_component", "p.field_levels", "r.synthesis", "r.field_shift", "e.gains", "e.origin", "e.const_min",
    ],
)  # fmt: skip
def test_an_array_that_is_missing_or_of_another_shape_is_damage(tiers, name):
    arrays = tiers.as_arrays()
    array = arrays[name]
    changed = [array[:-1], array[..., :-1], array[None], np.concatenate((array, array))]
    for wrong in changed:
        with pytest.raises(CorruptionError):
            CodeTiers.from_arrays({**arrays, name: wrong})
    with pytest.raises(CorruptionError, match="lack"):
        CodeTiers.from_arrays({other: arrays[other] for other in arrays if other != name})


@pytest.mark.parametrize("name", ["page_codes", "page_constants", "row_codes", "row_counts", "row_factors"])
def test_an_array_of_another_type_is_damage(tiers, name):
    arrays = tiers.as_arrays()
    with pytest.raises(CorruptionError, match="disagree"):
        CodeTiers.from_arrays({**arrays, name: arrays[name].astype(np.int32)})


def test_a_page_with_more_rows_than_it_holds_is_damage(tiers):
    counts = tiers.row_counts.copy()
    counts[2] = CAPACITY + 1
    with pytest.raises(CorruptionError, match="disagree"):
        CodeTiers.from_arrays({**tiers.as_arrays(), "row_counts": counts})


def test_a_codebook_of_another_dimension_is_damage(tiers):
    arrays = tiers.as_arrays()
    other = train_codebook(np.random.default_rng(5).normal(size=(200, DIM + 1)).astype(np.float32), 4)
    swapped = {f"p.{name}": array for name, array in other.as_arrays().items()}
    swapped["p.f_component"] = swapped.pop("p.field_component")
    with pytest.raises(CorruptionError, match="disagree"):
        CodeTiers.from_arrays({**arrays, **swapped})
