"""What codes must be, written for reading: float64 and int64, one row at a time."""

from __future__ import annotations

import numpy as np
from oracles.kernels import normal_cdf

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


def exact_tables(codebook: Codebook, query: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    """Give what each nibble value adds to ⟨query, G⟩, apart from ⟨query, mean⟩, as (n_nibbles, 16) float64."""
    projected = codebook.synthesis.astype(np.float64) @ np.asarray(query, np.float64)
    if gains is not None:
        projected = projected * gains
    tables = np.zeros((codebook.n_nibbles, 16))
    for f, component in enumerate(codebook.field_component):
        for x in range(16):
            level = (x >> codebook.field_shift[f]) % (1 << codebook.field_bits[f])
            tables[codebook.field_nibble[f], x] += projected[component] * codebook.field_levels[f][level]
    return tables


def products(codebook: Codebook, codes: np.ndarray, query: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    """Give ⟨query, G'⟩ of each code, (n,) float64: G with its components multiplied by the gains."""
    sums = table_sums(codes, exact_tables(codebook, query, gains))
    return sums + codebook.mean.astype(np.float64) @ np.asarray(query, np.float64)


def estimate_distances(estimate, inner, factors, page_distances):
    """Give estimated squared distances and error scales by the formula of ``codes.estimate``.

    inner (...), factors (..., 2), page_distances (...): of the rows' pages.
    """
    constants = estimate.constant_min + estimate.constant_step * factors[..., 0].astype(np.float64)
    shrinks = estimate.shrinks.astype(np.float64)[factors[..., 1]]
    lengths = np.asarray(page_distances, np.float64)
    distances = estimate.distance_scale * lengths + constants - 2 * shrinks * inner
    spreads = estimate.spreads.astype(np.float64)[factors[..., 1]]
    return distances, spreads * np.maximum(lengths, 1e-30) ** estimate.spread_power


def order_by_distance(distances, buckets):
    """Order float32 distances to one part in `buckets` of their spread; equals stay as they stood."""
    low, high = distances.min(), distances.max()
    scale = np.float32(buckets - 1) / (high - low) if high > low else np.float32(0)
    return np.argsort(((distances - low) * scale).astype(np.int64), kind="stable")


def log_promise(distance, spread, bar, rank, terms):
    """Give the regression of a page's log expected hits; distance and bar as they are, spread as a logarithm."""
    x, y, r = np.log(distance) - np.log(bar), spread - np.log(bar), np.log1p(rank)
    return float(np.dot(terms.astype(np.float64), [1, x, x * x, y, y * y, x * y, r, r * x]))


def rate(
    tiers, pages, page_distances, exact_distances, page_rows, k, *, pages_max, first, buckets, terms, below, excluded
):
    """Rate one query's pages: which are looked at, in which order, and what each is worth.

    Parameters
    ----------
    pages : (p,) int
        Pages of the query's heads, as the heads come.
    page_distances : (p,) float32
        Squared distances of their decoded centroids, as rounded tables give them: for order and promise.
    exact_distances : (p,) float32
        The same, not rounded: what estimates start from.
    page_rows : callable
        Page, its distance → its rows' estimates and errors.
    first : int
        Pages that are never skipped.
    terms, below
        Of the rule by which later pages are skipped.
    excluded : (page, slot)

    Returns
    -------
    dict
        ``pages``, ``distances``, ``bar`` (of the first pages), ``rows``; ``estimates``, ``errors`` and ``owners`` of
        the rows that matter, with the bracket ``low``, ``high`` of the threshold; and ``margin``, how near a
        promise came to the rule's threshold.
    """
    reach = 4.0
    looked_at, estimates, errors, owners = [], [], [], []
    first_bar, margin, n_rows = np.inf, np.inf, 0

    def bar():
        return sorted(estimates)[2 * k - 1] if len(estimates) >= 2 * k else np.inf

    for rank, at in enumerate(order_by_distance(page_distances, buckets) if len(pages) else []):
        if len(looked_at) == pages_max:
            break
        page, distance = int(pages[at]), float(page_distances[at])
        if rank >= first and np.isfinite(first_bar):
            promise = log_promise(distance, float(tiers.page_spreads[page]), max(first_bar, 1e-12), rank, terms)
            margin = min(margin, abs(promise - below))
            if promise < below:
                continue
        distance = float(exact_distances[at])
        page_estimates, page_errors = page_rows(page, distance)
        n_rows += len(page_estimates)
        for slot, (value, error) in enumerate(zip(page_estimates, page_errors, strict=True)):
            if (page, slot) != tuple(excluded):
                estimates.append(float(value))
                errors.append(float(error))
                owners.append(len(looked_at))
        looked_at.append((page, distance))
        if len(looked_at) == first:
            first_bar = bar()
    last_bar = bar()
    near = [i for i in range(len(estimates)) if estimates[i] - reach * errors[i] < last_bar]
    low = min((estimates[i] - reach * errors[i] for i in near), default=np.inf)
    high = last_bar
    if not np.isfinite(high):
        high = max((estimates[i] + reach * errors[i] for i in near), default=np.inf)
    return {
        "pages": [page for page, _ in looked_at],
        "distances": [distance for _, distance in looked_at],
        "bar": first_bar,
        "estimates": [estimates[i] for i in near],
        "errors": [errors[i] for i in near],
        "owners": [owners[i] for i in near],
        "low": low,
        "high": high,
        "rows": n_rows,
        "margin": margin,
    }


def worths(rated, threshold):
    """Give what each page is worth: the sum of its rows' chances to lie within the threshold."""
    total = np.zeros(len(rated["pages"]))
    for estimate, error, owner in zip(rated["estimates"], rated["errors"], rated["owners"], strict=True):
        total[owner] += normal_cdf((threshold - estimate) / error)
    return total
