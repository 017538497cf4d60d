"""Low-rank factors in int8: symmetric, one scale per rank component.

    A [d, r], B [r, m]  ->  A_q, B_q int8 and s float32 [r] with  A B ~ (A_q * s) B_q
    a_k = max |A[:, k]| / 127    b_k = max |B[k, :]| / 127    s_k = a_k b_k
    A_q[:, k] = round(A[:, k] / a_k)    B_q[k, :] = round(B[k, :] / b_k), half to even; a component of zeros has s_k = 0

x A is r numbers per token, so that one vector of r scales stands for both factors'. -128 is never used. Bytes:
r (d + m + 4), against 2 r (d + m) in float16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.statistics import finite_matrix
from edgeadapt.errors import EdgeAdaptError


def int8_factors(
    A: NDArray[np.floating], B: NDArray[np.floating]
) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.float32]]:
    """Factors [d, r] and [r, m] -> codes of both and the scales [r].

    Raises EdgeAdaptError for NaN, inf, shapes that do not fit together, or a scale beyond float32.
    """
    down, a = _columns(finite_matrix(A, "int8 factors"))
    up, b = _columns(finite_matrix(B, "int8 factors").T)
    if a.shape != b.shape:
        raise EdgeAdaptError(f"int8 factors: {A.shape} and {B.shape} have different ranks")
    if (a * b).max(initial=0.0) > np.finfo(np.float32).max:
        raise EdgeAdaptError("int8 factors: a component's scale is beyond float32; scale the factors down")
    return down, np.ascontiguousarray(up.T), (a * b).astype(np.float32)


def _columns(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Codes of a matrix and the scale of each of its columns."""
    wide = matrix.astype(np.float64)
    scales = np.abs(wide).max(axis=0, initial=0.0) / 127
    quotient = np.divide(wide, scales, out=np.zeros_like(wide), where=scales > 0)
    return np.rint(quotient).astype(np.int8), scales
