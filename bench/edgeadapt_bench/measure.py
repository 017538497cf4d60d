"""One measurement on a device that keeps time: openings, workloads, phases, turns.

opening      new processes for all variants, started in an order drawn from the effort's seed
workload     begins in every process that can take part; its phases follow one after the other
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench import statistics
from edgeadapt_bench.baselines import BARE, Variant
from edgeadapt_bench.devices import Device, Worker
from edgeadapt_bench.effort import Effort
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.report import Memory, Origin, Row, now
from edgeadapt_bench.turns import Turn, Turns, affordable, interleave, mean
from edgeadapt_bench.workloads import Workload

Tell = Callable[[str], None]
Step = tuple[Workload, str]  # a phase of a workload


@dataclass
class _Taken:
    """Turns of one phase: by variant, one list per opening."""

    started: str = ""
    turns: dict[str, list[Turns]] = field(default_factory=dict)

    def add(self, name: str, turns: Turns) -> None:
        self.turns.setdefault(name, []).append(turns)


@dataclass(frozen=True)
class Measurement:
    """What stays the same over one run.

    began      the monotonic clock at its start
    optional   names of variants without which the run goes on, if they cannot be opened
    """

    device: Device
    variants: Sequence[Variant]
    threads: int
    workloads: Sequence[Workload]
    plan: Effort
    began: float
    say: Tell
    optional: frozenset[str] = frozenset()

    @contextmanager
    def opened(self, names: Sequence[str], left_out: dict[str, str] | None = None) -> Iterator[dict[str, Worker]]:
        """New processes, started in the order of `names`. Where `left_out` is given, optional ones that do not open are
        put down there, with the reason."""
        variants = {variant.name: variant for variant in self.variants}
        self.device.settle(self.say)
        workers: dict[str, Worker] = {}
        with ExitStack() as stack:
            for name in names:
                try:
                    workers[name] = stack.enter_context(self.device.worker(variants[name], self.threads))
                except EdgeAdaptError as error:
                    if left_out is None or name not in self.optional:
                        raise
                    left_out[name] = str(error)
                    self.say(f"without {name}: {error}")
            yield workers

    @property
    def steps(self) -> list[Step]:
        return [(workload, phase) for workload in self.workloads for phase in workload.phases]

    def ends(self) -> dict[Step, float]:
        """By which share of an opening's time each phase has to be over, where there is a bound."""
        shares = np.cumsum([PHASES[phase].share for _, phase in self.steps])
        return {step: float(end / shares[-1]) for step, end in zip(self.steps, shares, strict=True)}


@dataclass(frozen=True)
class Measured:
    """What one run found; `left_out`: optional variants that did not open, and why."""

    rows: list[Row]
    memory: list[Memory]
    left_out: Mapping[str, str]


def measure(run: Measurement) -> Measured:
    """Open all variants again and again; their turns in all openings together are a phase's samples.

    Raises EdgeAdaptError for a workload that no variant can take part in, with the first one's reason.
    """
    rng = np.random.default_rng(run.plan.seed)
    asked = [variant.name for variant in run.variants]
    left_out: dict[str, str] = {}
    load = _Taken(now())
    taken = {step: _Taken() for step in run.steps}
    ends = run.ends()
    memory: list[Memory] = []

    def turns(
        workers: Mapping[str, Worker], origins: Mapping[str, Origin] | None, plan: Effort, until: float | None
    ) -> None:
        """One opening; `origins` in the first one, in which what is to be had once is measured, too. Its phases share
        the time from now, with everything open, to the monotonic clock's `until`."""
        begin = time.monotonic()
        for name, worker in workers.items():
            load.add(name, [_turn(worker.opened)])
        for workload in run.workloads:
            phases = [phase for phase in workload.phases if origins or not PHASES[phase].once]
            able = _begun(workload, workers) if phases else {}
            for phase in phases:
                step = taken[workload, phase]
                step.started = step.started or now()
                end = None if until is None else begin + (until - begin) * ends[workload, phase]
                for name, found in interleave(able, _asker(phase), plan, end).items():
                    step.add(name, found)
            for name, worker in able.items() if origins else ():
                answer = worker.call("memory")
                if origins and answer["held_bytes"] is not None:
                    memory.append(Memory(origins[name], answer["peak_bytes"], answer["held_bytes"], workload.sizes()))

    run.say(f"opening {', '.join(asked)}")
    with run.opened(asked, left_out) as workers:
        names = list(workers)
        first = time.monotonic()
        whole = affordable(run.plan, first - run.began)
        plan = whole.per_opening()
        origins = {
            variant.name: Origin.of(variant, run.threads, workers[variant.name].opened["ops"])
            for variant in run.variants
            if variant.name in workers
        }
        run.say(f"measuring, opening 1 of {whole.openings}")
        turns(workers, origins, plan, plan.ending(first, 1))
        whole_run = [_memory(origins[name], workers[name]) for name in names]
    for opening in range(1, whole.openings if any(not PHASES[phase].once for _, phase in run.steps) else 1):
        run.say(f"measuring, opening {opening + 1} of {whole.openings}")
        with run.opened([names[index] for index in rng.permutation(len(names))]) as workers:
            turns(workers, None, plan, plan.ending(first, opening + 1))
    rows = _rows(load, origins, {"name": "load"}, "load")
    for (workload, phase), found in taken.items():
        rows += _rows(found, origins, workload.sizes(), phase)
    return Measured(rows, [*whole_run, *memory], left_out)


def _begun(workload: Workload, workers: Mapping[str, Worker]) -> dict[str, Worker]:
    """The workers that take part."""
    answers = {name: worker.call("begin", workload=workload.sizes())["cannot"] for name, worker in workers.items()}
    able = {name: workers[name] for name, reason in answers.items() if reason is None}
    if not able:
        name, reason = next(iter(answers.items()))
        raise EdgeAdaptError(f"--workload {workload.name}: nothing here can take part ({name}: {reason})")
    return able


def _asker(phase: str) -> Callable[[Worker], Turn | None]:
    def ask(worker: Worker) -> Turn | None:
        answer = worker.call("turn", phase=phase)
        return None if answer["seconds"] is None else _turn(answer)

    return ask


def _turn(answer: Mapping[str, Any]) -> Turn:
    return Turn(tuple(answer["seconds"]), tuple(answer["cpu_seconds"]))


def _rows(taken: _Taken, origins: Mapping[str, Origin], workload: Mapping[str, Any], phase: str) -> list[Row]:
    bare = taken.turns.get(BARE)
    rows = []
    for name in (one for one in origins if one in taken.turns):
        openings = taken.turns[name]
        wall = tuple(tuple(sample for turn in turns for sample in turn.wall) for turns in openings)
        cpu = tuple(tuple(sample for turn in turns for sample in turn.cpu) for turns in openings)
        summary = statistics.summarise([sample for opening in wall for sample in opening])
        ratios: list[statistics.Ratio | None] = [None, None]
        if bare is not None and name != BARE:
            ratios = [
                statistics.paired_ratio(_means(openings, clock), _means(bare, clock)) for clock in ("wall", "cpu")
            ]
        rows.append(Row(origins[name], workload, phase, taken.started, wall, cpu, summary, ratios[0], ratios[1]))
    return rows


def _means(openings: Sequence[Turns], clock: Literal["wall", "cpu"]) -> list[list[float]]:
    """Each turn's mean, by opening."""
    return [[mean(getattr(turn, clock)) for turn in turns] for turns in openings]


def _memory(origin: Origin, worker: Worker) -> Memory:
    answer = worker.call("memory")
    return Memory(origin, answer["peak_bytes"], answer["increase_bytes"])
