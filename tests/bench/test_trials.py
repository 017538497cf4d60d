"""Comparisons whose answer is known: what is counted, that the slow worker is slow, and that a series continues."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import slowed, trials
from edgeadapt_bench.statistics import Ratio
from tests.exported import Exported

SHORT = trials.Plan(openings=2, rounds=2, prompt=4, output=1)


class Clock:
    """A decoder whose step takes 3 ms, and knows how long its last one took."""

    length = 4
    took = 0.0

    def rewind(self, length: int) -> None:
        self.length = length

    def step(self, token: int) -> np.ndarray:
        began = time.perf_counter()
        time.sleep(0.003)
        self.took = time.perf_counter() - began
        return np.array([token])


def known(same: tuple[float, float], slower: tuple[float, float]) -> dict[str, Any]:
    """A trial with these intervals, by both clocks."""
    ratios = [Ratio(8, 320, sum(ends) / 2, *ends).to_json() for ends in (same, slower)]
    both = [{"wall": one, "cpu": one} for one in ratios]
    return {"number": 0, "load_average": 1.0, "seconds_per_token": 0.001, "again": both[0], "slowed": both[1]}


def test_a_slowed_step_is_longer_by_its_share() -> None:
    clock = Clock()
    subject: Any = slowed._Slowed(clock, 0.5)  # type: ignore[arg-type]
    began = time.perf_counter()
    assert subject.step(7)[0] == 7
    assert time.perf_counter() - began >= 1.5 * clock.took
    subject.rewind(2)
    assert subject.length == 2


def test_what_is_counted() -> None:
    found = trials.summary([known((0.9, 1.1), (1.01, 1.03)), known((1.01, 1.02), (0.99, 1.01))])
    assert found["trials"] == 2
    for clock in trials.CLOCKS:
        assert found[clock]["same_contains_1"] == 1
        assert found[clock]["slowed_above_1"] == 1
        assert found[clock]["slowed_contains_truth"] == 1
        assert found[clock]["slowed_median"] == pytest.approx(1.01)


def test_a_series_continues_and_refuses_what_is_not_its_own(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "Plan", lambda openings: replace(SHORT, openings=openings))
    kept, table = tmp_path / "trials.json", tmp_path / "trials.md"
    for count in (1, 2):
        trials.main(exported(), kept, table, trials=count, openings=2)
        document = json.loads(kept.read_text())
        assert [one["number"] for one in document["trials"]] == list(range(count))
    assert document["trials"][1]["slowed"]["wall"]["openings"] == SHORT.openings
    assert "2 trials of 2 openings with 2 rounds" in table.read_text()
    with pytest.raises(EdgeAdaptError, match="trials of another plan or bundle"):
        trials.main(exported("himalaya", "int4"), kept, trials=3, openings=2)
