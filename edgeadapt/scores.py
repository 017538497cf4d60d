"""What a run scored: the matrix of a stream's tasks, and confusion matrices (scores.json, confusion.json)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.records import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """How well every task is answered, in [0, 1]; NaN where it was not measured.

    baseline[j]       score on task j before any training, (T,) float64
    matrix[i, j]      on task j after training on task i, (T, T) float64; the adapter is told which task it is asked
    withheld[i, j]    the same where it is not told (edgeadapt_train/continual/task_ids.py); None: not measured
    withheld_bytes    what answering without being told takes beside the adapter
    counts, metrics, languages, topics, majorities     by task: evaluation examples, what the score is, what it is
                      about, the share of the commonest answer. The last four are empty in files of earlier versions.
    """

    tasks: tuple[str, ...]
    counts: tuple[int, ...]
    baseline: NDArray[np.float64]
    matrix: NDArray[np.float64]
    withheld: NDArray[np.float64] | None = None
    withheld_bytes: int = 0
    metrics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    majorities: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        many = len(self.tasks)
        for name in ("baseline", "matrix", "withheld"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if len(self.counts) != many or self.baseline.shape != (many,) or self.matrix.shape != (many, many):
            raise EdgeAdaptError(
                f"scores of {many} tasks need {many} counts, a baseline ({many},) and a matrix ({many}, {many}); "
                f"found {len(self.counts)}, {self.baseline.shape}, {self.matrix.shape}"
            )
        if self.withheld is not None and self.withheld.shape != (many, many):
            raise EdgeAdaptError(f"scores without task ids of {many} tasks are {self.withheld.shape}")
        for name in ("metrics", "languages", "topics", "majorities"):
            if len(getattr(self, name)) not in (0, many):
                raise EdgeAdaptError(f"scores of {many} tasks have {len(getattr(self, name))} {name}")
        for values in (self.baseline, self.matrix, self.withheld):
            seen = np.zeros(0) if values is None else values[~np.isnan(values)]
            if seen.size and not (seen.min() >= 0 and seen.max() <= 1):
                raise EdgeAdaptError(f"scores lie in [0, 1]; found {seen.min()} to {seen.max()}")

    def to_json(self) -> dict[str, Any]:
        return {
            "tasks": list(self.tasks),
            "counts": list(self.counts),
            "baseline": nullable(self.baseline),
            "matrix": [nullable(row) for row in self.matrix],
            "withheld": None if self.withheld is None else [nullable(row) for row in self.withheld],
            "withheld_bytes": self.withheld_bytes,
            "metrics": list(self.metrics),
            "languages": list(self.languages),
            "topics": list(self.topics),
            "majorities": list(self.majorities),
        }

    @classmethod
    def from_json(cls, value: Any, name: str = "scores.json") -> Scores:
        raw = decode(_RawScores, value, name)
        many = len(raw.tasks)

        def numbers(what: str, rows: tuple[tuple[float | None, ...], ...]) -> NDArray[np.float64]:
            for row in rows:
                if len(row) != many:
                    raise EdgeAdaptError(f"{name}: a row of the {what} has {len(row)} scores for {many} tasks")
            return np.array(rows, dtype=np.float64).reshape(len(rows), many)

        arrays: dict[str, Any] = {
            "baseline": np.array(raw.baseline, dtype=np.float64),
            "matrix": numbers("matrix", raw.matrix),
            "withheld": None if raw.withheld is None else numbers("withheld matrix", raw.withheld),
        }
        rest = {item.name: getattr(raw, item.name) for item in fields(raw) if item.name not in arrays}
        return cls(**arrays, **rest)


@dataclass(frozen=True)
class _RawScores:
    tasks: tuple[str, ...]
    counts: tuple[int, ...]
    baseline: tuple[float | None, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    withheld: tuple[tuple[float | None, ...], ...] | None = None
    withheld_bytes: int = 0
    metrics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    majorities: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: evaluation examples whose right answer is choice i and that were answered j."""

    choices: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        many = len(self.choices)
        if len(self.counts) != many or any(len(row) != many for row in self.counts):
            raise EdgeAdaptError(f"a confusion matrix of {many} choices needs {many} rows of {many} counts")


def nullable(row: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    """Scores as JSON has them: null where there is none."""
    return [None if np.isnan(score) else float(score) for score in row]
