"""A stream's metrics by the names under which they are stored: in metrics.json, and by trackers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeadapt_train.continual.metrics import summary

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

PRIMARY = "retained_accuracy_auc"


def named(matrix: ArrayLike, baseline: ArrayLike) -> dict[str, float]:
    """All metrics of R [T, T] and b [T] by name, in the order of metrics.py; without those that are undefined."""
    found = summary(matrix, baseline)
    values = {
        PRIMARY: found.auc,
        "relative_auc": found.relative_auc,
        "average_forgetting": found.forgetting,
        "backward_transfer": found.bwt,
        "forward_transfer": found.fwt,
        "final_average_accuracy": found.final,
    }
    return {name: float(value) for name, value in values.items() if not math.isnan(value)}
