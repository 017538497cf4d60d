"""How far a quantised array is from the original: the same three figures for every codec.

    nmse    = ||x - y||^2 / ||x||^2          (0 when both are zero, inf when only x is)
    cosine  = <x, y> / (||x|| ||y||)         (1 when both are zero, 0 when only one is)
    max_abs = max |x - y|                    (in the units of x)

Sums run in float64, so that the figures of a large weight do not carry their own rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import EdgeAdaptError


@dataclass(frozen=True)
class ErrorStatistics:
    """Normalised mean squared error, cosine, and the largest absolute difference."""

    nmse: float
    cosine: float
    max_abs: float


def error_statistics(original: NDArray[np.floating], approximation: NDArray[np.floating]) -> ErrorStatistics:
    """Compare two arrays of the same shape. Raises EdgeAdaptError when the shapes differ."""
    if original.shape != approximation.shape:
        raise EdgeAdaptError(f"cannot compare shapes {original.shape} and {approximation.shape}: give equal shapes")
    x = np.asarray(original, dtype=np.float64).ravel()
    y = np.asarray(approximation, dtype=np.float64).ravel()
    difference = x - y
    wrong, energy_x, energy_y = float(difference @ difference), float(x @ x), float(y @ y)
    nmse = wrong / energy_x if energy_x else (0.0 if not energy_y else float("inf"))
    lengths = float(np.sqrt(energy_x) * np.sqrt(energy_y))
    cosine = float(x @ y) / lengths if lengths else float(energy_x == energy_y)
    return ErrorStatistics(nmse, cosine, float(np.abs(difference).max(initial=0.0)))


def finite_matrix(values: NDArray[np.floating], codec: str) -> NDArray[np.float32]:
    """The input of a codec as a contiguous float32 matrix. Raises EdgeAdaptError for another rank, NaN or inf."""
    matrix = np.ascontiguousarray(values, dtype=np.float32)
    if matrix.ndim != 2:
        raise EdgeAdaptError(f"{codec}: got shape {matrix.shape}; give a matrix [rows, columns]")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise EdgeAdaptError(f"{codec}: row {row} holds NaN or inf; only finite values can be quantised")
    return matrix


def stored_scales(scales: NDArray[np.float32], codec: str) -> NDArray[np.float16]:
    """Scales as they are stored, fp16. Raises EdgeAdaptError when one is beyond fp16's largest value, 65,504."""
    largest = float(scales.max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise EdgeAdaptError(f"{codec}: a scale of {largest:.4g} does not fit fp16 (65504): scale the values down")
    return scales.astype(np.float16)
