"""Does the benchmark tell the truth? Comparisons whose answer is known, again and again.

    python -m edgeadapt_bench.trials BUNDLE --json trials.json --markdown trials.md

    A/A     the bare graph against itself, in another process: the interval of the ratio should contain 1, in 95 of 100
    A/B     against itself with every decoded step 2 % longer (slowed.py): the interval should lie above 1

Every trial is a run of the bench itself with its own openings and its own interval: of the same code, only shorter. A
file that holds trials already is continued, up to --trials of them, so that a long series can be run in pieces.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from edgeadapt.bundle import MANIFEST, Bundle
from edgeadapt.errors import EdgeAdaptError
from edgeadapt.files import sha256_of, write_atomic, write_json
from edgeadapt_bench.baselines import BARE, Variant
from edgeadapt_bench.devices import HostDevice
from edgeadapt_bench.effort import Effort
from edgeadapt_bench.measure import Measurement, measure
from edgeadapt_bench.report import Row, now
from edgeadapt_bench.run import versions
from edgeadapt_bench.statistics import Ratio
from edgeadapt_bench.workloads import Generation

FORMAT = 1
SLOWER = 0.02
AGAIN, SLOWED = "again", "slowed"
CLOCKS: tuple[Literal["wall", "cpu"], ...] = ("wall", "cpu")


@dataclass(frozen=True)
class Decoding(Generation):
    """Decoding alone: the phase in which the slowdown is."""

    phases: ClassVar[tuple[str, ...]] = ("decode",)


@dataclass(frozen=True)
class Plan:
    """How large one trial is. Trials of one file have the same plan."""

    openings: int = 8
    rounds: int = 40
    prompt: int = 16
    output: int = 4

    def effort(self, trial: int) -> Effort:
        return Effort(
            samples=self.openings * self.rounds,
            openings=self.openings,
            seconds=0.0,
            most=self.openings * self.rounds,
            window=2,
            warm_up_rounds=6,
            seed=trial,
        )


def subjects(bundle: Path) -> list[Variant]:
    options = {"slower": str(SLOWER)}
    return [
        Variant(BARE, bundle, BARE),
        Variant(AGAIN, bundle, BARE, note="the same, in another process"),
        Variant(SLOWED, bundle, BARE, worker="edgeadapt_bench.slowed", options=options, note="every step 2 % longer"),
    ]


def trial(bundle: Path, plan: Plan, number: int) -> dict[str, Any]:
    """One A/A and one A/B comparison with the same process of A."""
    load, started = os.getloadavg()[0], now()
    workload = Decoding(prompt=plan.prompt, output=plan.output)
    run = Measurement(
        HostDevice(), subjects(bundle), 1, [workload], plan.effort(number), time.monotonic(), lambda _: None
    )
    rows = {row.origin.variant: row for row in measure(run).rows if row.phase == "decode"}
    return {
        "number": number,
        "started": started,
        "load_average": load,
        "seconds_per_token": rows[BARE].summary.p50,
        **{name: {clock: _ratio(rows[name], clock) for clock in CLOCKS} for name in (AGAIN, SLOWED)},
    }


def summary(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of how many trials the interval is where it should be, by clock."""
    found: dict[str, Any] = {"trials": len(trials)}
    for clock in CLOCKS:
        same = [Ratio(**one[AGAIN][clock]) for one in trials]
        slowed = [Ratio(**one[SLOWED][clock]) for one in trials]
        found[clock] = {
            "same_contains_1": sum(one.low <= 1.0 <= one.high for one in same),
            "slowed_above_1": sum(one.low > 1.0 for one in slowed),
            "slowed_contains_truth": sum(one.low <= 1.0 + SLOWER <= one.high for one in slowed),
            "same_median": _median([one.value for one in same]),
            "slowed_median": _median([one.value for one in slowed]),
            "interval_width": _median([one.high - one.low for one in same]),
        }
    return found


def to_markdown(document: dict[str, Any]) -> str:
    plan, said, count = document["plan"], document["summary"], document["summary"]["trials"]
    loads = [one["load_average"] for one in document["trials"]]
    step = _median([one["seconds_per_token"] for one in document["trials"]])
    said_of_all = (
        f"{count} trials of {plan['openings']} openings with {plan['rounds']} rounds of {plan['output']} decoded "
        f"tokens, {step * 1e3:.2f} ms each; load average {min(loads):.1f} to {max(loads):.1f} on "
        f"{document['device']['cores']} cores ({document['device']['cpu']})."
    )
    heads = ["", "A/A: interval contains 1", "A/B, 2 % slower: interval above 1", "contains 1.02"]
    heads += ["median A/A", "median A/B", "interval's width"]
    lines = [said_of_all, "", f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for clock, name in (("wall", "wall clock"), ("cpu", "computing time")):
        one = said[clock]
        cells = [f"{one[key]} of {count}" for key in ("same_contains_1", "slowed_above_1", "slowed_contains_truth")]
        cells += [f"{one[key]:.4f}" for key in ("same_median", "slowed_median", "interval_width")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory, whose bare graph is measured.")],
    json_out: Annotated[Path, typer.Option("--json", help="Where the trials are kept, and continued.")],
    markdown_out: Annotated[Path | None, typer.Option("--markdown", help="Write the table to this file.")] = None,
    *,
    trials: Annotated[int, typer.Option(help="Trials that the file shall hold.")] = 100,
    minutes: Annotated[float, typer.Option(help="Begin no further trial after so long.")] = 60.0,
    openings: Annotated[int, typer.Option(help="Openings of a trial: more find a smaller slowdown.")] = Plan.openings,
) -> None:
    """Run A/A and A/B trials on this machine and keep them in a file."""
    plan, began = Plan(openings), time.monotonic()
    digest = sha256_of(Bundle.open(bundle).root / MANIFEST)
    known = _known(json_out, plan, digest)
    while len(known) < trials and time.monotonic() - began < 60 * minutes:
        known.append(trial(bundle, plan, len(known)))
        document = {
            "format": FORMAT,
            "bundle": bundle.name,
            "bundle_sha256": digest,
            "device": HostDevice().fingerprint().to_json(),
            "versions": versions([]),
            "plan": asdict(plan),
            "slower": SLOWER,
            "summary": summary(known),
            "trials": known,
        }
        write_json(json_out, document)
        if markdown_out is not None:
            write_atomic(markdown_out, to_markdown(document).encode())
    print(json.dumps(summary(known), indent=2))


def _known(path: Path, plan: Plan, digest: str) -> list[dict[str, Any]]:
    """Trials of an earlier piece. Raises EdgeAdaptError if they are others than are asked for."""
    if not path.is_file():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    if (document["plan"], document["bundle_sha256"]) != (asdict(plan), digest):
        raise EdgeAdaptError(f"{path}: trials of another plan or bundle; give another file")
    known: list[dict[str, Any]] = document["trials"]
    return known


def _ratio(row: Row, clock: Literal["wall", "cpu"]) -> dict[str, Any]:
    found = row.ratio if clock == "wall" else row.cpu_ratio
    assert found is not None
    return found.to_json()


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgeAdaptError as error:
        sys.exit(f"error: {error}")
