"""The 4-bit codec of backbone weights: block-wise, 32 values to a scale, two codes to a byte. See blockwise.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.blockwise import BlockQuantised, dequantise, quantise_blocks

BLOCK = 32

__all__ = ["BLOCK", "dequantise", "quantise"]


def quantise(values: NDArray[np.floating], block: int = BLOCK, *, zero_points: bool = False) -> BlockQuantised:
    """Matrix [rows, columns] -> 4-bit BlockQuantised, symmetric unless `zero_points`."""
    return quantise_blocks(values, bits=4, block=block, zero_points=zero_points)
