"""What estimates promise, on made clusters that are locally flat, as real vectors are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from oracles import codes as oracle

from annserve.codes.encode import decode, encode
from annserve.codes.estimate import (
    FACTOR_VALUES,
    Estimate,
    centroid_constants,
    fit_estimate,
    row_factors,
    with_constants_of,
)
from annserve.codes.layout import Codebook
from annserve.codes.train import second_moment, train_codebook
from annserve.errors import CorruptionError

DIM, PAGES, ROWS = 24, 200, 30


@dataclass
class Fitted:
    """Pages of rows around references, with codes, factors and queries."""

    codebook: Codebook
    estimate: Estimate
    rows: np.ndarray  # (PAGES, ROWS, DIM)
    references: np.ndarray  # (PAGES, DIM)
    codes: np.ndarray  # (PAGES, ROWS, code_bytes)
    factors: np.ndarray  # (PAGES, ROWS, 2)
    queries: np.ndarray


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    rng = np.random.default_rng(11)
    flat = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0][:6]
    centres = rng.normal(size=(PAGES, 6)) * 40
    spread = rng.normal(size=(PAGES, ROWS, 6)) * 15
    rows = (centres[:, None] + spread) @ flat + rng.normal(size=(PAGES, ROWS, DIM)) * 3 + 100
    rows = rows.astype(np.float32)
    references = rows.mean(axis=1) + rng.normal(size=(PAGES, DIM)).astype(np.float32)
    references = references.astype(np.float32)
    residuals = (rows - references[:, None]).reshape(-1, DIM)
    each = np.repeat(references, ROWS, axis=0)
    queries = rows.reshape(-1, DIM)[rng.integers(0, len(residuals), 500)]
    queries = (queries + (rng.normal(size=(500, 6)) * 8) @ flat).astype(np.float32)
    # Pairs are chosen by what an estimate knows, here the distance to a page, never by the true distance.
    lengths = ((queries[:300, None] - references) ** 2).sum(axis=2)
    pages = np.argsort(lengths, axis=1)[:, :8]
    picked = (pages[:, :, None] * ROWS + np.arange(ROWS)).ravel()
    directions = np.repeat(queries[:300], 8 * ROWS, axis=0) - each[picked]
    codebook = train_codebook(residuals, 3, second_moment(directions))
    codes = encode(codebook, residuals)
    origin = rows.reshape(-1, DIM).mean(axis=0)
    estimate = fit_estimate(codebook, residuals[picked], codes[picked], directions, each[picked], origin)
    estimate = with_constants_of(estimate, codebook, residuals, codes, each)
    factors = row_factors(estimate, codebook, residuals, codes, each)
    return Fitted(
        codebook,
        estimate,
        rows,
        references,
        codes.reshape(PAGES, ROWS, -1),
        factors.reshape(PAGES, ROWS, 2),
        queries[300:],
    )


def estimates_of(fitted: Fitted, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate all rows by the formula; that kernels compute it is proven with ratings."""
    codes = fitted.codes.reshape(PAGES * ROWS, -1)
    inner = oracle.products(fitted.codebook, codes, query - fitted.estimate.origin, fitted.estimate.gains)
    lengths = ((query - fitted.references) ** 2).sum(axis=1)
    return oracle.estimate_distances(fitted.estimate, inner.reshape(PAGES, ROWS), fitted.factors, lengths[:, None])


def near(fitted: Fitted, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give true distances, and which rows lie on one of the 8 nearest pages."""
    true = ((fitted.rows.astype(np.float64) - query) ** 2).sum(axis=2)
    lengths = ((query - fitted.references) ** 2).sum(axis=1)
    chosen = np.zeros(true.shape, bool)
    chosen[np.argsort(lengths)[:8]] = True
    return true, chosen


def test_estimates_beat_plain_reconstruction_near_the_query(fitted: Fitted) -> None:
    fitted_error, plain_error = [], []
    kept = decode(fitted.codebook, fitted.codes.reshape(PAGES * ROWS, -1)).reshape(PAGES, ROWS, DIM)
    for query in fitted.queries[:60]:
        true, chosen = near(fitted, query)
        estimated = estimates_of(fitted, query)[0]
        plain = ((fitted.references[:, None] + kept - query) ** 2).sum(axis=2)
        fitted_error.append(((estimated - true)[chosen] ** 2).mean())
        plain_error.append(((plain - true)[chosen] ** 2).mean())
    assert np.mean(fitted_error) < 0.8 * np.mean(plain_error), (np.mean(fitted_error), np.mean(plain_error))


def test_error_scales_are_those_of_the_errors_on_fresh_queries(fitted: Fitted) -> None:
    """Pairs as they were fitted on, of other queries: error over scale has mean 0 and deviation 1."""
    errors = []
    for query in fitted.queries[:100]:
        true, chosen = near(fitted, query)
        estimated, spread = estimates_of(fitted, query)
        errors.append(((true - estimated) / spread)[chosen])
    assert abs(np.mean(errors)) < 0.1, np.mean(errors)
    assert 0.9 < np.std(errors) < 1.1, np.std(errors)


def test_page_centroids_are_a_table_sum_away(fitted: Fitted) -> None:
    """|q − c|² by head, constant and table equals the distance to the decoded centroid."""
    rng = np.random.default_rng(5)
    heads = (fitted.references + rng.normal(size=fitted.references.shape) * 10).astype(np.float32)
    book = train_codebook(fitted.references - heads, 4)
    codes = encode(book, fitted.references - heads)
    origin = fitted.estimate.origin
    constants = centroid_constants(book, codes, heads, origin)
    centroids = heads + decode(book, codes)
    query = fitted.queries[0]
    by_table = ((query - heads) ** 2).sum(axis=1) + constants - 2 * oracle.products(book, codes, query - origin)
    np.testing.assert_allclose(by_table, ((query - centroids) ** 2).sum(axis=1), rtol=1e-3, atol=0.5)


def test_constants_keep_what_a_byte_can_keep(fitted: Fitted) -> None:
    """Its rounding adds less than a tenth to the error scale, and its whole range is in use."""
    assert fitted.estimate.constant_step / np.sqrt(12) < np.sqrt(0.21) * np.median(
        fitted.estimate.spreads * (15.0**2 * 6) ** fitted.estimate.spread_power
    )
    assert len(np.unique(fitted.factors[..., 0])) > FACTOR_VALUES // 2


def test_degenerate_pairs_give_finite_estimates() -> None:
    """Rows equal to their reference, queries equal to rows: no NaN, no infinity."""
    zeros = np.zeros((50, 4), np.float32)
    book = train_codebook(zeros, 2)
    codes = encode(book, zeros)
    estimate = fit_estimate(book, zeros, codes, zeros, zeros, np.zeros(4, np.float32))
    factors = row_factors(estimate, book, zeros, codes, zeros)
    distances, spreads = oracle.estimate_distances(estimate, np.zeros(50), factors, np.zeros(50))
    assert np.isfinite(distances).all()
    assert np.isfinite(spreads).all()
    assert np.abs(distances).max() < 1e-3


def test_an_estimate_survives_its_arrays(fitted: Fitted) -> None:
    arrays = fitted.estimate.as_arrays()
    again = Estimate.from_arrays(dict(arrays))
    assert again.constant_step == fitted.estimate.constant_step
    np.testing.assert_array_equal(again.spreads, fitted.estimate.spreads)
    del arrays["gains"]
    with pytest.raises(CorruptionError, match="lacks its array 'gains'"):
        Estimate.from_arrays(arrays)


def test_an_estimate_of_other_shapes_is_refused(fitted: Fitted) -> None:
    """A kernel would look up a shrink that isn't there."""
    arrays = fitted.estimate.as_arrays()
    for name, wrong in (
        ("spreads", arrays["spreads"][:-1]),
        ("shrinks", arrays["shrinks"].reshape(16, 16)),
        ("shrink_terms", arrays["shrink_terms"][:2]),
        ("constant_min", np.zeros(2)),
    ):
        with pytest.raises(CorruptionError, match=r"disagree in shape|no single number"):
            Estimate.from_arrays({**arrays, name: wrong})
