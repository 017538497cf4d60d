"""What the evidence compares, and by what.

    over seeds   mean +- t_{97.5 %, S-1} s / sqrt(S)                       S seeds, s their standard deviation
    retained     m_j = mean_{i>=j} R_ij: how well task j is answered from the moment it is learnt to the stream's end
    tasks        pairs of m_j, averaged over the seeds that both methods have      T pairs
    seeds        pairs of the AUC                                                  S pairs
The tests, their intervals and Holm's correction: edgeadapt_train/evaluation/significance.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeadapt_train.evaluation.significance import Paired, corrected, paired

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeadapt_train.evidence.stored import Stored


@dataclass(frozen=True)
class OverSeeds:
    """`half_width_95` is None for a single seed."""

    mean: float
    half_width_95: float | None
    values: tuple[float, ...]


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean and t interval of one figure per seed."""
    from scipy.stats import t

    count = len(values)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5) if count > 1 else None
    return OverSeeds(float(np.mean(values)), half, tuple(float(value) for value in values))


def retained(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """m [T] of R [T, T]."""
    return np.array([column[j:].mean() for j, column in enumerate(matrix.T)])


def against(methods: Mapping[str, Mapping[int, Stored]], reference: str) -> dict[str, dict[str, Any]]:
    """Every method minus the reference, by the name of the method: {"tasks": ..., "seeds": ...}. `methods`: runs by
    seed. One without a score on or below the diagonal is left out: a joint training has no matrix."""
    tests: list[Paired] = []
    for name, runs in methods.items():
        shared = sorted(runs.keys() & methods.get(reference, {}).keys())
        sides = [[side[seed] for seed in shared] for side in (runs, methods.get(reference, {}))]
        if name == reference or not shared or np.isnan([run.summary.auc for side in sides for run in side]).any():
            continue
        over_tasks = [np.mean([retained(run.scores.matrix) for run in side], axis=0).tolist() for side in sides]
        areas = [[run.summary.auc for run in side] for side in sides]
        for over, measure, (a, b) in (("tasks", "retained", over_tasks), ("seeds", "auc", areas)):
            tests.append(paired(name, reference, over=over, measure=measure, a=a, b=b))
    found: dict[str, dict[str, Any]] = {}
    for test in corrected(tests):
        found.setdefault(test.first, {})[test.over] = test.to_json()
    return found
