"""Residuals → a codebook: which linear forms of a residual are kept, with how many bits, at which levels.

Transform coding [1]: rotate to principal components, give bits to the component where the next one removes
the most error, quantize each component with its own Lloyd–Max levels. What counts is not |r − G|² but the
error of ⟨q − c, r − G⟩ for queries q near the page centroid c, so components are those of residuals
weighted by the directions that such queries come from. Half of that weight (the fourth root of the second
moment) gave the fewest pages at 16 and 28 bytes: sift-photos at recall 0.90 / 0.95 / 0.98 with 16-byte
codes 11.9 / 16.3 / 22.7 without the weight, 11.4 / 15.1 / 20.5 with half of it, 12.0 / 15.8 / 21.6 with the
whole.

References
----------
[1] Brandt, "Transform coding for fast approximate nearest neighbor search in high dimensions", CVPR 2010.
[2] Max, "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6, 1960.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from annserve.codes.layout import COMPONENT_BITS_MAX, NIBBLE_BITS, NIBBLE_VALUES, Codebook, check_code_bytes
from annserve.errors import InputError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

#: Rows that levels are fitted on: more don't change pages per query.
_LEVEL_ROWS = 20_000
#: Power of the second moment of directions that residuals are weighted by, see above.
WEIGHT = 0.5
#: Directions weaker than this share of the strongest count as this much, so the weight can be undone.
_WEIGHT_FLOOR = 1e-3
_LLOYD_ROUNDS = 40
_BLOCK_ROWS = 4_096
#: Of rows as float32 that codes are learned from, where these are rows enough.
_TRAIN_BYTES, _TRAIN_ROWS_MIN = 30_720_000, 10_000


def training_rows(dim: int) -> int:
    """Give how many rows of so many dimensions, or pages, codes are to be learned from."""
    return max(_TRAIN_ROWS_MIN, _TRAIN_BYTES // (4 * dim))


def train_codebook(residuals: F32, code_bytes: int, directions: F64 | None = None, weight: float = WEIGHT) -> Codebook:
    """Learn a codebook; the same residuals give the same one.

    Parameters
    ----------
    residuals : (t, d) float32
        Row minus what stands for its page at query time; some 10,000 or more.
    code_bytes : int
        Most bytes of a code, 1 to `CODE_BYTES_MAX`. Where d components of `COMPONENT_BITS_MAX` bits take
        fewer, so does the code.
    directions : (d, d) float64, optional
        Second moment of query minus that reference, for pages near the query (`second_moment`).
    weight : float
        How much of it counts, 0 to 1. On 384-dimensional sentence vectors 0 and ½ come out alike.

    Raises
    ------
    InputError
        If there are no residuals, or `code_bytes` is out of range.

    Notes
    -----
    O(t d²) time; 8 bytes an element of the residuals besides the input, or 16 of those that levels are fitted on.
    """
    check_code_bytes(code_bytes)
    if len(residuals) == 0:
        raise InputError("there are no residuals to learn codes from; give at least one row")
    dim = residuals.shape[1]
    weights, unweights = _weights(directions, dim, weight)
    mean = residuals.mean(axis=0, dtype=np.float64)
    weighted = (residuals - mean.astype(np.float32)) @ weights.astype(np.float32)
    axes = _principal_axes(weighted)
    step = -(-len(weighted) // _LEVEL_ROWS)
    components = np.ascontiguousarray((weighted[::step] @ axes.astype(np.float32)).T, dtype=np.float64)
    del weighted
    components.sort(axis=1)
    fits = _Fits(components)
    nibbles = _allocate(fits, 2 * code_bytes)
    return _assemble(fits, nibbles, mean, weights @ axes, axes.T @ unweights)


def second_moment(directions: F32) -> F64:
    """Give the mean outer product of `directions` (t, d), as `train_codebook` takes it."""
    moment = np.zeros((directions.shape[1],) * 2)
    for first in range(0, len(directions), _BLOCK_ROWS):
        wide = directions[first : first + _BLOCK_ROWS].astype(np.float64)
        moment += wide.T @ wide
    return moment / max(len(directions), 1)


def _weights(directions: F64 | None, dim: int, power: float) -> tuple[F64, F64]:
    """Give the symmetric matrix that weights residuals, and its inverse."""
    if directions is None:
        return np.eye(dim), np.eye(dim)
    values, vectors = np.linalg.eigh(directions)
    top = values[-1]
    if top <= 0:
        return np.eye(dim), np.eye(dim)
    strength = np.maximum(values / top, _WEIGHT_FLOOR) ** (power / 2)
    return (vectors * strength) @ vectors.T, (vectors / strength) @ vectors.T


def _principal_axes(rows: F32) -> F64:
    """Give the principal axes of centred rows as columns, strongest first, signs fixed."""
    moment = second_moment(rows)
    axes = np.linalg.eigh(moment)[1][:, ::-1]
    strongest = np.abs(axes).argmax(axis=0)
    signs = np.sign(axes[strongest, np.arange(axes.shape[1])])
    return np.asarray(axes * signs)


class _Fits:
    """Levels and error of each component at each number of bits, found when asked for."""

    def __init__(self, components: F64) -> None:
        self.components = components  # (d, t), each row ascending
        self._found: dict[tuple[int, int], tuple[float, F64]] = {}

    def error(self, component: int, bits: int) -> float:
        """Give the mean squared error."""
        return self._fit(component, bits)[0]

    def levels(self, component: int, bits: int) -> F64:
        """Give the ``2**bits`` levels, ascending; above 4 bits evenly spaced, the sum of two fields."""
        return self._fit(component, bits)[1]

    def _fit(self, component: int, bits: int) -> tuple[float, F64]:
        key = (component, bits)
        if key not in self._found:
            values = self.components[component]
            if bits <= NIBBLE_BITS:
                levels = _lloyd_max(values, 1 << bits)
            else:
                levels = _even_levels(values, 1 << bits)
            self._found[key] = (_squared_error(values, levels), levels)
        return self._found[key]


def _allocate(fits: _Fits, n_nibbles: int) -> list[list[tuple[int, int]]]:
    """Give each nibble its fields as (component, bits); a component with two fields stands in two nibbles.

    Bits go where they remove the most error. Fields of 3 bits need fields of 1 bit beside them; where those
    are too few, the budget is lowered until all fields fit; components without bits fill the holes, or else
    fields grow into them.
    """
    order = _bit_order(fits, n_nibbles * NIBBLE_BITS)
    budget = len(order)
    while True:
        nibbles = _fill(order[:budget])
        if len(nibbles) <= n_nibbles:
            break
        budget -= 1
    used = {component for nibble in nibbles for component, _ in nibble}
    spare = iter([c for c in range(len(fits.components)) if c not in used])
    counts = np.bincount(order[:budget], minlength=len(fits.components))
    split = set(np.flatnonzero(counts > NIBBLE_BITS).tolist())
    nibbles += [[] for _ in range(n_nibbles - len(nibbles))]
    for nibble in nibbles:
        room = NIBBLE_BITS - sum(bits for _, bits in nibble)
        if room == 0:
            continue
        component = next(spare, None)
        if component is not None:
            nibble.append((component, room))
        elif nibble and nibble[0][0] not in split:
            nibble[0] = (nibble[0][0], nibble[0][1] + room)
    return nibbles


def _bit_order(fits: _Fits, n_bits: int) -> list[int]:
    """Give the component that takes each next bit, greedily."""
    gains = [(fits.error(c, 1) - fits.error(c, 0), c, 1) for c in range(len(fits.components))]
    heapq.heapify(gains)
    order: list[int] = []
    while gains and len(order) < n_bits:
        _, component, bits = heapq.heappop(gains)
        order.append(component)
        if bits < COMPONENT_BITS_MAX:
            gain = fits.error(component, bits + 1) - fits.error(component, bits)
            heapq.heappush(gains, (gain, component, bits + 1))
    return order


def _fill(order: list[int]) -> list[list[tuple[int, int]]]:
    """Pack the fields of this allocation into nibbles, first fit, widest first."""
    components, counts = np.unique(np.array(order, np.int64), return_counts=True)
    parts: list[tuple[int, int]] = []
    for component, bits in zip(components.tolist(), counts.tolist(), strict=True):
        if bits > NIBBLE_BITS:
            parts.append((component, bits - NIBBLE_BITS))
        parts.append((component, min(bits, NIBBLE_BITS)))
    parts.sort(key=lambda part: (-part[1], part[0]))
    nibbles: list[list[tuple[int, int]]] = []
    rooms: list[int] = []
    for part in parts:
        # A component's two fields may share no nibble: 1 + 3 bits would have been one field.
        place = next((i for i, room in enumerate(rooms) if room >= part[1]), None)
        if place is None:
            nibbles.append([part])
            rooms.append(NIBBLE_BITS - part[1])
        else:
            nibbles[place].append(part)
            rooms[place] -= part[1]
    return nibbles


def _assemble(fits: _Fits, nibbles: list[list[tuple[int, int]]], mean: F64, analysis: F64, synthesis: F64) -> Codebook:
    """Lay the fields out: low fields of a component before its high one, components in order of first use."""
    total: dict[int, int] = {}
    for nibble in nibbles:
        for component, bits in nibble:
            total[component] = total.get(component, 0) + bits
    kept = sorted(total, key=lambda c: (-total[c], c))
    number = {component: i for i, component in enumerate(kept)}
    rows: list[tuple[int, int, int, int, F64]] = []
    for at, nibble in enumerate(nibbles):
        shift = 0
        for component, bits in nibble:
            levels = fits.levels(component, total[component])
            if total[component] > NIBBLE_BITS:
                # level = low + high: the low field counts single steps, the high one sixteen at a time.
                levels = levels[:NIBBLE_VALUES] - levels[0] if bits == NIBBLE_BITS else levels[::NIBBLE_VALUES]
            padded = np.concatenate((levels, np.full(NIBBLE_VALUES - len(levels), levels[-1])))
            rows.append((number[component], at, shift, bits, padded))
            shift += bits
    return Codebook(
        mean=mean.astype(np.float32),
        analysis=np.ascontiguousarray(analysis[:, kept], dtype=np.float32),
        synthesis=np.ascontiguousarray(synthesis[kept], dtype=np.float32),
        field_component=np.array([row[0] for row in rows], np.int32),
        field_nibble=np.array([row[1] for row in rows], np.int32),
        field_shift=np.array([row[2] for row in rows], np.int32),
        field_bits=np.array([row[3] for row in rows], np.int32),
        field_levels=np.array([row[4] for row in rows], np.float32),
    )


def _lloyd_max(ascending: F64, n_levels: int) -> F64:
    """Give the levels of least squared error for these values, ascending."""
    n = len(ascending)
    sums = np.concatenate(([0.0], np.cumsum(ascending)))
    shares = (np.arange(n_levels) + 0.5) / n_levels
    levels = np.quantile(ascending, shares)
    edges = np.zeros(n_levels + 1, np.int64)
    edges[-1] = n
    for _ in range(_LLOYD_ROUNDS):
        edges[1:-1] = ascending.searchsorted((levels[1:] + levels[:-1]) / 2)
        counts = edges[1:] - edges[:-1]
        below = sums[edges]
        means = (below[1:] - below[:-1]) / np.maximum(counts, 1)
        # A level that nothing is nearest to stays, between its neighbours.
        levels = np.maximum.accumulate(np.where(counts > 0, means, levels))
    return np.asarray(levels)


def _even_levels(ascending: F64, n_levels: int) -> F64:
    """Give evenly spaced levels, of the spread that leaves the least squared error."""
    centre, spread = ascending.mean(), ascending.std()
    best = np.full(n_levels, centre)
    best_error = np.inf
    for reach in np.arange(2.0, 6.01, 0.25):
        levels = centre + spread * reach * (2 * np.arange(n_levels) / (n_levels - 1) - 1)
        error = _squared_error(ascending, levels)
        if error < best_error:
            best, best_error = levels, error
    return best


def _squared_error(values: F64, levels: F64) -> float:
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)]
    return float(np.mean((values - nearest) ** 2))
