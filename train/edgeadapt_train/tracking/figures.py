"""What a tracker is told of a run: beside every step's record, how the stream goes after each task, and its end.

The summary holds all that scores.json and confusion.json do, so that a run can be evaluated from a tracker alone
(evaluation/remote.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeadapt.records import encode
from edgeadapt.scores import Confusion, Scores
from edgeadapt_train.continual.named import named

if TYPE_CHECKING:
    from numpy.typing import NDArray


def after_task(tasks: Sequence[str], matrix: NDArray[np.float64], row: int) -> dict[str, float]:
    """Scores on the tasks so far, and their mean, the retained accuracy."""
    scores = {f"score/{task}": float(score) for task, score in zip(tasks[: row + 1], matrix[row], strict=False)}
    return {
        "tasks_learnt": row + 1,
        "retained_accuracy": float(np.mean(matrix[row, : row + 1])),
        **{name: score for name, score in scores.items() if not np.isnan(score)},
    }


def at_the_end(scores: Scores, confusion: Mapping[str, Confusion], adapter_bytes: int) -> dict[str, Any]:
    """The metrics by name, and what they were computed from."""
    return {
        **named(scores.matrix, scores.baseline),
        "scores": scores.to_json(),
        "confusion": encode(confusion),
        "adapter_bytes": adapter_bytes,
    }
