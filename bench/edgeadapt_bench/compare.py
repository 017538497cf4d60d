"""`edgeadapt bench compare A.json B.json`: what changed from one stored run to another.

    rows pair up       by workload, variant, phase, precision and threads; memory and size by variant
    change             B / A - 1; above 0 is worse, whatever the figure: times, counts and bytes should all be small
    figure of a row    median over its openings of each opening's median
    interval           hierarchical bootstrap, 95 %, of both runs' stored samples apart from each other: openings are
                       drawn with replacement, and samples within each. Counts and bytes are compared as they are
    "x bare"           the same of ratios to the bare backbone, taken round by round within each run. What the machine
                       did between the two runs is in the times, and cancels in these

Worse past a limit is an exact change above it, or one whose interval lies above 0 as well. Where a run has fewer than
FEWEST samples of a row there is no interval, and nothing is said about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_bench.baselines import BARE
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.results import FEWEST, Result
from edgeadapt_bench.statistics import LEVEL, RESAMPLES, SEED
from edgeadapt_bench.units import in_words, shown

Row = Mapping[str, Any]
Openings = Sequence[np.ndarray]  # samples of each opening

_PHASES = {phase: phase.replace("_", " ") for phase in PHASES}
PEAK, HELD, DISK = "peak memory", "memory held", "bundle on disk"
FIGURES = [*(text for name in _PHASES.values() for text in (name, f"{name}, x bare")), PEAK, HELD, DISK]


@dataclass(frozen=True)
class Change:
    """One figure in both runs, in `unit`. `exact`: counts and bytes. `low`, `high`: 95 % interval of `change`; None for
    what is exact, and for what has too few samples."""

    variant: str
    figure: str
    workload: str
    precision: str
    threads: int
    unit: str
    before: float
    after: float
    change: float
    exact: bool
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The change in percent, with its interval."""
        if self.exact:
            return f"{self.change:+.2%}"
        text = f"{self.change:+.1%}"
        return f"{text} [?]" if self.low is None else f"{text} [{self.low:+.1%} {self.high:+.1%}]"

    def worse_by(self, limit: float) -> bool:
        return self.change > limit and (self.exact or (self.low is not None and self.low > 0))


@dataclass(frozen=True)
class Comparison:
    """`only` names what one of the runs lacks; `notes` what else differs between them."""

    before: str
    after: str
    emulated: bool
    changes: Sequence[Change]
    only: Sequence[str]
    notes: Sequence[str]

    def worse_by(self, limit: float) -> list[Change]:
        return [change for change in self.changes if change.worse_by(limit)]

    def to_json(self, limit: float | None) -> dict[str, Any]:
        worse = [] if limit is None else self.worse_by(limit)
        return {
            "before": self.before,
            "after": self.after,
            "emulated": self.emulated,
            "fail_over": limit,
            "failed": bool(worse),
            "changes": [
                asdict(change) | ({} if limit is None else {"failed": change in worse}) for change in self.changes
            ],
            "only": list(self.only),
            "notes": list(self.notes),
        }

    def table(self, limit: float | None) -> RenderableType:
        title = f"{self.before} -> {self.after}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        several = len({(item.workload, item.threads) for item in self.changes}) > 3  # load, generation, switches
        for name in ("figure", "variant", *(["workload"] if several else [])):
            table.add_column(name)
        for name in ("before", "after", "change"):
            table.add_column(name, justify="right", no_wrap=True)
        last = ""
        for item in sorted(self.changes, key=lambda item: FIGURES.index(item.figure)):
            if last not in ("", item.figure):
                table.add_section()
            failed = limit is not None and item.worse_by(limit)
            figures = [shown(value, item.unit.partition("/")[0]) for value in (item.before, item.after)]
            where = [f"{item.workload}; {item.threads}"] if several else []
            cells = ["" if item.figure == last else item.figure, item.variant, *where, *figures]
            table.add_row(*cells, item.text.replace("[", r"\["), style="bold red" if failed else None)
            last = item.figure
        meaning = "above 0 %: worse" + ("" if self.emulated else r"; \[95 % interval of the change], ? too few samples")
        return Group(table, meaning, *(f"only in one: {line}" for line in self.only), *self.notes)


def compare(before: Result, after: Result) -> Comparison:
    """Raises EdgeAdaptError if one run is emulated and the other is not, or if no row is in both."""
    if before.emulated != after.emulated:
        emulated, real = (before, after) if before.emulated else (after, before)
        raise EdgeAdaptError(
            f"{emulated.name} is emulated and {real.name} is not: instructions and times cannot be compared"
        )
    left, right = ({_key(row): row for row in result.rows} for result in (before, after))
    common = [key for key in left if key in right]
    if not common:
        raise EdgeAdaptError(
            f"{before.name} and {after.name} have no row in common: "
            "nothing with the same workload, variant, phase, precision and threads"
        )
    rng = np.random.default_rng(SEED)
    changes = []
    for key in common:
        pair = left[key], right[key]
        figure, unit = _PHASES[pair[0]["phase"]], pair[0]["unit"]
        if before.emulated:
            changes.append(_exact(pair[0], figure, unit, *(row["instructions"] for row in pair)))
            continue
        changes.append(_sampled(rng, _exact(pair[0], figure, unit, 1, 1), *(_samples(row) for row in pair)))
        ratios = [
            _ratios(row, rows.get(_key({**row, "variant": BARE})))
            for row, rows in zip(pair, (left, right), strict=True)
        ]
        if ratios[0] is not None and ratios[1] is not None:
            changes.append(_sampled(rng, _exact(pair[0], f"{figure}, x bare", "ratio", 1, 1), ratios[0], ratios[1]))
    changes += _bytes(before, after, {(key[0], key[4]): left[key] for key in reversed(common)})
    only = [f"{_named(key)} ({before.name})" for key in left if key not in right]
    only += [f"{_named(key)} ({after.name})" for key in right if key not in left]
    return Comparison(before.name, after.name, before.emulated, changes, only, _notes(before, after))


def limit(text: str) -> float:
    """A share from a percentage as it stands on the command line, such as "2%".

    Raises EdgeAdaptError for anything else.
    """
    number = text.strip().removesuffix("%").rstrip()
    try:
        value = float(number) / 100
    except ValueError:
        value = -1.0
    if not text.strip().endswith("%") or not 0 <= value < float("inf"):
        raise EdgeAdaptError(f"--fail-over {text}: give a percentage that is not negative, such as 2%")
    return value


def said(worse: Sequence[Change], limit: float) -> str:
    """One line of what got worse by more than `limit`: the worst first, three at most."""
    first = [f"{item.variant}, {item.figure} {item.text}" for item in sorted(worse, key=lambda item: -item.change)[:3]]
    more = f"; and {len(worse) - 3} more" if len(worse) > 3 else ""
    return f"worse by more than {limit * 100:g} %: {'; '.join(first)}{more}"


def _key(row: Row) -> tuple[Any, ...]:
    sizes = tuple(row["workload"].items())
    return row["variant"], row["phase"], sizes, row["precision"], row["threads"]


def _named(key: tuple[Any, ...]) -> str:
    variant, phase, sizes, precision, threads = key
    workload = dict(sizes)
    where = [] if workload["name"] == phase else [in_words(workload)]
    return ", ".join([variant, phase, *where, precision, f"{threads} thread{'s' if threads > 1 else ''}"])


def _bytes(before: Result, after: Result, compared: Mapping[Any, Row]) -> Iterator[Change]:
    """Peak memory of every variant that was compared, what its workloads hold, and each bundle's size once, named by
    its first variant."""
    others = {_memory_key(item): item for item in after.memory}
    seen = set()
    for one in before.memory:
        row, other = compared.get((one["variant"], one["threads"])), others.get(_memory_key(one))
        if row is None or other is None:
            continue
        if one["workload"] is not None:
            if not one["increase_bytes"]:
                continue
            row = {**row, "workload": one["workload"]}
            yield _exact(row, HELD, "bytes", one["increase_bytes"], other["increase_bytes"])
            continue
        yield _exact(row, PEAK, "bytes", one["peak_bytes"], other["peak_bytes"])
        if (one["bundle"], other["bundle"]) not in seen:
            seen.add((one["bundle"], other["bundle"]))
            sizes = (sum(run.files(item["bundle"]).values()) for run, item in ((before, one), (after, other)))
            yield _exact(row, DISK, "bytes", *sizes)


def _memory_key(item: Row) -> tuple[Any, ...]:
    return item["variant"], item["threads"], tuple((item["workload"] or {}).items())


def _exact(row: Row, figure: str, unit: str, before: float, after: float) -> Change:
    return Change(
        variant=row["variant"],
        figure=figure,
        workload=in_words(row["workload"]),
        precision=row["precision"],
        threads=row["threads"],
        unit=unit,
        before=float(before),
        after=float(after),
        change=after / before - 1,
        exact=True,
    )


def _sampled(rng: np.random.Generator, what: Change, before: Openings, after: Openings) -> Change:
    """The figures and their change in place of those of `what`."""
    one, two = (float(np.median([np.median(values) for values in openings])) for openings in (before, after))
    plain = replace(what, before=one, after=two, change=two / one - 1, exact=False)
    if min(sum(map(len, openings)) for openings in (before, after)) < FEWEST:
        return plain
    resampled = [_resampled(rng, openings) for openings in (before, after)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled[1] / resampled[0] - 1, (tail, 1 - tail))
    return replace(plain, low=float(low), high=float(high))


def _resampled(rng: np.random.Generator, openings: Openings) -> np.ndarray:
    """`RESAMPLES` figures of a row: openings drawn with replacement, and within each drawn one its samples."""
    medians = np.stack(
        [np.median(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=1) for values in openings]
    )
    drawn = rng.integers(0, len(openings), (len(openings), RESAMPLES))
    return np.asarray(np.median(medians[drawn, rng.integers(0, RESAMPLES, drawn.shape)], axis=0))


def _samples(row: Row) -> Openings:
    return [np.asarray(opening, dtype=np.float64) for opening in row["samples"]]


def _ratios(row: Row, bare: Row | None) -> Openings | None:
    """Ratios to bare, round by round in each opening; None for bare itself, and where rounds do not pair up."""
    if bare is None or bare is row:
        return None
    size = int(row["workload"].get("output", 1)) if row["phase"] == "decode" else 1
    pairs = list(zip(_samples(row), _samples(bare), strict=False))
    if len(row["samples"]) != len(bare["samples"]) or any(len(a) != len(b) or len(a) % size for a, b in pairs):
        return None
    return [a.reshape(-1, size).mean(axis=1) / b.reshape(-1, size).mean(axis=1) for a, b in pairs]


def _notes(before: Result, after: Result) -> list[str]:
    notes = [f"INVALID: {side.name}: {problem}" for side in (before, after) for problem in side.problems]
    if before.device["id"] != after.device["id"]:
        cpus = [side.device["cpu"] for side in (before, after)]
        what = f"{cpus[0]} and {cpus[1]}" if cpus[0] != cpus[1] else f"both {cpus[0]}, but otherwise not alike"
        notes.append(f"measured on two devices ({what}): the changes are not the program's alone")
    versions = [dict(side.rows[0]["versions"]) for side in (before, after)]
    for name in sorted({*versions[0], *versions[1]}):
        one, two = (side.get(name, "none") for side in versions)
        if one != two:
            notes.append(f"{name}: {one} -> {two}")
    hashes = [{row["variant"]: row["bundle_sha256"] for row in side.rows} for side in (before, after)]
    other = [name for name in hashes[0] if hashes[1].get(name, hashes[0][name]) != hashes[0][name]]
    if other:
        notes.append(f"other bundles than before: {', '.join(other)}")
    if not before.emulated:
        notes.append("two runs at two times: the machine's own changes are in the times, and cancel in 'x bare'")
    return notes
