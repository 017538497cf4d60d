"""The stored comparison: what it runs, how it survives a kill, and its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.compare import (
    CELLS,
    METHODS,
    RATES,
    SEEDS,
    SELECTED,
    TASKS,
    Cell,
    Sizes,
    append,
    best_rates,
    final_cells,
    read_cells,
    selection_cells,
)
from edgeadapt_train.comparison_report import interval, share_interval, summarise, write_report

SIZES = Sizes()
ACCURACY = {
    "none": 0.5,
    "himalaya": 0.8,
    "himalaya-ewc": 0.8,
    "himalaya-unprotected": 0.8,
    "himalaya-literal": 0.5,
    "lora8": 0.9,
}


def outcome(accuracy: float, count: int = 100) -> str:
    return "1" * round(accuracy * count) + "0" * (count - round(accuracy * count))


def record(cell: Cell) -> dict[str, Any]:
    """A finished cell whose accuracy is the method's own; the middle rate validates best; what is not held drops."""
    scores: list[dict[str, Any]] = []
    after = -1 if cell.method == "none" else None
    for index in range(len(cell.tasks)):
        for seen in range(index + 1) if after is None else [index]:
            value = ACCURACY[cell.method]
            if seen < index and cell.method in ("lora8", "himalaya-unprotected"):
                value -= 0.2
            split = {"task": cell.tasks[seen], "after": index if after is None else after}
            scores.append({**split, "split": "evaluation", "accuracy": value, "outcome": outcome(value)})
            if cell.stage == "select":
                best = cell.lr == sorted(RATES[cell.method])[1]
                scores.append({**split, "split": "validation", "accuracy": 0.7 + 0.1 * best, "outcome": ""})
    return {"key": cell.key, **cell.__dict__, "precision": "fp32", "scores": scores, "bytes": {"deployed": 1000}}


def everything() -> dict[str, dict[str, Any]]:
    cells = {cell.key: record(cell) for cell in selection_cells()}
    return cells | {cell.key: record(cell) for cell in final_cells(best_rates(cells))}


def test_every_method_meets_every_task_at_three_rates_before_any_is_chosen() -> None:
    cells = selection_cells()
    assert len({cell.key for cell in cells}) == len(cells) == 1 + 3 * len(SELECTED) * len(TASKS)
    for method in SELECTED:
        for task in TASKS:
            rates = {cell.lr for cell in cells if (cell.method, cell.tasks) == (method, (task,))}
            assert rates == set(RATES[method])
            assert len(rates) == 3


def test_the_best_rate_is_the_one_that_validates_best() -> None:
    cells = {cell.key: record(cell) for cell in selection_cells()}
    assert best_rates(cells) == {method: sorted(RATES[method])[1] for method in SELECTED}


def test_finished_cells_are_kept_and_a_line_that_a_kill_cut_runs_again(tmp_path: Path) -> None:
    append(tmp_path, {"sizes": SIZES.__dict__})
    first, second, third = selection_cells()[:3]
    append(tmp_path, record(first))
    with (tmp_path / CELLS).open("a") as sink:
        sink.write(json.dumps(record(second))[:50])
    append(tmp_path, record(third))
    assert set(read_cells(tmp_path, SIZES)) == {first.key, third.key}
    with pytest.raises(EdgeAdaptError, match="made with"):
        read_cells(tmp_path, Sizes(steps=7))


def test_the_share_is_the_ratio_of_the_gains_and_lies_in_its_interval() -> None:
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.5).astype(float)

    def better(share: float) -> np.ndarray:
        return np.where(rng.random(400) < share, 1.0, base)

    ours, lora = [better(0.64) for _ in SEEDS], [better(0.8) for _ in SEEDS]
    found = share_interval([ours], [lora], [base])
    gains = [np.mean([run.mean() for run in runs]) - base.mean() for runs in (ours, lora)]
    assert found["share"] == pytest.approx(gains[0] / gains[1])
    assert found["low_95"] < found["share"] < found["high_95"]
    assert found["high_95"] - found["low_95"] < 0.4


def test_the_interval_is_students() -> None:
    found = interval([0.8, 0.9, 1.0])
    assert found["mean"] == pytest.approx(0.9)
    assert found["half_width_95"] == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert interval([0.8])["half_width_95"] is None


def test_the_report_says_what_the_cells_hold(tmp_path: Path) -> None:
    cells = everything()
    value = summarise(cells, best_rates(cells), SIZES)
    assert value["shares"]["himalaya"]["both"]["share"] == pytest.approx(0.75)
    assert value["shares"]["himalaya-literal"]["both"]["share"] == pytest.approx(0)
    drops = {method: value["methods"][method]["sequence"]["drop"]["mean"] for method in METHODS}
    assert drops["himalaya"] == drops["himalaya-ewc"] == 0
    assert drops["lora8"] == drops["himalaya-unprotected"] == pytest.approx(0.2)
    write_report(tmp_path, cells, best_rates(cells), SIZES)
    assert json.loads((tmp_path / "comparison.json").read_text()) == value
    text = (tmp_path / "comparison.md").read_text()
    assert "| himalaya | 0.01 | 0.800 ± 0.000 | 0.800 ± 0.000 | 0.75 (" in text
    assert "python -m edgeadapt_train.compare" in text


def test_a_report_of_an_unfinished_campaign_leaves_out_what_is_missing(tmp_path: Path) -> None:
    cells = {key: value for key, value in everything().items() if value["stage"] != "sequence"}
    write_report(tmp_path, cells, best_rates(cells), SIZES)
    text = (tmp_path / "comparison.md").read_text()
    assert "| lora8 |  |  |  |  |" in text
