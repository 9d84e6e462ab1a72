"""Codes and two bytes of factors → an estimate of each row's distance, with its error scale.

With u = q − c (query minus what stands for the row's page), residual r = x − c and reconstruction G::

    |q − x|² = |u|² + |r|² − 2⟨u, r⟩
    ⟨u, r⟩  ≈  shrink · ⟨u, G'⟩ + a·|r|² + b·|u|² + const        shrink = s₀ + s₁·s + s₂·s·ρ
    s = ⟨r, G⟩ / |G|²                  projection of r on its own reconstruction
    ρ = |r|² / (s²|G|²)                what the code has left out
    G' = G with each component multiplied by its gain

Coefficients and gains are fitted by least squares on rows near the answer of held-out queries. Why not 1:
near a query, what the code has left out of a row points the way of what it has kept (data is locally flat),
above all in components with few bits, whose gains reach 1.4. Error of ⟨u, r⟩ on sift-photos with 16-byte
codes: plain reconstruction 4,700, half-corrected (γ = ½ + ½ρ) 4,200, fitted 2,830.

Since ⟨u, G'⟩ = ⟨q, G'⟩ − ⟨c, G'⟩, one table per query serves all pages, and a row keeps:

======  ========  ==============================================================================
byte 0  constant  (1 − 2a)|r|² − 2·const + 2·shrink·⟨c, G'⟩, evenly spaced
byte 1  shrink    evenly spaced; the error scale is a function of it and of |u|
======  ========  ==============================================================================

An error byte of its own was no better than this (pages 11.4 / 15.3 / 21.1 with 4 bits each for error and
shrink, 11.4 / 15.2 / 20.8 so), and leaving shrink out costs a fifth. q and c are taken from one `origin`, the
mean of the data: the constant would need more bits else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes.encode import decode, decode_components
from annserve.codes.layout import Codebook
from annserve.errors import CorruptionError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

FACTOR_BYTES = 2
FACTOR_VALUES = 256
#: A code that keeps almost nothing of its row says nothing about how much it left out.
_RATIO_MAX = 4.0
_SHRINK_MIN = 0.05
#: Share of rows beyond each end of the constant's scale; they are clipped.
_CLIPPED = 1e-4
_GAIN_ROUNDS = 3
_SPREAD_ROUNDS = 15


@dataclass(frozen=True)
class Estimate:
    """Everything fitted that turns codes, factors and a query into distances.

    Attributes
    ----------
    origin : (d,) float32
        What queries and references are taken from.
    gains : (m,) float32
        Factor of each component of the query.
    shrinks : (256,) float32
        Value of factor byte 1.
    spreads : (256,) float32
        Error scale of the squared distance by factor byte 1, at ``|u|² = 1``.
    shrink_terms : (3,) float32
        s₀, s₁, s₂.
    norm_scale, offset : float
        1 − 2a and −2·const.
    distance_scale : float
        1 − 2b, the factor of |u|².
    spread_power : float
        The error scale grows with ``(|u|²) ** spread_power``.
    constant_min, constant_step : float
        Value of factor byte 0.
    """

    origin: F32
    gains: F32
    shrinks: F32
    spreads: F32
    shrink_terms: F32
    norm_scale: float
    offset: float
    distance_scale: float
    spread_power: float
    constant_min: float
    constant_step: float

    def __post_init__(self) -> None:
        if not (
            self.origin.ndim == self.gains.ndim == 1
            and self.shrinks.shape == self.spreads.shape == (FACTOR_VALUES,)
            and self.shrink_terms.shape == (3,)
        ):
            raise CorruptionError("an estimate's arrays disagree in shape; rebuild the index")

    @property
    def scales(self) -> F32:
        """The four numbers that a scan needs, as kernels take them."""
        numbers = (self.distance_scale, self.spread_power, self.constant_min, self.constant_step)
        return np.array(numbers, np.float32)

    def as_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the fields by name as arrays, for a file."""
        return {field.name: np.atleast_1d(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Estimate:
        """Take what `as_arrays` gave.

        Raises
        ------
        CorruptionError
            If an array is missing, or has another shape.
        """
        given: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in arrays:
                raise CorruptionError(f"an estimate lacks its array {field.name!r}; rebuild the index")
            array = arrays[field.name]
            plain = field.type == "float"
            if plain and array.shape != (1,):
                raise CorruptionError(f"an estimate's {field.name!r} is no single number; rebuild the index")
            given[field.name] = float(array[0]) if plain else np.ascontiguousarray(array, np.float32)
        return cls(**given)


def fit_estimate(
    codebook: Codebook, residuals: F32, codes: U8, directions: F32, references: F32, origin: F32
) -> Estimate:
    """Fit an estimate to pairs of a query and a row that matters to it.

    Parameters
    ----------
    codebook : Codebook
    residuals : (n, d) float32
        r of each pair's row; some 50,000 pairs, chosen by what an estimate knows, such as a first estimate
        near the k-th best, never by true distance: that would bias the fit.
    codes : (n, code_bytes) uint8
        Their codes.
    directions : (n, d) float32
        u = q − c of each pair, for rows whose distance is near the k-th best.
    references : (n, d) float32
        c of each pair, which sets the scale of the rows' constants.
    origin : (d,) float32

    Notes
    -----
    O(n m²) time and about 4 m bytes a pair beside the input.
    """
    wanted = _dots(directions, residuals)
    components = decode_components(codebook, codes)
    parts = (components * (directions @ codebook.synthesis.T)).astype(np.float64)
    mean_part = (directions @ codebook.mean).astype(np.float64)
    norms, scale, ratio = _row_shape(codebook, residuals, codes)
    lengths = _dots(directions, directions)
    gains = np.ones(codebook.n_components)
    terms = np.zeros(6)
    for _ in range(_GAIN_ROUNDS):
        product = parts @ gains + mean_part
        design = np.column_stack(
            (product, product * scale, product * scale * ratio, norms, lengths, np.ones(len(product)))
        )
        terms = _least_squares(design, wanted)
        shrink = terms[0] + terms[1] * scale + terms[2] * scale * ratio
        rest = wanted - shrink * mean_part - design[:, 3:] @ terms[3:]
        gains = _least_squares(parts * shrink[:, None], rest, pull=gains)
    product = parts @ gains + mean_part
    shrink = np.maximum(terms[0] + terms[1] * scale + terms[2] * scale * ratio, _SHRINK_MIN)
    error = wanted - shrink * product - terms[3] * norms - terms[4] * lengths - terms[5]
    low, high = np.quantile(shrink, (_CLIPPED, 1 - _CLIPPED))
    shrinks = np.linspace(low, max(high, low + 1e-6), FACTOR_VALUES)
    power, spreads = _fit_spread(error, shrink, lengths, shrinks)
    draft = Estimate(
        origin=origin.astype(np.float32),
        gains=gains.astype(np.float32),
        shrinks=shrinks.astype(np.float32),
        spreads=spreads.astype(np.float32),
        shrink_terms=terms[:3].astype(np.float32),
        norm_scale=_settled(1 - 2 * terms[3]),
        offset=_settled(-2 * terms[5]),
        distance_scale=_settled(1 - 2 * terms[4]),
        spread_power=_settled(power),
        constant_min=0.0,
        constant_step=1.0,
    )
    return with_constants_of(draft, codebook, residuals, codes, references)


def _settled(fitted: float) -> float:
    """Round to float32: the last digits of a library's sums depend on how many threads took part."""
    return float(np.float32(fitted))


def with_constants_of(estimate: Estimate, codebook: Codebook, residuals: F32, codes: U8, references: F32) -> Estimate:
    """Give the estimate with the scale of constants set to hold those of these rows, a sample of all."""
    _, constants = _row_terms(estimate, codebook, residuals, codes, references)
    low, high = np.quantile(constants, (_CLIPPED, 1 - _CLIPPED))
    values = {field.name: getattr(estimate, field.name) for field in fields(estimate)}
    values["constant_min"] = _settled(low)
    values["constant_step"] = _settled(max(high - low, 1e-30) / (FACTOR_VALUES - 1))
    return Estimate(**values)


def row_factors(estimate: Estimate, codebook: Codebook, residuals: F32, codes: U8, references: F32) -> U8:
    """Give the two factor bytes of each row, as (n, 2) uint8.

    Parameters
    ----------
    residuals, references : (n, d) float32
        r = x − c and c of each row; c exactly as the query will have it.
    codes : (n, code_bytes) uint8
    """
    chosen, constants = _row_terms(estimate, codebook, residuals, codes, references)
    steps = np.rint((constants - estimate.constant_min) / estimate.constant_step)
    return np.column_stack((np.clip(steps, 0, FACTOR_VALUES - 1), chosen)).astype(np.uint8)


def centroid_constants(codebook: Codebook, codes: U8, heads: F32, origin: F32) -> F32:
    """Give what makes |q − c|² of a page's decoded centroid c = head + G a table sum away.

    ``|q − c|² = |q − head|² + constant − 2⟨q − origin, G⟩``, exactly, for the G that `decode` gives.

    Parameters
    ----------
    codes : (p, code_bytes) uint8
        Page codes: of the page's centroid relative to its head.
    heads : (p, d) float32
        The head of each page.

    Returns
    -------
    (p,) float32
    """
    offsets = decode(codebook, codes)
    return (_dots(offsets, offsets) + 2 * _dots(offsets, heads - origin)).astype(np.float32)


def _row_shape(codebook: Codebook, residuals: F32, codes: U8) -> tuple[F64, F64, F64]:
    """Give |r|², s and ρ of each row."""
    kept = decode(codebook, codes)
    norms = _dots(residuals, residuals)
    kept_norms = np.maximum(_dots(kept, kept), 1e-30)
    scale = _dots(residuals, kept) / kept_norms
    ratio = np.minimum(norms / np.maximum(scale**2 * kept_norms, 1e-30), _RATIO_MAX)
    return norms, scale, ratio


def _row_terms(
    estimate: Estimate, codebook: Codebook, residuals: F32, codes: U8, references: F32
) -> tuple[npt.NDArray[np.int64], F64]:
    """Give each row's byte for shrink, and its constant for that shrink."""
    norms, scale, ratio = _row_shape(codebook, residuals, codes)
    terms = estimate.shrink_terms
    shrink = terms[0] + terms[1] * scale + terms[2] * scale * ratio
    # Where all rows shrink alike, there is one step, of no width.
    step = max(float(estimate.shrinks[1] - estimate.shrinks[0]), 1e-30)
    chosen = np.clip(np.rint((shrink - estimate.shrinks[0]) / step), 0, FACTOR_VALUES - 1).astype(np.int64)
    gained = (decode_components(codebook, codes) * estimate.gains) @ codebook.synthesis + codebook.mean
    crossing = _dots(references - estimate.origin, gained)
    constants = (
        estimate.norm_scale * norms + estimate.offset + 2 * estimate.shrinks[chosen].astype(np.float64) * crossing
    )
    return chosen, constants


def _fit_spread(error: F64, shrink: F64, lengths: F64, shrinks: F64) -> tuple[float, F64]:
    """Fit log variance = quadratic in log shrink + power · log |u|², by iterated least squares."""
    log_shrink, log_length = np.log(shrink), np.log(np.maximum(lengths, 1e-30))
    centre, length_centre = log_shrink.mean(), log_length.mean()

    def design(of_shrink: F64, of_length: F64) -> F64:
        x = of_shrink - centre
        return np.column_stack((np.ones(len(x)), x, x**2, of_length - length_centre))

    rows = design(log_shrink, log_length)
    terms = np.array([np.log(max(float(np.mean(error**2)), 1e-30)), 0.0, 0.0, 0.0])
    for _ in range(_SPREAD_ROUNDS):
        variance = np.exp(np.clip(rows @ terms, -60, 80))
        step = _least_squares(rows, np.minimum(error**2 / variance, 100.0) - 1)
        # Far from the solution a whole step overshoots.
        terms = terms + step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-30))
    at_one = design(np.log(np.maximum(shrinks, _SHRINK_MIN)), np.zeros(len(shrinks)))
    # Twice the error of the inner product is the error of the squared distance.
    return float(terms[3] / 2), 2 * np.exp(np.clip(at_one @ terms, -60, 80) / 2)


def _least_squares(design: F64, wanted: F64, pull: F64 | None = None) -> F64:
    """Solve by normal equations with a slight pull (to `pull`, or 0), so that idle columns do no harm."""
    scale = np.sqrt(np.maximum((design**2).mean(axis=0), 1e-30))
    scaled = design / scale
    at = np.zeros(design.shape[1]) if pull is None else pull * scale
    moment = scaled.T @ scaled + 1e-6 * len(wanted) * np.eye(design.shape[1])
    return np.asarray((at + np.linalg.solve(moment, scaled.T @ (wanted - scaled @ at))) / scale)


def _dots(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> F64:
    return np.asarray(np.einsum("ij,ij->i", left, right, dtype=np.float64))
