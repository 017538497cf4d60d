"""comparison.json and comparison.md out of the cells of `edgeadapt_train.compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.files import write_atomic
from edgeadapt_train.compare import METHODS, RATE_OF, REPORT, SEEDS, SELECTED, TASKS, Cell, Sizes

Cells = Mapping[str, Mapping[str, Any]]
# Student's t, 97.5 %, for n - 1 = 1 .. 4 degrees of freedom.
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
_RESAMPLES = 4_000


def write_report(out: Path, cells: Cells, rates: Mapping[str, float], sizes: Sizes) -> None:
    """Write both files. Cells that are missing are left out, and the text says how many are there."""
    value = summarise(cells, rates, sizes)
    write_atomic(out / f"{REPORT}.json", (json.dumps(value, indent=2) + "\n").encode())
    write_atomic(out / f"{REPORT}.md", markdown(value).encode())


def outcomes(cells: Cells, key: str, task: str, after: int) -> np.ndarray | None:
    """Right (1) or wrong (0) on each evaluation example, float64 [n], or None when the cell is missing."""
    for score in cells.get(key, {}).get("scores", ()):
        if (score["task"], score["after"], score["split"]) == (task, after, "evaluation"):
            return np.array([float(mark) for mark in score["outcome"]])
    return None


def alone(cells: Cells, method: str, task: str, rate: float) -> list[np.ndarray]:
    """Outcomes of a task learnt alone, a vector per seed."""
    found = []
    for seed in SEEDS:
        if task == TASKS[0]:
            value = outcomes(cells, Cell("sequence", method, TASKS, rate, seed).key, task, 0)
        else:
            value = outcomes(cells, Cell("select", method, (task,), rate, seed).key, task, 0)
        if value is not None:
            found.append(value)
    return found


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and t interval over seeds."""
    mean = float(np.mean(values)) if values else None
    half = _T[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": mean, "half_width_95": half, "seeds": [round(v, 4) for v in values]}


def share_interval(
    method: list[list[np.ndarray]], lora: list[list[np.ndarray]], untrained: list[np.ndarray]
) -> dict[str, float]:
    """(method - untrained) / (lora - untrained), summed over tasks above and below; lists are [task][seed][example].

    Bootstrap over seeds and examples; the examples drawn are the same for all three.
    """
    rng = np.random.default_rng(0)
    above, below = np.zeros(_RESAMPLES + 1), np.zeros(_RESAMPLES + 1)
    for ours, theirs, base in zip(method, lora, untrained, strict=True):
        rows = _draws(rng, len(base))
        start = rows @ base
        above += _drawn(rng, ours, rows) - start
        below += _drawn(rng, theirs, rows) - start
    shares = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    low, high = np.nanpercentile(shares[1:], [2.5, 97.5])
    return {"share": float(shares[0]), "low_95": float(low), "high_95": float(high)}


def _draws(rng: np.random.Generator, count: int) -> np.ndarray:
    """Weights [resamples + 1, count], rows sum to one: the first row is everything once, the others are resamples."""
    drawn = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    return np.concatenate((np.ones((1, count)), drawn)) / count


def _drawn(rng: np.random.Generator, runs: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Accuracy [resamples + 1] over resampled seeds and the given resampled examples."""
    per_seed = rows @ np.stack(runs).T
    return np.asarray((per_seed * _draws(rng, len(runs))).sum(axis=1))


def summarise(cells: Cells, rates: Mapping[str, float], sizes: Sizes) -> dict[str, Any]:
    """Everything that the comparison says, as plain JSON."""
    base_key = Cell("untrained", "none", TASKS, 0.0, 0).key
    untrained = {task: outcomes(cells, base_key, task, -1) for task in TASKS}
    known = {task: value for task, value in untrained.items() if value is not None}
    report: dict[str, Any] = {
        "command": f"python -m edgeadapt_train.compare --out results/road --steps {sizes.steps}",
        "sizes": asdict(sizes),
        "seeds": list(SEEDS),
        "cells": len(cells),
        "precision": sorted({str(cell["precision"]) for cell in cells.values()}),
        "rates": dict(rates),
        "untrained": {task: float(value.mean()) for task, value in known.items()},
        "selection": {
            key: next(s["accuracy"] for s in cell["scores"] if s["split"] == "validation")
            for key, cell in sorted(cells.items())
            if cell["stage"] == "select" and cell["seed"] == SEEDS[0]
        },
        "methods": {},
    }
    results: dict[str, dict[str, list[np.ndarray]]] = {}
    for method in METHODS:
        rate = rates[RATE_OF.get(method, method)]
        entry: dict[str, Any] = {"lr": rate, "alone": {}, "sequence": {}}
        if method in SELECTED:
            results[method] = {task: alone(cells, method, task, rate) for task in TASKS}
            entry["alone"] = {t: interval([float(v.mean()) for v in runs]) for t, runs in results[method].items()}
        keys = [Cell("sequence", method, TASKS, rate, seed).key for seed in SEEDS]
        rows = [
            (outcomes(cells, k, TASKS[0], 0), outcomes(cells, k, TASKS[0], 1), outcomes(cells, k, TASKS[1], 1))
            for k in keys
        ]
        whole = [
            (a.mean(), b.mean(), c.mean()) for a, b, c in rows if a is not None and b is not None and c is not None
        ]
        if whole:
            entry["sequence"] = {
                "first_after_first": interval([float(a) for a, _, _ in whole]),
                "first_after_second": interval([float(b) for _, b, _ in whole]),
                "second_after_second": interval([float(c) for _, _, c in whole]),
                "drop": interval([float(a - b) for a, b, _ in whole]),
            }
        done = [cells[k] for k in keys if k in cells]
        if done:
            entry["bytes"] = done[0]["bytes"]
        report["methods"][method] = entry
    report["shares"] = _shares(results, known)
    return report


def _shares(results: dict[str, dict[str, list[np.ndarray]]], untrained: dict[str, np.ndarray]) -> dict[str, Any]:
    shares: dict[str, Any] = {}
    for method in SELECTED[:-1]:
        tasks = [t for t in TASKS if t in untrained and results[method][t] and results["lora8"][t]]
        for name, chosen in [*((task, [task]) for task in tasks), ("both", tasks)]:
            if chosen and (name != "both" or len(tasks) == len(TASKS)):
                ours, lora = ([results[m][t] for t in chosen] for m in (method, "lora8"))
                shares.setdefault(method, {})[name] = share_interval(ours, lora, [untrained[t] for t in chosen])
    return shares


def markdown(value: Mapping[str, Any]) -> str:
    """The report as text."""
    sizes = value["sizes"]
    lines = [
        "# HIMALAYA and LoRA-8 on two tasks",
        "",
        f"Made by `{value['command']}` from {value['cells']} cells (`cells.jsonl`; starting it again goes on).",
        (
            f"SmolLM2-135M-Instruct in {', '.join(value['precision'])}; {sizes['steps']} steps of batch "
            f"{sizes['batch_size']} per task for every method; {sizes['evaluation']} evaluation examples per task; "
            f"seeds {', '.join(map(str, value['seeds']))}; the learning rate is the best of three by the mean accuracy "
            f"on {sizes['validation']} validation examples per task, one seed. Scores are of the stored form (3-bit "
            "atoms, int8 router; fp16 LoRA). Mean and 95 % t interval over seeds."
        ),
        "",
        "## Each task alone",
        "",
        "| method | lr | " + " | ".join(TASKS) + " | share of LoRA-8's gain (95 %) | deployed bytes |",
        "|---|---|" + "---|" * (len(TASKS) + 2),
        "| untrained | | " + " | ".join(_number(value["untrained"].get(task)) for task in TASKS) + " | | |",
    ]
    for method in SELECTED:
        entry = value["methods"][method]
        share = value["shares"].get(method, {}).get("both")
        shown = f"{share['share']:.2f} ({share['low_95']:.2f} to {share['high_95']:.2f})" if share else ""
        cells = " | ".join(_interval(entry["alone"].get(task)) for task in TASKS)
        size = f"{entry['bytes']['deployed']:,}" if "bytes" in entry else ""
        lines.append(f"| {method} | {entry['lr']:g} | {cells} | {shown} | {size} |")
    lines += ["", "Share per task:", ""]
    for method, parts in value["shares"].items():
        said = "; ".join(f"{n} {s['share']:.2f} ({s['low_95']:.2f} to {s['high_95']:.2f})" for n, s in parts.items())
        lines.append(f"- {method}: {said}")
    lines += [
        "",
        f"## In a row: {TASKS[0]}, then {TASKS[1]}",
        "",
        f"| method | {TASKS[0]} after it | {TASKS[0]} after both | drop | {TASKS[1]} after both |",
        "|---|---|---|---|---|",
    ]
    for method in METHODS:
        row = value["methods"][method]["sequence"]
        names = ("first_after_first", "first_after_second", "drop", "second_after_second")
        lines.append(f"| {method} | " + " | ".join(_interval(row.get(name)) for name in names) + " |")
    lines += [
        "",
        (
            "Task ids are given. `himalaya` protects (what past tasks rely on is frozen); `himalaya-ewc` is the same "
            "with EWC instead, `himalaya-unprotected` with nothing held."
        ),
    ]
    lines += ["", "## Learning rates tried (validation accuracy, first seed)", ""]
    lines += [f"- {key.removeprefix('select/')}: {score:.3f}" for key, score in value["selection"].items()]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(value: Mapping[str, Any] | None) -> str:
    if not value or value["mean"] is None:
        return ""
    half = value["half_width_95"]
    return f"{value['mean']:.3f}" + ("" if half is None else f" ± {half:.3f}")
