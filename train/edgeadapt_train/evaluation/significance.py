"""Whether two methods differ: paired tests, with the number of pairs and what they could have found beside every p.

    d_k        difference of pair k = 1 .. n, the first method's minus the second's
    Wilcoxon   signed-rank test, two-sided; zeros are left out; exact up to 50 pairs without ties
    flips      the signs of the d_k are exchanged, all 2^n ways or 9,999 at random: how often is |mean| as large?
    interval   percentile bootstrap of mean d, 95 %, 9,999 resamples
    Holm       p_(k) -> max_{l<=k} min(1, (m - l + 1) p_(l)), p_(1) <= ... <= p_(m), over the m comparisons of one kind

n pairs allow no p below 2^(1-n): six are the fewest that could reach 0.05. Pairs are either tasks (scores at the end of
the stream, averaged over the seeds that both methods have) or seeds (the primary metric); a task's scores under several
seeds are never taken for independent tasks. Tasks of one stream are learnt one after the other by the same model, so
tests over tasks speak of this stream and these tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import bootstrap, permutation_test, wilcoxon

RESAMPLES = 9999
LEVEL = 0.95
SEED = 20240


@dataclass(frozen=True)
class Paired:
    """One comparison. What one pair, or none, does not allow is None. `low`, `high`: 95 % interval of the mean."""

    first: str
    second: str
    over: str
    measure: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    wilcoxon_p: float | None
    flips_p: float | None
    smallest_p: float
    wilcoxon_holm: float | None = None
    flips_holm: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired(first: str, second: str, *, over: str, measure: str, a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare two methods by pairs; raises ValueError if there are not as many of the one as of the other."""
    d = np.array([x - y for x, y in zip(a, b, strict=True)], dtype=np.float64)
    n = len(d)
    smallest = min(1.0, 2.0 ** (1 - n))
    if n < 2:
        mean = float(d[0]) if n else None
        return Paired(first, second, over, measure, n, mean, None, None, None, None, smallest)
    if d.any():
        p_ranks = float(wilcoxon(d).pvalue)
        flips = permutation_test(
            (d,), _mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=_rng()
        )
        p_flips = float(flips.pvalue)
    else:
        p_ranks = p_flips = 1.0
    interval = bootstrap(
        (d,), _mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", vectorized=True, rng=_rng()
    ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return Paired(first, second, over, measure, n, float(d.mean()), low, high, p_ranks, p_flips, smallest)


def corrected(comparisons: Sequence[Paired]) -> list[Paired]:
    """The same with Holm's correction: over all comparisons of one kind of pairs, for each test."""
    found = list(comparisons)
    for over in dict.fromkeys(one.over for one in found):
        places = [i for i, one in enumerate(found) if one.over == over and one.n > 1]
        ranks, flips = (holm([getattr(found[i], name) for i in places]) for name in ("wilcoxon_p", "flips_p"))
        for i, by_ranks, by_flips in zip(places, ranks, flips, strict=True):
            found[i] = replace(found[i], wilcoxon_holm=by_ranks, flips_holm=by_flips)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given."""
    m, highest, found = len(p), 0.0, [0.0] * len(p)
    for rank, place in enumerate(sorted(range(m), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (m - rank) * p[place]))
        found[place] = highest
    return found


def _mean(d: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(np.mean(d, axis=axis))


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)
