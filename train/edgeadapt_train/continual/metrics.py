"""What a matrix of scores says about a stream of T tasks. A pure function.

R [T, T]   R_ij: score on task j after training on task i, in [0, 1]; NaN where it was not measured
b [T]      b_j: score on task j before any training

    A_i            = mean_{j<=i} R_ij                                      retained accuracy
    AUC            = 1/(T-1) sum_{i<T} (A_i + A_{i+1}) / 2                 the primary metric: trapezoids over i
    relative AUC   = the same of mean_{j<=i} R_ij / R_jj                   tasks of different metrics; those with
                                                                           R_jj = 0 are skipped, and so are the first
                                                                           stages, as long as there is no other task
    forgetting     = mean_{j<T} ( max_{l<T} R_lj - R_Tj )                  of l < j: only what was measured
    BWT            = mean_{j<T} ( R_Tj - R_jj )
    FWT            = mean_{j>=2} ( R_{j-1,j} - b_j )
    final          = mean_j R_Tj

All but A_1 and `final` need two tasks; what is undefined, or lacks a score on or below the diagonal, is NaN.
Others mean other things by these names: Avalanche's forgetting is first minus last, SAPT divides BWT by T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeadapt.errors import EdgeAdaptError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Summary:
    """The metrics of one run, as the module says. `retained`: A [T] float64."""

    retained: NDArray[np.float64]
    auc: float
    relative_auc: float
    forgetting: float
    bwt: float
    fwt: float
    final: float


def summary(matrix: ArrayLike, baseline: ArrayLike) -> Summary:
    """All metrics of R [T, T] and b [T]. Raises EdgeAdaptError for other shapes."""
    R, b = np.asarray(matrix, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    T = len(b)
    if T < 1 or b.shape != (T,) or R.shape != (T, T):
        raise EdgeAdaptError(f"metrics need a matrix (T, T) and a baseline (T,); found {R.shape} and {b.shape}")
    own = np.diagonal(R)
    retained = _means(R, np.ones(T, dtype=bool))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = _means(R / own, own != 0)
    started = np.flatnonzero(own != 0)
    relative_auc = _area(relative[started[0] :]) if started.size else math.nan
    if T == 1:
        return Summary(retained, math.nan, relative_auc, math.nan, math.nan, math.nan, float(retained[0]))
    unmeasured_before = np.isnan(R) & (np.arange(T)[:, None] < np.arange(T))
    best = np.where(unmeasured_before, -np.inf, R)[:-1, :-1].max(axis=0)
    return Summary(
        retained=retained,
        auc=_area(retained),
        relative_auc=relative_auc,
        forgetting=float((best - R[-1, :-1]).mean()),
        bwt=float((R[-1, :-1] - own[:-1]).mean()),
        fwt=float((np.diagonal(R, offset=1) - b[1:]).mean()),
        final=float(R[-1].mean()),
    )


def _means(R: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """mean_{j<=i} R_ij over the counted tasks, [T]; NaN where there is none."""
    rows = [row[: i + 1][counted[: i + 1]] for i, row in enumerate(R)]
    return np.array([row.mean() if row.size else math.nan for row in rows])


def _area(curve: NDArray[np.float64]) -> float:
    """Trapezoids over a curve at whole stages, divided by its length; NaN for a single stage."""
    return float((curve[:-1] + curve[1:]).mean() / 2) if len(curve) > 1 else math.nan
