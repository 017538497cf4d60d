"""8-bit codecs: symmetric per row (adapter tables), and block-wise (backbone weights, see blockwise.py).

Per row:
    scale  s = fp16(max |row| / 127); a row of zeros has scale 0
    codes  q = clip(round(x / s), -127, 127), rounding half to even, x divided by the *stored* scale
    value  y = q * s
-128 is never used, so a row and its negative quantise alike. When max |row| / 127 falls below half of fp16's smallest
step (3e-8) the scale is 0 and so is the row. Bytes: rows * (columns + 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.blockwise import BlockQuantised, quantise_blocks
from edgeadapt.codecs.statistics import ErrorStatistics, error_statistics, finite_matrix, stored_scales
from edgeadapt.errors import EdgeAdaptError

BLOCK = 64


@dataclass(frozen=True)
class Int8Rows:
    """`codes` int8 [rows, columns] and `scales` float16 [rows]."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float16]

    def __post_init__(self) -> None:
        if self.codes.dtype != np.int8 or self.scales.dtype != np.float16:
            raise EdgeAdaptError("int8: codes must be int8 and scales float16")
        if self.codes.ndim != 2 or self.scales.shape != self.codes.shape[:1]:
            raise EdgeAdaptError(f"int8: codes {self.codes.shape} and scales {self.scales.shape} do not match")

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def error(self, original: NDArray[np.floating]) -> ErrorStatistics:
        """Error statistics against the matrix that was quantised."""
        return error_statistics(original, dequantise(self))


def quantise(values: NDArray[np.floating]) -> Int8Rows:
    """Matrix [rows, columns] -> Int8Rows. Raises EdgeAdaptError for NaN, inf, or values beyond 127 * 65504."""
    x = finite_matrix(values, "int8")
    scales = stored_scales(np.abs(x).max(axis=1, initial=0.0) / np.float32(127), "int8")
    s = scales.astype(np.float32)[:, None]
    quotient = np.divide(x, s, out=np.zeros_like(x), where=s > 0)
    return Int8Rows(np.clip(np.rint(quotient), -127, 127).astype(np.int8), scales)


def dequantise(quantised: Int8Rows) -> NDArray[np.float32]:
    """Int8Rows -> matrix float32 [rows, columns]."""
    return np.asarray(quantised.codes.astype(np.float32) * quantised.scales.astype(np.float32)[:, None])


def quantise_blockwise(
    values: NDArray[np.floating], block: int = BLOCK, *, zero_points: bool = False
) -> BlockQuantised:
    """Matrix [rows, columns] -> 8-bit BlockQuantised; `block` is 64 or 128 for the backbones we ship."""
    return quantise_blocks(values, bits=8, block=block, zero_points=zero_points)
