"""`edgeadapt bench`: open every variant in a process of its own, let them take turns, again and again, and report.

opening      new processes for all variants, started in an order drawn from the effort's seed
round k      every variant once, in an order that rotates and turns round from one round to the next
turn         what one variant does in one round; two variants' turns in one round are a pair
phase        in every opening, warm-up rounds until two windows agree or a cap, then measured rounds (Effort)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Literal, TypeVar

import numpy as np

from edgeadapt.bundle import Bundle
from edgeadapt.files import write_json
from edgeadapt_bench import bandwidth, devices, statistics
from edgeadapt_bench.baselines import BARE, COMPETITORS, Variant, select
from edgeadapt_bench.devices import Device, Worker, emulated
from edgeadapt_bench.emulation.bench import EmulatedReport
from edgeadapt_bench.emulation.bench import bench as emulated_bench
from edgeadapt_bench.report import BenchReport, Memory, Origin, Row, now, sizes
from edgeadapt_bench.workloads import PHASES, QUICK, SHARES, SWITCHES, THOROUGH, Effort, Phase, Workload

Tell = Callable[[str], None]
Report = TypeVar("Report", BenchReport, EmulatedReport)


@dataclass(frozen=True)
class Turn:
    """Samples of one turn in seconds: by the wall clock, and of the process's own computing."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


Turns = list[Turn]


def bench(
    bundle: Path,
    *,
    device: str = "host",
    baselines: Sequence[str] | None = None,
    quick: bool = False,
    threads: int = 1,
    json_out: Path | None = None,
    workload: Workload | None = None,
    effort: Effort | None = None,
    tell: Tell | None = None,
) -> BenchReport | EmulatedReport:
    """Measure a bundle's adapters beside the bare backbone and other baselines.

    Args:
        device: where; "host" is this machine, "emulated" a Cortex-A72 in emulation (instructions, never a time), "rpi4"
            this machine if it is a Raspberry Pi 4, and otherwise emulated.
        baselines: names of edgeadapt_bench.baselines or bundle directories; "all" for every one that can run here;
            edgeadapt's own if none are given.
        quick: bound the whole run to 40 s.
        threads: threads that one operation may use, in every variant.
        json_out: write every row to this file, too.
        tell: called with a line whenever something new begins; standard error if not given.

    Raises:
        EdgeAdaptError: unusable bundle, unknown baseline or device, or a worker that failed.
    """
    began = time.monotonic()
    started = now()
    say = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    work = workload or Workload()
    plan = effort or (QUICK if quick else THOROUGH)
    where = None if emulated.is_emulated(device) else devices.choose(device)
    here = COMPETITORS if isinstance(where, devices.HostDevice) else ()
    selected = select(Bundle.open(bundle), baselines, here)
    chosen = selected.variants
    for name, reason in selected.left_out.items():
        say(f"without {name}: {reason}")
    if where is None:
        counted = emulated_bench(chosen, device=device, threads=threads, quick=quick, workload=work, tell=say)
        return _written(counted, json_out)
    before = where.conditions()
    memory_bandwidth = bandwidth.measure(threads)
    rows, memory = _measure(_Bench(where, chosen, threads, work, plan, began, say))
    report = BenchReport(
        device=where.name,
        emulated=where.emulated,
        fingerprint=where.fingerprint(),
        before=before,
        after=where.conditions(),
        versions=versions(chosen),
        started=started,
        seconds=time.monotonic() - began,
        quick=quick,
        rows=rows,
        memory=memory,
        sizes=sizes(chosen),
        left_out=selected.left_out,
        memory_bandwidth=memory_bandwidth,
    )
    return _written(report, json_out)


def _written(report: Report, path: Path | None) -> Report:
    if path is not None:
        write_json(path, report.to_json())
    return report


@dataclass(frozen=True)
class _Bench:
    """What stays the same over one run; `began` is the monotonic clock at its start."""

    device: Device
    variants: Sequence[Variant]
    threads: int
    work: Workload
    plan: Effort
    began: float
    say: Tell

    @contextmanager
    def opened(self, names: Sequence[str]) -> Iterator[dict[str, Worker]]:
        """New processes, started in the order of `names`."""
        variants = {variant.name: variant for variant in self.variants}
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name in names:
                workers[name] = stack.enter_context(self.device.worker(variants[name], self.threads))
                workers[name].call("prompt", ids=self.work.prompt(workers[name].opened["vocabulary_size"]))
            yield workers


def _measure(run: _Bench) -> tuple[list[Row], list[Memory]]:
    """Open all variants again and again; their turns in all openings together are a phase's samples."""
    rng = np.random.default_rng(run.plan.seed)
    names = [variant.name for variant in run.variants]
    started: dict[Phase, str] = {"load": now()}
    taken: dict[Phase, dict[str, list[Turns]]] = {phase: {} for phase in PHASES}

    def measure(workers: Mapping[str, Worker], phases: Sequence[Phase], plan: Effort, begin: float) -> None:
        for name, worker in workers.items():
            taken["load"].setdefault(name, []).append([_turn(worker.opened)])
        for phase in phases:
            started.setdefault(phase, now())
            end = None if plan.total_seconds is None else begin + plan.total_seconds * SHARES[phase]
            for name, turns in interleave(workers, _asker(phase, run.work), plan, end).items():
                taken[phase].setdefault(name, []).append(turns)

    run.say(f"opening {', '.join(names)}")
    with run.opened(names) as workers:
        first = time.monotonic()
        whole = affordable(run.plan, first - run.began)
        plan = whole.per_opening()
        origins = {
            variant.name: Origin.of(variant, run.threads, workers[variant.name].opened["ops"])
            for variant in run.variants
        }
        run.say(f"measuring, opening 1 of {whole.openings}")
        measure(workers, list(SHARES), plan, first)
        memory = [_memory(origins[name], workers[name]) for name in names]
    for opening in range(1, whole.openings):
        begin = time.monotonic() if plan.total_seconds is None else first + opening * plan.total_seconds
        run.say(f"measuring, opening {opening + 1} of {whole.openings}")
        with run.opened([names[index] for index in rng.permutation(len(names))]) as workers:
            measure(workers, [phase for phase in SHARES if phase not in SWITCHES], plan, begin)
    rows = [_rows(taken[phase], origins, run.work, phase, started.get(phase, "")) for phase in PHASES]
    return [row for found in rows for row in found], memory


def affordable(plan: Effort, opening_seconds: float) -> Effort:
    """What is left of a plan after the first opening took `opening_seconds`: where the whole run is bounded, the rest
    of that time, and no more openings than leave two thirds of it for measuring."""
    if plan.total_seconds is None:
        return plan
    left = max(plan.total_seconds - opening_seconds, 1.0)
    openings = min(plan.openings, 1 + int(left / (3 * opening_seconds)))
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
    return statistics.settled([_mean(taken[name].wall) for taken in rounds], plan.window, plan.agreement)


def order(names: Sequence[str], turn: int) -> list[str]:
    """Rotated by one from turn to turn, and every other turn backwards: nobody always follows the same neighbour."""
    start = turn % len(names)
    rotated = [*names[start:], *names[:start]]
    return rotated[::-1] if turn % 2 else rotated


def _asker(phase: Phase, work: Workload) -> Callable[[Worker], Turn | None]:
    arguments: dict[str, Any] = {}
    if phase == "decode":
        arguments = {"tokens": work.decode_tokens}
    elif phase == "prefill":
        arguments = {"room": work.decode_tokens}

    def ask(worker: Worker) -> Turn | None:
        answer = worker.call(phase, **arguments)
        return None if answer["seconds"] is None else _turn(answer)

    return ask


def _turn(answer: Mapping[str, Any]) -> Turn:
    return Turn(tuple(answer["seconds"]), tuple(answer["cpu_seconds"]))


def _rows(
    taken: Mapping[str, list[Turns]], origins: Mapping[str, Origin], work: Workload, phase: Phase, started: str
) -> list[Row]:
    workload = {"name": work.name, "prompt_tokens": work.prompt_tokens, "decode_tokens": work.decode_tokens, "batch": 1}
    bare = taken.get(BARE)
    rows = []
    for name, openings in taken.items():
        wall = tuple(tuple(sample for turn in turns for sample in turn.wall) for turns in openings)
        cpu = tuple(tuple(sample for turn in turns for sample in turn.cpu) for turns in openings)
        summary = statistics.summarise([sample for opening in wall for sample in opening])
        ratios: list[statistics.Ratio | None] = [None, None]
        if bare is not None and name != BARE:
            ratios = [
                statistics.paired_ratio(_means(openings, clock), _means(bare, clock)) for clock in ("wall", "cpu")
            ]
        rows.append(Row(origins[name], workload, phase, started, wall, cpu, summary, ratios[0], ratios[1]))
    return rows


def _memory(origin: Origin, worker: Worker) -> Memory:
    answer = worker.call("memory")
    return Memory(origin, peak=answer["peak_bytes"], increase=answer["increase_bytes"])


def versions(variants: Sequence[Variant]) -> dict[str, str]:
    """Of what the figures depend on."""
    found = {"python": python_version()}
    packages = [package for variant in variants for package in variant.packages]
    for package in dict.fromkeys(("edgeadapt", "onnxruntime", "numpy", *packages)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _means(openings: Sequence[Turns], clock: Literal["wall", "cpu"]) -> list[list[float]]:
    """Each turn's mean, by opening."""
    return [[_mean(getattr(turn, clock)) for turn in turns] for turns in openings]


def _mean(samples: Sequence[float]) -> float:
    return sum(samples) / len(samples)
