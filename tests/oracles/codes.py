"""What codes must be, written for reading: float64 and int64, one row at a time."""

from __future__ import annotations

import numpy as np

from annserve.codes.layout import Codebook


def component_levels(codebook: Codebook, component: int) -> tuple[np.ndarray, list[int]]:
    """Give every value that a component can take, by its number, and its fields (low one first)."""
    fields = [f for f in range(len(codebook.field_component)) if codebook.field_component[f] == component]
    fields.sort(key=lambda f: -int(codebook.field_bits[f]))
    levels = codebook.field_levels.astype(np.float64)
    if len(fields) == 1:
        return levels[fields[0]][: 1 << codebook.field_bits[fields[0]]], fields
    low, high = fields
    return np.array(
        [levels[high][h] + levels[low][x] for h in range(1 << codebook.field_bits[high]) for x in range(16)]
    ), fields


def encode(codebook: Codebook, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give codes, and for each row how near its nearest component is to a tie between two levels."""
    components = (residuals.astype(np.float64) - codebook.mean) @ codebook.analysis.astype(np.float64)
    codes = np.zeros((len(residuals), codebook.code_bytes), np.uint8)
    margins = np.full(len(residuals), np.inf)
    for component in range(codebook.n_components):
        levels, fields = component_levels(codebook, component)
        for i, value in enumerate(components[:, component]):
            distances = np.abs(levels - value)
            number = int(np.argmin(distances))
            if len(levels) > 1:
                two = np.sort(distances)[:2]
                margins[i] = min(margins[i], two[1] - two[0])
            for f, part in zip(fields, (number & 15, number >> 4), strict=False):
                shift = codebook.field_shift[f] + 4 * (codebook.field_nibble[f] % 2)
                codes[i, codebook.field_nibble[f] // 2] |= part << shift
    return codes, margins


def nibbles(codes: np.ndarray) -> np.ndarray:
    """Give the nibbles of codes, (n, n_nibbles)."""
    return np.stack((codes & 15, codes >> 4), axis=2).reshape(len(codes), -1)


def decode(codebook: Codebook, codes: np.ndarray) -> np.ndarray:
    """Give the reconstruction of each code in float64."""
    components = np.zeros((len(codes), codebook.n_components))
    values = nibbles(codes)
    for f, component in enumerate(codebook.field_component):
        field = (values[:, codebook.field_nibble[f]] >> codebook.field_shift[f]) % (1 << codebook.field_bits[f])
        components[:, component] += codebook.field_levels[f].astype(np.float64)[field]
    return components @ codebook.synthesis.astype(np.float64) + codebook.mean


def table_sums(codes: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Sum one table entry per nibble, (n,) in the tables' own kind of number."""
    values = nibbles(codes)
    wide = tables.astype(np.int64 if tables.dtype.kind == "u" else np.float64)
    return sum(wide[m][values[:, m]] for m in range(len(tables)))


def estimate_distance(estimate, product, factors, page_distance):  # type: ignore[no-untyped-def]
    """Give one row's estimated squared distance and error scale by the formula of ``codes.estimate``."""
    constant = estimate.constant_min + estimate.constant_step * int(factors[0])
    shrink = float(estimate.shrinks[factors[1]])
    distance = estimate.distance_scale * float(page_distance) + constant - 2 * shrink * float(product)
    return distance, float(estimate.spreads[factors[1]]) * max(float(page_distance), 1e-30) ** estimate.spread_power
