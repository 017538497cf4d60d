"""Objectives for tests of the search: closed formulas in place of training, named so that other processes find them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

from edgeadapt_train.configuration import RunSettings
from edgeadapt_train.search import Failed, Report


def hill(settings: RunSettings, report: Report) -> float:
    """Highest, at 1, where lr = 1e-3 and the rank is 4; approached task by task."""
    rank = settings.adapter["rank"]
    value = 1 - abs(math.log10(settings.loop.lr) + 3) / 4 - (rank != 4) / 4
    for task in range(4):
        report(task, value - (3 - task) / 100)
    return value


def cliff(settings: RunSettings, report: Report) -> float:
    """Training that is lost with a large lr."""
    report(0, 0.5)
    if settings.loop.lr > 1e-3:
        raise Failed("the loss is not a number")
    return settings.loop.lr


def mortal(settings: RunSettings, report: Report) -> float:
    """`hill`, in a process that dies without a word when the file `doomed` is there."""
    doomed = settings.results_dir.parents[1] / "doomed"
    if doomed.exists():
        doomed.unlink()
        os.kill(os.getpid(), 9)
    return hill(settings, report)


def noted(seen: list[RunSettings], objective: Callable[[RunSettings, Report], float]) -> Callable[..., float]:
    """The same objective, which notes the settings that it was given."""

    def noting(settings: RunSettings, report: Report) -> float:
        seen.append(settings)
        return objective(settings, report)

    return noting
