"""Rows on a curved surface of few dimensions, as real vectors lie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def surface_rows(count: int, dim: int, seed: int) -> npt.NDArray[np.uint8]:
    """Give rows of 100 clusters of eight latent dimensions, carried into `dim` by a smooth map."""
    rng = np.random.default_rng(seed)
    first, shift = 0.5 * rng.normal(size=(8, 64)), rng.uniform(0, 6, 64)
    second = rng.normal(size=(64, dim)) / np.sqrt(10)
    latent = rng.normal(size=(100, 8))[rng.integers(0, 100, count)] + 0.8 * rng.normal(size=(count, 8))
    return np.rint(128 + 25 * np.sin(latent @ first + shift) @ second).clip(0, 255).astype(np.uint8)
