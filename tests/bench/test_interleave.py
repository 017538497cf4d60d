"""Taking turns: order, warm-up, deadlines, and who takes part."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.effort import THOROUGH, Effort, bounded
from edgeadapt_bench.inputs import prompt_ids
from edgeadapt_bench.turns import Turn, affordable, interleave, order

PLAN = Effort(samples=12, seconds=0.0, most=100, window=2, warm_up_rounds=20)


class Clockwork:
    """A worker whose every turn takes a known time; `turns` is shared, to see the order."""

    def __init__(self, name: str, turns: list[str], samples: list[float] | None = None, pause: float = 0.0) -> None:
        self.name = name
        self.opened: dict[str, Any] = {}
        self._turns = turns
        self._samples = samples
        self._pause = pause
        self._asked = 0

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self._turns.append(self.name)
        self._asked += 1
        time.sleep(self._pause)
        value = 1.0 if self._samples is None else self._samples[min(self._asked, len(self._samples)) - 1]
        return {"seconds": value}


def ask(worker: Any) -> Turn | None:
    seconds = worker.call("prefill")["seconds"]
    return None if seconds < 0 else Turn((seconds,), (seconds / 2,))


def test_everyone_has_every_turn_and_every_neighbour() -> None:
    names = ["a", "b", "c"]
    seen = [order(names, turn) for turn in range(6)]
    assert all(sorted(turn) == names for turn in seen)
    assert Counter(turn[0] for turn in seen) == {"a": 2, "b": 2, "c": 2}
    assert {(one, two) for turn in seen for one, two in pairwise(turn)} == {
        (one, two) for one in names for two in names if one != two
    }


def test_rounds_hold_one_turn_of_each() -> None:
    turns: list[str] = []
    workers = {name: Clockwork(name, turns) for name in "ab"}
    taken = interleave(workers, ask, PLAN, end=None)
    assert {name: len(samples) for name, samples in taken.items()} == {"a": 12, "b": 12}
    assert all(set(turns[i : i + 2]) == {"a", "b"} for i in range(0, len(turns), 2))


def test_samples_of_the_warm_up_are_not_kept() -> None:
    turns: list[str] = []
    cooling = Clockwork("a", turns, [9.0, 8.0, 5.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    taken = interleave({"a": cooling}, ask, PLAN, end=None)
    assert taken["a"] == [Turn((1.0,), (0.5,))] * 12


def test_a_warm_up_that_never_settles_ends_at_its_cap() -> None:
    turns: list[str] = []
    restless = Clockwork("a", turns, [float(2**i) for i in range(200)])
    taken = interleave({"a": restless}, ask, PLAN, end=None)
    assert len(turns) == PLAN.warm_up_rounds + 12
    assert taken["a"][0].wall == (2.0**PLAN.warm_up_rounds,)


def test_who_cannot_take_part_is_left_out() -> None:
    turns: list[str] = []
    workers = {"a": Clockwork("a", turns), "b": Clockwork("b", turns, [-1.0])}
    assert set(interleave(workers, ask, PLAN, end=None)) == {"a"}
    assert turns.count("b") == 1
    assert interleave({"b": Clockwork("b", turns, [-1.0])}, ask, PLAN, end=None) == {}


def test_the_deadline_ends_a_phase_and_drops_the_broken_round() -> None:
    turns: list[str] = []
    workers = {name: Clockwork(name, turns, pause=0.02) for name in "abc"}
    began = time.monotonic()
    taken = interleave(workers, ask, Effort(samples=1000, seconds=100), end=began + 0.6)
    assert time.monotonic() - began < 0.75
    lengths = {len(samples) for samples in taken.values()}
    assert len(lengths) == 1
    assert 3 <= lengths.pop() <= 10


def test_a_phase_that_begins_too_late_has_no_samples() -> None:
    turns: list[str] = []
    assert interleave({"a": Clockwork("a", turns)}, ask, PLAN, end=time.monotonic() - 1) == {}
    assert turns == []


def test_long_phases_go_on_for_their_seconds() -> None:
    turns: list[str] = []
    plan = Effort(samples=2, seconds=0.2, most=1000, window=1, warm_up_rounds=1)
    began = time.monotonic()
    taken = interleave({"a": Clockwork("a", turns, pause=0.005)}, ask, plan, end=None)
    assert 0.2 <= time.monotonic() - began < 0.4
    assert len(taken["a"]) > 10


def test_a_model_that_opens_slowly_is_opened_less_often() -> None:
    plan = Effort(openings=5, total_seconds=33.0)
    assert (affordable(plan, 1.0).openings, affordable(plan, 1.0).total_seconds) == (5, 32.0)
    assert (affordable(plan, 5.0).openings, affordable(plan, 5.0).total_seconds) == (3, 28.0)
    assert (affordable(plan, 20.0).openings, affordable(plan, 20.0).total_seconds) == (1, 13.0)
    assert affordable(plan, 50.0).total_seconds == 1.0
    assert affordable(Effort(openings=5), 1e3).openings == 5


def test_openings_share_the_totals() -> None:
    one = Effort(samples=30, openings=4, seconds=10.0, most=300, total_seconds=40.0).per_opening()
    assert (one.samples, one.seconds, one.most, one.openings, one.total_seconds) == (8, 2.5, 75, 1, 10.0)


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"seconds": -1.0}, {"agreement": 1.0}, {"most": 0}, {"window": 0}, {"openings": 0}]
)
def test_efforts_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(EdgeAdaptError):
        Effort(**wrong)


def test_the_prompt_is_the_same_for_everyone() -> None:
    assert prompt_ids(10, 300) == prompt_ids(10, 300)
    assert prompt_ids(10, 300, seed=1) != prompt_ids(10, 300)
    assert len(prompt_ids(10, 300)) == 10
    assert max(prompt_ids(10, 5)) < 5


def test_as_thorough_as_the_minutes_allow() -> None:
    found = bounded(4)
    assert (found.total_seconds, found.openings, found.samples) == (230.0, THOROUGH.openings, THOROUGH.samples)
    with pytest.raises(EdgeAdaptError, match=r"--minutes 0\.5: give at least 1, or --quick"):
        bounded(0.5)
