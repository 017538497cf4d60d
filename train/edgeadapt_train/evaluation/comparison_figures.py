"""Figures of several runs beside each other. Every row of a chart has its name above its mark, so that long ids fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgeadapt_train.evaluation.comparison import Method
from edgeadapt_train.evaluation.costs import Cost
from edgeadapt_train.evaluation.measures import MEASURES
from edgeadapt_train.evaluation.runs import Role, StoredRun
from edgeadapt_train.evaluation.significance import Paired
from edgeadapt_train.evaluation.style import INK, SERIES, SOFT, blank

_ROW, _LETTERS = 0.44, 46  # inches of a row, and how many letters find room in it
_ROLES: Mapping[Role, str] = {"proposed": SERIES[0], "baseline": SERIES[1], "other": SOFT}


def bars(methods: Sequence[Method], values: Mapping[str, Mapping[str, float]], measure: str) -> Figure | None:
    """Mean of a measure over each method's seeds as a bar, every run as a dot; None where no run has it."""
    found = [
        (m, [values[run.run_id][measure] for run in m.runs.values() if measure in values[run.run_id]]) for m in methods
    ]
    rows = [(method, one) for method, one in found if one]
    if not rows:
        return None
    shown = [MEASURES[measure].shown(float(np.mean(one))) for _, one in rows]
    axes, figure = _rows([method.name for method, _ in rows], shown)
    for place, (method, one) in enumerate(rows):
        axes.barh(place, float(np.mean(one)), height=0.36, color=_ROLES[method.role], alpha=0.85)
        if len(one) > 1:
            axes.plot(one, [place] * len(one), "o", color=INK, markersize=3)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_xlabel(_label(measure))
    return figure


def final_scores(methods: Sequence[Method]) -> Figure:
    """Scores on the tasks at the end of the stream, of all seeds: box from quartile to quartile, every task a dot."""
    axes, figure = _rows([method.name for method in methods])
    rng = np.random.default_rng(0)
    for place, method in enumerate(methods):
        scores = np.array([score for run in method.runs.values() for score in run.final.values()])
        _box(axes, place, scores[~np.isnan(scores)], _ROLES[method.role])
        axes.plot(scores, place + rng.uniform(-0.13, 0.13, len(scores)), ".", color=INK, alpha=0.45, markersize=3)
    axes.set(xlabel="score on a task at the end of the stream", xlim=(-0.02, 1.02))
    return figure


def latency(costs: Sequence[tuple[str, Cost]]) -> Figure | None:
    """Times of the adapter and of the bare backbone beside it; None where nothing was timed."""
    timed = [(name, cost) for name, cost in costs if cost.samples and cost.bare]
    if not timed:
        return None
    axes, figure = _rows([row for name, cost in timed for row in (name, f"bare backbone beside it, {cost.phase}")])
    for number, (_, cost) in enumerate(timed):
        _box(axes, 2 * number, 1e3 * np.array(cost.samples), SERIES[0])
        _box(axes, 2 * number + 1, 1e3 * np.array(cost.bare), SOFT)
    axes.set_xlabel("milliseconds; whiskers at the 5th and the 95th percentile")
    return figure


def overhead(costs: Sequence[tuple[str, Cost]], emulated: bool) -> Figure | None:
    """Overhead over the bare backbone with its interval: of time, or of instructions on an emulated device."""
    rows = [(name, cost) for name, cost in costs if cost.emulated is emulated]
    if not rows:
        return None
    names, figures = [f"{name}, {cost.phase}" for name, cost in rows], [_interval(*cost.overhead) for _, cost in rows]
    axes, figure = _rows(names, figures)
    for place, (_, cost) in enumerate(rows):
        value, low, high = cost.overhead
        axes.barh(place, value, height=0.36, color=SERIES[0], alpha=0.85)
        axes.plot([low, high], [place, place], "-", color=INK, linewidth=1.4)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_xlabel("% more instructions than the bare backbone" if emulated else "% slower than the bare backbone")
    return figure


def differences(comparisons: Sequence[Paired]) -> Figure | None:
    """Mean paired differences with their intervals; None where there are none."""
    rows = [one for one in comparisons if one.difference is not None]
    if not rows:
        return None
    ps = ["" if one.wilcoxon_holm is None else f", p {one.wilcoxon_holm:.2g}" for one in rows]
    figures = [f"{one.n} {one.over}{p}" for one, p in zip(rows, ps, strict=True)]
    axes, figure = _rows([f"{one.first} − {one.second}" for one in rows], figures)
    for place, one in enumerate(rows):
        assert one.difference is not None
        colour = SERIES[0] if one.over == "tasks" else SERIES[1]
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [place, place], "-", color=colour, linewidth=2)
        axes.plot([one.difference], [place], "o" if one.over == "tasks" else "s", color=colour, markersize=5)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xlabel("difference: final score over tasks, primary metric over seeds")
    return figure


def retained(methods: Sequence[Method]) -> list[tuple[str, StoredRun]]:
    """Each method's first run: lines of several seeds of many methods cannot be told apart."""
    return [(method.name, next(iter(method.runs.values()))) for method in methods]


def _rows(names: Sequence[str], figures: Sequence[str] = ()) -> tuple[Axes, Figure]:
    """Axes with a row for each name, which stands above its mark, on the right of it the row's figure."""
    figure, axes = blank(0.75 + _ROW * len(names))
    axes.set_ylim(len(names) - 0.6, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    words: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 8}
    for place, (name, text) in enumerate(zip(names, figures or [""] * len(names), strict=True)):
        room = _LETTERS - len(text)
        shown = name if len(name) <= room else f"{name[: room // 2]}…{name[len(name) - room // 2 + 1 :]}"
        axes.annotate(shown, (0, place - 0.34), color=INK, **words)
        axes.annotate(text, (1, place - 0.34), color=SOFT, ha="right", **words)
    return axes, figure


def _box(axes: Axes, place: float, values: np.ndarray, colour: str) -> None:
    if not len(values):
        return
    axes.boxplot(
        values,
        positions=[place],
        orientation="horizontal",
        widths=0.36,
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.45, "edgecolor": colour},
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": colour},
        capprops={"color": colour},
    )


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} %" if low == high else f"{value:.2f} % [{low:.2f} {high:.2f}]"


def _label(measure: str) -> str:
    one = MEASURES[measure]
    way = "lower is better" if one.lower_is_better else "higher is better"
    return f"{one.title}{f' in {one.unit}' if one.unit else ''}; {way}"
