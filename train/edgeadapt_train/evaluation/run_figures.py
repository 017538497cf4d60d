"""Figures of one run: its learning curves, retained accuracy, forgetting and confusion matrices.

forgetting_ij = max_{l<=i} R_lj - R_ij          what task j had been, and is no longer, after task i
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edgeadapt.scores import Confusion
from edgeadapt_train.continual.metrics import summary
from edgeadapt_train.evaluation.runs import StoredRun
from edgeadapt_train.evaluation.style import (
    DIVERGING,
    INK,
    LINE,
    SEQUENTIAL,
    SERIES,
    SOFT,
    WIDTH,
    blank,
    on_cell,
    series,
)

FEW = 10  # tasks, or choices, whose cells have their figures written in them
MANY = 24  # choices, above which cells have no names and the matrix is a picture
_SMOOTH = 0.9  # of a loss, what comes from the steps before


def learning_curves(run: StoredRun) -> Figure | None:
    """Loss per step, and its running mean within each task; None without steps."""
    if not run.steps:
        return None
    figure, axes = blank(2.7)
    numbers, losses = [step.number for step in run.steps], [step.loss for step in run.steps]
    axes.plot(numbers, losses, ".", color=SOFT, alpha=0.35, markersize=2.5, label="step")
    starts = [i for i, step in enumerate(run.steps) if i == 0 or step.task != run.steps[i - 1].task]
    for first, last in zip(starts, [*starts[1:], len(losses)], strict=True):
        label = "running mean within a task" if first == 0 else None
        axes.plot(numbers[first:last], _smoothed(losses[first:last]), color=SERIES[0], label=label)
        if first:
            axes.axvline(numbers[first] - 0.5, color=LINE, linewidth=1)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="step; a line where a task begins", ylabel="loss per target token", ylim=(0, None))
    axes.legend(loc="upper right")
    return figure


def retained_accuracy(runs: Sequence[tuple[str, StoredRun]]) -> Figure:
    """Mean score of the tasks so far after each of them, of each run by its name here; dotted, task ids withheld."""
    figure, axes = blank(2.9 + 0.19 * len(runs))
    for number, (name, run) in enumerate(runs):
        look = series(number)
        found = summary(run.scores.matrix, run.scores.baseline)
        places = np.arange(1, len(found.retained) + 1)
        axes.plot(places, found.retained, **look, label=name)
        if run.scores.withheld is not None and len(runs) == 1:
            withheld = summary(run.scores.withheld, run.scores.baseline).retained
            axes.plot(places, withheld, **{**look, "linestyle": ":"}, markerfacecolor="none", label="task ids withheld")
    axes.set(xlabel="tasks learnt", ylabel="mean score of the tasks so far", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(runs) > 1 or run.scores.withheld is not None:
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def forgetting_heatmap(run: StoredRun) -> Figure | None:
    """Forgetting of every task after every later one; None for a single task."""
    matrix, tasks = run.scores.matrix, run.scores.tasks
    many = len(tasks)
    if many < 2:
        return None
    best = np.fmax.accumulate(np.where(np.tri(many, dtype=bool), matrix, np.nan), axis=0)
    forgotten = np.where(np.tri(many, dtype=bool), best - matrix, np.nan).T  # a row per task
    figure, axes = blank(1.3 + 0.19 * many if many > FEW else 1.3 + 0.3 * many)
    limit = max(0.05, float(np.nanmax(np.abs(forgotten), initial=0.0)))
    drawn = axes.pcolormesh(forgotten, cmap=DIVERGING, vmin=-limit, vmax=limit, edgecolor="face", linewidth=0.2)
    _cells(axes, [str(number) for number in range(1, many + 1)], tasks)
    axes.set_xlabel("tasks learnt")
    if many <= FEW:
        for (row, column), value in np.ndenumerate(forgotten):
            if not np.isnan(value):
                axes.text(
                    column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color="#010101", fontsize=7
                )
    bar = figure.colorbar(drawn, ax=axes, location="top", shrink=0.7, aspect=30)
    bar.set_label("best score so far − score now")
    bar.outline.set_visible(False)
    return figure


def confusion_matrices(run: StoredRun) -> list[tuple[str, Figure]]:
    """Of each classification task, at the stream's end."""
    return [(task, _confusion(task, found)) for task, found in run.confusion.items()]


def _confusion(task: str, found: Confusion) -> Figure:
    counts = np.array(found.counts, dtype=np.float64)
    many = len(found.choices)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = blank(WIDTH if many > MANY else 1.5 + min(0.34 * many, 3.6))
    drawn = axes.pcolormesh(shares, cmap=SEQUENTIAL, vmin=0, vmax=1, edgecolor="face", linewidth=0.2)
    drawn.set_rasterized(many > MANY)
    names = [choice if len(choice) <= 18 else choice[:17] + "…" for choice in found.choices]
    _cells(axes, names if many <= MANY else [], names if many <= MANY else [])
    axes.tick_params(axis="x", labelrotation=0 if many <= 3 else 90)
    axes.set(xlabel="answered", ylabel="right answer")
    if many <= FEW:
        for (row, column), count in np.ndenumerate(counts):
            colour = on_cell(shares[row, column])
            axes.text(column + 0.5, row + 0.5, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label("share of the row")
    bar.outline.set_visible(False)
    axes.set_title(task, color=INK)
    return figure


def _cells(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Names beside a matrix whose first row is on top."""
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    if len(columns) > MANY // 2:
        axes.set_xticks(np.arange(0, len(columns), 4) + 0.5, columns[::4])


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """Exponential running mean, without the bias towards its start."""
    found, mean = np.empty(len(values)), 0.0
    for i, value in enumerate(values):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * value
        found[i] = mean / (1 - _SMOOTH ** (i + 1))
    return found
