"""What was measured: rows that say where they came from, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from edgeadapt.bundle import Bundle
from edgeadapt_bench.bandwidth import Bandwidth
from edgeadapt_bench.baselines import BARE, Variant
from edgeadapt_bench.devices.base import UNKNOWN, Conditions, Fingerprint
from edgeadapt_bench.statistics import Ratio, Summary
from edgeadapt_bench.workloads import UNITS, Phase

FORMAT = 2
CLOCK_TOLERANCE = 0.05


@dataclass(frozen=True)
class Origin:
    """Where a row's figures come from: the same for every phase of one variant."""

    variant: str
    bundle: str
    bundle_sha256: str
    graph: str
    adapter: str | None
    precision: str
    threads: int
    ops: str
    note: str

    @classmethod
    def of(cls, variant: Variant, threads: int, ops: str) -> Origin:
        """Of a variant as it was run; `ops` is "library", "bodies" or "foreign"."""
        return cls(
            variant=variant.name,
            bundle=str(variant.place),
            bundle_sha256=variant.sha256(),
            graph=variant.graph,
            adapter=variant.adapter,
            precision=variant.precision or Bundle.open(variant.bundle).manifest.precision,
            threads=threads,
            ops=ops,
            note=variant.note,
        )

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Row:
    """One phase of one variant, in `unit`. `samples` are by the wall clock and `cpu_samples` of the process's own
    computing, which waiting for a busy machine does not lengthen; both opening by opening. The ratios are paired, round
    by round, against the backbone."""

    origin: Origin
    workload: Mapping[str, Any]
    phase: Phase
    started: str
    samples: tuple[tuple[float, ...], ...]
    cpu_samples: tuple[tuple[float, ...], ...]
    summary: Summary
    ratio: Ratio | None
    cpu_ratio: Ratio | None

    @property
    def unit(self) -> str:
        return UNITS[self.phase]

    def to_json(self, device: str, emulated: bool, versions: Mapping[str, str]) -> dict[str, Any]:
        return {
            **self.origin.to_json(),
            "workload": dict(self.workload),
            "phase": self.phase,
            "unit": self.unit,
            "started": self.started,
            "device": device,
            "emulated": emulated,
            "versions": dict(versions),
            **self.summary.to_json(),
            "ratio_to_bare": None if self.ratio is None else self.ratio.to_json(),
            "cpu_ratio_to_bare": None if self.cpu_ratio is None else self.cpu_ratio.to_json(),
            "samples": self.samples,
            "cpu_samples": self.cpu_samples,
        }


@dataclass(frozen=True)
class Memory:
    """A worker's peak (VmHWM), and how much of it came with opening and running the model; bytes."""

    origin: Origin
    peak: int
    increase: int


@dataclass(frozen=True)
class BenchReport:
    """One run. `problems` says why its figures must not be used; empty for a valid run.
    `left_out`: baselines that could not take part, and why."""

    device: str
    emulated: bool
    fingerprint: Fingerprint
    before: Conditions
    after: Conditions
    versions: Mapping[str, str]
    started: str
    seconds: float
    quick: bool
    rows: Sequence[Row]
    memory: Sequence[Memory]
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    memory_bandwidth: Bandwidth | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return problems(self.before, self.after)

    def to_json(self) -> dict[str, Any]:
        identity = self.fingerprint.identity
        return {
            "format": FORMAT,
            "started": self.started,
            "seconds": self.seconds,
            "quick": self.quick,
            "valid": not self.problems,
            "problems": self.problems,
            "device": {"name": self.device, "emulated": self.emulated, **self.fingerprint.to_json()},
            "conditions": {"before": self.before.to_json(), "after": self.after.to_json()},
            "versions": dict(self.versions),
            **({} if self.memory_bandwidth is None else {"memory_bandwidth": self.memory_bandwidth.to_json()}),
            "rows": [row.to_json(identity, self.emulated, self.versions) for row in self.rows],
            "memory": [
                {**item.origin.to_json(), "device": identity, "peak_bytes": item.peak, "increase_bytes": item.increase}
                for item in self.memory
            ],
            "sizes": {bundle: dict(files) for bundle, files in self.sizes.items()},
            "left_out": dict(self.left_out),
        }

    def table(self) -> RenderableType:
        """Medians of each variant, and ratios to the bare backbone with their 95 % intervals."""
        title = f"{self.device}: {self.fingerprint.cpu}, {self._threads()}"
        speed = _table(title, "prefill ms", "decode ms/token", "tokens/s", "load ms", "peak MB", "model MB")
        ratio = _table("x bare", "prefill", "prefill, CPU", "decode", "decode, CPU")
        other = _table("", "task switch ms", "adapter switch ms")
        for item in self.memory:
            name = item.origin.variant
            rows = {row.phase: row for row in self.rows if row.origin.variant == name}
            prefill, decode = rows.get("prefill"), rows.get("decode")
            rate = f"{1 / decode.summary.p50:.1f}" if decode else "-"
            sizes = f"{item.peak / 1e6:.0f}", f"{item.increase / 1e6:.0f}"
            speed.add_row(name, _ms(prefill, 1), _ms(decode, 2), rate, _ms(rows.get("load"), 0), *sizes)
            if name != BARE:
                pairs = [(None, None) if row is None else (row.ratio, row.cpu_ratio) for row in (prefill, decode)]
                ratio.add_row(name, *(_ratio(one) for pair in pairs for one in pair))
            if "task_switch" in rows or "adapter_switch" in rows:
                other.add_row(name, _ms(rows.get("task_switch"), 2), _ms(rows.get("adapter_switch"), 1))
        return Group(speed, ratio, other, *self._lines())

    def _threads(self) -> str:
        threads = self.memory[0].origin.threads
        return f"{threads} thread{'s' if threads > 1 else ''}"

    def _lines(self) -> list[str]:
        lines = [
            "x bare: paired ratio \\[95 % interval over openings and rounds], by wall clock and computing time (CPU)",
            "model MB: peak beyond the same process without the model",
        ]
        lines += [f"{item.origin.variant}: {item.origin.note}" for item in self.memory if item.origin.note]
        for bundle, files in self.sizes.items():
            large = sorted(files.items(), key=lambda item: -item[1])[:6]
            named = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in large)
            lines.append(f"{bundle}: {sum(files.values()) / 1e6:.1f} MB on disk ({named}, ...)")
        counts = {row.phase: f"{row.summary.n} in {len(row.samples)}" for row in self.rows}
        lines.append("samples in openings: " + ", ".join(f"{phase} {count}" for phase, count in counts.items()))
        lines.append(f"load average {self.before.load_average:.1f} before, {self.after.load_average:.1f} after")
        lines += [f"without {name}: {reason}" for name, reason in self.left_out.items()]
        return [*lines, *(f"INVALID: {problem}" for problem in self.problems)]


def now() -> str:
    """When a row began, in ISO 8601 and UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sizes(variants: Sequence[Variant]) -> dict[str, dict[str, int]]:
    """Of every bundle or other model that variants come from: its files' sizes in bytes."""
    found: dict[str, dict[str, int]] = {}
    for variant in variants:
        found.setdefault(str(variant.place), {}).update(variant.sizes())
    return found


def problems(before: Conditions, after: Conditions) -> list[str]:
    """Why a run is not valid: it throttled, or its clock moved. What cannot be read is unknown, not invalid."""
    found = []
    for when, conditions in (("before", before), ("after", after)):
        if conditions.throttled not in (UNKNOWN, "0x0"):
            found.append(f"throttled {when} the run (bits {conditions.throttled}); cool the board and measure again")
    if isinstance(before.clock_mhz, float) and isinstance(after.clock_mhz, float):
        moved = after.clock_mhz / before.clock_mhz - 1
        if abs(moved) > CLOCK_TOLERANCE:
            found.append(f"the clock moved by {moved:+.0%} during the run; fix the governor and measure again")
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _ms(row: Row | None, digits: int) -> str:
    return f"{row.summary.p50 * 1e3:.{digits}f}" if row else "-"


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.value:.3f} \\[{ratio.low:.3f} {ratio.high:.3f}]"
