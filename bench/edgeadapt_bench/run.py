"""`edgeadapt bench`: open every variant in a process of its own, let them take turns, and report.

round k      every variant once, in an order that rotates and turns round from one round to the next
pair         the samples of two variants in one round
phase        warm-up rounds until two windows agree or a cap, then measured rounds (Effort)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from edgeadapt.bundle import Bundle
from edgeadapt.files import sha256_of, write_json
from edgeadapt_bench import devices, statistics
from edgeadapt_bench.baselines import BARE, Variant, variants
from edgeadapt_bench.devices import Worker
from edgeadapt_bench.report import BenchReport, Memory, Origin, Row
from edgeadapt_bench.workloads import PHASES, QUICK, SHARES, SWITCHES, THOROUGH, Effort, Phase, Workload

Tell = Callable[[str], None]
Samples = list[float]


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
) -> BenchReport:
    """Measure a bundle's adapters beside the bare backbone and other baselines.

    Args:
        device: where; "host" is this machine.
        baselines: names of edgeadapt_bench.baselines or bundle directories; all that there are if none are given.
        quick: bound the whole run to 40 s.
        threads: threads that one operation may use, in every variant.
        json_out: write every row to this file, too.
        tell: called with a line whenever something new begins; standard error if not given.

    Raises:
        EdgeAdaptError: unusable bundle, unknown baseline or device, or a worker that failed.
    """
    began = time.monotonic()
    started = _now()
    say = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    work = workload or Workload()
    plan = effort or (QUICK if quick else THOROUGH)
    where = devices.choose(device)
    chosen = variants(Bundle.open(bundle), baselines)
    before = where.conditions()
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for variant in chosen:
            say(f"opening {variant.name}")
            workers[variant.name] = stack.enter_context(where.worker(variant, threads))
        for worker in workers.values():
            worker.call("prompt", ids=work.prompt(worker.opened["vocabulary_size"]))
        origins = {variant.name: _origin(variant, workers[variant.name], threads) for variant in chosen}
        rows, memory = _measure(_Bench(workers, origins, work, plan, began), say)
    report = BenchReport(
        device=where.name,
        emulated=where.emulated,
        fingerprint=where.fingerprint(),
        before=before,
        after=where.conditions(),
        versions=versions(),
        started=started,
        seconds=time.monotonic() - began,
        quick=quick,
        rows=rows,
        memory=memory,
        sizes={str(path): _sizes(path) for path in dict.fromkeys(variant.bundle for variant in chosen)},
    )
    if json_out is not None:
        write_json(json_out, report.to_json())
    return report


@dataclass(frozen=True)
class _Bench:
    """What stays the same over one run's phases; `began` is the monotonic clock at its start."""

    workers: Mapping[str, Worker]
    origins: Mapping[str, Origin]
    work: Workload
    plan: Effort
    began: float


def _measure(run: _Bench, say: Tell) -> tuple[list[Row], list[Memory]]:
    """Open the models again and again; every phase's turns from all openings together are its samples."""
    began = time.monotonic()
    whole = affordable(run.plan, began - run.began)
    plan = whole.per_opening()
    memory: list[Memory] = []
    started: dict[Phase, str] = {}
    taken: dict[Phase, dict[str, list[Samples]]] = {phase: {} for phase in PHASES}
    each = None if whole.total_seconds is None else whole.total_seconds / whole.openings
    for opening in range(whole.openings):
        begin = time.monotonic() if each is None else began + opening * each
        started.setdefault("load", _now())
        for name in order(list(run.workers), opening):
            answer = run.workers[name].call("reopen") if opening else run.workers[name].opened
            taken["load"].setdefault(name, []).append([answer["load_s"]])
        for phase, share in SHARES.items():
            if opening and phase in SWITCHES:
                continue
            say(f"measuring {phase.replace('_', ' ')}, opening {opening + 1} of {whole.openings}")
            started.setdefault(phase, _now())
            end = None if each is None else begin + each * share
            for name, turns in interleave(run.workers, _asker(phase, run.work), plan, end).items():
                taken[phase].setdefault(name, []).extend(turns)
        if not memory:  # opened once: what a user of one session pays
            memory = [_memory(run.origins[name], worker) for name, worker in run.workers.items()]
    return [row for phase in PHASES for row in _rows(taken[phase], run, phase, started.get(phase, ""))], memory


def affordable(plan: Effort, opening_seconds: float) -> Effort:
    """What is left of a plan after the first opening took `opening_seconds`: where the whole run is bounded, the rest
    of that time, and no more openings than leave two thirds of it for measuring."""
    if plan.total_seconds is None:
        return plan
    left = max(plan.total_seconds - opening_seconds, 1.0)
    openings = min(plan.openings, 1 + int(left / (3 * opening_seconds)))
    return replace(plan, total_seconds=left, openings=openings)


def interleave(
    workers: Mapping[str, Worker], ask: Callable[[Worker], Samples | None], plan: Effort, end: float | None
) -> dict[str, list[Samples]]:
    """Let the workers take turns until the plan is fulfilled, or the monotonic clock passes `end`.

    Warm-up may take a third of the time until `end`. A round that `end` cuts short is dropped. If not one round could
    be measured, those of the warm-up are what there is: a few are better than none, and the row has their number.

    Returns:
        For every worker that takes part in this phase, its samples, turn by turn; turns of one index are one round.
    """

    def late(end: float | None) -> bool:
        return end is not None and time.monotonic() >= end

    def turns(number: int, names: Sequence[str]) -> dict[str, Samples] | None:
        taken: dict[str, Samples] = {}
        for name in order(names, number):
            if late(end):
                return None
            samples = ask(workers[name])
            if samples is not None:
                taken[name] = samples
        return taken

    warm_up: list[dict[str, Samples]] = []
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
    measured: list[dict[str, Samples]] = []
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


def _settled(rounds: Sequence[Mapping[str, Samples]], name: str, plan: Effort) -> bool:
    return statistics.settled([_mean(taken[name]) for taken in rounds], plan.window, plan.agreement)


def order(names: Sequence[str], turn: int) -> list[str]:
    """Rotated by one from turn to turn, and every other turn backwards: nobody always follows the same neighbour."""
    start = turn % len(names)
    rotated = [*names[start:], *names[:start]]
    return rotated[::-1] if turn % 2 else rotated


def _asker(phase: Phase, work: Workload) -> Callable[[Worker], Samples | None]:
    arguments: dict[str, Any] = {}
    if phase == "decode":
        arguments = {"tokens": work.decode_tokens}
    elif phase == "prefill":
        arguments = {"room": work.decode_tokens}

    def ask(worker: Worker) -> Samples | None:
        seconds = worker.call(phase, **arguments)["seconds"]
        return None if seconds is None else list(seconds) if isinstance(seconds, list) else [seconds]

    return ask


def _rows(taken: Mapping[str, list[Samples]], run: _Bench, phase: Phase, started: str) -> list[Row]:
    work = run.work
    bare = [_mean(turn) for turn in taken.get(BARE, [])]
    rows = []
    for name, turns in taken.items():
        samples = tuple(sample for turn in turns for sample in turn)
        compared = bool(bare) and name != BARE
        ratio = statistics.paired_ratio([_mean(turn) for turn in turns], bare) if compared else None
        sizes = {
            "name": work.name,
            "prompt_tokens": work.prompt_tokens,
            "decode_tokens": work.decode_tokens,
            "batch": 1,
        }
        rows.append(Row(run.origins[name], sizes, phase, started, samples, statistics.summarise(samples), ratio))
    return rows


def _memory(origin: Origin, worker: Worker) -> Memory:
    answer = worker.call("memory")
    return Memory(origin, peak=answer["peak_bytes"], increase=answer["increase_bytes"])


def _origin(variant: Variant, worker: Worker, threads: int) -> Origin:
    bundle = Bundle.open(variant.bundle)
    return Origin(
        variant=variant.name,
        bundle=str(variant.bundle),
        bundle_sha256=sha256_of(bundle.root / "edgeadapt.json"),
        graph=variant.graph,
        adapter=variant.adapter,
        precision=bundle.manifest.precision,
        threads=threads,
        ops=worker.opened["ops"],
        note=variant.note,
    )


def _sizes(path: Path) -> dict[str, int]:
    return {name: entry.size for name, entry in Bundle.open(path).manifest.files.items()}


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    found = {"python": python_version()}
    for package in ("edgeadapt", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _mean(samples: Samples) -> float:
    return sum(samples) / len(samples)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
