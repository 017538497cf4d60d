"""What a run has scored so far: what a checkpoint keeps of it, and what scores.json and confusion.json say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeadapt.scores import Confusion, Scores, nullable
from edgeadapt_train.streams import Task


class Scoreboard:
    """Scores of T tasks, NaN until they are there: baseline [T]; matrix and withheld [T, T] as in edgeadapt.scores."""

    def __init__(self, count: int) -> None:
        self.baseline = np.full(count, np.nan)
        self.matrix, self.withheld = np.full((count, count), np.nan), np.full((count, count), np.nan)
        self.confusion: dict[str, Confusion] = {}

    def state(self) -> dict[str, Any]:
        """As JSON."""
        kept: dict[str, Any] = {"baseline": nullable(self.baseline)}
        kept |= {name: [nullable(row) for row in getattr(self, name)] for name in ("matrix", "withheld")}
        return kept | {"confusion": {name: [one.choices, one.counts] for name, one in self.confusion.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.baseline = np.array(_numbers(state["baseline"]))
        self.matrix, self.withheld = (np.array(list(map(_numbers, state[name]))) for name in ("matrix", "withheld"))
        self.confusion = {
            name: Confusion(tuple(choices), tuple(map(tuple, counts)))
            for name, (choices, counts) in state["confusion"].items()
        }

    def scores(self, tasks: Sequence[Task], split: str, withheld_bytes: int) -> Scores:
        """scores.json of these tasks, scored on this split."""
        return Scores(
            tasks=tuple(task.spec.name for task in tasks),
            counts=tuple(len(getattr(task, split)) for task in tasks),
            baseline=self.baseline,
            matrix=self.matrix,
            withheld=None if np.isnan(self.withheld).all() else self.withheld,
            withheld_bytes=withheld_bytes,
            metrics=tuple(task.spec.metric for task in tasks),
            languages=tuple(task.language for task in tasks),
            topics=tuple(task.topic for task in tasks),
            majorities=tuple(task.majority for task in tasks) if split == "evaluation" else (),
        )


def _numbers(row: Sequence[float | None]) -> list[float]:
    return [math.nan if score is None else score for score in row]
