"""Residuals to codes and back.

`encode` and `decode` are a pair of equal weight: ``decode(encode(r))`` is the reconstruction G that estimates
count on, and the nearest one that the codebook has, component by component.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes import kernels
from annserve.codes.layout import Codebook

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

#: Rows transformed at once: bounds the memory beside input and output.
_BLOCK_ROWS = 16_384


def encode(codebook: Codebook, residuals: F32) -> U8:
    """Give each residual's code.

    Parameters
    ----------
    codebook : Codebook
    residuals : (n, d) float32

    Returns
    -------
    (n, code_bytes) uint8

    Notes
    -----
    O(n d m) time for d dimensions and m components; a bounded block of memory beside the result.
    """
    codes = np.zeros((len(residuals), codebook.code_bytes), np.uint8)
    for start in range(0, len(residuals), _BLOCK_ROWS):
        block = residuals[start : start + _BLOCK_ROWS]
        components = np.ascontiguousarray((block - codebook.mean) @ codebook.analysis, dtype=np.float32)
        kernels.encode_components(components, *_fields(codebook), codes[start : start + len(block)])
    return codes


def decode(codebook: Codebook, codes: U8) -> F32:
    """Give the reconstruction of each code, (n, d) float32 for (n, code_bytes) uint8."""
    rows = np.empty((len(codes), codebook.dim), np.float32)
    for start in range(0, len(codes), _BLOCK_ROWS):
        block = np.ascontiguousarray(codes[start : start + _BLOCK_ROWS])
        rows[start : start + len(block)] = decode_components(codebook, block) @ codebook.synthesis + codebook.mean
    return rows


def decode_components(codebook: Codebook, codes: U8) -> F32:
    """Give the quantized components of each code, (n, m) float32: G before the rotation back."""
    components = np.zeros((len(codes), codebook.n_components), np.float32)
    kernels.decode_components(np.ascontiguousarray(codes), *_fields(codebook), components)
    return components


def _fields(codebook: Codebook) -> tuple[npt.NDArray[Any], ...]:
    return (
        codebook.field_component,
        codebook.field_nibble,
        codebook.field_shift,
        codebook.field_bits,
        codebook.field_levels,
    )
