"""What was measured: rows that say where they came from, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edgeadapt.bundle import Bundle
from edgeadapt_bench.bandwidth import Bandwidth
from edgeadapt_bench.baselines import Variant
from edgeadapt_bench.devices.base import Conditions, Fingerprint
from edgeadapt_bench.devices.validity import problems
from edgeadapt_bench.phases import PHASES
from edgeadapt_bench.statistics import Ratio, Summary

FORMAT = 3  # 3: a row says its workload in that workload's own sizes; one memory bandwidth per number of threads


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
    phase: str
    started: str
    samples: tuple[tuple[float, ...], ...]
    cpu_samples: tuple[tuple[float, ...], ...]
    summary: Summary
    ratio: Ratio | None
    cpu_ratio: Ratio | None

    @property
    def unit(self) -> str:
        return PHASES[self.phase].unit

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
    """A worker's peak (VmHWM) in bytes, and how much of it came with opening and running the model.

    Where a `workload` says what it holds in memory, that is the increase, and the peak is the one so far.
    """

    origin: Origin
    peak: int
    increase: int
    workload: Mapping[str, Any] | None = None

    def to_json(self, device: str) -> dict[str, Any]:
        return {
            **self.origin.to_json(),
            "workload": None if self.workload is None else dict(self.workload),
            "device": device,
            "peak_bytes": self.peak,
            "increase_bytes": self.increase,
        }


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
    memory_bandwidth: Sequence[Bandwidth] = ()
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
            "memory_bandwidth": [item.to_json() for item in self.memory_bandwidth],
            "rows": [row.to_json(identity, self.emulated, self.versions) for row in self.rows],
            "memory": [item.to_json(identity) for item in self.memory],
            "sizes": {bundle: dict(files) for bundle, files in self.sizes.items()},
            "left_out": dict(self.left_out),
        }


def now() -> str:
    """When a row began, in ISO 8601 and UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sizes(variants: Sequence[Variant]) -> dict[str, dict[str, int]]:
    """Of every bundle or other model that variants come from: its files' sizes in bytes."""
    found: dict[str, dict[str, int]] = {}
    for variant in variants:
        found.setdefault(str(variant.place), {}).update(variant.sizes())
    return found
