"""Taking turns: what is compared runs in one round, one after the other, again and again.

round k      every variant once, in an order that rotates and turns round from one round to the next
turn         what one variant does in one round; two variants' turns in one round are a pair
phase        warm-up rounds until two windows agree or a cap, then measured rounds (effort.py)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeadapt_bench import statistics
from edgeadapt_bench.devices.base import Worker
from edgeadapt_bench.effort import Effort


@dataclass(frozen=True)
class Turn:
    """Samples of one turn in seconds: by the wall clock, and of the process's own computing."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


Turns = list[Turn]


def affordable(plan: Effort, opening_seconds: float) -> Effort:
    """What is left of a plan after the first opening took `opening_seconds`: where the whole run is bounded, the rest
    of that time, and no more openings than leave half of it for measuring."""
    if plan.total_seconds is None:
        return plan
    left = max(plan.total_seconds - opening_seconds, 1.0)
    openings = min(plan.openings, 1 + int(left / (2 * opening_seconds)))
    return replace(plan, total_seconds=left, openings=openings)


def interleave(
    workers: Mapping[str, Worker], ask: Callable[[Worker], Turn | None], plan: Effort, end: float | None
) -> dict[str, Turns]:
    """Let the workers take turns until the plan is fulfilled, or the monotonic clock passes `end`.

    Warm-up may take a third of the time until `end`. A round that `end` cuts short is dropped. If not one round could
    be measured, those of the warm-up are what there is: a few are better than none, and the row has their number.

    Returns:
        For every worker that takes part in this phase, its turns; those of one index are one round.
    """

    def late(end: float | None) -> bool:
        return end is not None and time.monotonic() >= end

    def turns(number: int, names: Sequence[str]) -> dict[str, Turn] | None:
        taken: dict[str, Turn] = {}
        for name in order(names, number):
            if late(end):
                return None
            turn = ask(workers[name])
            if turn is not None:
                taken[name] = turn
        return taken

    warm_up: list[dict[str, Turn]] = []
    begin = time.monotonic()
    warm = None if end is None else begin + (end - begin) / 3
    while len(warm_up) < plan.warm_up_rounds and not late(warm):
        taken = turns(len(warm_up), list(warm_up[0]) if warm_up else list(workers))
        if taken is None:
            break
        warm_up.append(taken)
        if not taken or all(_settled(warm_up, name, plan) for name in taken):
            break
    names = list(warm_up[0]) if warm_up else list(workers)
    measured: list[dict[str, Turn]] = []
    began = time.monotonic()
    while names and not (
        len(measured) >= plan.samples and (time.monotonic() - began >= plan.seconds or len(measured) >= plan.most)
    ):
        taken = turns(len(measured), names)
        if taken is None:
            break
        measured.append(taken)
    kept = measured or warm_up
    return {name: [taken[name] for taken in kept] for name in names if kept}


def _settled(rounds: Sequence[Mapping[str, Turn]], name: str, plan: Effort) -> bool:
    return statistics.settled([mean(taken[name].wall) for taken in rounds], plan.window, plan.agreement)


def order(names: Sequence[str], turn: int) -> list[str]:
    """Rotated by one from turn to turn, and every other turn backwards: nobody always follows the same neighbour."""
    start = turn % len(names)
    rotated = [*names[start:], *names[:start]]
    return rotated[::-1] if turn % 2 else rotated


def mean(samples: Sequence[float]) -> float:
    return sum(samples) / len(samples)
