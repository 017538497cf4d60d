"""Runs beside each other: the best proposed and the best baseline, the gap between them, and methods over their seeds.

gap = 100 (p - b) / b        of the primary metric; with the sign turned where lower is better, so that a positive
                             gap says that the proposed run is better. None where b is zero, or one is missing
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from typing import Any

import numpy as np

from edgeadapt_train.evaluation.measures import MEASURES
from edgeadapt_train.evaluation.runs import Role, StoredRun
from edgeadapt_train.evaluation.significance import Paired, corrected, paired

Values = Mapping[str, Mapping[str, float]]  # by run, then by measure
TASKS, SEEDS = "tasks", "seeds"


@dataclass(frozen=True)
class Best:
    """A run and its primary metric."""

    run_id: str
    value: float


@dataclass(frozen=True)
class Comparison:
    """All runs by all measures; `gap` in percent."""

    primary_metric: str
    metrics: Mapping[str, Mapping[str, float]]
    best_proposed: Best | None
    best_baseline: Best | None
    gap: float | None

    def to_json(self) -> dict[str, Any]:
        def one(best: Best | None) -> dict[str, Any] | None:
            return None if best is None else {"run_id": best.run_id, "value": best.value}

        return {
            "primary_metric": self.primary_metric,
            "metrics": {name: dict(values) for name, values in self.metrics.items()},
            "best_proposed": one(self.best_proposed),
            "best_baseline": one(self.best_baseline),
            "gap": self.gap,
        }


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but the seed, by seed."""

    name: str
    role: Role
    runs: Mapping[int, StoredRun]


def compared(runs: Sequence[StoredRun], values: Values, primary: str) -> Comparison:
    """The best of either role by the primary metric, and what lies between them."""
    lower = MEASURES[primary].lower_is_better
    best: dict[str, Best] = {}
    for run in runs:
        value = values[run.run_id].get(primary)
        known = best.get(run.role)
        if value is not None and (known is None or (value < known.value if lower else value > known.value)):
            best[run.role] = Best(run.run_id, value)
    p, b = best.get("proposed"), best.get("baseline")
    gap = None
    if p is not None and b is not None and b.value:
        gap = 100 * (p.value - b.value) / b.value * (-1 if lower else 1)
    metrics = {
        name: {run.run_id: values[run.run_id][name] for run in runs if name in values[run.run_id]} for name in MEASURES
    }
    return Comparison(primary, {name: found for name, found in metrics.items() if found}, p, b, gap)


def methods(runs: Sequence[StoredRun]) -> list[Method]:
    """Runs gathered by what they have in common; of two with one seed, each is a method of its own."""
    groups: list[tuple[str, dict[int, StoredRun]]] = []
    for run in runs:
        for kind, group in groups:
            if kind == run.replicas and run.seed not in group and next(iter(group.values())).role == run.role:
                group[run.seed] = run
                break
        else:
            groups.append((run.replicas, {run.seed: run}))
    return [Method(_name(group), next(iter(group.values())).role, group) for _, group in groups]


def paired_tests(found: Sequence[Method], values: Values, primary: str) -> list[Paired]:
    """Every proposed method against every baseline, over tasks and over seeds; all pairs where a role is missing."""
    pairs = [(p, b) for p in found if p.role == "proposed" for b in found if b.role == "baseline"]
    comparisons = []
    for first, second in pairs or combinations(found, 2):
        comparisons.append(_over_tasks(first, second))
        comparisons.append(_over_seeds(first, second, values, primary))
    return corrected([one for one in comparisons if one.n])


def _over_tasks(first: Method, second: Method) -> Paired:
    seeds = sorted(set(first.runs) & set(second.runs))
    a, b = (_finals(method, seeds or sorted(method.runs)) for method in (first, second))
    common = [task for task in a if task in b]
    return paired(
        first.name,
        second.name,
        over=TASKS,
        measure="final score",
        a=[a[task] for task in common],
        b=[b[task] for task in common],
    )


def _over_seeds(first: Method, second: Method, values: Values, primary: str) -> Paired:
    def of(method: Method, seed: int) -> float | None:
        return values[method.runs[seed].run_id].get(primary)

    seeds = sorted(set(first.runs) & set(second.runs))
    both = [(of(first, seed), of(second, seed)) for seed in seeds]
    known = [(x, y) for x, y in both if x is not None and y is not None]
    return paired(
        first.name, second.name, over=SEEDS, measure=primary, a=[x for x, _ in known], b=[y for _, y in known]
    )


def _finals(method: Method, seeds: Sequence[int]) -> dict[str, float]:
    """Mean final score of each task over seeds; tasks that a run has no score of are left out."""
    finals = [method.runs[seed].final for seed in seeds]
    means = {task: float(np.mean([one.get(task, np.nan) for one in finals])) for task in finals[0]}
    return {task: mean for task, mean in means.items() if not np.isnan(mean)}


def _name(group: Mapping[int, StoredRun]) -> str:
    """What the ids of a method's runs have in common; the id of a single one."""
    ids = [run.run_id for run in group.values()]
    if len(ids) == 1:
        return ids[0]
    common = "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*ids, strict=False))
    )
    return re.sub(r"[-_.]*(seed|s)?[-_.]*$", "", common) or ids[0]


def streams_differ(runs: Sequence[StoredRun]) -> bool:
    """Whether the runs learnt other tasks, or in another order."""
    return len({run.scores.tasks for run in runs}) > 1
