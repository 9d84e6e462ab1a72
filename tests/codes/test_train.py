"""What training promises: determinism, room kept, bits spent where they count, errors named."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from annserve.codes.encode import decode, encode
from annserve.codes.layout import Codebook
from annserve.codes.train import second_moment, train_codebook
from annserve.errors import CorruptionError, InputError


@pytest.fixture
def residuals(rng: np.random.Generator) -> np.ndarray:
    axes = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    return ((rng.normal(size=(4_000, 24)) * np.geomspace(50, 1, 24)) @ axes + 3).astype(np.float32)


def squared_error(residuals: np.ndarray, book: Codebook) -> float:
    return float(((residuals - decode(book, encode(book, residuals))) ** 2).sum(axis=1).mean())


def test_the_same_residuals_give_the_same_codebook(residuals: np.ndarray) -> None:
    first, second = train_codebook(residuals, 8), train_codebook(residuals.copy(), 8)
    for name, array in first.as_arrays().items():
        np.testing.assert_array_equal(array, second.as_arrays()[name])


def test_more_bytes_leave_less_error(residuals: np.ndarray) -> None:
    """Doubling the bytes of 24 unequal dimensions removes far more than half of what was left."""
    errors = [squared_error(residuals, train_codebook(residuals, size)) for size in (1, 2, 4, 8, 16)]
    assert all(after < 0.6 * before for before, after in pairwise(errors)), errors
    assert errors[-1] < 0.005 * squared_error(residuals * 0, train_codebook(residuals, 1)) + 40


def test_no_nibble_holds_more_than_four_bits(residuals: np.ndarray) -> None:
    for size in (1, 2, 3, 7, 11, 20):
        book = train_codebook(residuals, size)
        used = np.zeros((book.n_nibbles, 4), int)
        for f in range(len(book.field_bits)):
            used[book.field_nibble[f], book.field_shift[f] : book.field_shift[f] + book.field_bits[f]] += 1
        assert used.max() == 1
        # Of 24 components at 20 bytes most have two fields, whose widths are bound.
        assert used.sum() >= 8 * size - (0 if size < 20 else 16)


def test_directions_of_queries_draw_bits_to_them(residuals: np.ndarray, rng: np.random.Generator) -> None:
    """Queries that lie along a few axes make the product with them more exact, at equal bytes."""
    axes = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    queries = ((rng.normal(size=(500, 24)) * np.geomspace(50, 0.5, 24)) @ axes).astype(np.float32)
    plain = train_codebook(residuals, 4)
    aimed = train_codebook(residuals, 4, second_moment(queries))

    def product_error(book: Codebook) -> float:
        error = residuals - decode(book, encode(book, residuals))
        return float(((error @ queries.T) ** 2).mean())

    assert product_error(aimed) < 0.8 * product_error(plain)


def test_codes_never_outgrow_what_their_components_can_say(rng: np.random.Generator) -> None:
    book = train_codebook(rng.normal(size=(500, 1)).astype(np.float32), 16)
    assert book.code_bytes == 1
    assert book.n_components == 1


def test_a_codebook_survives_its_arrays(residuals: np.ndarray) -> None:
    book = train_codebook(residuals, 6)
    again = Codebook.from_arrays(dict(book.as_arrays()))
    np.testing.assert_array_equal(encode(again, residuals[:99]), encode(book, residuals[:99]))


def test_damaged_codebooks_are_refused(residuals: np.ndarray) -> None:
    arrays = train_codebook(residuals, 6).as_arrays()
    with pytest.raises(CorruptionError, match="lacks its array 'mean'"):
        Codebook.from_arrays({name: array for name, array in arrays.items() if name != "mean"})
    with pytest.raises(CorruptionError, match="disagree in shape"):
        Codebook.from_arrays({**arrays, "mean": arrays["mean"][:-1]})
    with pytest.raises(CorruptionError, match="outside their code"):
        Codebook.from_arrays({**arrays, "field_shift": arrays["field_shift"] + 3})


@pytest.mark.parametrize("code_bytes", [0, -1, 129])
def test_impossible_code_lengths_are_refused(code_bytes: int, residuals: np.ndarray) -> None:
    with pytest.raises(InputError, match="code_bytes"):
        train_codebook(residuals, code_bytes)


def test_no_residuals_are_refused() -> None:
    with pytest.raises(InputError, match="no residuals"):
        train_codebook(np.empty((0, 8), np.float32), 4)
