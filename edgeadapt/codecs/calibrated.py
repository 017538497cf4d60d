"""Block-wise 4-bit weights that keep a layer's outputs, given what its inputs are like: blockwise.py's layout.

    W [N, K] weight      M = E[x x^T] [K, K] second moments of the layer's inputs x      Q [N, K] = s (q - 8), blockwise
    L(Q) = tr((W - Q) M' (W - Q)^T),     M' = M + DAMPING mean(diag M) I                 = E |W x - Q x|^2, damped
    order       blocks of falling sum of M_jj, and columns of falling M_jj within each
    feedback    U^T U = M'^-1, U upper triangular. Column by column in that order, with q_j the nearest code,
                    e = (w_j - s (q_j - 8)) / U_jj            w_k <- w_k - e U_jk for all later k:
                what rounding did to the output so far is made good by the columns still to come (GPTQ, E. Frantar et
                al. 2022, arXiv:2210.17323; the order is its act_order, as far as fixed blocks allow)
    scale       when a block's turn comes, of +-max|w| / 8 times GRID, each refined by least squares, the one of least
                sum_j (w_j - s (q_j - 8))^2 / U_jj^2
    sweeps      G = (W - Q) M'. Block by block, with c = q - 8 and zero outside of the block,
                    s <- s + <G, c> / <c, M' c>              c_j <- the code nearest to c_j + G_j / (s M'_jj)
                column by column: each step is the minimum of L in its coordinate, so that L never grows

Rows are independent. Only M enters, not its scale. Without any knowledge M = I, and L is the plain squared error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.codecs.blockwise import BlockQuantised, assemble, check_format
from edgeadapt.codecs.statistics import finite_matrix
from edgeadapt.errors import EdgeAdaptError

DAMPING = 0.03
GRID = (0.72, 0.82, 0.91, 1.0)
SWEEPS = 2
_ROWS = 1024  # rows at a time: their values in one block stay within the cache
_HALF = np.float32(8)
F32 = NDArray[np.float32]


def quantise(
    values: NDArray[np.floating], moments: NDArray[np.floating], block: int = 32, sweeps: int = SWEEPS
) -> BlockQuantised:
    """Matrix [N, K] and second moments [K, K] of its inputs -> symmetric 4-bit BlockQuantised.

    Raises EdgeAdaptError for NaN, inf, no columns, moments of another shape, or moments that no inputs can have.
    """
    check_format(4, block)
    w = finite_matrix(values, "int4")
    columns = w.shape[1]
    m = _damped(moments, columns, -(-columns // block) * block)
    order = _order(np.diag(m), block)
    u = _feedback_matrix(m[np.ix_(order, order)])
    permuted = m[np.ix_(order, order)].astype(np.float32)
    # In units of the largest magnitude, since squares of float32 values may overflow.
    unit = np.float32(max(float(np.abs(w).max(initial=0.0)), float(np.finfo(np.float32).tiny)))
    w = np.pad(w / unit, ((0, 0), (0, len(m) - columns)))
    codes = np.empty(w.shape, dtype=np.uint8)
    scales = np.empty((len(w), len(m) // block), dtype=np.float32)
    for start in range(0, len(w), _ROWS):
        part = slice(start, start + _ROWS)
        target = np.ascontiguousarray(w[part].T[order])
        c, s = _feed(target.copy(), u, block)
        for _ in range(sweeps):
            _sweep(target - _decoded(c, s), permuted, c, s)
        codes[part, order] = (c + _HALF).T
        scales[part, order[::block] // block] = s.T * unit
    return assemble(codes, scales, bits=4, block=block, columns=columns)


def _damped(moments: NDArray[np.floating], columns: int, padded: int) -> NDArray[np.float64]:
    """M' [padded, padded] for M [columns, columns]; columns that only fill the last block are inputs that are zero."""
    if not columns:
        raise EdgeAdaptError("int4: the matrix has no columns; nothing to quantise")
    m = np.asarray(moments, dtype=np.float64)
    if m.shape != (columns, columns):
        raise EdgeAdaptError(f"int4: moments are {m.shape}; a weight of {columns} columns needs {(columns, columns)}")
    if not np.isfinite(m).all() or (np.diag(m) < 0).any() or not np.allclose(m, m.T, rtol=1e-3, atol=1e-6 * m.max()):
        raise EdgeAdaptError("int4: moments must be finite and symmetric, as sums of x x^T are")
    mean = float(np.diag(m).mean())
    full = np.zeros((padded, padded))
    full[:columns, :columns] = (m + m.T) / (2 * mean) if mean > 0 else 0
    full[np.diag_indices(padded)] += DAMPING if mean > 0 else 1.0
    return full


def _order(diagonal: NDArray[np.float64], block: int) -> NDArray[np.int64]:
    """Columns in the order they are rounded in: [K], whole blocks one after the other."""
    inputs = diagonal.reshape(-1, block)
    within = np.argsort(-inputs, axis=1, kind="stable") + block * np.arange(len(inputs))[:, None]
    return np.asarray(within[np.argsort(-inputs.sum(axis=1), kind="stable")].reshape(-1))


def _feedback_matrix(m: NDArray[np.float64]) -> F32:
    """U, upper triangular, with U^T U = M'^-1."""
    try:
        return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(m)).T, dtype=np.float32)
    except np.linalg.LinAlgError:
        raise EdgeAdaptError("int4: the moments have a negative eigenvalue, which no sums of x x^T have") from None


def _feed(w: F32, u: F32, block: int) -> tuple[F32, F32]:
    """Codes c = q - 8 [K, n] and scales [K / block, n] by error feedback; `w` [K, n] is used up."""
    codes, scales = np.empty_like(w), np.empty((len(w) // block, w.shape[1]), dtype=np.float32)
    for index in range(len(scales)):
        here = slice(index * block, (index + 1) * block)
        mine, inner = w[here], u[here, here]
        s = scales[index] = _scale(mine, (1 / np.square(np.diag(inner))).astype(np.float32))
        inverse = np.divide(1, s, out=np.zeros_like(s), where=s != 0)
        errors = np.empty_like(mine)
        for j in range(block):
            c = np.clip(np.rint(mine[j] * inverse), -_HALF, _HALF - 1, out=codes[here][j])
            np.divide(mine[j] - c * s, inner[j, j], out=errors[j])
            mine[j + 1 :] -= inner[j, j + 1 :, None] * errors[j]
        w[here.stop :] -= u[here, here.stop :].T @ errors
    return codes, scales


def _scale(w: F32, weights: F32) -> F32:
    """The scale of each column of a block [block, n]: the best of the candidates, [n]."""
    high, low = w.max(axis=0), w.min(axis=0)
    largest = np.where(high > -low, high, low) / _HALF
    best, gain = largest, np.full(largest.shape, -np.inf, dtype=np.float32)
    for factor in (*(-g for g in GRID), *GRID):
        start = largest * np.float32(factor)
        inverse = np.divide(1, start, out=np.zeros_like(start), where=start != 0)
        c = np.clip(np.rint(w * inverse), -_HALF, _HALF - 1)
        product, energy = weights @ (w * c), weights @ np.square(c)
        refined = np.divide(product, energy, out=np.zeros_like(product), where=energy > 0)
        won = refined * product > gain  # the loss is sum w^2 minus this
        best, gain = np.where(won, refined, best), np.where(won, refined * product, gain)
    return np.asarray(best)


def _sweep(residual: F32, m: F32, codes: F32, scales: F32) -> None:
    """One descent over all scales and codes, in place; `residual` = W - Q [K, n] is used up."""
    block = len(codes) // len(scales)
    for index in range(len(scales)):
        here = slice(index * block, (index + 1) * block)
        c, inner = codes[here], m[here, here]
        gradient = m[here] @ residual
        along = inner @ c
        energy = np.einsum("kn,kn->n", c, along)
        step = np.divide(np.einsum("kn,kn->n", gradient, c), energy, out=np.zeros_like(energy), where=energy > 0)
        s = scales[index] = scales[index] + step
        residual[here] -= c * step
        gradient -= along * step
        inverse = np.divide(1, s, out=np.zeros_like(s), where=s != 0)
        for j in range(block):
            new = np.clip(np.rint(c[j] + gradient[j] * inverse / inner[j, j]), -_HALF, _HALF - 1)
            moved = (new - c[j]) * s
            c[j] = new
            residual[here][j] -= moved
            gradient[j + 1 :] -= inner[j, j + 1 :, None] * moved


def _decoded(codes: F32, scales: F32) -> F32:
    return codes * np.repeat(scales, len(codes) // len(scales), axis=0)
