"""From samples to figures that can be believed. Pure functions; every random number comes from a stated seed.

    quantiles    linear interpolation between order statistics
    interval     percentile bootstrap of the median, 95 %: resample n of n with replacement, `RESAMPLES` times
    ratio        of paired samples a_i, b_i taken in the same round: median of a_i / b_i, and its bootstrap interval
                 over rounds. What slows the machine down for a while slows both halves of a pair, and cancels.

No sample is thrown away: medians do not need it, and a tail is a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
SEED = 20240


@dataclass(frozen=True)
class Summary:
    """Figures of one set of samples, in the samples' own unit. `low`, `high`: 95 % interval of the median."""

    n: int
    p50: float
    p90: float
    p99: float
    mean: float
    minimum: float
    maximum: float
    deviation: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios and its 95 % interval. Below 1: the numerator is faster."""

    pairs: int
    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(samples: Sequence[float]) -> Summary:
    """Raises ValueError without samples."""
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError("no samples to summarise")
    p50, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99))
    low, high = median_interval(values)
    return Summary(
        n=len(values),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        mean=float(values.mean()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        deviation=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        low=low,
        high=high,
    )


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """The two sequences' i-th samples belong together. Raises ValueError for unequal or no samples."""
    above, below = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1 or not len(above):
        raise ValueError(f"{above.shape} and {below.shape} are not pairs of samples")
    ratios = above / below
    low, high = median_interval(ratios)
    return Ratio(pairs=len(ratios), value=float(np.median(ratios)), low=low, high=high)


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of the median, [n] -> (low, high)."""
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, len(values), size=(RESAMPLES, len(values)))
    medians = np.median(values[drawn], axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return float(low), float(high)


def settled(samples: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether the medians of the last two windows of `window` samples agree within `tolerance`, relatively."""
    if len(samples) < 2 * window:
        return False
    before, after = np.median(samples[-2 * window : -window]), np.median(samples[-window:])
    return bool(abs(after - before) <= tolerance * before)
