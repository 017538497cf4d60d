"""What an evaluation writes.

    RESULTS/RUN/metrics.json                      the run's measures, its tasks one by one, its cost
    RESULTS/RUN/{run_id}_{topic}.pdf              learning_curves retained_accuracy forgetting_heatmap
                                                  confusion_matrices
    RESULTS/comparison/aggregated_metrics.json    {primary_metric, metrics, best_proposed, best_baseline, gap}
    RESULTS/comparison/significance.json          every paired test, with n and corrected p
    RESULTS/comparison/comparison_{topic}.pdf     retained_accuracy primary_metric average_forgetting final_scores
                                                  differences adapter_bytes latency_overhead instruction_overhead
                                                  latency memory
    RESULTS/comparison/comparison.html            all of it as one page
What there is nothing to draw of is left out, and said.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import storage_errors, write_atomic, write_json
from edgeadapt.scores import nullable
from edgeadapt_train.continual.metrics import summary
from edgeadapt_train.evaluation import comparison_figures, costs, run_figures
from edgeadapt_train.evaluation.comparison import Comparison, compared, methods, paired_tests, streams_differ
from edgeadapt_train.evaluation.html import Section, to_html
from edgeadapt_train.evaluation.measures import MEASURES, STREAM, measured
from edgeadapt_train.evaluation.remote import RemoteRuns, open_api
from edgeadapt_train.evaluation.request import Request
from edgeadapt_train.evaluation.runs import LocalRuns, Source, StoredRun
from edgeadapt_train.evaluation.significance import Paired
from edgeadapt_train.evaluation.style import Plot, laid_out, styled, svg, write_pdf

COMPARISON = "comparison"


def evaluate(words: Sequence[str]) -> list[Path]:
    """The evaluation that the words ask for; the files that it wrote, in order. Raises EdgeAdaptError."""
    request = Request.parse(words)
    source: Source = (
        RemoteRuns(open_api(), request.project, request.entity)
        if request.source == "wandb"
        else LocalRuns(request.results_dir)
    )
    return write(request, source)


def write(request: Request, source: Source) -> list[Path]:
    """The same from any source of runs."""
    notes: list[str] = []
    runs = [_with_cost(source.run(run_id), request, notes) for run_id in request.run_ids]
    values = {run.run_id: measured(run) for run in runs}
    found = compared(runs, values, request.primary_metric)
    notes += _remarks(runs, values, found)
    tests = paired_tests(methods(runs), values, request.primary_metric)
    for note in notes:
        print(note, file=sys.stderr)
    folder = request.results_dir / COMPARISON
    with storage_errors(request.results_dir), styled():
        written, sections = [], []
        aside, plots = _comparison(runs, values, request.primary_metric, tests, folder)
        for run in runs:
            files, drawn = _run(run, values[run.run_id], request.results_dir / run.run_id)
            written += files
            sections.append(Section.of_run(run, drawn))
        first = Section.of_comparison(runs, values, request.primary_metric, tests, plots)
        write_json(folder / "aggregated_metrics.json", found.to_json())
        write_json(folder / "significance.json", [one.to_json() for one in tests])
        write_atomic(folder / "comparison.html", to_html(found, [first, *sections], notes).encode())
    written += [folder / "aggregated_metrics.json", folder / "significance.json", *aside, folder / "comparison.html"]
    return written


def metrics_json(run: StoredRun, values: Mapping[str, float]) -> dict[str, Any]:
    """metrics.json of a run. A measure that is undefined, say for a single task, is null."""
    scores = run.scores
    found = summary(scores.matrix, scores.baseline)
    own = np.diagonal(scores.matrix)
    tasks = []
    for j, name in enumerate(scores.tasks):
        column = scores.matrix[j:, j]
        best = float(np.nanmax(column)) if not np.isnan(column).all() else None
        numbers = nullable([scores.baseline[j], own[j], scores.matrix[-1, j]])
        tasks.append(
            {
                "task": name,
                **{key: of[j] for key, of in (("metric", scores.metrics), ("language", scores.languages),
                                              ("topic", scores.topics), ("majority", scores.majorities)) if of},
                "examples": scores.counts[j],
                **dict(zip(("before_training", "learnt", "final"), numbers, strict=True)),
                "best": best,
            }
        )  # fmt: skip
    return {
        "run_id": run.run_id,
        "role": run.role,
        "method": _method(run),
        "seed": run.seed,
        "metrics": {name: values.get(name) for name in MEASURES if name in values or name in STREAM},
        "retained_accuracy": nullable(found.retained),
        "tasks": tasks,
        "cost": None
        if run.cost is None
        else {k: v for k, v in asdict(run.cost).items() if k not in ("samples", "bare")},
    }


def _method(run: StoredRun) -> str | None:
    adapter = run.config.get("adapter")
    found = adapter.get("method") if isinstance(adapter, Mapping) else None
    return None if found is None else str(found)


def _with_cost(run: StoredRun, request: Request, notes: list[str]) -> StoredRun:
    """The run with what its bundle costs. A benchmark that was named must say so; one that was found need not."""
    named = request.bench.get(run.run_id)
    if named is not None:
        return replace(run, cost=costs.cost(named, run.run_id))
    found = costs.beside(request.results_dir / run.run_id)
    if found is None:
        return run
    try:
        return replace(run, cost=costs.cost(found, run.run_id))
    except EdgeAdaptError as error:
        notes.append(f"{run.run_id}: its benchmark is left out: {error}")
        return run


def _remarks(runs: Sequence[StoredRun], values: Mapping[str, Mapping[str, float]], found: Comparison) -> list[str]:
    """What a reader must know, and what there is nothing of."""
    notes = []
    if streams_differ(runs):
        notes.append("the runs learnt other tasks, or in another order: their areas and means are of different streams")
    if undefined := [run.run_id for run in runs if found.primary_metric not in values[run.run_id]]:
        notes.append(f"{found.primary_metric} is not known of: {', '.join(undefined)}")
    for role, best in (("proposed", found.best_proposed), ("baseline", found.best_baseline)):
        if best is None:
            words = "proposed" if role == "proposed" else "comparative or baseline"
            notes.append(f"no best {role} run: none of the ids with {words} in them has {found.primary_metric}")
    if unmeasured := [run.run_id for run in runs if run.cost is None]:
        notes.append(f"no bench rows, hence no latency or memory, of: {', '.join(unmeasured)}")
    return notes


def _run(run: StoredRun, values: Mapping[str, float], folder: Path) -> tuple[list[Path], list[Plot]]:
    """metrics.json and the figures of a run."""
    confusion = run_figures.confusion_matrices(run)
    drawn: list[tuple[str, str, str, list[tuple[str, Figure]]]] = [
        ("learning_curves", "Learning curves", "", _one(run_figures.learning_curves(run))),
        ("retained_accuracy", "Retained accuracy", "", _one(run_figures.retained_accuracy([("task ids given", run)]))),
        ("forgetting_heatmap", "Forgetting", "A row per task.", _one(run_figures.forgetting_heatmap(run))),
        ("confusion_matrices", "Confusion", "At the end of the stream.", confusion),
    ]
    write_json(folder / "metrics.json", metrics_json(run, values))
    files, plots = [folder / "metrics.json"], []
    for topic, title, says, figures in drawn:
        if not figures:
            print(f"{run.run_id}: nothing to draw as {topic}", file=sys.stderr)
            continue
        files.append(folder / f"{run.run_id}_{topic}.pdf")
        write_pdf(files[-1], [laid_out(figure) for _, figure in figures])
        for number, (name, figure) in enumerate(figures):
            words = f"{title}: {name}" if name else title
            plots.append(Plot(words, says, svg(figure, f"{words}, {run.run_id}", _name(run.run_id, topic, number))))
    return files, plots


def _comparison(
    runs: Sequence[StoredRun],
    values: Mapping[str, Mapping[str, float]],
    primary: str,
    tests: Sequence[Paired],
    folder: Path,
) -> tuple[list[Path], list[Plot]]:
    """The figures of all runs together."""
    found = methods(runs)
    known = [(run.run_id, run.cost) for run in runs if run.cost is not None]
    several = any(len(method.runs) > 1 for method in found)
    seeds = " Dots are seeds." if several else ""
    draw = comparison_figures
    drawn: list[tuple[str, str, str, Figure | None]] = [
        (
            "retained_accuracy",
            "Retained accuracy",
            "Of each method's first run." if several else "",
            run_figures.retained_accuracy(draw.retained(found)),
        ),
        ("primary_metric", MEASURES[primary].title, f"Mean over seeds.{seeds}", draw.bars(found, values, primary)),
        (
            "average_forgetting",
            "Average forgetting",
            "Below zero: tasks went on getting better after they were learnt.",
            draw.bars(found, values, "average_forgetting"),
        ),
        ("final_scores", "Final scores", "Every dot is a task.", draw.final_scores(found)),
        (
            "differences",
            "Paired differences",
            "Means with 95 % bootstrap intervals; p of the signed-rank test, after Holm.",
            draw.differences(tests),
        ),
        ("adapter_bytes", "Adapter, as shipped", "", draw.bars(found, values, "adapter_bytes")),
        ("latency_overhead", "Latency over the bare backbone", "", draw.overhead(known, emulated=False)),
        (
            "instruction_overhead",
            "Instructions over the bare backbone",
            "Counted on an emulated processor; a count is not a time.",
            draw.overhead(known, emulated=True),
        ),
        ("latency", "Latency", "", draw.latency(known)),
        ("memory", "Peak memory", "", draw.bars(found, values, "peak_memory")),
    ]
    files, plots = [], []
    for topic, title, says, figure in drawn:
        if figure is None:
            continue
        files.append(folder / f"comparison_{topic}.pdf")
        write_pdf(files[-1], [laid_out(figure)])
        plots.append(Plot(title, says, svg(figure, title, _name(COMPARISON, topic))))
    return files, plots


def _one(figure: Figure | None) -> list[tuple[str, Figure]]:
    return [] if figure is None else [("", figure)]


def _name(*parts: str | int) -> str:
    """A name for the ids of a drawing."""
    return "".join(c if c.isalnum() else "-" for c in "-".join(map(str, parts)))
