"""From samples to figures that can be believed. Pure functions; every random number comes from a stated seed.

    quantiles    linear interpolation between order statistics
    interval     percentile bootstrap of the median, 95 %: resample n of n with replacement, `RESAMPLES` times
    ratio        of samples a_ok, b_ok taken in round k of opening o, with the models opened anew, in processes of their
                 own, for every o:      median_o median_k (a_ok / b_ok)
                 What slows the machine down for a while slows both halves of a pair, and cancels. Where a process's
                 memory happens to lie moves its speed by some percent for as long as it lives: it does not cancel
                 in a median over rounds, and is what the openings are for.
    its interval percentile bootstrap over the n openings, 95 %: their medians are drawn with replacement. They carry
                 the rounds' own noise already; drawing rounds as well would count it twice (of comparisons of a thing
                 with itself, all intervals then contained 1, and half of the slowdowns by 2 % were missed). A few
                 openings show less than their spread, so both sides are widened, in logarithms, by
                     t_(n-1) / z * sqrt(n / (n - 1))         Student's and the normal quantile of 97.5 %: 9.2 for two
                 openings, 1.3 for eight, 1.1 for twenty. With one opening rounds are drawn, and the interval knows
                 nothing of a process's luck.

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
NORMAL = 1.960  # quantiles of 97.5 %: the normal distribution's, and Student's for 1, 2, 3 ... degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
           2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052)  # fmt: skip


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
    """Ratio of paired samples and its 95 % interval. Below 1: the numerator is faster."""

    openings: int
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


def paired_ratio(numerator: Sequence[Sequence[float]], denominator: Sequence[Sequence[float]]) -> Ratio:
    """Samples by opening and round; those of one opening and round belong together.

    Raises ValueError if they do not pair up, or if there are none.
    """
    ratios = []
    for above, below in zip(numerator, denominator, strict=True):
        if len(above) != len(below) or not len(above):
            raise ValueError(f"{len(above)} and {len(below)} are not pairs of samples")
        ratios.append(np.asarray(above, dtype=np.float64) / np.asarray(below, dtype=np.float64))
    if not ratios:
        raise ValueError("no samples to compare")
    medians = np.array([np.median(values) for values in ratios])
    value = float(np.median(medians))
    low, high = median_interval(medians if len(medians) > 1 else ratios[0])
    wider = widening(len(medians))
    low, high = value * (low / value) ** wider, value * (high / value) ** wider
    return Ratio(len(ratios), sum(map(len, ratios)), value, low, high)


def widening(openings: int) -> float:
    """How much wider than the bootstrap's an interval over so few openings has to be; 1 for a single one."""
    if openings < 2:
        return 1.0
    student = STUDENT[openings - 2] if openings - 2 < len(STUDENT) else NORMAL
    return student / NORMAL * float(np.sqrt(openings / (openings - 1)))


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of the median, [n] -> (low, high)."""
    low, high = _quantiles(_resampled_medians(np.random.default_rng(SEED), values))
    return float(low), float(high)


def _resampled_medians(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Medians of `RESAMPLES` resamples of [n] values."""
    drawn = rng.integers(0, len(values), size=(RESAMPLES, len(values)))
    return np.asarray(np.median(values[drawn], axis=1))


def _quantiles(resamples: np.ndarray) -> np.ndarray:
    tail = (1 - LEVEL) / 2
    return np.asarray(np.quantile(resamples, (tail, 1 - tail)))


def settled(samples: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether the medians of the last two windows of `window` samples agree within `tolerance`, relatively."""
    if len(samples) < 2 * window:
        return False
    before, after = np.median(samples[-2 * window : -window]), np.median(samples[-window:])
    return bool(abs(after - before) <= tolerance * before)
